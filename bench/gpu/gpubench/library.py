"""libradixattn.so through ctypes, checked against the header before the first call."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from gpubench import header

LIBRARY_VARIABLE = "RADIXATTN_LIBRARY"
_ROOT = Path(__file__).resolve().parents[3]


class RadixError(RuntimeError):
    """A call failed; status is its number, the text has its name and the library's message."""

    def __init__(self, call: str, status: int, name: str, message: str) -> None:
        super().__init__(f"{call}: {name}: {message}")
        self.status = status


def find_library(explicit: str | None = None) -> Path:
    """The file named, or by RADIXATTN_LIBRARY, or the one of build/gpu."""
    chosen = explicit or os.environ.get(LIBRARY_VARIABLE)
    if chosen:
        if not Path(chosen).is_file():
            raise FileNotFoundError(f"{chosen}: no such file; expected libradixattn.so")
        return Path(chosen)
    folder = _ROOT / "build" / "gpu" / "src"
    found = sorted(folder.glob("libradixattn.so*"))
    if not found:
        raise FileNotFoundError(
            f"no libradixattn.so in {folder}: ./run bench gpu builds it, or name one with "
            f"--library or {LIBRARY_VARIABLE}"
        )
    return found[0]


class Library:
    """The functions of the header. `call` turns a status into an exception."""

    def __init__(self, path: Path, header_path: Path | None = None) -> None:
        text = (header_path or header.default_header()).read_text(encoding="utf-8")
        self.path = path
        self.api = header.parse(text)
        self.dll = ctypes.CDLL(str(path))
        for name, (result, parameters) in self.api.functions.items():
            function = getattr(self.dll, name)
            function.restype, function.argtypes = result, parameters
        self._check()

    def _check(self) -> None:
        theirs = self.dll.radix_abi()
        if theirs != self.api.abi:
            raise ImportError(f"{self.path} has ABI {theirs}, radixattn.h has {self.api.abi}")
        for name, kind in self.api.structs.items():
            size, expected = self.dll.radix_struct_size(name.encode()), ctypes.sizeof(kind)
            if size != expected:
                raise ImportError(
                    f"{name} is {size} bytes in {self.path} and {expected} in radixattn.h: "
                    "rebuild the library"
                )

    def constant(self, name: str) -> int:
        return self.api.constants[name]

    def struct(self, name: str, **fields: Any) -> Any:
        """A struct of the header, zero but for the fields named and its own struct_size."""
        kind = self.api.structs[name]
        known = {field[0] for field in kind._fields_}
        unknown = set(fields) - known
        if unknown:
            raise AttributeError(f"{name} has no field {', '.join(sorted(unknown))}")
        made = kind(**fields)
        if "struct_size" in known:
            made.struct_size = ctypes.sizeof(kind)
        return made

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function that gives a status. RadixError unless it is OK."""
        status = getattr(self.dll, name)(*arguments)
        if status != 0:
            self.fail(name, status)

    def fail(self, name: str, status: int) -> None:
        text = ctypes.create_string_buffer(512)
        self.dll.radix_last_error(text, len(text))
        detail = self.dll.radix_error_detail()
        message = text.value.decode("utf-8", "replace") + (f" ({detail})" if detail else "")
        raise RadixError(name, status, self.dll.radix_status_name(status).decode(), message)

    def build_info(self) -> str:
        return self.dll.radix_build_info().decode("utf-8", "replace")

    def cuda_devices(self) -> int:
        count = ctypes.c_int32()
        device = self.constant("RADIX_DEV_CUDA")
        self.call("radix_device_count", device, ctypes.byref(count))
        return count.value
