"""Choosing tokens from logits, and verifying drafted ones (speculative decoding).

Thread rule: data plane, tag [D]: no lock; each thread has a workspace of its own. On the CPU a call
has finished when it returns; on CUDA it has put its work on a stream (see memory.py for streams).

What the options mean, and in which order they act: radix_sample in the header, docs/sampling.md.
Every per-row option may be one number for all rows (CPU) or an array [num_rows]; None = off. On
CUDA arrays lie on the context's device with exactly the dtype that is told (64-bit seeds and
positions: int64 or uint64, the bits count; masks: int32), and outputs must be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.attention import thread_workspace
from radixattn.core import ContextCore
from radixattn.device import Place, Stream, torch_maker
from radixattn.enums import DType, SampleFlag, VerifyFlag
from radixattn.errors import check, make_error
from radixattn.tensors import (
    Array,
    Ints,
    Tensor,
    View,
    array_argument,
    host_array,
    int_input,
    output,
    view,
    view_memory,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Numbers = float | Sequence[float] | Tensor
"""A per-row option: one number for all rows, or [num_rows]."""


class SampleOptions(TypedDict, total=False):
    """What sample and verify have in common. Every one may be left out."""

    temperature: Numbers  # default 0: greedy
    top_k: int | Ints  # int32
    top_p: Numbers
    min_p: Numbers
    typical_p: Numbers
    repetition_penalty: Numbers
    presence_penalty: Numbers
    frequency_penalty: Numbers
    # token ids that penalties count: prompt, then output so far. A sequence for each row (CPU), or,
    # with history_begin, one int32 array, row after row
    history: Sequence[Ints] | Ints
    history_begin: Ints  # int64 [num_rows + 1]
    output_begin: Ints  # int64 [num_rows]: where a row's output begins, an index of the one array
    # a dict {token: bias} for each row (CPU), or, with bias_values and bias_begin, int32 tokens
    bias: Sequence[dict[int, float]] | Ints
    bias_values: Any  # f32, as many as tokens
    bias_begin: Ints  # int64 [num_rows + 1]
    # uint32 [num_rows, words]: bit t % 32 of word t / 32; or bool [num_rows, vocab] (CPU)
    allowed: Any
    seeds: int | Ints  # uint64
    positions: int | Ints  # uint64: tokens before the one to draw; never twice with a seed
    workspace: Tensor  # uint8, 64-byte aligned; default: one a thread, on CUDA a new one of torch
    stream: Stream  # None on the CPU; on CUDA see memory.py


@dataclass(frozen=True)
class Sampled:
    """What sample chose for each row.

    tokens        int32 [num_rows]; -1 where status is not OK
    status        int32 [num_rows] of RowStatus
    logprobs      f32 [num_rows], or None
    top_tokens    int32 [num_rows, num_top], or None
    top_logprobs  f32 [num_rows, num_top], or None
    """

    tokens: Tensor
    status: Tensor
    logprobs: Tensor | None
    top_tokens: Tensor | None
    top_logprobs: Tensor | None


@dataclass(frozen=True)
class Verified:
    """What verify accepted of each sequence.

    tokens      int32 [num_seqs, max_tokens]: drafted tokens that stand, then the new one; -1 behind
    num_tokens  int32 [num_seqs]; 0 where status is not OK
    nodes       int32 [num_seqs, max_tokens]: the node whose logits gave each token, counted from
                the sequence's root; -1 behind
    status      int32 [num_seqs] of RowStatus
    """

    tokens: Tensor
    num_tokens: Tensor
    nodes: Tensor
    status: Tensor


_FLOATS = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip


class _Rows:
    """A radix_sample without outputs, and everything it points to."""

    def __init__(self, ctx: ContextCore, logits: Tensor, options: Any) -> None:
        unknown = options.keys() - SampleOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown option(s): {', '.join(sorted(unknown))}")
        self.ctx = ctx
        self.place = ctx.place(options.get("stream"))
        self.options = options
        self.given: Any = logits
        self.keep: list[object] = []
        self.d: Any = ffi.new("radix_sample *", {"struct_size": ffi.sizeof("radix_sample")})
        seen = view(logits, "logits", self.place)
        if len(seen.shape) != 2:
            raise ValueError(f"logits has shape {seen.shape}: expected [num_rows, vocab]")
        self.rows, self.vocab = seen.shape
        self.keep.append(seen)
        self.d.logits = seen.t[0]
        for name in _FLOATS:
            self._per_row(name, np.float32)
        self._per_row("top_k", np.int32)
        for name in ("seeds", "positions"):
            self._per_row(name, np.uint64)
        self._history()
        self._bias()
        self._allowed()

    def point(self, d: Any, name: str, array: View) -> None:
        """Lets a field of d point to an array, which lives as long as this object."""
        self.keep.append(array)
        setattr(d, name, ffi.cast(ffi.typeof(getattr(d, name)), array.t.data))

    def _per_row(self, name: str, dtype: type) -> None:
        value = self.options.get(name)
        if value is None:
            return
        if isinstance(value, bool | int | float | np.number):
            if self.place.cuda:
                raise TypeError(f"{name} is a number: expected an array on {self.place}")
            value = np.full(self.rows, _one(value, dtype, name), dtype)
        array = _array(value, dtype, name, self.place)
        if array.shape != (self.rows,):
            raise ValueError(f"{name} has shape {array.shape}: expected ({self.rows},), one a row")
        self.point(self.d, name, array)

    def _begins(self, name: str, field: str, extra: int = 1) -> None:
        begin = array_argument(self.options[name], np.int64, name, self.place)
        if begin.shape != (self.rows + extra,):
            raise ValueError(f"{name} has shape {begin.shape}: expected ({self.rows + extra},)")
        self.point(self.d, field, begin)

    def _history(self) -> None:
        value, options = self.options.get("history"), dict(self.options)
        if value is None:
            return
        if options.get("history_begin") is None:
            value, options["history_begin"] = _joined(value, self.rows, "history", self.place)
        self.options = options
        tokens = array_argument(value, np.int32, "history", self.place)
        self.d.num_history = tokens.size
        self.point(self.d, "history", tokens)
        self._begins("history_begin", "history_begin")
        if options.get("output_begin") is not None:
            self._begins("output_begin", "output_begin", extra=0)

    def _bias(self) -> None:
        value, options = self.options.get("bias"), dict(self.options)
        if value is None:
            return
        if options.get("bias_begin") is None:
            each = [dict(row) for row in value]
            options["bias_values"] = [x for row in each for x in row.values()]
            value, options["bias_begin"] = _joined(
                [list(row) for row in each], self.rows, "bias", self.place
            )
        if options.get("bias_values") is None:
            raise TypeError("bias_values is missing: expected one for each token of bias")
        self.options = options
        tokens = array_argument(value, np.int32, "bias", self.place)
        values = array_argument(options["bias_values"], np.float32, "bias_values", self.place)
        if values.size != tokens.size:
            raise ValueError(f"bias_values has {values.size} entries: expected {tokens.size}")
        self.d.num_biases = tokens.size
        self.point(self.d, "bias_tokens", tokens)
        self.point(self.d, "bias_values", values)
        self._begins("bias_begin", "bias_begin")

    def _allowed(self) -> None:
        value = self.options.get("allowed")
        if value is None:
            return
        if not self.place.cuda:
            value = host_array(value, np.uint32, "allowed")
            if value.dtype == np.bool_:
                if value.shape != (self.rows, self.vocab):
                    raise ValueError(
                        f"allowed has shape {value.shape}: expected ({self.rows}, {self.vocab})"
                    )
                value = _packed(value)
        words = _array(value, np.uint32, "allowed", self.place, ndim=2)
        if words.shape[0] != self.rows:
            raise ValueError(f"allowed has {words.shape[0]} rows: expected {self.rows}")
        self.d.allowed_stride = words.shape[1]
        self.point(self.d, "allowed", words)

    def outputs(self, d: Any, given: dict[str, tuple[Any, type, tuple[int, ...]]]) -> list[Any]:
        """Outputs by the names of their fields without out_, made where they are None."""
        results = []
        for name, (value, dtype, shape) in given.items():
            if value is None:
                if self.place.cuda:
                    raise TypeError(f"{name} is missing: expected an output on {self.place}")
                value = np.empty(shape, dtype)
            ndim = len(shape)
            if self.place.cuda:
                array = array_argument(value, dtype, name, self.place, ndim, writable=True)
            else:
                memory = output(value, dtype, name, ndim=ndim)
                if not memory.flags.c_contiguous:
                    raise ValueError(f"{name} has gaps: expected rows without")
                array = view(memory, name, self.place, writable=True)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}: expected {shape}")
            self.point(d, f"out_{name}", array)
            results.append(value)
        return results

    def launch(self, d: Any, size_of: Any, call: Any) -> None:
        """Gives d a workspace and launches it."""
        size = ffi.new("uint64_t *")
        check(size_of(self.ctx.pointer, d, size))
        self._workspace(d, int(size[0]))
        status = call(self.ctx.pointer, d, ffi.cast("radix_stream", self.place.stream))
        if status == lib.RADIX_E_BUFFER:
            raise make_error(status, needed=int(size[0]))
        check(status)

    def _workspace(self, d: Any, needed: int) -> None:
        space = self.options.get("workspace")
        if space is None and self.place.cuda:
            torch = torch_maker(self.given, self.place)
            if torch is None:
                return  # the library says when it needs one
            space = self.given.new_empty((needed,), dtype=torch.uint8)
        if space is None:
            space = thread_workspace(self.ctx, needed)
        memory = view_memory(space, "workspace", self.place)
        self.point(d, "workspace", memory)
        d.workspace_size = memory.nbytes


def _one(value: Any, dtype: type, name: str) -> Any:
    """One number for all rows: checked where dtype is one of integers, as an array would be."""
    if np.dtype(dtype).kind == "f":
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value}: expected an integer")
    limits = np.iinfo(dtype)
    if not limits.min <= int(value) <= limits.max:
        raise OverflowError(f"{name} is {value}: expected {np.dtype(dtype).name}")
    return value


def _array(values: Any, dtype: type, name: str, place: Place, ndim: int = 1) -> View:
    """An array of unsigned words, which DLPack's users mostly call signed, or of another dtype."""
    if np.dtype(dtype).kind != "u":
        return array_argument(values, dtype, name, place, ndim)
    signed: type = np.int32 if np.dtype(dtype).itemsize == 4 else np.int64
    if place.cuda:
        return array_argument(values, signed, name, place, ndim)
    words = np.ascontiguousarray(int_input(values, dtype, name, ndim))
    return array_argument(words.view(signed), signed, name, place, ndim)


def _joined(rows: Any, num_rows: int, name: str, place: Place) -> tuple[Array, Array]:
    """Lists of tokens, one for each row, as one array and where each begins."""
    if place.cuda:
        raise TypeError(f"{name}_begin is missing: {name} is one array on {place}")
    each = [int_input(row, np.int32, f"{name}[{i}]") for i, row in enumerate(rows)]
    if len(each) != num_rows:
        raise ValueError(f"{name} has {len(each)} rows: expected {num_rows}")
    begin = np.zeros(num_rows + 1, np.int64)
    np.cumsum([row.size for row in each], out=begin[1:])
    return np.concatenate([np.empty(0, np.int32), *each]), begin


def _packed(mask: Array) -> Array:
    """A mask of bools as words of 32 bits, the lowest first."""
    rows, vocab = mask.shape
    width = -(-vocab // 32)
    bits = np.zeros((rows, width * 32), np.bool_)
    bits[:, :vocab] = mask
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)


class SamplingCalls(ContextCore):
    """Sampling and verification. See Context."""

    def sample(
        self,
        logits: Tensor,
        *,
        logprobs: Tensor | bool = False,
        num_top: int = 0,
        final_logprobs: bool = False,
        tokens: Tensor | None = None,
        status: Tensor | None = None,
        top_tokens: Tensor | None = None,
        top_logprobs: Tensor | None = None,
        **options: Unpack[SampleOptions],
    ) -> Sampled:
        """Chooses a token from each row of logits. [D] (radix_sample_launch)

        logits          [num_rows, vocab] f32, f16 or bf16; vocab at most 2^20
        logprobs        True: the token's log-probability, too; an f32 [num_rows] output: into that
        num_top         report this many likeliest tokens of each row, 0 to 128
        final_logprobs  log-probabilities of what was drawn from, instead of the model's own
        tokens, status, top_tokens, top_logprobs  outputs; default new arrays, on CUDA required
        options         SampleOptions; without any: greedy
        A row that cannot be sampled has token -1 and says why in status.
        Errors: InvalidArgumentError, BufferTooSmallError (workspace); TypeError and ValueError for
        what is no such array or on another device than the context.
        """
        rows = _Rows(self, logits, options)
        d, n = rows.d, rows.rows
        d.num_top = num_top
        d.flags = int(SampleFlag.FINAL_LOGPROBS) if final_logprobs else 0
        given: dict[str, tuple[Any, type, tuple[int, ...]]] = {
            "tokens": (tokens, np.int32, (n,)),
            "status": (status, np.int32, (n,)),
        }
        if logprobs is not False:
            given["logprobs"] = (None if logprobs is True else logprobs, np.float32, (n,))
        if num_top > 0:
            given["top_tokens"] = (top_tokens, np.int32, (n, num_top))
            given["top_logprobs"] = (top_logprobs, np.float32, (n, num_top))
        results = dict(zip(given, rows.outputs(d, given), strict=True))
        rows.launch(d, lib.radix_sample_workspace, lib.radix_sample_launch)
        return Sampled(
            results["tokens"],
            results["status"],
            results.get("logprobs"),
            results.get("top_tokens"),
            results.get("top_logprobs"),
        )

    def verify(
        self,
        logits: Tensor,
        node_begin: Ints,
        draft_tokens: Ints,
        *,
        parents: Ints | None = None,
        draft_probs: Tensor | None = None,
        no_replacement: bool = False,
        max_tokens: int | None = None,
        tokens: Tensor | None = None,
        num_tokens: Tensor | None = None,
        nodes: Tensor | None = None,
        status: Tensor | None = None,
        **options: Unpack[SampleOptions],
    ) -> Verified:
        """Which drafted tokens stand, and the token that follows them. [D] (radix_verify_launch)

        logits          [num_rows, vocab]: a row for each node of each sequence
        node_begin      int32 [num_seqs + 1]: a sequence's rows; the first is the root
        draft_tokens    int32 [num_rows]; a root's is not read
        parents         int32 [num_rows], counted from the root; None: chains
        draft_probs     f32 [num_rows, vocab]: what the children of each node were drawn from, with
                        other seeds than these; None: drafts are compared with the token drawn
        no_replacement  siblings were drawn without replacement
        max_tokens      room for a sequence's tokens; default the most nodes of one; on CUDA
                        required
        tokens, num_tokens, nodes, status  int32 outputs; default new arrays, on CUDA required
        options         SampleOptions of each row
        Errors: as sample.
        """
        rows = _Rows(self, logits, options)
        d = ffi.new("radix_verify *", {"struct_size": ffi.sizeof("radix_verify")})
        d.flags = int(VerifyFlag.NO_REPLACEMENT) if no_replacement else 0
        d.target = rows.d
        begin = array_argument(node_begin, np.int32, "node_begin", rows.place)
        if begin.size == 0:
            raise ValueError("node_begin has 0 entries: expected at least 1")
        rows.point(d, "node_begin", begin)
        for name, value in (("draft_tokens", draft_tokens), ("parents", parents)):
            if value is None:
                continue
            array = array_argument(value, np.int32, name, rows.place)
            if array.size != rows.rows:
                raise ValueError(f"{name} has {array.size} entries: expected {rows.rows}")
            rows.point(d, name, array)
        if draft_probs is not None:
            probs = view(draft_probs, "draft_probs", rows.place)
            if probs.dtype != DType.F32 or probs.shape != (rows.rows, rows.vocab):
                raise ValueError(
                    f"draft_probs is {DType(probs.dtype).name.lower()} {probs.shape}: expected f32 "
                    f"({rows.rows}, {rows.vocab})"
                )
            rows.keep.append(probs)
            d.draft_probs = probs.t[0]
        if max_tokens is None:
            if begin.host is None:
                raise TypeError(f"max_tokens is missing: node_begin is on {rows.place}, unread")
            max_tokens = max(int(np.diff(begin.host).max(initial=0)), 1)
        d.num_seqs, d.max_tokens = begin.size - 1, max_tokens
        wide, narrow = (d.num_seqs, max_tokens), (d.num_seqs,)
        given: dict[str, tuple[Any, type, tuple[int, ...]]] = {
            "tokens": (tokens, np.int32, wide),
            "num_tokens": (num_tokens, np.int32, narrow),
            "nodes": (nodes, np.int32, wide),
            "status": (status, np.int32, narrow),
        }
        results = rows.outputs(d, given)
        rows.launch(d, lib.radix_verify_workspace, lib.radix_verify_launch)
        return Verified(*results)
