"""The options of a context, and the resolved configuration that it reports."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from radixattn import callbacks
from radixattn._ffi import ffi, lib
from radixattn.callbacks import Allocator, LogFunction, ParallelFor
from radixattn.device import launch_place
from radixattn.enums import (
    ContextFlag,
    CpuTarget,
    Device,
    DType,
    EvictPolicy,
    KvLayout,
    LogLevel,
    to_enum,
)
from radixattn.errors import check
from radixattn.tensors import Array, Tensor, to_dtype, view_memory

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Options(TypedDict, total=False):
    """Keyword arguments of Context and kv_bytes.

    Every one may be left out; 0 and None mean the default.
    """

    num_blocks: int  # blocks in the pool; 0 = as many as fit into memory_budget
    block_size: int  # tokens a block, 1..256; default 16
    num_layers: int  # with num_kv_heads, head_dim, head_dim_v: may be 0 when metadata_only
    num_kv_heads: int
    head_dim: int  # of K: 32..256 in steps of 8
    head_dim_v: int  # of V; default head_dim
    # "f16" (default), "bf16", "f32"; on CUDA "f8_e4m3" and "f8_e5m2", too
    kv_dtype: DType | str | np.dtype[Any] | type
    kv_layout: KvLayout | str  # "nhd" (default) or "hnd"
    memory_budget: int  # bytes of KV memory, when num_blocks is 0
    # live at once; default 1024; a bound with preallocate, else where growth starts
    max_requests: int
    max_blocks_per_request: int  # length of a block-table row; default num_blocks
    max_pins: int  # default 64; as max_requests
    max_namespaces: int  # besides the default one; default 64; as max_requests
    evict_policy: EvictPolicy | str  # "lru" (default), "lfu", "fifo", "none"
    device: Device | str  # "auto" (default: the CPU), "cpu", "cuda", "cuda:1"
    device_index: int  # of CUDA, as the runtime counts; default 0, or what device says
    # "auto" (default), "baseline", "avx2", "avx512", "avx512_bf16", "neon"
    cpu_target: CpuTarget | str
    num_threads: int  # > 1: the library's own pool, the calling thread counted; not with executor
    # threads of the caller: a ThreadPoolExecutor, or parallel_for(n, run)
    executor: Executor | ParallelFor
    max_workers: int  # of executor: threads that may run tasks at once; 0 = unknown
    allocator: Allocator  # host memory; default malloc
    device_allocator: Allocator  # CUDA: the context's own KV memory; default cudaMalloc
    # caller-owned KV memory: writable, contiguous, 64-byte aligned, at least kv_bytes(); on CUDA
    # a tensor on the context's device
    kv_memory: Tensor
    log: LogFunction  # log(level, message), level a LogLevel number; default silent
    log_level: LogLevel | str  # "off" (default), "error", "warn", "info", "debug"
    external_sync: bool  # the caller serialises control-plane calls; the context has no lock
    preallocate: bool  # control-plane calls after creation never allocate: max_* are hard bounds
    metadata_only: bool  # no KV memory: block ids only
    defer_free: bool  # blocks given up wait for epoch_retire before they are used again


@dataclass(frozen=True)
class Config:
    """The configuration of a context with every default resolved.

    kv_memory is an address, 0 for the context's own.
    """

    abi: int
    flags: ContextFlag
    device: Device
    device_index: int
    kv_dtype: DType
    num_blocks: int
    block_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    max_requests: int
    max_blocks_per_request: int
    max_pins: int
    max_namespaces: int
    kv_layout: KvLayout
    evict_policy: EvictPolicy
    cpu_target: CpuTarget
    num_threads: int
    log_level: LogLevel
    memory_budget: int
    kv_memory: int
    kv_memory_size: int


_NUMBERS = (
    "num_blocks", "block_size", "num_layers", "num_kv_heads", "head_dim", "head_dim_v",
    "memory_budget", "max_requests", "max_blocks_per_request", "max_pins", "max_namespaces",
    "num_threads",
)  # fmt: skip
_ENUMS = {
    "kv_layout": KvLayout,
    "evict_policy": EvictPolicy,
    "cpu_target": CpuTarget,
    "log_level": LogLevel,
}
_FLAGS = {
    "external_sync": ContextFlag.EXTERNAL_SYNC,
    "preallocate": ContextFlag.PREALLOCATE,
    "metadata_only": ContextFlag.METADATA_ONLY,
    "defer_free": ContextFlag.DEFER_FREE,
}


def fill_config(options: Mapping[str, Any]) -> tuple[Any, list[object]]:
    """A radix_config, and the list of what must live as long as a context made from it."""
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option(s): {', '.join(sorted(unknown))}")
    config = ffi.new("radix_config *", {"struct_size": ffi.sizeof("radix_config")})
    config.abi = lib.radix_abi()
    config.flags = sum(int(flag) for name, flag in _FLAGS.items() if options.get(name))
    for name in _NUMBERS:
        setattr(config, name, options.get(name) or 0)
    for name, kind in _ENUMS.items():
        setattr(config, name, to_enum(kind, options.get(name) or 0, name))
    config.device, config.device_index = _device(options)
    config.kv_dtype = to_dtype(options.get("kv_dtype") or 0, "kv_dtype")
    keep: list[object] = [config]
    _fill_memory(config, options, keep)
    _fill_callbacks(config, options, keep)
    return config, keep


def _device(options: Mapping[str, Any]) -> tuple[int, int]:
    """device and device_index of "cuda:1" and its like."""
    device, index = options.get("device") or 0, options.get("device_index")
    if isinstance(device, str) and ":" in device:
        device, _, number = device.partition(":")
        if not number.isdecimal():
            raise ValueError(f"device is {options['device']!r}: expected a number after the colon")
        if index is not None and index != int(number):
            raise ValueError(f"device is {options['device']!r} and device_index {index}: give one")
        index = int(number)
    return to_enum(Device, device, "device"), index or 0


def _fill_memory(config: Any, options: Mapping[str, Any], keep: list[object]) -> None:
    memory = options.get("kv_memory")
    if memory is not None:
        cuda = config.device == Device.CUDA
        where = view_memory(memory, "kv_memory", launch_place(cuda, config.device_index, None))
        config.kv_memory, config.kv_memory_size = where.t.data, where.nbytes
        keep.append(where)
    for name, field in (("allocator", "host_alloc"), ("device_allocator", "device_alloc")):
        if options.get(name) is not None:
            setattr(config, field, callbacks.allocator_struct(options[name], keep))


def _fill_callbacks(config: Any, options: Mapping[str, Any], keep: list[object]) -> None:
    if options.get("executor") is not None:
        workers = options.get("max_workers") or 0
        config.executor = callbacks.executor_struct(options["executor"], workers, keep)
    if options.get("log") is not None:
        config.log = callbacks.log_callback(options["log"], keep)


def read_config(struct: Any) -> Config:
    """The Config of a radix_config that the library has filled in."""
    values: dict[str, Any] = {
        field.name: getattr(struct, field.name)
        for field in fields(Config)
        if field.name != "kv_memory"
    }
    more = {"kv_dtype": DType, "device": Device, "flags": ContextFlag}
    for name, kind in {**_ENUMS, **more}.items():
        values[name] = kind(values[name])
    values["kv_memory"] = int(ffi.cast("uintptr_t", struct.kv_memory))
    return Config(**values)


def kv_bytes(**options: Unpack[Options]) -> int:
    """Bytes of KV memory that a context with these options needs (for kv_memory).

    num_blocks must be given. [F]
    """
    config, keep = fill_config(options)
    size = ffi.new("uint64_t *")
    check(lib.radix_ctx_kv_bytes(config, size))
    keep.clear()
    return int(size[0])


def aligned_memory(num_bytes: int, alignment: int = 64) -> Array:
    """uint8 [num_bytes] that starts on a multiple of alignment: for kv_memory and workspaces."""
    raw = np.empty(num_bytes + alignment, np.uint8)
    start = -raw.__array_interface__["data"][0] % alignment
    return raw[start : start + num_bytes]
