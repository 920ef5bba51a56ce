"""The life of a context: creation, its KV memory as arrays, close.

Promises: after close() every call raises ClosedError. Views of the context's own KV memory stay
valid: the C context is destroyed when it is closed (or dropped) and the last view is gone,
whichever is later.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.config import Config, Options, fill_config, read_config
from radixattn.enums import DType
from radixattn.errors import ClosedError, check
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
    """A piece of KV memory in the array interface: arrays made from it keep the handle alive."""

    def __init__(self, handle: Handle, tensor: Any, typestr: str) -> None:
        self._handle = handle
        self.__array_interface__ = {
            "version": 3,
            "data": (int(ffi.cast("uintptr_t", tensor.data)), False),
            "typestr": typestr,
            "shape": tuple(tensor.shape[i] for i in range(tensor.ndim)),
        }


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

    # ---- KV memory

    def kv_views(self, layer: int) -> tuple[Array, Array]:
        """The layer's K and V as numpy arrays over the KV memory: no copy, writable. [F]

        Shape by kv_layout: NHD [num_blocks, block_size, num_kv_heads, head_dim], HND [num_blocks,
        num_kv_heads, block_size, head_dim]; V has head_dim_v. dtype is kv_dtype's; for bf16
        ml_dtypes.bfloat16 when that is installed, else uint16. Valid after close, too. StateError
        with metadata_only.
        """
        handle = self.handle
        k, v = ffi.new("radix_tensor *"), ffi.new("radix_tensor *")
        check(lib.radix_ctx_kv_tensor(handle.pointer, layer, k, v))
        return self._array(handle, k), self._array(handle, v)

    def kv_tensors(self, layer: int) -> tuple[Array | BFloat16, Array | BFloat16]:
        """As kv_views, for other libraries through DLPack:
        ``torch.from_dlpack(ctx.kv_tensors(0)[0])``. [F]

        With bf16 these are BFloat16 objects, because numpy's own DLPack export knows no bfloat16.
        """
        k, v = self.kv_views(layer)
        if self.config.kv_dtype == DType.BF16:
            return BFloat16(k), BFloat16(v)
        return k, v

    @staticmethod
    def _array(handle: Handle, tensor: Any) -> Array:
        dtype = numpy_dtype(tensor.dtype)
        if tensor.dtype == DType.BF16:  # the array interface has no name for it
            return np.asarray(_KvMemory(handle, tensor, "<u2")).view(dtype)
        return np.asarray(_KvMemory(handle, tensor, dtype.str))
