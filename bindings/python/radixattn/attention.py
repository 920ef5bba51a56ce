"""The kernels: rotary embedding with the K/V write, decode and prefill attention over the paged
cache.

Thread rule: data plane, tag [D]: no lock; each thread has a workspace of its own. On the CPU a call
has finished when it returns.

Tensors are numpy arrays or anything with __dlpack__, f32, f16 or bf16, last dimension contiguous;
they are never copied. Names of dimensions: num_rows query rows over all sequences, num_seqs
sequences, lengths in tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.config import aligned_memory
from radixattn.core import ContextCore
from radixattn.enums import DType, KvLayout, RopeScaling, RopeStyle, to_enum
from radixattn.errors import check, make_error
from radixattn.memory import stream_pointer
from radixattn.tensors import (
    Array,
    Ints,
    Tensor,
    View,
    bf16,
    float_input,
    int_input,
    numpy_dtype,
    output,
    pointer,
    view,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AttentionOptions(TypedDict, total=False):
    """What decode and prefill have in common. Every one may be left out."""

    layer: int  # of the context's KV memory; ignored with k_cache and v_cache; default 0
    block_tables: Ints  # int32 [num_seqs, width]; this, or block_begin and block_ids
    block_begin: Ints  # the same as CSR: int32 [num_seqs + 1]
    block_ids: Ints  # int32 [block_begin[num_seqs]]
    max_context_len: int  # bound on context_lens; default their maximum
    out: Tensor  # [num_rows, num_q_heads, head_dim_v]; default a new array of q's dtype
    # f32 [num_rows, num_q_heads] output, natural log; True = a new array; default none
    lse: Tensor | bool
    k_cache: Tensor  # with v_cache, instead of the context's own memory: [num_blocks, block_size,
    # num_kv_heads, head_dim] for nhd, [num_blocks, num_kv_heads, block_size, head_dim] for hnd
    v_cache: Tensor
    kv_layout: KvLayout | str  # of k_cache and v_cache; default "nhd"
    scale: float  # default 1/sqrt(head_dim)
    softcap: float  # > 0: x = softcap * tanh(x / softcap)
    window: int  # visible tokens, the query's own included; default unlimited
    alibi_slopes: Any  # f32 [num_q_heads]
    sinks: Any  # f32 [num_q_heads]: exp(sinks[h]) is added once to the denominator
    # uint8, 64-byte aligned (aligned_memory), attention_workspace() long; default: one a thread
    workspace: Array
    stream: int | None  # None on the CPU


class RopeOptions(TypedDict, total=False):
    """rope_append: how q and k turn. As Hugging Face transformers defines the scalings."""

    # "neox" (default): pairs (i, i + rotary_dim/2); "interleaved": (2i, 2i+1)
    style: RopeStyle | str
    scaling: RopeScaling | str  # "none" (default), "linear", "llama3", "yarn"
    theta: float  # default 10000
    scale: float  # the scaling's factor; default 1
    low_freq_factor: float  # llama3; default 1
    high_freq_factor: float  # llama3; default 4
    beta_fast: float  # yarn; default 32
    beta_slow: float  # yarn; default 1
    attention_factor: float  # yarn; default 0.1 ln(scale) + 1
    original_max_position: int  # llama3, yarn: required


_ROPE_NUMBERS = (
    "theta", "scale", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow",
    "attention_factor", "original_max_position",
)  # fmt: skip


class _Launch:
    """A radix_attn and everything it points to."""

    def __init__(self, ctx: ContextCore, q: Tensor, context_lens: Ints, options: Any) -> None:
        unknown = options.keys() - AttentionOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown option(s): {', '.join(sorted(unknown))}")
        self.ctx = ctx
        self.options = options
        self.keep: list[object] = []
        self.d: Any = ffi.new("radix_attn *", {"struct_size": ffi.sizeof("radix_attn")})
        self.q = self.tensor("q", q)
        if self.q.t.ndim != 3:
            raise ValueError(
                f"q has shape {self.q.shape}: expected [num_rows, num_q_heads, head_dim]"
            )
        lens = self.ints("context_lens", context_lens, "int32_t *")
        self.d.num_seqs = lens.size
        bound = options.get("max_context_len")
        self.d.max_context_len = int(lens.max(initial=0)) if bound is None else bound
        for name in ("layer", "window", "scale", "softcap"):
            setattr(self.d, name, options.get(name) or 0)
        self.d.kv_layout = to_enum(KvLayout, options.get("kv_layout") or 0, "kv_layout")
        self._tables(options)
        self._caches(options)
        for name in ("alibi_slopes", "sinks"):
            if options.get(name) is not None:
                array = float_input(options[name], name, self.q.shape[1])
                self.keep.append(array)
                setattr(self.d, name, pointer("float *", array))

    def tensor(self, name: str, value: Tensor, *, writable: bool = False) -> View:
        result = view(value, name, writable=writable)
        self.keep.append(result)
        setattr(self.d, name, result.t[0])
        return result

    def ints(self, name: str, value: Ints, ctype: str) -> Array:
        array = int_input(value, np.int32, name)
        self.keep.append(array)
        setattr(self.d, name, pointer(ctype, array))
        return array

    def _tables(self, options: Any) -> None:
        n = self.d.num_seqs
        if options.get("block_tables") is not None:
            table = int_input(options["block_tables"], np.int32, "block_tables", ndim=2)
            if table.shape[0] < n:
                raise ValueError(f"block_tables has {table.shape[0]} rows: expected {n}")
            table = np.ascontiguousarray(table)  # the library may read a row up to the next one
            self.keep.append(table)
            self.d.block_tables = pointer("int32_t *", table)
            self.d.block_table_stride = table.shape[1]
            return
        if options.get("block_begin") is None or options.get("block_ids") is None:
            raise TypeError("give block_tables, or block_begin and block_ids")
        begin = self.ints("block_begin", options["block_begin"], "int32_t *")
        ids = self.ints("block_ids", options["block_ids"], "int32_t *")
        if begin.size != n + 1 or begin[0] < 0 or (np.diff(begin) < 0).any():
            raise ValueError(f"block_begin must have {n + 1} entries that never fall")
        if int(begin[-1]) > ids.size:
            raise ValueError(
                f"block_begin ends at {begin[-1]}: expected at most {ids.size}, the block_ids"
            )

    def _caches(self, options: Any) -> None:
        k, v = options.get("k_cache"), options.get("v_cache")
        if (k is None) != (v is None):
            raise TypeError("k_cache and v_cache come together")
        self.head_dim_v = self.ctx.config.head_dim_v
        if k is not None and v is not None:
            self.tensor("k_cache", k)
            self.head_dim_v = self.tensor("v_cache", v).shape[-1]

    def set_cu_q_lens(self, cu_q_lens: Ints, max_query_len: int | None) -> None:
        array = self.ints("cu_q_lens", cu_q_lens, "int32_t *")
        if array.size != self.d.num_seqs + 1:
            raise ValueError(f"cu_q_lens has {array.size} entries: expected {self.d.num_seqs + 1}")
        if max_query_len is None:
            max_query_len = int(np.diff(array).max(initial=0))
        self.d.max_query_len = max(max_query_len, 0)

    def workspace_bytes(self) -> int:
        size = ffi.new("uint64_t *")
        check(lib.radix_attn_workspace(self.ctx.pointer, self.d, size))
        return int(size[0])

    def outputs(self) -> tuple[Tensor, Tensor | None]:
        rows, heads, _ = self.q.shape
        out = self.options.get("out")
        if out is None:
            out = np.zeros((rows, heads, self.head_dim_v), numpy_dtype(self.q.dtype))
            self.tensor("out", bf16(out) if self.q.dtype == DType.BF16 else out)
        else:
            self.tensor("out", out, writable=True)
        lse = self.options.get("lse")
        if lse is None or lse is False:
            return out, None
        if lse is True:
            lse = np.full((rows, heads), -np.inf, np.float32)
        self.tensor("lse", lse, writable=True)
        return out, lse

    def run(self, call: Any) -> tuple[Tensor, Tensor | None]:
        result = self.outputs()
        needed = self.workspace_bytes()
        space = self.options.get("workspace")
        if space is None:
            space = thread_workspace(self.ctx, needed)
        space = output(space, np.uint8, "workspace")
        self.d.workspace, self.d.workspace_size = pointer("void *", space), space.size
        stream = stream_pointer(self.options.get("stream"))
        status = call(self.ctx.pointer, self.d, stream)
        if status == lib.RADIX_E_BUFFER:
            raise make_error(status, needed=needed)
        check(status)
        return result


def thread_workspace(ctx: ContextCore, num_bytes: int) -> Array:
    """This thread's workspace of a context, grown to at least num_bytes."""
    local = ctx.handle.workspaces
    space: Array | None = getattr(local, "space", None)
    if space is None or space.size < num_bytes:
        space = local.space = aligned_memory(max(num_bytes, 64))
    return space


class AttentionCalls(ContextCore):
    """The kernels. See Context."""

    def rope_append(
        self,
        k: Tensor,
        v: Tensor,
        slots: Ints,
        positions: Ints | None = None,
        *,
        q: Tensor | None = None,
        layer: int = 0,
        rotary_dim: int = 0,
        k_cache: Tensor | None = None,
        v_cache: Tensor | None = None,
        kv_layout: KvLayout | str = KvLayout.NHD,
        stream: int | None = None,
        **rope: Unpack[RopeOptions],
    ) -> None:
        """Turns q (in place) and k, and writes K and V to their slots, in one pass. [D]
        (radix_rope_append_launch)

        k, v        [num_tokens, num_kv_heads, head_dim] and [..., head_dim_v], read only
        slots       int64 [num_tokens] from an append; negative = a padded row: left alone
        positions   int32 [num_tokens]; None only with rotary_dim 0
        q           [num_tokens, num_q_heads, head_dim], rotated in place; None: only K and V
        layer       of the context's KV memory; ignored with k_cache and v_cache (see
                    AttentionOptions)
        rotary_dim  leading elements of a head that turn, even; 0 = no rotation, only the write
        Errors: InvalidArgumentError, UnsupportedError; TypeError and ValueError for what is no
        tensor.
        """
        unknown = rope.keys() - RopeOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown option(s): {', '.join(sorted(unknown))}")
        if (k_cache is None) != (v_cache is None):
            raise TypeError("k_cache and v_cache come together")
        d = ffi.new("radix_rope_append *", {"struct_size": ffi.sizeof("radix_rope_append")})
        d.layer, d.rotary_dim = layer, rotary_dim
        d.kv_layout = to_enum(KvLayout, kv_layout, "kv_layout")
        d.style = to_enum(RopeStyle, rope.get("style") or 0, "style")
        d.scaling = to_enum(RopeScaling, rope.get("scaling") or 0, "scaling")
        for name in _ROPE_NUMBERS:
            setattr(d, name, rope.get(name) or 0)
        written = {"q": q, "k_cache": k_cache, "v_cache": v_cache}
        keep = [_set_tensor(d, "k", k), _set_tensor(d, "v", v)]
        keep += [
            _set_tensor(d, name, t, writable=True) for name, t in written.items() if t is not None
        ]
        places = int_input(slots, np.int64, "slots")
        d.slots, d.num_tokens = pointer("int64_t *", places), places.size
        where = None if positions is None else int_input(positions, np.int32, "positions")
        if where is not None and where.size != places.size:
            raise ValueError(f"positions has {where.size} entries: expected {places.size}")
        d.positions = pointer("int32_t *", where)
        check(lib.radix_rope_append_launch(self.pointer, d, stream_pointer(stream)))
        del keep

    def paged_attention(
        self, q: Tensor, context_lens: Ints, **options: Unpack[AttentionOptions]
    ) -> tuple[Tensor, Tensor | None]:
        """Decode: one query row a sequence. Returns (out, lse), lse None unless asked for. [D]

        q             [num_seqs, num_q_heads, head_dim]
        context_lens  int32 [num_seqs]: tokens with K/V, the newest included; 0 = empty: out 0 and
                      lse -inf
        options       AttentionOptions; block_tables, or block_begin and block_ids, are required
        Errors: InvalidArgumentError, BufferTooSmallError (workspace), UnsupportedError; TypeError
        and ValueError for what is no tensor.
        """
        launch = _Launch(self, q, context_lens, options)
        if launch.q.shape[0] != launch.d.num_seqs:
            raise ValueError(
                f"q has {launch.q.shape[0]} rows: expected {launch.d.num_seqs}, one a sequence"
            )
        return launch.run(lib.radix_paged_attention_launch)

    def prefill(
        self,
        q: Tensor,
        context_lens: Ints,
        cu_q_lens: Ints,
        *,
        max_query_len: int | None = None,
        **options: Unpack[AttentionOptions],
    ) -> tuple[Tensor, Tensor | None]:
        """Causal attention of new tokens over the cached prefix plus themselves. Returns (out,
        lse). [D]

        q              [num_rows, num_q_heads, head_dim], sequence after sequence
        context_lens   int32 [num_seqs]: tokens with K/V, this launch's new ones included
        cu_q_lens      int32 [num_seqs + 1]: row offsets, from 0; rows beyond the last are padding
                       and left alone: in new outputs they are 0, lse -inf
        max_query_len  bound on rows of a sequence; default their maximum
        options        AttentionOptions; block_tables, or block_begin and block_ids, are required
        """
        launch = _Launch(self, q, context_lens, options)
        launch.set_cu_q_lens(cu_q_lens, max_query_len)
        return launch.run(lib.radix_prefill_launch)

    def attention_workspace(
        self,
        q: Tensor,
        context_lens: Ints,
        cu_q_lens: Ints | None = None,
        *,
        max_query_len: int | None = None,
        **options: Unpack[AttentionOptions],
    ) -> int:
        """Workspace bytes for such a launch: decode without cu_q_lens, else prefill. [F]
        (radix_attn_workspace)

        Grows with the number of sequences, max_context_len and max_query_len only.
        """
        launch = _Launch(self, q, context_lens, options)
        if cu_q_lens is not None:
            launch.set_cu_q_lens(cu_q_lens, max_query_len)
        launch.outputs()
        return launch.workspace_bytes()


def _set_tensor(d: Any, name: str, tensor: Tensor, *, writable: bool = False) -> View:
    result = view(tensor, name, writable=writable)
    setattr(d, name, result.t[0])
    return result
