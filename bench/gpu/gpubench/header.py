"""radixattn.h as ctypes: structs, constants and prototypes, read from the header's own text.

Promises: pure functions over text. A declaration that this small parser does not understand is an
error that shows it, never a guess. Every pointer is a c_void_p: fields take addresses, parameters
take ctypes.byref(...) or addresses.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCALARS: dict[str, Any] = {
    "char": ctypes.c_char,
    "float": ctypes.c_float,
    "size_t": ctypes.c_size_t,
    **{
        f"{sign}int{bits}_t": getattr(ctypes, f"c_{sign}int{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}

_SECTION = re.compile(r"@cdef-begin.*?\*/(?P<text>.*)/\*\s*@cdef-end", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STRUCT = re.compile(r"typedef\s+struct\s+(\w+)\s*\{(.*?)\}\s*\1\s*;", re.DOTALL)
_ENUM = re.compile(r"enum\s*\{(.*?)\}\s*;", re.DOTALL)
_CALLBACK = re.compile(r"typedef\s+[\w\s*]+\(\s*(?:RADIX_CALL\s*)?\*\s*(\w+)\s*\)\s*\([^()]*\)\s*;")
_ALIAS = re.compile(r"typedef\s+(?!struct\b)(\w+)\s*(\*?)\s*(\w+)\s*;")
_FUNCTION = re.compile(r"RADIX_API\(([^()]*)\)\s*(\w+)\(([^()]*)\)\s*RADIX_NOEXCEPT\s*;")
_DECLARATOR = re.compile(r"^(\**)\s*(\w+)\s*(?:\[(\d+)\])?$")


@dataclass
class Api:
    """What the header declares."""

    abi: int
    structs: dict[str, Any] = field(default_factory=dict)  # name -> ctypes.Structure
    constants: dict[str, int] = field(default_factory=dict)
    functions: dict[str, tuple[Any, list[Any]]] = field(default_factory=dict)  # restype, argtypes


def default_header() -> Path:
    """include/radixattn.h of this checkout."""
    return Path(__file__).resolve().parents[3] / "include" / "radixattn.h"


def parse(header: str) -> Api:
    """The API of the header's text. ValueError names what is not understood."""
    section = _SECTION.search(header)
    if section is None:
        raise ValueError("radixattn.h has no section between @cdef-begin and @cdef-end")
    number = re.search(r"^#define\s+RADIXATTN_ABI\s+(\d+)u?\b", header, re.MULTILINE)
    if number is None:
        raise ValueError("radixattn.h does not define RADIXATTN_ABI")
    text = _COMMENT.sub(" ", section["text"])
    types = dict(SCALARS)
    for name in _CALLBACK.findall(text):
        types[name] = ctypes.c_void_p
    for base, star, name in _ALIAS.findall(text):
        types[name] = ctypes.c_void_p if star else types[base]
    api = Api(abi=int(number[1]))
    for body in _ENUM.findall(text):
        api.constants.update(_enum(body))
    for name, body in _STRUCT.findall(text):
        api.structs[name] = type(name, (ctypes.Structure,), {"_fields_": _fields(body, types)})
        types[name] = api.structs[name]
    for result, name, parameters in _FUNCTION.findall(text):
        api.functions[name] = (_result(result, types), _parameters(parameters, types))
    return api


def _enum(body: str) -> dict[str, int]:
    values = {}
    for item in filter(None, (part.strip() for part in body.split(","))):
        name, _, value = (word.strip() for word in item.partition("="))
        if not value:
            raise ValueError(f"enum constant {item!r} has no value")
        values[name] = int(value, 0)
    return values


def _fields(body: str, types: dict[str, Any]) -> list[tuple[str, Any]]:
    fields = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        words = re.sub(r"\bconst\b", " ", declaration).strip()
        base, _, rest = words.partition(" ")
        for declarator in rest.split(","):
            match = _DECLARATOR.match(declarator.strip())
            if match is None or (not match[1] and base not in types):
                raise ValueError(f"cannot read the field {declaration!r}")
            kind = ctypes.c_void_p if match[1] else types[base]
            fields.append((match[2], kind * int(match[3]) if match[3] else kind))
    return fields


def _result(text: str, types: dict[str, Any]) -> Any:
    words = text.replace("const", " ").split()
    if words == ["void"]:
        return None
    return _value(text, types)


def _parameters(text: str, types: dict[str, Any]) -> list[Any]:
    if text.strip() == "void":
        return []
    return [_value(part, types) for part in text.split(",")]


def _value(text: str, types: dict[str, Any]) -> Any:
    words = re.sub(r"\bconst\b", " ", text).replace("*", " * ").split()
    if "*" in words:
        is_text = text.split()[0] == "const" and words[0] == "char"
        return ctypes.c_char_p if is_text else ctypes.c_void_p
    if words[0] not in types:
        raise ValueError(f"cannot read the type of {text.strip()!r}")
    return types[words[0]]
