"""What the library says about itself; no context is needed. All of it is free-threaded [F]."""

from __future__ import annotations

from radixattn._ffi import ffi, lib
from radixattn.enums import Device, to_enum
from radixattn.errors import check


def version() -> int:
    """MAJOR*10000 + MINOR*100 + PATCH of the loaded library."""
    return int(lib.radix_version())


def version_string() -> str:
    """The version of the loaded library, such as "0.1.0"."""
    return _text(lib.radix_version_string())


def abi() -> int:
    """The ABI number of the loaded library; the import has checked it."""
    return int(lib.radix_abi())


def build_info() -> str:
    """Compiler, instruction sets and options that the library was built with."""
    return _text(lib.radix_build_info())


def struct_size(name: str) -> int:
    """Bytes of a struct of the C API in the loaded library ("radix_config", ...); 0 for an
    unknown name."""
    return int(lib.radix_struct_size(name.encode()))


def device_count(device: Device | str) -> int:
    """Devices of a kind: 0 when there is no driver; the CPU counts 1."""
    count = ffi.new("int32_t *")
    check(lib.radix_device_count(to_enum(Device, device, "device"), count))
    return int(count[0])


def _text(pointer: object) -> str:
    text = ffi.string(pointer)
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
