"""The kernels: rotary embedding with the K/V write, decode and prefill attention over the paged
cache.

Thread rule: data plane, tag [D]: no lock; each thread has a workspace of its own. On the CPU a call
has finished when it returns; on CUDA it has put its work on a stream (see memory.py for streams).

Tensors are numpy arrays or anything with __dlpack__, f32, f16 or bf16, last dimension contiguous;
they are never copied. Names of dimensions: num_rows query rows over all sequences, num_seqs
sequences, lengths in tokens.

On CUDA every tensor and array of a launch lies on the context's device, tables and lengths too,
with exactly the dtype that is told and contiguous (tensors: the last dimension). Their owners are
asked, by __dlpack__(stream=...), to make them ready for the launch's stream. Nobody looks at them,
so max_context_len and max_query_len must be given. out, lse and workspace may be left out when q is
torch's and the stream torch's current one; torch then makes them. With another stream keep every
tensor of a launch until that stream has done it (or tell torch: Tensor.record_stream).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.config import aligned_memory
from radixattn.core import ContextCore
from radixattn.device import Place, Stream, torch_maker
from radixattn.enums import AttentionFlag, DType, KvLayout, RopeScaling, RopeStyle, to_enum
from radixattn.errors import check, make_error
from radixattn.tensors import (
    Array,
    Float8,
    Ints,
    Tensor,
    View,
    array_argument,
    bf16,
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
    max_context_len: int  # bound on context_lens; default their maximum, on CUDA required
    out: Tensor  # [num_rows, num_q_heads, head_dim_v]; default a new array of q's dtype
    # f32 [num_rows, num_q_heads] output, natural log; True = a new array; default none
    lse: Tensor | bool
    k_cache: Tensor | Float8  # with v_cache, instead of the context's own memory: [num_blocks,
    # block_size, num_kv_heads, head_dim] for nhd, [num_blocks, num_kv_heads, block_size, head_dim]
    # for hnd
    v_cache: Tensor | Float8
    # CUDA, fp8 K/V: what a stored number is worth: f32 [1], or [num_kv_heads]; default 1
    k_scale: Tensor
    v_scale: Tensor
    kv_layout: KvLayout | str  # of k_cache and v_cache; default "nhd"
    scale: float  # default 1/sqrt(head_dim)
    softcap: float  # > 0: x = softcap * tanh(x / softcap)
    window: int  # visible tokens, the query's own included; default unlimited
    alibi_slopes: Any  # f32 [num_q_heads]
    sinks: Any  # f32 [num_q_heads]: exp(sinks[h]) is added once to the denominator
    # a row's bits depend on its query, its position and the K/V that it sees, on nothing else; a
    # plan has its own
    batch_invariant: bool
    bf16_weights: bool  # CPU, all of it bf16: weights are rounded to bf16, too: faster, less exact
    # prefill of speculative trees: uint8 [num_rows, bytes]; bit j % 8 of byte j / 8 says
    # whether the row sees its sequence's new token j, instead of causal order
    tree_mask: Tensor
    # uint8, 64-byte aligned (aligned_memory), attention_workspace() long; default: one a thread, on
    # CUDA a new one of torch
    workspace: Tensor
    stream: Stream  # None on the CPU; on CUDA see memory.py


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


def _missing(name: str, why: str) -> NoReturn:
    raise TypeError(f"{name} is missing: {why}")


class Launch:
    """A radix_attn and everything it points to.

    With a plan (a ``radix_plan *``), which has lengths, tables and a workspace, there are no
    context_lens. Without q (a layer makes its own) shape says how many rows and heads it has.
    """

    def __init__(
        self,
        ctx: ContextCore,
        q: Tensor | None,
        context_lens: Ints | None,
        options: Any,
        plan: Any = ffi.NULL,
        shape: tuple[int, int] = (0, 0),
    ) -> None:
        unknown = options.keys() - AttentionOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown option(s): {', '.join(sorted(unknown))}")
        self.ctx = ctx
        self.place = ctx.place(options.get("stream"))
        self.options = options
        self.keep: list[object] = []
        self.d: Any = ffi.new("radix_attn *", {"struct_size": ffi.sizeof("radix_attn")})
        self.rows, self.heads = shape
        if q is not None:
            self._queries(q)
        if plan != ffi.NULL:
            check(lib.radix_plan_attn(plan, self.d))
        else:
            self._lengths(context_lens, options)
            self._tables(options)
        for name in ("layer", "window", "scale", "softcap"):
            setattr(self.d, name, options.get(name) or 0)
        self.d.kv_layout = to_enum(KvLayout, options.get("kv_layout") or 0, "kv_layout")
        if options.get("batch_invariant"):
            self.d.flags |= int(AttentionFlag.BATCH_INVARIANT)
        if options.get("bf16_weights"):
            self.d.flags |= int(AttentionFlag.BF16_WEIGHTS)
        self._caches(options)
        self._numbers_by_head(options)
        self._tree_mask(options)

    def _queries(self, q: Tensor) -> None:
        self.given_q: Any = q
        self.q = self.tensor("q", q)
        if self.q.t.ndim != 3:
            raise ValueError(
                f"q has shape {self.q.shape}: expected [num_rows, num_q_heads, head_dim]"
            )
        self.rows, self.heads = self.q.shape[:2]

    def tensor(self, name: str, value: Any, *, writable: bool = False) -> View:
        result = view(value, name, self.place, writable=writable)
        self.keep.append(result)
        setattr(self.d, name, result.t[0])
        return result

    def array(self, name: str, value: Any, dtype: type, ndim: int = 1) -> View:
        result = array_argument(value, dtype, name, self.place, ndim)
        self.keep.append(result)
        setattr(self.d, name, ffi.cast(ffi.typeof(getattr(self.d, name)), result.t.data))
        return result

    def ints(self, name: str, value: Ints, ndim: int = 1) -> View:
        return self.array(name, value, np.int32, ndim)

    def _lengths(self, context_lens: Any, options: Any) -> None:
        lens = self.ints("context_lens", context_lens)
        self.d.num_seqs = lens.size
        bound = options.get("max_context_len")
        if bound is None:
            if lens.host is None:
                _missing("max_context_len", f"context_lens is on {self.place}, unread")
            bound = int(lens.host.max(initial=0))
        self.d.max_context_len = bound

    def _tables(self, options: Any) -> None:
        n = self.d.num_seqs
        if options.get("block_tables") is not None:
            table = self.ints("block_tables", options["block_tables"], ndim=2)
            if table.shape[0] < n:
                raise ValueError(f"block_tables has {table.shape[0]} rows: expected {n}")
            self.d.block_table_stride = table.shape[1]
            return
        if options.get("block_begin") is None or options.get("block_ids") is None:
            raise TypeError("give block_tables, or block_begin and block_ids")
        begin = self.ints("block_begin", options["block_begin"])
        ids = self.ints("block_ids", options["block_ids"])
        values = begin.host  # a device's are not looked at
        if begin.size != n + 1 or (
            values is not None and (values[0] < 0 or (np.diff(values) < 0).any())
        ):
            raise ValueError(f"block_begin must have {n + 1} entries that never fall")
        if values is not None and int(values[-1]) > ids.size:
            raise ValueError(
                f"block_begin ends at {values[-1]}: expected at most {ids.size}, the block_ids"
            )

    def _caches(self, options: Any) -> None:
        k, v = options.get("k_cache"), options.get("v_cache")
        if (k is None) != (v is None):
            raise TypeError("k_cache and v_cache come together")
        config = self.ctx.config
        self.head_dim_v, self.num_kv_heads = config.head_dim_v, config.num_kv_heads
        if k is not None and v is not None:
            self.num_kv_heads = _num_kv_heads(self.tensor("k_cache", k), self.d.kv_layout)
            self.head_dim_v = self.tensor("v_cache", v).shape[-1]

    def _numbers_by_head(self, options: Any) -> None:
        heads = self.heads
        for name in ("alibi_slopes", "sinks"):
            if options.get(name) is not None:
                shape = self.array(name, options[name], np.float32).shape
                if shape != (heads,):
                    raise ValueError(f"{name} has shape {shape}: expected ({heads},)")
        scales = {name: options.get(name) for name in ("k_scale", "v_scale")}
        self.keep += _set_scales(self.d, scales, self.num_kv_heads, self.place)

    def _tree_mask(self, options: Any) -> None:
        if options.get("tree_mask") is None:
            return
        rows = self.rows
        mask = self.array("tree_mask", options["tree_mask"], np.uint8, ndim=2)
        if mask.shape[0] != rows:
            raise ValueError(f"tree_mask has {mask.shape[0]} rows: expected {rows}, those of q")
        self.d.tree_mask_stride = mask.shape[1]

    def set_cu_q_lens(self, cu_q_lens: Ints, max_query_len: int | None) -> None:
        lens = self.ints("cu_q_lens", cu_q_lens)
        if lens.size != self.d.num_seqs + 1:
            raise ValueError(f"cu_q_lens has {lens.size} entries: expected {self.d.num_seqs + 1}")
        if max_query_len is None:
            if lens.host is None:
                _missing("max_query_len", f"cu_q_lens is on {self.place}, unread")
            max_query_len = int(np.diff(lens.host).max(initial=0))
        self.d.max_query_len = max(max_query_len, 0)

    def workspace_bytes(self) -> int:
        size = ffi.new("uint64_t *")
        check(lib.radix_attn_workspace(self.ctx.pointer, self.d, size))
        return int(size[0])

    def torch(self, name: str) -> Any:
        """torch, to make what was left out."""
        torch = torch_maker(self.given_q, self.place)
        if torch is None:
            _missing(
                name,
                f"it is made on {self.place} only for a q of torch and on torch's current stream",
            )
        return torch

    def outputs(self) -> tuple[Tensor, Tensor | None]:
        rows, heads, _ = self.q.shape
        out = self.options.get("out")
        shape = (rows, heads, self.head_dim_v)
        if out is not None:
            self.tensor("out", out, writable=True)
        elif self.place.cuda:
            self.torch("out")
            out = self.given_q.new_zeros(shape)
            self.tensor("out", out)
        else:
            out = np.zeros(shape, numpy_dtype(self.q.dtype))
            self.tensor("out", bf16(out) if self.q.dtype == DType.BF16 else out)
        lse = self.options.get("lse")
        if lse is None or lse is False:
            return out, None
        if lse is True:
            lse = self._new_lse((rows, heads))
        self.tensor("lse", lse, writable=True)
        return out, lse

    def _new_lse(self, shape: tuple[int, int]) -> Tensor:
        if not self.place.cuda:
            return np.full(shape, -np.inf, np.float32)
        float32 = self.torch("lse").float32
        lse: Tensor = self.given_q.new_full(shape, -np.inf, dtype=float32)
        return lse

    def _workspace(self, needed: int) -> None:
        space = self.options.get("workspace")
        if self.place.cuda:
            torch = torch_maker(self.given_q, self.place)
            if space is None and (torch is None or needed == 0):
                return  # smaller launches need none; the library says when one does
            if space is None:
                space = self.given_q.new_empty((needed,), dtype=torch.uint8)
            self.d.workspace_size = self.array("workspace", space, np.uint8).size
            return
        if space is None:
            space = thread_workspace(self.ctx, needed)
        array = output(space, np.uint8, "workspace")
        self.keep.append(array)
        self.d.workspace, self.d.workspace_size = pointer("void *", array), array.size

    def run(self, call: Any) -> tuple[Tensor, Tensor | None]:
        result = self.outputs()
        needed = self.workspace_bytes()
        if self.d.plan == ffi.NULL:
            self._workspace(needed)
        stream = ffi.cast("radix_stream", self.place.stream)
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
        k_cache: Tensor | Float8 | None = None,
        v_cache: Tensor | Float8 | None = None,
        k_scale: Tensor | None = None,
        v_scale: Tensor | None = None,
        kv_layout: KvLayout | str = KvLayout.NHD,
        stream: Stream = None,
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
        k_scale, v_scale  CUDA: K and V are divided by them before they are stored: f32 [1], or
                    [num_kv_heads]; for fp8
        stream      None on the CPU; on CUDA see memory.py
        Errors: InvalidArgumentError, UnsupportedError; TypeError and ValueError for what is no
        tensor or on another device than the context.
        """
        place = self.place(stream)
        d, keep = rope_descriptor(
            self, place, k, v, q=q, layer=layer, rotary_dim=rotary_dim, k_cache=k_cache,
            v_cache=v_cache, k_scale=k_scale, v_scale=v_scale, kv_layout=kv_layout, rope=rope,
        )  # fmt: skip
        places = array_argument(slots, np.int64, "slots", place)
        d.slots, d.num_tokens = places.pointer("int64_t *"), places.size
        if positions is not None:
            at = array_argument(positions, np.int32, "positions", place)
            if at.size != places.size:
                raise ValueError(f"positions has {at.size} entries: expected {places.size}")
            d.positions = at.pointer("int32_t *")
        stream_pointer = ffi.cast("radix_stream", place.stream)
        check(lib.radix_rope_append_launch(self.pointer, d, stream_pointer))
        del keep

    def paged_attention(
        self, q: Tensor, context_lens: Ints, **options: Unpack[AttentionOptions]
    ) -> tuple[Tensor, Tensor | None]:
        """Decode: one query row a sequence. Returns (out, lse), lse None unless asked for. [D]

        q             [num_seqs, num_q_heads, head_dim]
        context_lens  int32 [num_seqs]: tokens with K/V, the newest included; 0 = empty: out 0 and
                      lse -inf
        options       AttentionOptions; block_tables, or block_begin and block_ids, are required; on
                      CUDA max_context_len, too
        Errors: InvalidArgumentError, BufferTooSmallError (workspace), UnsupportedError; TypeError
        and ValueError for what is no tensor or on another device than the context.
        """
        launch = Launch(self, q, context_lens, options)
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
        max_query_len  bound on rows of a sequence; default their maximum, on CUDA required
        options        AttentionOptions; block_tables, or block_begin and block_ids, are required
        """
        launch = Launch(self, q, context_lens, options)
        launch.set_cu_q_lens(cu_q_lens, max_query_len)
        return launch.run(lib.radix_prefill_launch)

    def merge_states(
        self,
        outs: Sequence[Tensor],
        lses: Sequence[Tensor],
        out: Tensor,
        lse: Tensor | None = None,
        *,
        stream: Stream = None,
    ) -> None:
        """The attention over disjoint sets of keys from the attention over each. [D]
        (radix_merge_states_launch)

        outs  1 to 32 tensors [rows, heads, head_dim]
        lses  of each f32 [rows, heads], natural log; -inf: a state that counts for nothing
        out   [rows, heads, head_dim] output and lse f32 [rows, heads] output or None; they may be
              one of outs and of lses
        Errors: InvalidArgumentError, UnsupportedError; TypeError and ValueError for what is no
        tensor or on another device than the context.
        """
        if len(outs) != len(lses):
            raise ValueError(f"lses has {len(lses)} tensors: expected {len(outs)}, as outs")
        place = self.place(stream)
        states, weights = (
            [view(t, f"{name}[{i}]", place) for i, t in enumerate(tensors)]
            for name, tensors in (("outs", outs), ("lses", lses))
        )
        result = view(out, "out", place, writable=True)
        total = None if lse is None else view(lse, "lse", place, writable=True)
        stream_pointer = ffi.cast("radix_stream", place.stream)
        check(
            lib.radix_merge_states_launch(
                self.pointer,
                ffi.new("radix_tensor[]", [s.t[0] for s in states]),
                ffi.new("radix_tensor[]", [w.t[0] for w in weights]),
                len(states),
                result.t,
                ffi.NULL if total is None else total.t,
                stream_pointer,
            )
        )

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
        launch = Launch(self, q, context_lens, options)
        if cu_q_lens is not None:
            launch.set_cu_q_lens(cu_q_lens, max_query_len)
        return launch.workspace_bytes()


def rope_descriptor(
    ctx: ContextCore,
    place: Place,
    k: Tensor | None,
    v: Tensor | None,
    *,
    q: Tensor | None,
    layer: int,
    rotary_dim: int,
    k_cache: Tensor | Float8 | None,
    v_cache: Tensor | Float8 | None,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    kv_layout: KvLayout | str,
    rope: Any,
) -> tuple[Any, list[object]]:
    """A radix_rope_append without slots and positions, and what must live until the launch."""
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
    views = {
        **{
            name: view(tensor, name, place)
            for name, tensor in (("k", k), ("v", v))
            if tensor is not None
        },
        **{
            name: view(tensor, name, place, writable=True)
            for name, tensor in written.items()
            if tensor is not None
        },
    }
    for name, tensor in views.items():
        setattr(d, name, tensor.t[0])
    heads = ctx.config.num_kv_heads
    if "k_cache" in views:
        heads = _num_kv_heads(views["k_cache"], d.kv_layout)
    scales = _set_scales(d, {"k_scale": k_scale, "v_scale": v_scale}, heads, place)
    return d, [views, scales]


def _num_kv_heads(cache: View, kv_layout: int) -> int:
    """Of a K cache; 0 when it has not four dimensions, which the library refuses."""
    if len(cache.shape) != 4:
        return 0
    return cache.shape[2 if kv_layout == KvLayout.NHD else 1]


def _set_scales(
    d: Any, scales: dict[str, Tensor | None], num_kv_heads: int, place: Place
) -> list[View]:
    """Puts k_scale and v_scale into a descriptor; returns what must live until the launch."""
    given = {
        name: array_argument(scale, np.float32, name, place)
        for name, scale in scales.items()
        if scale is not None
    }
    sizes = {scale.size for scale in given.values()}
    for name, scale in given.items():
        if scale.size not in (1, num_kv_heads):
            raise ValueError(
                f"{name} has {scale.size} entries: expected 1 or {num_kv_heads}, one a KV head"
            )
        setattr(d, name, scale.pointer("float *"))
    if len(sizes) > 1:
        raise ValueError(
            f"k_scale has {given['k_scale'].size} entries, v_scale {given['v_scale'].size}: "
            "expected as many"
        )
    if sizes and sizes != {1}:
        d.flags |= int(AttentionFlag.SCALE_PER_HEAD)
    return list(given.values())
