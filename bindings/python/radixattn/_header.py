"""What cffi needs from radixattn.h: the declarations between @cdef-begin and @cdef-end, and two
macros.

Promises: pure functions over text; nothing is loaded here. The header stays the single source of
every declaration: the package repeats none of them.
"""

from __future__ import annotations

import re
from pathlib import Path

_SECTION = re.compile(r"@cdef-begin.*?\*/(?P<text>.*)/\*\s*@cdef-end", re.DOTALL)
_STRUCT = re.compile(r"typedef\s+struct\s+(\w+)\s*\{")


def find_header() -> Path:
    """The header beside this file (an installed package), else the repository's own (a
    checkout)."""
    here = Path(__file__).resolve().parent
    candidates = [here / "radixattn.h", here.parents[2] / "include" / "radixattn.h"]
    for path in candidates:
        if path.is_file():
            return path
    raise ImportError(f"radixattn.h is missing: looked at {', '.join(map(str, candidates))}")


def cdef_source(header: str) -> str:
    """The text for ``ffi.cdef``: the marked section, without RADIX_API, RADIX_CALL,
    RADIX_NOEXCEPT."""
    section = _SECTION.search(header)
    if section is None:
        raise ImportError("radixattn.h has no section between @cdef-begin and @cdef-end")
    text = re.sub(r"\bRADIX_API\(([^()]*)\)", r"\1", section["text"])
    return re.sub(r"\b(?:RADIX_CALL|RADIX_NOEXCEPT)\b", "", text)


def struct_names(cdef: str) -> list[str]:
    """Names of all structs with a body, in the order of the header."""
    return _STRUCT.findall(cdef)


def abi_number(header: str) -> int:
    """RADIXATTN_ABI of the header."""
    match = re.search(r"^#define\s+RADIXATTN_ABI\s+(\d+)u?\b", header, re.MULTILINE)
    if match is None:
        raise ImportError("radixattn.h does not define RADIXATTN_ABI")
    return int(match[1])
