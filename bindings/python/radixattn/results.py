"""What calls return: plain frozen dataclasses, and structured numpy dtypes for the lists of C
structs.

OP_DTYPE, REMAP_DTYPE, APPEND_DTYPE and COMMIT_DTYPE have the memory layout of radix_op,
radix_remap, radix_append and radix_commit_item: arrays of them pass to the library without
conversion.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from radixattn._ffi import ffi
from radixattn.errors import RadixError
from radixattn.tensors import Array

OP_DTYPE = np.dtype([("kind", "i4"), ("src", "i4"), ("dst", "i4"), ("num_tokens", "u4")])
REMAP_DTYPE = np.dtype(
    [("req", "u8"), ("index", "u4"), ("old_block", "i4"), ("new_block", "i4")], align=True
)
APPEND_DTYPE = np.dtype(
    [("req", "u8"), ("tokens", "u8"), ("num_tokens", "u4"), ("reserved0", "u4")]
)
COMMIT_DTYPE = np.dtype([("req", "u8"), ("num_valid_tokens", "u8")])


def _check_layouts() -> None:
    pairs = {
        "radix_op": OP_DTYPE,
        "radix_remap": REMAP_DTYPE,
        "radix_append": APPEND_DTYPE,
        "radix_commit_item": COMMIT_DTYPE,
    }
    for struct, dtype in pairs.items():
        offsets = {name: ffi.offsetof(struct, name) for name in dtype.names or ()}
        ours = {name: place[1] for name, place in (dtype.fields or {}).items()}
        if ffi.sizeof(struct) != dtype.itemsize or offsets != ours:
            raise ImportError(f"{struct} of radixattn.h does not have the layout of {dtype}")


_check_layouts()


@dataclass(frozen=True)
class Match:
    """What of a prompt is cached.

    cached_tokens   leading tokens whose K/V is cached and committed
    pending_tokens  tokens after those that another live request is computing (share_pending)
    blocks          int32 [num_blocks], the blocks that hold these tokens
    """

    cached_tokens: int
    pending_tokens: int
    blocks: Array


@dataclass(frozen=True)
class RequestInfo:
    """Lengths in tokens, and versions, of a request."""

    num_blocks: int
    num_tokens: int  # reserved length
    known_tokens: int  # leading tokens whose ids are known
    committed_tokens: int  # published length, a multiple of block_size
    cached_tokens: int  # taken from the tree at begin
    pending_tokens: int  # borrowed at begin and not yet committed by anybody
    ready_tokens: int  # leading tokens this request need not compute
    table_version: int  # changes whenever an entry of the block-table row changes
    ns: int
    extra_key: int


@dataclass(frozen=True)
class AppendResult:
    """What an append reserved.

    slots           int64 [num_slots], one a token in item order: block * block_size + offset
    ops             OP_DTYPE [num_ops]: run them (Context.run_ops) before writing K/V
    num_done        items [0, num_done) took effect
    evicted_blocks  blocks evicted to make room
    error           partial=True only: why item num_done failed, else None
    """

    slots: Array
    ops: Array
    num_done: int
    evicted_blocks: int
    error: RadixError | None = None


@dataclass(frozen=True)
class CommitResult:
    """What a commit published.

    remaps            REMAP_DTYPE [num_remaps]: block-table entries that now name the cached block
    num_duplicates    blocks found computed twice
    published_blocks  blocks that became visible
    """

    remaps: Array
    num_duplicates: int
    published_blocks: int


@dataclass(frozen=True)
class Stats:
    """Counters of a context. blocks_total = free + cached + active + deferred."""

    blocks_total: int
    blocks_free: int
    blocks_cached: int  # in the tree, unleased: what eviction can free now
    blocks_active: int  # leased, pinned, or private to live requests
    blocks_deferred: int  # waiting for epoch_retire
    blocks_pinned: int  # distinct blocks under at least one pin (a part of active)
    requests_live: int
    pins_live: int
    namespaces: int
    tree_nodes: int
    tokens_queried: int  # over all begins: prompt tokens
    tokens_hit: int  # of these, found cached
    tokens_borrowed: int  # of these, borrowed from a pending request
    blocks_evicted: int
    blocks_published: int
    blocks_duplicate: int
    cow_copies: int
    host_bytes: int  # metadata memory now taken from the allocator
    kv_bytes: int  # KV memory, owned or the caller's
    clock: int  # the logical clock


@dataclass(frozen=True)
class NamespaceInfo:
    quota_blocks: int  # 0 = unlimited
    blocks_used: int  # every block that is not free and belongs here
    blocks_cached: int  # of these, evictable now
    requests_live: int


@dataclass(frozen=True)
class PlanInfo:
    """What the last update made (radix_plan_info); without a step only device_bytes, host_bytes.

    num_seqs, num_query_tokens      of the step
    max_context_len, max_query_len  longest of the step
    num_items, split_tokens         of decode's work list; 0 without one
    num_states                      partial states that decode merges
    changed_rows, changed_entries   of the block tables, since the step before
    upload_bytes                    copied to the device
    device_bytes, host_bytes        of the plan
    tokens_seen                     K/V positions of the step's sequences, all together
    tokens_read                     of these, when each shared run is read once for all of its rows
    num_nodes, num_shared           of the tree of what the sequences share; those read once for all
    """

    num_seqs: int
    num_query_tokens: int
    max_context_len: int
    max_query_len: int
    num_items: int
    split_tokens: int
    num_states: int
    changed_rows: int
    changed_entries: int
    upload_bytes: int
    device_bytes: int
    host_bytes: int
    tokens_seen: int
    tokens_read: int
    num_nodes: int
    num_shared: int


_D = TypeVar("_D", RequestInfo, Stats, NamespaceInfo, PlanInfo)


def read_struct(kind: type[_D], struct: Any) -> _D:
    """A dataclass from a C struct with the same field names."""
    return kind(**{field.name: int(getattr(struct, field.name)) for field in fields(kind)})
