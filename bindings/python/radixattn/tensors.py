"""Arrays of the caller as the C API sees them: pointers, radix_tensor views, and back to numpy.

Promises: tensors (queries, keys, values, outputs, KV memory) are never copied; what cannot be
passed as it is raises. Small integer arrays (token ids, tables, lengths) are passed as they are
when dtype and layout fit, and are converted, with a check of range, when they are an input in
another form (a list, int64). bfloat16 has no numpy dtype: with ml_dtypes installed arrays of
ml_dtypes.bfloat16 are used; without it, uint16 arrays that hold the bits. uint16 goes in as
``bf16(array)``, which says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from radixattn import dlpack
from radixattn._ffi import ffi, lib
from radixattn.enums import DType
from radixattn.errors import check

Array = np.ndarray[Any, Any]


@runtime_checkable
class SupportsDLPack(Protocol):
    """Any tensor of a library that speaks DLPack: torch, jax, cupy (host memory), ..."""

    def __dlpack__(self) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


Tensor = Array | SupportsDLPack
"""What a tensor argument may be."""
Ints = Sequence[int] | Array | SupportsDLPack
"""What an integer input may be."""

try:
    _BFLOAT16: np.dtype[Any] | None = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
except ImportError:
    _BFLOAT16 = None

_TO_NUMPY: dict[int, np.dtype[Any]] = {
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: _BFLOAT16 or np.dtype(np.uint16),
    DType.I8: np.dtype(np.int8),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.U8: np.dtype(np.uint8),
}
_FROM_NUMPY = {dtype: kind for kind, dtype in _TO_NUMPY.items() if dtype != np.uint16}


def numpy_dtype(dtype: DType | int) -> np.dtype[Any]:
    """The numpy dtype for an element type: for BF16 ml_dtypes.bfloat16 when installed, else
    uint16 (the bits)."""
    try:
        return _TO_NUMPY[int(dtype)]
    except KeyError:
        raise TypeError(f"dtype {DType(dtype).name} has no numpy counterpart here") from None


def to_dtype(value: DType | int | str | np.dtype[Any] | type, name: str = "dtype") -> int:
    """The element type of a member, of its name ("bf16"), or of a numpy dtype."""
    if isinstance(value, str) and value.upper() in DType.__members__:
        return int(DType[value.upper()])
    if isinstance(value, int):
        return int(value)
    dtype = np.dtype(value)
    if dtype not in _FROM_NUMPY:
        raise TypeError(f"{name} is {value!r}: expected f32, f16, bf16 or their numpy dtypes")
    return int(_FROM_NUMPY[dtype])


class BFloat16:
    """uint16 bits that stand for bfloat16: goes into every tensor argument, and out through DLPack.

    ``torch.from_dlpack(BFloat16(bits))`` is a torch.bfloat16 tensor over the same memory. bits:
    uint16, any shape.
    """

    def __init__(self, bits: Array) -> None:
        if not isinstance(bits, np.ndarray) or bits.dtype.itemsize != 2 or bits.dtype.kind == "f":
            raise TypeError("bits must be a numpy array of uint16 or ml_dtypes.bfloat16")
        self.bits = bits.view(np.uint16)

    def __dlpack__(self, **request: Any) -> object:
        return dlpack.bfloat16_capsule(self.bits, **request)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU


def bf16(bits: Array) -> BFloat16:
    """Says that a uint16 array holds bfloat16 values. No copy."""
    return BFloat16(bits)


class View:
    """A radix_tensor over a caller's array, which it keeps alive.

    ``t`` is the ``radix_tensor *``.
    """

    __slots__ = ("keep", "t")

    def __init__(self, keep: object) -> None:
        self.t: Any = ffi.new("radix_tensor *")
        self.keep = keep

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.t.shape[i] for i in range(self.t.ndim))

    @property
    def dtype(self) -> int:
        return int(self.t.dtype)


def view(tensor: Any, name: str, *, writable: bool = False) -> View:
    """The view of a tensor argument.

    TypeError, ValueError: not a tensor, read-only, a layout that has no strides.
    """
    if isinstance(tensor, BFloat16):
        result = _view_numpy(tensor.bits, name, int(DType.BF16), writable)
        result.keep = tensor
        return result
    if isinstance(tensor, np.ndarray):
        kind = _FROM_NUMPY.get(tensor.dtype)
        if kind is None:
            hint = (
                "; wrap bits of bfloat16 in radixattn.bf16()" if tensor.dtype == np.uint16 else ""
            )
            raise TypeError(f"{name} has dtype {tensor.dtype}: expected a native f32 or f16{hint}")
        return _view_numpy(tensor, name, int(kind), writable)
    if hasattr(tensor, "__dlpack__"):
        return _view_dlpack(tensor, name, writable)
    raise TypeError(
        f"{name} is a {type(tensor).__name__}: expected a numpy array or a tensor with __dlpack__"
    )


def _view_numpy(array: Array, name: str, kind: int, writable: bool) -> View:
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} is read-only: it would be written")
    if array.ndim > 5:
        raise ValueError(f"{name} has {array.ndim} dimensions: expected at most 5")
    result = View(array)
    t = result.t
    t.data = ffi.cast("void *", array.__array_interface__["data"][0])
    t.dtype, t.device, t.ndim = kind, lib.RADIX_DEV_CPU, array.ndim
    for i, extent in enumerate(array.shape):
        t.shape[i] = extent
    if not array.flags.c_contiguous:
        _set_strides(t, array, name)
    return result


def _set_strides(t: Any, array: Array, name: str) -> None:
    if not any(array.strides):  # all 0 would mean compact to the library
        raise ValueError(f"{name} is a broadcast value: expected memory of its own")
    for i, stride in enumerate(array.strides):
        if stride % array.itemsize:
            raise ValueError(f"{name} has a stride of {stride} bytes: expected whole elements")
        t.stride[i] = stride // array.itemsize


def _view_dlpack(tensor: Any, name: str, writable: bool) -> View:
    kind, _ = tensor.__dlpack_device__()
    if kind != 1:
        raise TypeError(f"{name} is on DLPack device {kind}: expected host memory")
    borrowed = dlpack.borrow(tensor)
    if writable and borrowed.read_only:
        raise ValueError(f"{name} is read-only: it would be written")
    result = View((tensor, borrowed))
    check(lib.radix_tensor_from_dlpack(ffi.cast("const void *", borrowed.address), result.t))
    return result


def int_input(values: Ints, dtype: type, name: str, ndim: int = 1) -> Array:
    """An integer argument as an array of dtype with contiguous rows; in place when that fits."""
    array = _host_array(values, dtype)
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}: expected {ndim} dimension(s)")
    if array.dtype != dtype:
        array = _convert(array, dtype, name)
    return array if _has_contiguous_rows(array) else np.ascontiguousarray(array)


def _has_contiguous_rows(array: Array) -> bool:
    return array.size == 0 or array.shape[-1] == 1 or array.strides[-1] == array.itemsize


def _host_array(values: Ints, dtype: type) -> Array:
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "__dlpack__"):
        return np.from_dlpack(values)  # type: ignore[arg-type]
    return np.asarray(values, dtype=None if len(values) else dtype)


def _convert(array: Array, dtype: type, name: str) -> Array:
    if array.dtype.kind not in "iub":
        raise TypeError(f"{name} has dtype {array.dtype}: expected integers")
    limits = np.iinfo(dtype)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise OverflowError(f"{name} has values beyond {np.dtype(dtype).name}")
    return array.astype(dtype)


def float_input(values: Any, name: str, count: int) -> Array:
    """A small float32 argument [count], the caller's own memory when it fits."""
    if hasattr(values, "__dlpack__") and not isinstance(values, np.ndarray):
        values = np.from_dlpack(values)
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.shape != (count,):
        raise ValueError(f"{name} has shape {array.shape}: expected ({count},)")
    return array


def output(array: Any, dtype: type, name: str, ndim: int = 1) -> Array:
    """An output argument, checked: a writable array of exactly this dtype with contiguous rows."""
    if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        array = np.from_dlpack(array)
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
        raise ValueError(f"{name}: expected an array of {np.dtype(dtype).name}, {ndim}-D")
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only: it would be written")
    if not _has_contiguous_rows(array):
        raise ValueError(f"{name} has gaps between the elements of a row: expected contiguous rows")
    return array


def pointer(ctype: str, array: Array | None) -> Any:
    """A C pointer to an array's first element, NULL for None.

    Valid while the caller holds the array.
    """
    if array is None:
        return ffi.NULL
    return ffi.cast(ctype, array.__array_interface__["data"][0])
