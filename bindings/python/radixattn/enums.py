"""The header's constants as Python enums: every value is read from the header, none is repeated
here.

Every function that takes one of these also takes its name in any case: ``evict_policy="lru"``,
``kv_dtype="bf16"``.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import TypeVar

from radixattn._ffi import lib

NS_DEFAULT = 0
"""The default namespace, which always exists."""
NS_ALL = 2**64 - 1
"""evict, clear: every namespace (RADIX_NS_ALL, a macro outside the section that cffi parses)."""


class Status(IntEnum):
    OK = lib.RADIX_OK
    INVALID = lib.RADIX_E_INVALID
    VERSION = lib.RADIX_E_VERSION
    NOMEM = lib.RADIX_E_NOMEM
    NO_BLOCKS = lib.RADIX_E_NO_BLOCKS
    BUFFER = lib.RADIX_E_BUFFER
    STALE = lib.RADIX_E_STALE
    STATE = lib.RADIX_E_STATE
    UNSUPPORTED = lib.RADIX_E_UNSUPPORTED
    NO_DEVICE = lib.RADIX_E_NO_DEVICE
    DEVICE = lib.RADIX_E_DEVICE
    DEVICE_LOST = lib.RADIX_E_DEVICE_LOST
    IO = lib.RADIX_E_IO
    CORRUPT = lib.RADIX_E_CORRUPT
    MISMATCH = lib.RADIX_E_MISMATCH
    CANCELLED = lib.RADIX_E_CANCELLED
    QUOTA = lib.RADIX_E_QUOTA
    BUSY = lib.RADIX_E_BUSY
    CALLBACK = lib.RADIX_E_CALLBACK
    FULL = lib.RADIX_E_FULL
    INTERNAL = lib.RADIX_E_INTERNAL


class DType(IntEnum):
    """Element types. The library computes with F32, F16 and BF16."""

    DEFAULT = lib.RADIX_DT_DEFAULT
    F32 = lib.RADIX_F32
    F16 = lib.RADIX_F16
    BF16 = lib.RADIX_BF16
    F8_E4M3 = lib.RADIX_F8_E4M3
    F8_E5M2 = lib.RADIX_F8_E5M2
    I8 = lib.RADIX_I8
    I32 = lib.RADIX_I32
    I64 = lib.RADIX_I64
    U8 = lib.RADIX_U8


class Device(IntEnum):
    AUTO = lib.RADIX_DEV_AUTO
    CPU = lib.RADIX_DEV_CPU
    CUDA = lib.RADIX_DEV_CUDA
    HIP = lib.RADIX_DEV_HIP


class CpuTarget(IntEnum):
    """Instruction set of the CPU kernels; AUTO is the best that this machine runs."""

    AUTO = lib.RADIX_CPU_AUTO
    BASELINE = lib.RADIX_CPU_BASELINE
    AVX2 = lib.RADIX_CPU_AVX2
    AVX512 = lib.RADIX_CPU_AVX512
    AVX512_BF16 = lib.RADIX_CPU_AVX512_BF16
    NEON = lib.RADIX_CPU_NEON


class EvictPolicy(IntEnum):
    """Which unleased leaf loses its tail blocks first; ties by node id."""

    LRU = lib.RADIX_EVICT_LRU
    LFU = lib.RADIX_EVICT_LFU
    FIFO = lib.RADIX_EVICT_FIFO
    NONE = lib.RADIX_EVICT_NONE


class KvLayout(IntEnum):
    """NHD: [num_blocks, block_size, num_kv_heads, head_dim]; HND: [num_blocks, num_kv_heads,
    block_size, head_dim]."""

    NHD = lib.RADIX_LAYOUT_NHD
    HND = lib.RADIX_LAYOUT_HND


class RopeStyle(IntEnum):
    """NEOX: pairs (i, i + rotary_dim/2); INTERLEAVED: pairs (2i, 2i+1)."""

    NEOX = lib.RADIX_ROPE_NEOX
    INTERLEAVED = lib.RADIX_ROPE_INTERLEAVED


class RopeScaling(IntEnum):
    NONE = lib.RADIX_ROPE_SCALE_NONE
    LINEAR = lib.RADIX_ROPE_SCALE_LINEAR
    LLAMA3 = lib.RADIX_ROPE_SCALE_LLAMA3
    YARN = lib.RADIX_ROPE_SCALE_YARN


class LogLevel(IntEnum):
    OFF = lib.RADIX_LOG_OFF
    ERROR = lib.RADIX_LOG_ERROR
    WARN = lib.RADIX_LOG_WARN
    INFO = lib.RADIX_LOG_INFO
    DEBUG = lib.RADIX_LOG_DEBUG


class OpKind(IntEnum):
    COPY = lib.RADIX_OP_COPY


class GraphFormat(IntEnum):
    TEXT = lib.RADIX_GRAPH_TEXT
    JSON = lib.RADIX_GRAPH_JSON
    DOT = lib.RADIX_GRAPH_DOT


class ContextFlag(IntFlag):
    EXTERNAL_SYNC = lib.RADIX_CTX_EXTERNAL_SYNC
    PREALLOCATE = lib.RADIX_CTX_PREALLOCATE
    METADATA_ONLY = lib.RADIX_CTX_METADATA_ONLY
    DEFER_FREE = lib.RADIX_CTX_DEFER_FREE


class BeginFlag(IntFlag):
    MATCH_ALL = lib.RADIX_BEGIN_MATCH_ALL
    NO_MATCH = lib.RADIX_BEGIN_NO_MATCH
    SHARE_PENDING = lib.RADIX_BEGIN_SHARE_PENDING
    REMAP_DUPLICATES = lib.RADIX_BEGIN_REMAP_DUPLICATES


class FreeFlag(IntFlag):
    DISCARD = lib.RADIX_FREE_DISCARD


class AppendFlag(IntFlag):
    PARTIAL = lib.RADIX_APPEND_PARTIAL


class PlanFlag(IntFlag):
    BOUNDS = lib.RADIX_PLAN_BOUNDS
    UNSHARED = lib.RADIX_PLAN_UNSHARED
    BATCH_INVARIANT = lib.RADIX_PLAN_BATCH_INVARIANT


class PlanUpdateFlag(IntFlag):
    NO_WAIT = lib.RADIX_PLAN_UPDATE_NO_WAIT


class AttentionFlag(IntFlag):
    SCALE_PER_HEAD = lib.RADIX_ATTN_SCALE_PER_HEAD
    BATCH_INVARIANT = lib.RADIX_ATTN_BATCH_INVARIANT
    BF16_WEIGHTS = lib.RADIX_ATTN_BF16_WEIGHTS


class SampleFlag(IntFlag):
    FINAL_LOGPROBS = lib.RADIX_SAMPLE_FINAL_LOGPROBS


class VerifyFlag(IntFlag):
    NO_REPLACEMENT = lib.RADIX_VERIFY_NO_REPLACEMENT


class RowStatus(IntEnum):
    """What sample and verify say of a row, and of a sequence."""

    OK = lib.RADIX_ROW_OK
    NAN = lib.RADIX_ROW_NAN
    EMPTY = lib.RADIX_ROW_EMPTY
    PARAMETER = lib.RADIX_ROW_PARAMETER


class LayerFlag(IntFlag):
    ADD = lib.RADIX_LAYER_ADD
    NORM_PLUS_ONE = lib.RADIX_LAYER_NORM_PLUS_ONE


class GemmFlag(IntFlag):
    ADD = lib.RADIX_GEMM_ADD


_E = TypeVar("_E", bound=IntEnum)


def to_enum(kind: type[_E], value: int | str, name: str) -> int:
    """The number of an enum member, of its name in any case, or of a number, which passes
    unchecked to the library."""
    if isinstance(value, str):
        try:
            return int(kind[value.upper()])
        except KeyError:
            known = ", ".join(member.name.lower() for member in kind)
            raise ValueError(f"{name} is {value!r}: expected one of {known}") from None
    return int(value)
