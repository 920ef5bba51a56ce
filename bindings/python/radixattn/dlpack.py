"""DLPack capsules: looking into the one an object hands out, and making one for a dtype or a device
that numpy does not know.

Promises: no copy. A borrowed capsule is never consumed: its producer's deleter runs when the
capsule dies, so whoever keeps the Borrowed keeps the memory. The library refuses dtypes it has no
counterpart for.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

CODE_BFLOAT = 4  # kDLBfloat
CODE_F8_E4M3 = 10  # kDLFloat8_e4m3fn
CODE_F8_E5M2 = 12  # kDLFloat8_e5m2
_READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned; the older DLManagedTensor begins with the tensor itself."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


@dataclass(frozen=True)
class Borrowed:
    """address of a DLTensor (not the managed one), valid while capsule lives."""

    address: int
    read_only: bool
    capsule: object


def borrow(tensor: Any, stream: int | None = None) -> Borrowed:
    """The DLTensor behind ``tensor.__dlpack__()``, of a device so that stream may use it.

    BufferError: a DLPack of another major version.
    """
    request = {} if stream is None else {"stream": stream}
    try:
        capsule = tensor.__dlpack__(**request, max_version=(1, 0))
    except TypeError:  # a producer from before DLPack 1.0
        capsule = tensor.__dlpack__(**request)
    if not _is_valid(capsule, b"dltensor_versioned"):
        return Borrowed(_get_pointer(capsule, b"dltensor"), False, capsule)
    managed = _Versioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
    if managed.major != 1:
        raise BufferError(f"DLPack version is {managed.major}.{managed.minor}: expected 1.x")
    address = ctypes.addressof(managed) + _Versioned.tensor.offset
    return Borrowed(address, bool(managed.flags & _READ_ONLY), capsule)


def labelled_capsule(
    array: np.ndarray[Any, Any],
    *,
    code: int | None = None,
    device: tuple[int, int] | None = None,
    **request: Any,
) -> object:
    """A capsule over an array's memory that says another type code (for as many bits) or another
    device.

    Numpy makes and owns it, without a look at the memory; only the label is put right.
    """
    capsule = array.__dlpack__(**request)
    if _is_valid(capsule, b"dltensor_versioned"):
        tensor = _Versioned.from_address(_get_pointer(capsule, b"dltensor_versioned")).tensor
    else:
        tensor = _Tensor.from_address(_get_pointer(capsule, b"dltensor"))
    if code is not None:
        tensor.dtype.code = code
    if device is not None:
        tensor.device_type, tensor.device_id = device
    return capsule
