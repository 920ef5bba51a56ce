"""The life of a context: creation, its KV memory as arrays, close.

Promises: after close() every call raises ClosedError. Views and tensors of the context's own KV
memory stay valid: the C context is destroyed when it is closed (or dropped) and the last of them is
gone, whichever is later.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from radixattn import dlpack
from radixattn._ffi import ffi, lib
from radixattn.config import Config, Options, fill_config, read_config
from radixattn.device import DLPACK_CUDA, Place, Stream, launch_place
from radixattn.enums import Device, DType
from radixattn.errors import ClosedError, UnsupportedError, check
from radixattn.tensors import Array, BFloat16, numpy_dtype

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


def _destroy(slot: Any, keep: list[object]) -> None:
    lib.radix_ctx_destroy(slot)
    keep.clear()


class Handle:
    """Owns a radix_ctx and what its configuration refers to; destroyed with the last reference
    to it."""

    def __init__(self, options: Options) -> None:
        config, keep = fill_config(options)
        slot = ffi.new("radix_ctx **")
        check(lib.radix_ctx_create(config, slot))
        self.pointer: Any = slot[0]
        self.workspaces = threading.local()
        # At exit the system takes all back; callbacks into a half-gone interpreter would be worse.
        weakref.finalize(self, _destroy, slot, keep).atexit = False


class _KvMemory:
    """A piece of KV memory in the array interface: arrays made from it keep the handle alive.

    Making an array does not look at the memory, so that of a device may go through one on its way
    into a capsule. Nobody may keep such an array: to print it, as debuggers do, is a crash.
    """

    def __init__(self, handle: Handle, tensor: Any, typestr: str) -> None:
        self._handle = handle
        self.shape: tuple[int, ...] = tuple(tensor.shape[i] for i in range(tensor.ndim))
        self.__array_interface__ = {
            "version": 3,
            "data": (int(ffi.cast("uintptr_t", tensor.data)), False),
            "typestr": typestr,
            "shape": self.shape,
        }


# In numpy's words; what it has no word for gets its label in the capsule.
_TYPESTR = {
    DType.F32: "<f4",
    DType.F16: "<f2",
    DType.BF16: "<u2",
    DType.F8_E4M3: "<u1",
    DType.F8_E5M2: "<u1",
    DType.U8: "<u1",
}
_CODES = {
    DType.BF16: dlpack.CODE_BFLOAT,
    DType.F8_E4M3: dlpack.CODE_F8_E4M3,
    DType.F8_E5M2: dlpack.CODE_F8_E5M2,
}


class DeviceTensor:
    """K or V of a layer on a CUDA device, for other libraries through DLPack: no copy.

        k = torch.from_dlpack(ctx.kv_tensors(0)[0])

    shape, dtype (DType) and device ("cuda:0") describe it. The memory stays valid while a tensor
    made from it lives. DLPack orders nothing here: who reads or writes it on another stream than
    the launches did must make one wait for the other.
    """

    def __init__(self, memory: _KvMemory, dtype: DType, index: int) -> None:
        self._memory = memory
        self.dtype = dtype
        self.device_index = index

    @property
    def shape(self) -> tuple[int, ...]:
        return self._memory.shape

    @property
    def device(self) -> str:
        return f"cuda:{self.device_index}"

    @property
    def bits(self) -> DeviceTensor:
        """The same memory of fp8 as uint8, for libraries that take no fp8 through DLPack."""
        if _TYPESTR[self.dtype] != "<u1":
            raise TypeError(f"dtype is {self.dtype.name.lower()}: expected fp8")
        return DeviceTensor(self._memory, DType.U8, self.device_index)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (DLPACK_CUDA, self.device_index)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        here = self.__dlpack_device__()
        if copy or (dl_device is not None and tuple(dl_device) != here):
            raise BufferError(f"KV memory on {self.device} is handed out where it is, never copied")
        # Before 2.1 numpy knows no versions; a capsule without one answers every request.
        versions = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
        request = {"max_version": max_version} if versions else {}
        return dlpack.labelled_capsule(
            np.asarray(self._memory), code=_CODES.get(self.dtype), device=here, **request
        )


class ContextCore:
    """Creation, configuration, KV memory and close. See Context."""

    def __init__(self, **options: Unpack[Options]) -> None:
        self._handle: Handle | None = Handle(options)
        self._config: Config | None = None

    # ---- life

    def close(self) -> None:
        """Ends the context: every id of it dies, every later call raises ClosedError. A second
        close does nothing.

        No other thread may be inside a call of this context. Arrays from kv_views stay valid (see
        the module).
        """
        self._handle = None

    @property
    def closed(self) -> bool:
        return self._handle is None

    def __enter__(self) -> Self:
        self.handle  # noqa: B018 - a closed context cannot be entered
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def handle(self) -> Handle:
        """The owner of the C context, for calls. ClosedError after close."""
        if self._handle is None:
            raise ClosedError(lib.RADIX_E_STATE, "the context is closed")
        return self._handle

    @property
    def pointer(self) -> Any:
        """The ``radix_ctx *`` for radixattn.lib. ClosedError after close."""
        return self.handle.pointer

    # ---- configuration

    @property
    def config(self) -> Config:
        """The configuration with every default resolved. [F]"""
        if self._config is None:
            struct = ffi.new("radix_config *", {"struct_size": ffi.sizeof("radix_config")})
            check(lib.radix_ctx_get_config(self.pointer, struct))
            self._config = read_config(struct)
        return self._config

    def place(self, stream: Stream = None) -> Place:
        """Where a launch with this stream argument runs. [F] (see memory.py for streams)"""
        config = self.config
        return launch_place(config.device == Device.CUDA, config.device_index, stream)

    # ---- KV memory

    def kv_views(self, layer: int) -> tuple[Array, Array]:
        """The layer's K and V as numpy arrays over the KV memory: no copy, writable. [F]

        Shape by kv_layout: NHD [num_blocks, block_size, num_kv_heads, head_dim], HND [num_blocks,
        num_kv_heads, block_size, head_dim]; V has head_dim_v. dtype is kv_dtype's; for bf16
        ml_dtypes.bfloat16 when that is installed, else uint16. Valid after close, too. StateError
        with metadata_only; UnsupportedError on CUDA, where kv_tensors is the way.
        """
        place = self.place()
        if place.cuda:
            message = f"the KV memory is on {place}, where numpy cannot look: use kv_tensors"
            raise UnsupportedError(lib.RADIX_E_UNSUPPORTED, message)
        handle = self.handle
        k, v = self._kv(handle, layer)
        return self._array(handle, k), self._array(handle, v)

    def kv_tensors(
        self, layer: int
    ) -> tuple[Array | BFloat16 | DeviceTensor, Array | BFloat16 | DeviceTensor]:
        """The layer's K and V for other libraries through DLPack:
        ``torch.from_dlpack(ctx.kv_tensors(0)[0])``. [F]

        Shapes as kv_views. On CUDA these are DeviceTensor objects; on the CPU arrays, with bf16
        BFloat16 objects, because numpy's own DLPack export knows no bfloat16.
        """
        place = self.place()
        if place.cuda:
            handle, dtype = self.handle, self.config.kv_dtype
            k_tensor, v_tensor = (
                DeviceTensor(_KvMemory(handle, t, _TYPESTR[dtype]), dtype, place.index)
                for t in self._kv(handle, layer)
            )
            return k_tensor, v_tensor
        k, v = self.kv_views(layer)
        if self.config.kv_dtype == DType.BF16:
            return BFloat16(k), BFloat16(v)
        return k, v

    @staticmethod
    def _kv(handle: Handle, layer: int) -> tuple[Any, Any]:
        k, v = ffi.new("radix_tensor *"), ffi.new("radix_tensor *")
        check(lib.radix_ctx_kv_tensor(handle.pointer, layer, k, v))
        return k, v

    @staticmethod
    def _array(handle: Handle, tensor: Any) -> Array:
        dtype = numpy_dtype(tensor.dtype)
        if tensor.dtype == DType.BF16:  # the array interface has no name for it
            return np.asarray(_KvMemory(handle, tensor, "<u2")).view(dtype)
        return np.asarray(_KvMemory(handle, tensor, dtype.str))
