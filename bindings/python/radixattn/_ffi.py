"""Loads libradixattn and makes sure that it is the one the header describes.

Promises: after import, ``ffi`` and ``lib`` agree with the loaded library on the ABI number and on
the size of every struct; otherwise the import fails with ImportError and says what differs. The
library is the file that the environment variable RADIXATTN_LIBRARY names (for development), else
the one shipped in the package. No other place is searched: a system-wide library of another version
is never taken by chance.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cffi import FFI

from radixattn._header import abi_number, cdef_source, find_header, struct_names

LIBRARY_VARIABLE = "RADIXATTN_LIBRARY"


def library_path() -> Path:
    """The file to load. ImportError when there is none."""
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if chosen:
        return Path(chosen)
    here = Path(__file__).resolve().parent
    found = sorted(here.glob("libradixattn.so*"))
    if not found:
        raise ImportError(
            f"no libradixattn.so.* in {here}: install the package (pip install ./bindings/python), "
            f"or set {LIBRARY_VARIABLE} to the path of a built library"
        )
    return found[-1]


def check_library(ffi: Any, lib: Any, *, abi: int, structs: list[str], path: Path) -> None:
    """ImportError unless the library has this ABI number and these struct sizes."""
    theirs = int(lib.radix_abi())
    if theirs != abi:
        raise ImportError(
            f"{path} has ABI {theirs}, the package's radixattn.h has ABI {abi}: "
            "rebuild one of the two so that they match"
        )
    wrong = []
    for name in structs:
        size, expected = int(lib.radix_struct_size(name.encode())), ffi.sizeof(name)
        if size != expected:
            wrong.append(f"{name} is {size} bytes in the library and {expected} in the header")
    if wrong:
        raise ImportError(f"{path} does not match the package's radixattn.h: {'; '.join(wrong)}")


def _load() -> tuple[Any, Any]:
    header = find_header().read_text(encoding="utf-8")
    source = cdef_source(header)
    path = library_path()
    ffi = FFI()
    ffi.cdef(source)
    try:
        lib = ffi.dlopen(str(path))
        check_library(ffi, lib, abi=abi_number(header), structs=struct_names(source), path=path)
    except (OSError, AttributeError) as error:
        raise ImportError(f"cannot use {path} as libradixattn: {error}") from error
    return ffi, lib


ffi, lib = _load()
