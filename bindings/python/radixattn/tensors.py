"""Arrays of the caller as the C API sees them: pointers, radix_tensor views, and back to numpy.

Promises: tensors (queries, keys, values, outputs, KV memory) are never copied; what cannot be
passed as it is raises. Small arrays (token ids, tables, lengths) in host memory are passed as they
are when dtype and layout fit, and are converted, with a check of range, when they are an input in
another form (a list, int64). On a device nothing is converted nor looked at: dtype and layout must
fit. bfloat16 has no numpy dtype: with ml_dtypes installed arrays of ml_dtypes.bfloat16 are used;
without it, uint16 arrays that hold the bits. uint16 goes in as ``bf16(array)``, uint8 that holds
fp8 as ``fp8(array, dtype)``: they say so.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from radixattn import dlpack
from radixattn._ffi import ffi, lib
from radixattn.device import CPU, Place, check_host, check_place
from radixattn.enums import DType
from radixattn.errors import RadixError, check

Array = np.ndarray[Any, Any]


@runtime_checkable
class SupportsDLPack(Protocol):
    """Any tensor of a library that speaks DLPack: torch, jax, cupy, ..."""

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
_BYTES = {kind: dtype.itemsize for kind, dtype in _TO_NUMPY.items()}
_FLOAT8 = (DType.F8_E4M3, DType.F8_E5M2)


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
        raise TypeError(
            f"{name} is {value!r}: expected f32, f16, bf16 (or a numpy dtype), f8_e4m3 or f8_e5m2"
        )
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
        return dlpack.labelled_capsule(self.bits, code=dlpack.CODE_BFLOAT, **request)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU


def bf16(bits: Array) -> BFloat16:
    """Says that a uint16 array holds bfloat16 values. No copy."""
    return BFloat16(bits)


class Float8:
    """uint8 bits that stand for fp8: goes in as a k_cache or v_cache. bits: a tensor of uint8."""

    def __init__(self, bits: Tensor, dtype: DType | str) -> None:
        self.bits = bits
        self.dtype = to_dtype(dtype)
        if self.dtype not in _FLOAT8:
            raise ValueError(f"dtype is {dtype!r}: expected f8_e4m3 or f8_e5m2")


def fp8(bits: Tensor, dtype: DType | str) -> Float8:
    """Says that a uint8 tensor holds fp8 values, "f8_e4m3" (finite only, largest 448) or "f8_e5m2".
    No copy.

    For libraries that do not pass their own fp8 tensors through DLPack.
    """
    return Float8(bits, dtype)


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

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * _BYTES.get(self.dtype, 1)

    @property
    def host(self) -> Array | None:
        """The array that was viewed; None for a tensor of another library or of a device."""
        return self.keep if isinstance(self.keep, np.ndarray) else None

    def pointer(self, ctype: str) -> Any:
        """The first element as a C pointer."""
        return ffi.cast(ctype, self.t.data)

    def is_compact(self) -> bool:
        """Row-major without gaps."""
        step = 1
        strides = tuple(self.t.stride[i] for i in range(self.t.ndim))
        for extent, stride in zip(reversed(self.shape), reversed(strides), strict=True):
            if any(strides) and extent > 1 and stride != step:
                return False
            step *= extent
        return True


def view(tensor: Any, name: str, place: Place = CPU, *, writable: bool = False) -> View:
    """The view of a tensor argument of a launch at place.

    TypeError, ValueError: not a tensor, on another device, read-only, a layout without strides.
    """
    if isinstance(tensor, Float8):
        bits = view(tensor.bits, name, place, writable=writable)
        if bits.dtype != DType.U8:
            found = DType(bits.dtype).name.lower()
            raise TypeError(f"{name} has dtype {found}: expected uint8 in radixattn.fp8()")
        bits.t.dtype = tensor.dtype
        return bits
    if not (isinstance(tensor, BFloat16 | np.ndarray) or hasattr(tensor, "__dlpack__")):
        expected = f"a tensor on {place}" if place.cuda else "a numpy array or a tensor"
        raise TypeError(f"{name} is a {type(tensor).__name__}: expected {expected} with __dlpack__")
    check_place(tensor, name, place)
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
    return _view_dlpack(tensor, name, place, writable)


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


def _view_dlpack(tensor: Any, name: str, place: Place, writable: bool) -> View:
    borrowed = dlpack.borrow(tensor, place.dlpack_stream)
    if writable and borrowed.read_only:
        raise ValueError(f"{name} is read-only: it would be written")
    result = View((tensor, borrowed))
    try:
        check(lib.radix_tensor_from_dlpack(ffi.cast("const void *", borrowed.address), result.t))
    except RadixError as error:
        raise type(error)(error.status, f"{name}: {error.message}") from None
    return result


def array_argument(
    values: Any, dtype: type, name: str, place: Place, ndim: int = 1, *, writable: bool = False
) -> View:
    """A small array argument (tables, lengths, scales) of a launch at place, its memory compact.

    In host memory it is converted when that is needed; on a device dtype and layout must fit.
    """
    if not place.cuda:
        if np.dtype(dtype).kind == "f":
            array: Array = np.asarray(host_array(values, dtype, name), dtype=dtype)
        else:
            array = int_input(values, dtype, name, ndim)
        array = np.ascontiguousarray(array)
        return _view_numpy(array, name, int(_FROM_NUMPY[np.dtype(dtype)]), False)
    result = view(values, name, place, writable=writable)
    expected = DType(_FROM_NUMPY[np.dtype(dtype)])
    if result.dtype != expected:
        raise TypeError(
            f"{name} has dtype {DType(result.dtype).name.lower()}: expected "
            f"{expected.name.lower()} (nothing on a device is converted)"
        )
    if len(result.shape) != ndim:
        raise ValueError(f"{name} has shape {result.shape}: expected {ndim} dimension(s)")
    if not result.is_compact():
        raise ValueError(f"{name} has gaps or another order: expected contiguous memory on {place}")
    return result


def view_memory(memory: Any, name: str, place: Place) -> View:
    """Plain memory at place, to be written: the view of a contiguous array or tensor of any
    dtype."""
    if isinstance(memory, np.ndarray):
        check_place(memory, name, place)
        if not memory.flags.c_contiguous:
            raise TypeError(f"{name} has gaps or another order: expected a contiguous array")
        return _view_numpy(memory.reshape(-1).view(np.uint8), name, int(DType.U8), True)
    if not hasattr(memory, "__dlpack__"):
        raise TypeError(
            f"{name} is a {type(memory).__name__}: expected contiguous memory on {place}"
        )
    result = view(memory, name, place, writable=True)
    if not result.is_compact():
        raise TypeError(f"{name} has gaps or another order: expected a contiguous tensor")
    return result


def int_input(values: Ints, dtype: type, name: str, ndim: int = 1) -> Array:
    """An integer argument as an array of dtype with contiguous rows; in place when that fits."""
    array = host_array(values, dtype, name)
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}: expected {ndim} dimension(s)")
    if array.dtype != dtype:
        array = _convert(array, dtype, name)
    return array if _has_contiguous_rows(array) else np.ascontiguousarray(array)


def _has_contiguous_rows(array: Array) -> bool:
    return array.size == 0 or array.shape[-1] == 1 or array.strides[-1] == array.itemsize


def host_array(values: Any, dtype: type, name: str) -> Array:
    """Values in host memory as an array: of dtype where numpy's own choice would round integers,
    else of any."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "__dlpack__"):
        check_host(values, name)
        return np.from_dlpack(values)
    empty = hasattr(values, "__len__") and len(values) == 0
    array = np.asarray(values, dtype=dtype if empty else None)
    if array.dtype.kind in "fO" and np.dtype(dtype).kind in "iu":
        # Integers that no type of numpy has in common, such as 1 and 2**63 + 1, are here, too.
        exact = np.asarray(values, dtype=object)
        if all(isinstance(value, int | np.integer) for value in exact.flat):
            return _in_range(exact, dtype, name)
    return array


def _convert(array: Array, dtype: type, name: str) -> Array:
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}: expected integers")
    return _in_range(array, dtype, name)


def _in_range(array: Array, dtype: type, name: str) -> Array:
    limits = np.iinfo(dtype)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise OverflowError(f"{name} has values beyond {np.dtype(dtype).name}")
    return array.astype(dtype)


class _Exposed:
    """A view of host memory in the array interface: writable, where numpy's own import through
    DLPack may not be."""

    def __init__(self, seen: View) -> None:
        self._keep = seen
        dtype = numpy_dtype(seen.dtype)
        strides = tuple(seen.t.stride[i] * dtype.itemsize for i in range(seen.t.ndim))
        self.__array_interface__ = {
            "version": 3,
            "data": (int(seen.pointer("uintptr_t")), False),
            "typestr": dtype.str,
            "shape": seen.shape,
            "strides": strides if any(strides) else None,
        }


def array_of(t: Any) -> Array:
    """An array over a tensor (a radix_tensor) that the library lends: for as long as it does."""
    seen = View(None)
    seen.t[0] = t
    if t.dtype == DType.BF16:
        seen.t.dtype = int(DType.F16)  # 16 bits, which numpy knows
        return np.asarray(_Exposed(seen)).view(numpy_dtype(DType.BF16))
    return np.asarray(_Exposed(seen))


def output(array: Any, dtype: type, name: str, ndim: int = 1) -> Array:
    """An output argument, checked: a writable array of exactly this dtype with contiguous rows."""
    if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        check_host(array, name)
        array = np.asarray(_Exposed(view(array, name, writable=True)))
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
