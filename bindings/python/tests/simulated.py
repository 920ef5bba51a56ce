"""The simulated CUDA device (tests/device of the repository) and tensors in its memory.

It needs libradixattn_simulated.so in the place of the library: one whose CUDA runtime is none. Its
device memory cannot be read by the host (a look at it is a crash), and nothing that was launched
happens before finish().
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

import radixattn as rx
from radixattn import _ffi


def _declare(library):
    pointer, size = ctypes.c_void_p, ctypes.c_uint64
    for name, result, arguments in (
        ("reset", None, []),
        ("allocate", pointer, [size]),
        ("release", None, [pointer]),
        ("write", None, [pointer, pointer, size]),
        ("read", None, [pointer, pointer, size]),
        ("make_stream", pointer, []),
        ("has_work", ctypes.c_int32, []),
        ("finish", ctypes.c_char_p, []),
        ("fail_launch", None, [ctypes.c_int32]),
        ("bytes_live", ctypes.c_int64, []),
        ("bad_frees", ctypes.c_int64, []),
        ("launches", ctypes.c_int64, []),
        ("launched_on", ctypes.c_int32, []),
        ("last_stream", pointer, []),
    ):
        function = getattr(library, "radix_simulated_" + name)
        function.restype, function.argtypes = result, arguments
        yield name, function


def load():
    """Its functions by their short names; None when another library is loaded."""
    library = ctypes.CDLL(str(_ffi.library_path()))
    if not hasattr(library, "radix_simulated_reset"):
        return None
    return SimpleNamespace(**dict(_declare(library)))


device = load()
_dropped = []  # memory that nobody has any more, and that waiting work may still use


def require():
    """Skips a module of tests, and says why, when another library is loaded."""
    if device is None:
        pytest.skip(
            "no simulated CUDA device: ./run python builds it where CUDA's headers are, and sets "
            "RADIXATTN_LIBRARY to .../tests/device/libradixattn_simulated.so",
            allow_module_level=True,
        )


def finish():
    """Runs all that was launched."""
    complaint = device.finish()
    assert complaint is None, complaint
    while _dropped:
        device.release(_dropped.pop())


# ---- DLPack by hand


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class DLManagedTensor(ctypes.Structure):
    _fields_ = [
        ("tensor", DLTensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_GetName.restype = ctypes.c_char_p
_api.PyCapsule_GetName.argtypes = [ctypes.py_object]
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _api)
)

_CODES = {"i": 0, "u": 1, "f": 2}
BF16, F8_E4M3, F8_E5M2 = 4, 10, 12  # of DLPack


class Memory:
    """Memory of the device, freed with the last tensor over it, but not before the work that waits
    is done: as torch's allocator does in the order of its stream."""

    def __init__(self, num_bytes):
        self.address = device.allocate(max(num_bytes, 1))

    def __del__(self):
        if device.has_work():
            _dropped.append(self.address)
        else:
            device.release(self.address)


class Tensor:
    """A tensor of another library in memory of the device: DLPack and as much of torch.Tensor as
    the package may use.

    asked: the streams that __dlpack__ was called with. old: from before DLPack 1.0.
    """

    def __init__(self, address, shape, dtype, *, code=None, strides=None, index=0, keep=None):
        self.address, self.shape, self.dtype = address, tuple(shape), np.dtype(dtype)
        self.code = _CODES[self.dtype.kind] if code is None else code
        self.strides, self.index, self.keep = strides, index, keep
        self.asked, self.structs, self.old, self.read_only = [], [], False, False

    @classmethod
    def of(cls, array, *, code=None, index=0):
        """A copy of an array on the device."""
        array = np.ascontiguousarray(array)
        memory = Memory(array.nbytes)
        device.write(memory.address, array.ctypes.data, array.nbytes)
        return cls(memory.address, array.shape, array.dtype, code=code, index=index, keep=memory)

    def numpy(self):
        """A copy in host memory, of what is there now."""
        array = np.empty(self.shape, self.dtype)
        assert self.strides is None
        device.read(array.ctypes.data, self.address, array.nbytes)
        return array

    def rows(self, first, last):
        """tensor[first:last]"""
        step = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        shape = (last - first, *self.shape[1:])
        where = self.address + first * step
        return Tensor(where, shape, self.dtype, code=self.code, index=self.index, keep=self.keep)

    def __dlpack_device__(self):
        return (2, self.index)

    def __dlpack__(self, *, stream=None, **request):
        if self.old and request:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked.append(stream)
        managed = DLManagedTensor() if self.old else DLManagedTensorVersioned(1, 0)
        if self.read_only:
            managed.flags = 1
        tensor = managed.tensor
        tensor.data, tensor.device_type, tensor.device_id = self.address, 2, self.index
        tensor.ndim, tensor.code, tensor.lanes = len(self.shape), self.code, 1
        tensor.bits = self.dtype.itemsize * 8
        tensor.shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        if self.strides is not None:
            tensor.strides = (ctypes.c_int64 * len(self.shape))(*self.strides)
        self.structs.append(managed)
        name = b"dltensor" if self.old else b"dltensor_versioned"
        return _api.PyCapsule_New(ctypes.addressof(managed), name, None)

    # What torch.Tensor has, too.

    def new_empty(self, shape, *, dtype=None):
        garbage = np.full(shape, 0x7F, np.dtype(dtype or self.dtype))
        return Tensor.of(garbage, code=None if dtype else self.code, index=self.index)

    def new_full(self, shape, value, *, dtype=None):
        full = np.full(shape, value, np.dtype(dtype or self.dtype))
        return Tensor.of(full, code=None if dtype else self.code, index=self.index)

    def new_zeros(self, shape, *, dtype=None):
        return self.new_full(shape, 0, dtype=dtype)


def from_dlpack(exporter, **request):
    """What another library makes of an object with __dlpack__: a Tensor over the same memory."""
    capsule = exporter.__dlpack__(stream=1, **request)
    name = _api.PyCapsule_GetName(capsule)
    kind = DLManagedTensorVersioned if name == b"dltensor_versioned" else DLManagedTensor
    t = kind.from_address(_get_pointer(capsule, name)).tensor
    assert (t.device_type, t.device_id) == tuple(exporter.__dlpack_device__())
    dtype = f"f{t.bits // 8}" if t.code == _CODES["f"] else f"u{t.bits // 8}"
    shape = [t.shape[i] for i in range(t.ndim)]
    where = t.data + t.byte_offset
    return Tensor(where, shape, dtype, code=t.code, index=t.device_id, keep=capsule)


def fake_torch(current_stream=0):
    """A module that could be torch: its current stream is the same on every device."""
    current = SimpleNamespace(cuda_stream=current_stream)
    cuda = SimpleNamespace(is_initialized=lambda: True, current_stream=lambda index: current)
    return SimpleNamespace(
        Tensor=Tensor, cuda=cuda, float32=np.dtype(np.float32), uint8=np.dtype(np.uint8)
    )


# ---- the same data on both sides


def as_dtype(array, dtype):
    """float32 in the form that numpy has for a dtype: bits for bf16."""
    if dtype == "bf16":
        return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return array.astype({"f32": np.float32, "f16": np.float16}[dtype])


def as_float(array, dtype):
    array = np.asarray(array)
    if dtype == "bf16":
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


class Side:
    """One of the two contexts of a comparison, and how arrays get there."""

    def __init__(self, ctx, dtype):
        self.ctx, self.dtype = ctx, dtype
        self.on_cuda = ctx.config.device == rx.Device.CUDA

    def floats(self, array):
        array = as_dtype(array, self.dtype)
        if self.on_cuda:
            return Tensor.of(array, code=BF16 if self.dtype == "bf16" else None)
        return rx.bf16(array) if self.dtype == "bf16" else array

    def put(self, array, dtype=np.int32):
        array = np.asarray(array, dtype)
        return Tensor.of(array) if self.on_cuda else array

    def get(self, tensor):
        """float32 of a tensor of this side."""
        if self.on_cuda:
            tensor = tensor.numpy()
        elif isinstance(tensor, rx.BFloat16):
            tensor = tensor.bits
        return tensor if np.asarray(tensor).dtype == np.float32 else as_float(tensor, self.dtype)
