"""The attention block of a model's layer in one call: RMSNorm, projections, rotary embedding, K/V
write, decode and prefill over the block tables, output projection.

Thread rule: data plane, tag [D], as attention.py; each thread has a workspace of its own. Weights
are borrowed for the call, in [out, in] order, rows in any stride (a tensor parallel rank passes
slices). On CUDA every tensor lies on the context's device, weights have x's dtype, and y and
workspace may be left out when x is torch's and the stream torch's current one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.attention import (
    AttentionOptions,
    Launch,
    RopeOptions,
    rope_descriptor,
    thread_workspace,
)
from radixattn.core import ContextCore
from radixattn.device import Place, Stream, torch_maker
from radixattn.enums import DType, GemmFlag, KvLayout, LayerFlag
from radixattn.errors import check, make_error
from radixattn.plan import Plan
from radixattn.tensors import (
    Array,
    Ints,
    Tensor,
    View,
    array_argument,
    array_of,
    bf16,
    numpy_dtype,
    output,
    pointer,
    view,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class LayerWeights(TypedDict, total=False):
    """Weights of a layer: f32, f16 or bf16, each as it likes on the CPU. w_o and either w_qkv or
    w_q, w_k and w_v are required."""

    norm: Tensor  # [hidden]: x is normalised first
    w_qkv: Tensor  # [(num_q_heads + num_kv_heads) * head_dim + num_kv_heads * head_dim_v, hidden]
    w_q: Tensor  # the same apart: [num_q_heads * head_dim, hidden]
    w_k: Tensor  # [num_kv_heads * head_dim, hidden]
    w_v: Tensor  # [num_kv_heads * head_dim_v, hidden]
    b_qkv: Tensor  # biases, one number a row of the weight
    b_q: Tensor
    b_k: Tensor
    b_v: Tensor
    q_norm: Tensor  # [head_dim]: every head of q is normalised (Qwen3, Gemma 3)
    k_norm: Tensor  # [head_dim]
    w_o: Tensor  # [hidden, num_q_heads * head_dim_v]
    b_o: Tensor  # [hidden]


class Gemm:
    """One product for a gemm callback: y = x @ weight.T + bias, or y += that.

    struct  the radix_gemm: device, strides, pointers (on CUDA there is nothing else)
    add     y += instead of y =
    x, weight, bias (or None), y  on the CPU as arrays over the library's own memory, valid during
            the call; bfloat16 as numpy_dtype says
    stream  the address of the stream
    """

    def __init__(self, struct: Any, stream: int) -> None:
        self.struct = struct
        self.stream = stream
        self.add = bool(struct.flags & GemmFlag.ADD)

    @property
    def x(self) -> Array:
        return array_of(self.struct.x)

    @property
    def weight(self) -> Array:
        return array_of(self.struct.weight)

    @property
    def bias(self) -> Array | None:
        return array_of(self.struct.bias) if self.struct.bias.data != ffi.NULL else None

    @property
    def y(self) -> Array:
        return array_of(self.struct.y)


GemmFunction = Callable[[Gemm], object]


class LayerRows:
    """The rows of x that decode, or that prefill, and where their sequences are.

        decode = LayerRows(lens, slots, positions, block_tables=tables, rotary_dim=64)
        prefill = LayerRows(lens, slots, positions, cu_q_lens=cu, block_tables=tables, ...)
        either = LayerRows(plan=plan, rotary_dim=64)  # as the plan's last update was

    context_lens   int32 [num_seqs]: tokens with K/V, the new ones included
    slots          int64 [rows] from an append; negative = a padded row
    positions      int32 [rows]; may be left out with rotary_dim 0
    cu_q_lens      int32 [num_seqs + 1]: row offsets, from 0: prefill; None: decode, one row each
    max_query_len  bound on rows of a sequence; default their maximum, on CUDA required
    plan           has all of these and the tables
    rotary_dim     leading elements of a head that turn; 0 = no rotation
    rope           RopeOptions
    options        AttentionOptions but out, workspace and stream, which are the layer's
    """

    def __init__(
        self,
        context_lens: Ints | None = None,
        slots: Ints | None = None,
        positions: Ints | None = None,
        *,
        cu_q_lens: Ints | None = None,
        max_query_len: int | None = None,
        plan: Plan | None = None,
        rotary_dim: int = 0,
        rope: RopeOptions | None = None,
        **options: Unpack[AttentionOptions],
    ) -> None:
        taken = [name for name in ("out", "workspace", "stream") if name in options]
        if taken:
            raise TypeError(f"the layer has its own {', '.join(taken)}")
        given = {
            "context_lens": context_lens,
            "slots": slots,
            "positions": positions,
            "cu_q_lens": cu_q_lens,
        }
        if plan is not None and any(value is not None for value in given.values()):
            names = [name for name, value in given.items() if value is not None]
            raise TypeError(f"the plan has its own {', '.join(names)}")
        if plan is None and (context_lens is None or slots is None):
            raise TypeError("give context_lens and slots, or plan")
        self.given = given
        self.max_query_len = max_query_len
        self.plan = plan
        self.rotary_dim = rotary_dim
        self.rope = rope or {}
        self.options = options


class _Part:
    """A radix_attn and a radix_rope_append of LayerRows, and everything they point to."""

    def __init__(
        self, ctx: ContextCore, rows: LayerRows, name: str, shape: tuple[int, int], place: Place
    ) -> None:
        options: Any = {**rows.options, "stream": place.stream if place.cuda else None}
        given, plan = rows.given, ffi.NULL if rows.plan is None else rows.plan.pointer
        self.launch = Launch(ctx, None, given["context_lens"], options, plan, shape)
        prefill = given["cu_q_lens"]
        if prefill is not None:
            self.launch.set_cu_q_lens(prefill, rows.max_query_len)
        self.attn = self.launch.d
        if (self.attn.cu_q_lens != ffi.NULL) != (name == "prefill"):
            raise ValueError(
                f"{name} has {'a' if name == 'decode' else 'no'} cu_q_lens: expected "
                f"{'none' if name == 'decode' else 'row offsets'}"
            )
        self.rope, self.keep = rope_descriptor(
            ctx, place, None, None, q=None, layer=options.get("layer") or 0,
            rotary_dim=rows.rotary_dim, k_cache=options.get("k_cache"),
            v_cache=options.get("v_cache"), k_scale=options.get("k_scale"),
            v_scale=options.get("v_scale"), kv_layout=options.get("kv_layout") or KvLayout.NHD,
            rope=rows.rope,
        )  # fmt: skip
        if rows.plan is not None:
            check(lib.radix_plan_rope(plan, self.rope))
        else:
            self._places(given, place)
        if options.get("lse") is True:
            raise TypeError(f"{name}: lse is True: expected a tensor, or nothing")
        if options.get("lse") is not None:
            self.launch.tensor("lse", options["lse"], writable=True)

    def _places(self, given: dict[str, Ints | None], place: Place) -> None:
        slots = array_argument(given["slots"], np.int64, "slots", place)
        self.rope.slots, self.rope.num_tokens = slots.pointer("int64_t *"), slots.size
        self.keep.append(slots)
        if given["positions"] is None:
            return
        positions = array_argument(given["positions"], np.int32, "positions", place)
        if positions.size != slots.size:
            raise ValueError(f"positions has {positions.size} entries: expected {slots.size}")
        self.rope.positions = positions.pointer("int32_t *")
        self.keep.append(positions)


class _LayerLaunch:
    """A radix_layer and everything it points to."""

    def __init__(
        self,
        ctx: ContextCore,
        x: Tensor,
        decode: LayerRows | None,
        prefill: LayerRows | None,
        num_q_heads: int,
        weights: Any,
        stream: Stream,
    ) -> None:
        unknown = weights.keys() - LayerWeights.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown option(s): {', '.join(sorted(unknown))}")
        self.ctx = ctx
        self.place = ctx.place(stream)
        self.keep: list[object] = []
        self.d: Any = ffi.new("radix_layer *", {"struct_size": ffi.sizeof("radix_layer")})
        self.d.num_q_heads = num_q_heads
        self.given_x: Any = x
        self.x = self.tensor("x", x)
        if self.x.t.ndim != 2:
            raise ValueError(f"x has shape {self.x.shape}: expected [num_rows, hidden]")
        for name, value in weights.items():
            if value is not None:
                self.tensor(name, value)
        self.error: BaseException | None = None
        for name, rows in (("decode", decode), ("prefill", prefill)):
            if rows is not None:
                part = _Part(ctx, rows, name, (self.x.shape[0], num_q_heads), self.place)
                self.keep.append(part)
                setattr(self.d, name, part.attn)
                setattr(self.d, name + "_rope", part.rope)

    def tensor(self, name: str, value: Any, *, writable: bool = False) -> View:
        result = view(value, name, self.place, writable=writable)
        self.keep.append(result)
        setattr(self.d, name, result.t[0])
        return result

    def output(self, y: Any) -> Any:
        if y is None and self.place.cuda:
            if torch_maker(self.given_x, self.place) is None:
                raise TypeError(
                    f"y is missing: it is made on {self.place} only for an x of torch and on "
                    "torch's current stream"
                )
            added = self.d.flags & LayerFlag.ADD
            make = self.given_x.new_zeros if added else self.given_x.new_empty
            y = make(self.x.shape)
        if y is not None:
            self.tensor("y", y, writable=True)
            return y
        made = np.zeros(self.x.shape, numpy_dtype(self.x.dtype))
        self.tensor("y", bf16(made) if self.x.dtype == DType.BF16 else made)
        return made

    def set_gemm(self, gemm: GemmFunction) -> None:
        def run(_user: Any, g: Any, s: Any) -> int:
            gemm(Gemm(g[0], int(ffi.cast("uintptr_t", s))))
            return int(lib.RADIX_OK)

        def failed(_kind: Any, error: BaseException, _trace: Any) -> None:
            self.error = error

        callback = ffi.callback(
            "radix_gemm_fn", run, error=int(lib.RADIX_E_CALLBACK), onerror=failed
        )
        self.keep.append(callback)
        self.d.gemm = callback

    def workspace_bytes(self) -> int:
        size = ffi.new("uint64_t *")
        check(lib.radix_layer_workspace(self.ctx.pointer, self.d, size))
        return int(size[0])

    def workspace(self, given: Any, needed: int) -> None:
        if self.place.cuda:
            if given is None:
                torch = torch_maker(self.given_x, self.place)
                if torch is None:
                    raise TypeError(
                        f"workspace is missing: it is made on {self.place} only for an x of torch "
                        "and on torch's current stream"
                    )
                given = self.given_x.new_empty((needed,), dtype=torch.uint8)
            space = array_argument(given, np.uint8, "workspace", self.place, writable=True)
            self.d.workspace, self.d.workspace_size = space.pointer("void *"), space.size
            self.keep.append(space)
            return
        array = output(
            thread_workspace(self.ctx, needed) if given is None else given, np.uint8, "workspace"
        )
        self.d.workspace, self.d.workspace_size = pointer("void *", array), array.size
        self.keep.append(array)

    def run(self, needed: int) -> None:
        stream = ffi.cast("radix_stream", self.place.stream)
        status = lib.radix_layer_launch(self.ctx.pointer, self.d, stream)
        if self.error is not None:
            raise make_error(status) from self.error
        if status == lib.RADIX_E_BUFFER:
            raise make_error(status, needed=needed)
        check(status)


class LayerCalls(ContextCore):
    """The attention layer. See Context."""

    def layer(
        self,
        x: Tensor,
        *,
        num_q_heads: int,
        decode: LayerRows | None = None,
        prefill: LayerRows | None = None,
        y: Tensor | None = None,
        add: bool = False,
        norm_eps: float = 0.0,
        norm_plus_one: bool = False,
        gemm: GemmFunction | None = None,
        workspace: Tensor | None = None,
        stream: Stream = None,
        **weights: Unpack[LayerWeights],
    ) -> Tensor:
        """The attention block for the rows of a step; returns y. [D] (radix_layer_launch)

        x              [num_rows, hidden]: the rows of decode, then those of prefill
        num_q_heads    of these weights
        decode, prefill  LayerRows, one or both
        y              output like x, or x itself; default a new array, which is 0 before with add
        add            y += the block's result (a residual stream) instead of y =
        norm_eps       default 1e-6
        norm_plus_one  norm weights w count as 1 + w (Gemma)
        gemm           your own matrix products: called with a Gemm; default the library's
        workspace      uint8, 64-byte aligned (aligned_memory), layer_workspace() long; default one
                       a thread, on CUDA a new one of torch
        stream         None on the CPU; on CUDA see memory.py
        weights        LayerWeights
        Errors: InvalidArgumentError, BufferTooSmallError (workspace), UnsupportedError,
        CallbackError (from what gemm raised); TypeError and ValueError for what is no tensor or on
        another device than the context.
        """
        launch = _LayerLaunch(self, x, decode, prefill, num_q_heads, weights, stream)
        d = launch.d
        d.norm_eps = norm_eps
        d.flags = (LayerFlag.ADD if add else 0) | (LayerFlag.NORM_PLUS_ONE if norm_plus_one else 0)
        if gemm is not None:
            launch.set_gemm(gemm)
        result: Tensor = launch.output(y)
        needed = launch.workspace_bytes()
        launch.workspace(workspace, needed)
        launch.run(needed)
        return result

    def layer_workspace(
        self,
        x: Tensor,
        *,
        num_q_heads: int,
        decode: LayerRows | None = None,
        prefill: LayerRows | None = None,
        **weights: Unpack[LayerWeights],
    ) -> int:
        """Workspace bytes for such a launch with the library's own products. [F]
        (radix_layer_workspace)

        Grows with the rows, and as attention_workspace.
        """
        return _LayerLaunch(self, x, decode, prefill, num_q_heads, weights, None).workspace_bytes()
