"""The control plane of a context: requests, matching, eviction, namespaces, statistics. Never
touches K/V memory.

Thread rule: every call takes the context's lock (tag [C] of the header) and may come from any
thread, unless the context was made with external_sync. Python's own lock is released during a call.
Failure rule: a call that raises has changed nothing but statistics (and with
append_slots(partial=True) as told there). Hot calls come in batches over numpy arrays:
append_slots, commit, block_tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.callbacks import TextSink
from radixattn.core import ContextCore
from radixattn.enums import NS_ALL, NS_DEFAULT, BeginFlag, GraphFormat, to_enum
from radixattn.errors import check, make_error
from radixattn.request import Namespace, Pin, Request, id_of
from radixattn.results import (
    APPEND_DTYPE,
    COMMIT_DTYPE,
    OP_DTYPE,
    REMAP_DTYPE,
    AppendResult,
    CommitResult,
    Match,
    NamespaceInfo,
    Stats,
    read_struct,
)
from radixattn.tensors import Array, Ints, int_input, output, pointer

Requests = Sequence[Request | int] | Array
"""A batch: Request objects or ids, or a uint64 array of ids."""
NamespaceLike = Namespace | int


def request_ids(requests: Requests, ctx: ContextCore) -> Array:
    """The ids of a batch of ctx, uint64 [n]."""
    if isinstance(requests, np.ndarray):
        return int_input(requests, np.uint64, "requests")
    return np.fromiter((id_of(r, ctx) for r in requests), np.uint64, len(requests))


class _Prompt:
    """A radix_request_desc and the arrays it points to."""

    def __init__(self, tokens: Ints, namespace: int, extra_key: int, flags: int) -> None:
        self.tokens = int_input(tokens, np.int32, "tokens")
        self.struct = ffi.new(
            "radix_request_desc *", {"struct_size": ffi.sizeof("radix_request_desc")}
        )
        self.struct.flags = flags
        self.struct.ns = namespace
        self.struct.extra_key = extra_key
        self.struct.tokens = pointer("radix_token *", self.tokens)
        self.struct.num_tokens = self.tokens.size


class _MatchOut:
    """A radix_match with room for every block that a prompt can match."""

    def __init__(self, num_tokens: int, block_size: int) -> None:
        self._blocks = np.empty(num_tokens // block_size + 1, np.int32)
        self.struct = ffi.new("radix_match *", {"struct_size": ffi.sizeof("radix_match")})
        self.struct.blocks = pointer("radix_block *", self._blocks)
        self.struct.blocks_cap = self._blocks.size

    def result(self) -> Match:
        struct = self.struct
        blocks = self._blocks[: struct.num_blocks]
        return Match(int(struct.cached_tokens), int(struct.pending_tokens), blocks)


class CacheCalls(ContextCore):
    """The control plane. See Context."""

    # ---- prompts

    def begin(
        self,
        tokens: Ints,
        *,
        namespace: NamespaceLike = NS_DEFAULT,
        extra_key: int = 0,
        match_all: bool = False,
        no_match: bool = False,
        share_pending: bool = False,
        remap_duplicates: bool = False,
    ) -> Request:
        """Finds the longest cached prefix of a prompt, leases it, and makes a request of that
        length. [C]

        tokens     int32 [num_tokens], the prompt's ids; they are compared, not appended: append
                   what follows the match
        extra_key  adapter id or salt; requests share blocks only when namespace and extra_key are
                   both equal
        match_all  may match the last token, too (by default it must run, to give logits)
        no_match   starts empty, whatever is cached
        share_pending     may continue with full blocks that another live request has reserved, not
                          yet committed
        remap_duplicates  commit swaps blocks computed twice for the cached ones
        Errors: InvalidArgumentError, StaleIdError (namespace), OutOfMemoryError, FullError.
        """
        flags = (
            BeginFlag.MATCH_ALL * match_all
            + BeginFlag.NO_MATCH * no_match
            + BeginFlag.SHARE_PENDING * share_pending
            + BeginFlag.REMAP_DUPLICATES * remap_duplicates
        )
        number = ffi.new("radix_req *")
        match = self._prompt_call(
            lib.radix_begin_request, (tokens, namespace, extra_key, flags), number
        )
        return Request(self, int(number[0]), match)

    def match_prefix(
        self, tokens: Ints, *, namespace: NamespaceLike = NS_DEFAULT, extra_key: int = 0
    ) -> Match:
        """The longest committed prefix, without a lease: the next call may evict it.

        Counts as a use. [C]
        """
        return self._prompt_call(lib.radix_match_prefix, (tokens, namespace, extra_key, 0))

    def peek_prefix(
        self, tokens: Ints, *, namespace: NamespaceLike = NS_DEFAULT, extra_key: int = 0
    ) -> Match:
        """As match_prefix, and changes nothing at all: no use is counted. [C]"""
        return self._prompt_call(lib.radix_peek_prefix, (tokens, namespace, extra_key, 0))

    def pin_prefix(
        self, tokens: Ints, *, namespace: NamespaceLike = NS_DEFAULT, extra_key: int = 0
    ) -> Pin:
        """Keeps the cached prefix from eviction until Pin.unpin.

        With nothing cached it holds nothing. [C]
        """
        number = ffi.new("radix_pin *")
        match = self._prompt_call(lib.radix_pin_prefix, (tokens, namespace, extra_key, 0), number)
        return Pin(self, int(number[0]), match)

    def _prompt_call(
        self, call: Callable[..., int], prompt: tuple[Ints, NamespaceLike, int, int], *out: Any
    ) -> Match:
        tokens, namespace, extra_key, flags = prompt
        desc = _Prompt(tokens, id_of(namespace, self), extra_key, flags)
        match = _MatchOut(desc.tokens.size, self.config.block_size)
        check(call(self.pointer, desc.struct, *out, match.struct))
        return match.result()

    def find_shared(
        self, tokens: Ints, *, namespace: NamespaceLike = NS_DEFAULT, extra_key: int = 0
    ) -> tuple[list[Request], int]:
        """The live requests that share the longest prefix with tokens, and its length, exact to
        the token. [C]"""
        desc = _Prompt(tokens, id_of(namespace, self), extra_key, 0)
        count, shared = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        cap = 64
        while True:
            ids = np.empty(cap, np.uint64)
            out = pointer("radix_req *", ids)
            check(lib.radix_find_shared(self.pointer, desc.struct, out, cap, count, shared))
            if count[0] <= cap:
                return [Request(self, int(i)) for i in ids[: count[0]]], int(shared[0])
            cap = int(count[0])

    # ---- batches

    def append_slots(
        self,
        requests: Requests,
        tokens: Ints | None,
        counts: Ints | None = None,
        *,
        partial: bool = False,
        slots: Array | None = None,
    ) -> AppendResult:
        """Reserves slots for new tokens of n requests, each at most once. [C] (radix_append_slot)

        tokens   int32 [sum of counts], the ids, request after request; None: they follow by
                 set_tokens
        counts   [n] tokens of each request; None: one each
        partial  items before the first that fails take effect, and the result's error says why that
                 one failed; otherwise all or none take effect, and a failure raises
        slots    int64 output, at least as long as all tokens; None: a new array
        Errors: InvalidArgumentError, StaleIdError, StateError, NoBlocksError and QuotaError (with
        short_blocks), BufferTooSmallError (slots), FullError, OutOfMemoryError.
        """
        ids = request_ids(requests, self)
        flat = None if tokens is None else int_input(tokens, np.int32, "tokens")
        items, total = _append_items(ids, flat, counts)
        slots = np.empty(total, np.int64) if slots is None else output(slots, np.int64, "slots")
        ops = np.empty(ids.size, OP_DTYPE)
        out = ffi.new("radix_append_out *", {"struct_size": ffi.sizeof("radix_append_out")})
        out.flags = lib.RADIX_APPEND_PARTIAL * partial
        out.slots, out.slots_cap = pointer("int64_t *", slots), slots.size
        out.ops, out.ops_cap = pointer("radix_op *", ops), ops.size
        status = lib.radix_append_slot(
            self.pointer, pointer("radix_append *", items), ids.size, out
        )
        error = None
        if status != lib.RADIX_OK:
            # There is an op for every item: it can only be the slots that do not fit.
            needed = total if status == lib.RADIX_E_BUFFER else 0
            error = make_error(status, short_blocks=int(out.short_blocks), needed=needed)
            if not partial:
                raise error
        done = int(out.num_done)
        num_slots = total if done == ids.size else int(items["num_tokens"][:done].sum())
        num_ops = int(out.num_ops) if done else 0
        return AppendResult(slots[:num_slots], ops[:num_ops], done, int(out.evicted_blocks), error)

    def commit(self, requests: Requests, num_valid_tokens: Ints) -> CommitResult:
        """Publishes K/V of the first num_valid_tokens[i] tokens of each request; full blocks become
        visible. [C]

        All or none. Errors: StaleIdError, InvalidArgumentError (beyond num_tokens), StateError (ids
        unknown).
        """
        ids = request_ids(requests, self)
        counts = int_input(num_valid_tokens, np.uint64, "num_valid_tokens")
        if counts.size != ids.size:
            raise ValueError(f"num_valid_tokens has {counts.size} entries: expected {ids.size}")
        items = np.empty(ids.size, COMMIT_DTYPE)
        items["req"], items["num_valid_tokens"] = ids, counts
        out = ffi.new("radix_commit_out *")
        remaps = np.empty(64, REMAP_DTYPE)
        while True:
            out.struct_size = ffi.sizeof("radix_commit_out")
            out.remaps, out.remaps_cap = pointer("radix_remap *", remaps), remaps.size
            first = pointer("radix_commit_item *", items)
            status = lib.radix_commit(self.pointer, first, ids.size, out)
            if status != lib.RADIX_E_BUFFER or out.num_remaps <= remaps.size:
                break
            remaps = np.empty(out.num_remaps, REMAP_DTYPE)
        check(status)
        return CommitResult(
            remaps[: out.num_remaps], int(out.num_duplicates), int(out.published_blocks)
        )

    def block_tables(
        self,
        requests: Requests,
        tables: Array | None = None,
        context_lens: Array | None = None,
        row_versions: Array | None = None,
    ) -> tuple[Array, Array]:
        """Block-table rows and lengths of a batch; returns (tables, context_lens). [C]
        (radix_get_block_tables)

        tables        int32 [n, width] output without gaps, filled up with -1; None: a new array of
                      the width needed
        context_lens  int32 [n] output: tokens of each request; None: a new array
        row_versions  uint64 [n] in and out: the version that row i of tables holds now, 0 = none;
                      current rows are not written again. Only with tables of your own.
        Errors: StaleIdError, BufferTooSmallError (width), InvalidArgumentError; nothing is written
        then.
        """
        ids = request_ids(requests, self)
        if tables is None:
            if row_versions is not None:
                raise TypeError("row_versions describes tables: pass that, too")
            width = max((Request(self, int(i)).info().num_blocks for i in ids), default=0)
            tables = np.empty((ids.size, max(width, 1)), np.int32)
        tables = output(tables, np.int32, "tables", ndim=2)
        if not tables.flags.c_contiguous:  # the library fills each row up to the next one
            raise ValueError("tables has gaps between rows: expected a contiguous array")
        lens = _batch_output(context_lens, np.int32, "context_lens", ids.size)
        if row_versions is not None:
            row_versions = _batch_output(row_versions, np.uint64, "row_versions", ids.size)
        if tables.shape[0] < ids.size:
            raise ValueError(f"tables has {tables.shape[0]} rows: expected {ids.size}")
        check(
            lib.radix_get_block_tables(
                self.pointer,
                pointer("radix_req *", ids),
                ids.size,
                pointer("int32_t *", tables),
                tables.shape[1],
                pointer("int32_t *", lens),
                pointer("uint64_t *", row_versions),
            )
        )
        return tables, lens

    # ---- single requests: Request has the rest

    def set_tokens(self, request: Request | int, position: int, tokens: Ints) -> None:
        """See Request.set_tokens. [C]"""
        array = int_input(tokens, np.int32, "tokens")
        ids = pointer("radix_token *", array)
        check(lib.radix_set_tokens(self.pointer, id_of(request, self), position, ids, array.size))

    def tokens(self, request: Request | int) -> Array:
        """The known token ids, int32 [known_tokens]. [C]"""
        count = ffi.new("uint64_t *")
        array = np.empty(0, np.int32)
        while True:
            ids = pointer("radix_token *", array)
            status = lib.radix_get_tokens(
                self.pointer, id_of(request, self), ids, array.size, count
            )
            if status != lib.RADIX_E_BUFFER:
                check(status)
                return array[: count[0]]
            array = np.empty(count[0], np.int32)

    def fork(self, parent: Request | int, n: int = 1) -> list[Request]:
        """See Request.fork. [C]"""
        ids = ffi.new("radix_req[]", max(n, 1))
        check(lib.radix_fork(self.pointer, id_of(parent, self), n, ids))
        return [Request(self, int(ids[i])) for i in range(n)]

    def request(self, number: int) -> Request:
        """A Request object for an id, such as one from another part of the program.

        Nothing is checked.
        """
        return Request(self, number)

    # ---- memory

    def evict(self, want: int, *, namespace: NamespaceLike = NS_ALL) -> int:
        """Evicts up to want unleased blocks by the policy; returns how many.

        Fewer than want is no error. [C]
        """
        freed = ffi.new("uint32_t *")
        check(lib.radix_evict(self.pointer, id_of(namespace, self), want, freed))
        return int(freed[0])

    def clear(self, *, namespace: NamespaceLike = NS_ALL) -> None:
        """Forgets everything cached. [C] BusyError when requests or pins live there."""
        check(lib.radix_clear(self.pointer, id_of(namespace, self)))

    def epoch_begin(self) -> int:
        """defer_free: starts the next epoch of launches and returns its number.

        [C] StateError without defer_free.
        """
        epoch = ffi.new("radix_epoch *")
        check(lib.radix_epoch_begin(self.pointer, epoch))
        return int(epoch[0])

    def epoch_retire(self, upto: int) -> None:
        """All launches of epochs <= upto have finished: what waited for them is free again. [C]"""
        check(lib.radix_epoch_retire(self.pointer, upto))

    # ---- namespaces

    def create_namespace(self, name: str | bytes, *, quota_blocks: int = 0) -> Namespace:
        """A namespace of its own. name: 1..128 bytes (str is UTF-8); quota_blocks bounds its
        blocks, 0 = unlimited. [C]

        Errors: StateError (name in use), InvalidArgumentError, FullError, OutOfMemoryError.
        """
        raw = name.encode() if isinstance(name, str) else name
        number = ffi.new("radix_ns *")
        check(lib.radix_ns_create(self.pointer, raw, len(raw), quota_blocks, number))
        return Namespace(self, int(number[0]), raw)

    def namespace_info(self, namespace: NamespaceLike = NS_DEFAULT) -> NamespaceInfo:
        """[C] StaleIdError: not a live namespace."""
        struct = ffi.new("radix_ns_info *", {"struct_size": ffi.sizeof("radix_ns_info")})
        check(lib.radix_ns_get_info(self.pointer, id_of(namespace, self), struct))
        return read_struct(NamespaceInfo, struct)

    # ---- looking inside

    def stats(self) -> Stats:
        """Counters. [C]"""
        struct = ffi.new("radix_stats *", {"struct_size": ffi.sizeof("radix_stats")})
        check(lib.radix_get_stats(self.pointer, struct))
        return read_struct(Stats, struct)

    def check(self) -> None:
        """Walks every invariant; InternalError at the first broken one.

        [C] O(blocks + nodes + rows).
        """
        check(lib.radix_check(self.pointer))

    def sharing_graph(
        self,
        format: GraphFormat | str = GraphFormat.TEXT,
        *,
        write: Callable[[bytes], object] | None = None,
    ) -> str:
        """The tree with its nodes, the requests below each and the savings, as "text", "json" or
        "dot". [C]

        write: gets the pieces (UTF-8 bytes) instead, and "" is returned; it must not call the
        context. What it raises ends the call and comes out as the __cause__ of CallbackError.
        """
        sink = TextSink(write)
        kind = to_enum(GraphFormat, format, "format")
        status = lib.radix_sharing_graph(self.pointer, sink.callback, ffi.NULL, kind)
        if sink.error is not None:
            raise make_error(status) from sink.error
        check(status)
        return sink.text()


def _batch_output(array: Array | None, dtype: type, name: str, n: int) -> Array:
    if array is None:
        return np.empty(n, dtype)
    array = output(array, dtype, name)
    if array.size < n:
        raise ValueError(f"{name} has {array.size} entries: expected {n}")
    return array


def _append_items(ids: Array, tokens: Array | None, counts: Ints | None) -> tuple[Array, int]:
    """The radix_append array of a batch, and how many tokens it appends."""
    n = ids.size
    lengths = np.ones(n, np.uint32) if counts is None else int_input(counts, np.uint32, "counts")
    if lengths.size != n:
        raise ValueError(f"counts has {lengths.size} entries: expected {n}")
    ends = np.cumsum(lengths, dtype=np.uint64)
    total = int(ends[-1]) if n else 0
    items = np.zeros(n, APPEND_DTYPE)
    items["req"], items["num_tokens"] = ids, lengths
    if tokens is not None:
        if tokens.size != total:
            raise ValueError(
                f"tokens has {tokens.size} entries: expected {total}, the sum of counts"
            )
        first = tokens.__array_interface__["data"][0]
        items["tokens"] = np.uint64(first) + (ends - lengths) * np.uint64(4)
    return items, total
