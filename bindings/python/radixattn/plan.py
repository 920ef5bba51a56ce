"""Plans: one call a step, and every layer's launches have their tables, lengths, slots and
positions, on the CPU or on the device.

A plan's update is control plane, tag [C]; its launches are data plane, tag [D]. On CUDA an update
sends what changed since the step before, on a stream: the launches' own.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.attention import AttentionOptions, Launch, RopeOptions, rope_descriptor
from radixattn.cache import Requests, request_ids
from radixattn.core import ContextCore
from radixattn.device import Stream, check_host
from radixattn.enums import KvLayout, PlanFlag, PlanUpdateFlag
from radixattn.errors import ClosedError, check
from radixattn.results import PlanInfo, read_struct
from radixattn.tensors import Array, Float8, Ints, Tensor, int_input, pointer, view_memory

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class BlockTree(Protocol):
    """What update_tree reads of a tree: a TreeView of export_tree, a PlanTree, or anything with
    these, int32 arrays in host memory as in TreeView; nodes may stand in any order."""

    @property
    def parent(self) -> Any: ...
    @property
    def block_begin(self) -> Any: ...
    @property
    def block_ids(self) -> Any: ...
    @property
    def block_size(self) -> int: ...


@dataclass(frozen=True)
class PlanTree:
    """What the sequences of a step share, by block id (radix_plan_tree): int32 arrays.

    parent, depth_blocks, child_begin, block_begin, block_ids  as in TreeView
    radix_indices  [num_seqs]: the deepest node above each sequence, -1 = none; what it has alone is
                   in no node
    block_size     tokens a block
    """

    parent: Array
    depth_blocks: Array
    child_begin: Array
    block_begin: Array
    block_ids: Array
    radix_indices: Array
    block_size: int

    @property
    def num_nodes(self) -> int:
        return int(self.parent.shape[0])

    @property
    def num_blocks(self) -> int:
        return int(self.block_ids.shape[0])


_PLANNED = ("block_tables", "block_begin", "block_ids", "max_context_len", "workspace")


def _destroy(slot: Any, keep: list[object]) -> None:
    lib.radix_plan_destroy(slot)
    keep.clear()


class Plan:
    """The arrays of one step, used by every layer's launch; made by Context.plan.

        plan = ctx.plan(max_seqs=16, num_q_heads=8)
        plan.update(requests)                  # decode: one query token each
        for layer in range(num_layers):
            plan.rope_append(k, v, q=q, layer=layer, rotary_dim=64)
            out, _ = plan.paged_attention(q, layer=layer)

    Holds its context alive until close(). One thread at a time.
    """

    def __init__(self, ctx: ContextCore, config: Any, memory: object = None) -> None:
        self.ctx = ctx
        slot = ffi.new("radix_plan **")
        handle = ctx.handle
        check(lib.radix_plan_create(handle.pointer, config, slot))
        self._pointer: Any = slot[0]
        self._finalizer = weakref.finalize(self, _destroy, slot, [handle, memory])
        self._finalizer.atexit = False

    # ---- life

    def close(self) -> None:
        """Frees the plan. On CUDA after the last launch that uses it has finished. A second close
        does nothing."""
        self._finalizer()
        self._pointer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def pointer(self) -> Any:
        """The ``radix_plan *`` for radixattn.lib. ClosedError after close."""
        if self._pointer is None:
            raise ClosedError(lib.RADIX_E_STATE, "the plan is closed")
        return self._pointer

    # ---- steps

    def update(
        self,
        requests: Requests,
        q_lens: Ints | None = None,
        *,
        wait: bool = True,
        stream: Stream = None,
    ) -> None:
        """Plans a step. [C] (radix_plan_update)

        requests  the step's sequences
        q_lens    int32 [n]: the last q_lens[i] tokens of each are queries; None: decode, one each
        wait      CUDA: False raises BusyError when the upload before the last one still runs
        stream    None on the CPU; on CUDA the launches' own, see memory.py
        Errors: StaleIdError, InvalidArgumentError, BufferTooSmallError (the plan has no room),
        BusyError, DeviceError.
        """
        ids = request_ids(requests, self.ctx)
        d = self._desc(ids.size, q_lens, wait)
        d.reqs = pointer("radix_req *", ids)
        self._update(d, stream)

    def update_tables(
        self,
        block_tables: Ints,
        context_lens: Ints,
        q_lens: Ints | None = None,
        *,
        wait: bool = True,
        stream: Stream = None,
    ) -> None:
        """Plans a step of a cache that is not ours. [C]

        block_tables  int32 [n, width] and context_lens int32 [n], in host memory
        """
        check_host(block_tables, "block_tables")
        check_host(context_lens, "context_lens")
        lens = int_input(context_lens, np.int32, "context_lens")
        table = np.ascontiguousarray(int_input(block_tables, np.int32, "block_tables", ndim=2))
        if len(table) < lens.size:
            raise ValueError(f"block_tables has {len(table)} rows: expected {lens.size}")
        d = self._desc(lens.size, q_lens, wait)
        d.block_tables, d.block_table_stride = pointer("int32_t *", table), table.shape[1]
        d.context_lens = pointer("int32_t *", lens)
        self._update(d, stream)

    def update_tree(
        self,
        tree: BlockTree,
        radix_indices: Ints,
        context_lens: Ints,
        q_lens: Ints | None = None,
        *,
        wait: bool = True,
        stream: Stream = None,
    ) -> None:
        """Plans a step whose sequences are given by the nodes of a tree. [C]

        tree           a BlockTree, in host memory
        radix_indices  int32 [n]: the node down to which a sequence's blocks go, from the root; -1 =
                       none
        context_lens   int32 [n], in host memory
        """
        view, keep = _tree_argument(tree)
        check_host(radix_indices, "radix_indices")
        check_host(context_lens, "context_lens")
        nodes = int_input(radix_indices, np.int32, "radix_indices")
        lens = int_input(context_lens, np.int32, "context_lens")
        if nodes.size != lens.size:
            raise ValueError(f"radix_indices has {nodes.size} entries: expected {lens.size}")
        d = self._desc(lens.size, q_lens, wait)
        d.tree, d.radix_indices = view, pointer("int32_t *", nodes)
        d.context_lens = pointer("int32_t *", lens)
        self._update(d, stream)
        del keep

    def _desc(self, n: int, q_lens: Ints | None, wait: bool) -> Any:
        d = ffi.new("radix_plan_desc *", {"struct_size": ffi.sizeof("radix_plan_desc")})
        d.num_seqs = n
        d.flags = 0 if wait else int(PlanUpdateFlag.NO_WAIT)
        self._q_lens: Array | None = None
        if q_lens is not None:
            check_host(q_lens, "q_lens")
            self._q_lens = int_input(q_lens, np.int32, "q_lens")
            if self._q_lens.size != n:
                raise ValueError(f"q_lens has {self._q_lens.size} entries: expected {n}")
            if n == 0:  # an empty array has no address, and would mean decode
                self._q_lens = np.zeros(1, np.int32)
            d.q_lens = pointer("int32_t *", self._q_lens)
        return d

    def _update(self, d: Any, stream: Stream) -> None:
        place = self.ctx.place(stream)
        check(lib.radix_plan_update(self.pointer, d, ffi.cast("radix_stream", place.stream)))

    def info(self) -> PlanInfo:
        """What the last update made. [F]"""
        info = ffi.new("radix_plan_info *", {"struct_size": ffi.sizeof("radix_plan_info")})
        check(lib.radix_plan_get_info(self.pointer, info))
        return read_struct(PlanInfo, info)

    def tree(self) -> PlanTree:
        """What the step's sequences share. [F] (radix_plan_tree)

        StateError: no step.
        """
        io = ffi.new("radix_tree_view *", {"struct_size": ffi.sizeof("radix_tree_view")})
        indices = np.full(self.info().num_seqs, -1, np.int32)
        status = lib.radix_plan_tree(self.pointer, io, pointer("int32_t *", indices))
        if status != lib.RADIX_E_BUFFER:
            check(status)
        nodes, blocks = int(io.num_nodes), int(io.num_blocks)
        tree = PlanTree(
            np.empty(nodes, np.int32),
            np.empty(nodes, np.int32),
            np.zeros(nodes + 2, np.int32),
            np.zeros(nodes + 1, np.int32),
            np.empty(blocks, np.int32),
            indices,
            int(io.block_size),
        )
        io.nodes_cap, io.blocks_cap = nodes, blocks
        for name in ("parent", "depth_blocks", "child_begin", "block_begin", "block_ids"):
            setattr(io, name, pointer("int32_t *", getattr(tree, name)))
        check(lib.radix_plan_tree(self.pointer, io, pointer("int32_t *", indices)))
        return tree

    # ---- launches

    def rope_append(
        self,
        k: Tensor,
        v: Tensor,
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
        """Context.rope_append with the plan's slots and positions: a row for each query token (with
        bounds max_query_tokens, the rest padding). [D]"""
        place = self.ctx.place(stream)
        d, keep = rope_descriptor(
            self.ctx, place, k, v, q=q, layer=layer, rotary_dim=rotary_dim, k_cache=k_cache,
            v_cache=v_cache, k_scale=k_scale, v_scale=v_scale, kv_layout=kv_layout, rope=rope,
        )  # fmt: skip
        check(lib.radix_plan_rope(self.pointer, d))
        stream_pointer = ffi.cast("radix_stream", place.stream)
        check(lib.radix_rope_append_launch(self.ctx.pointer, d, stream_pointer))
        del keep

    def paged_attention(
        self, q: Tensor, **options: Unpack[AttentionOptions]
    ) -> tuple[Tensor, Tensor | None]:
        """Context.paged_attention of the planned step. [D]

        q        [num_seqs, num_q_heads, head_dim]; with bounds max_seqs rows, those beyond the step
                 get the empty state
        options  AttentionOptions but tables, max_context_len and workspace, which the plan has;
                 k_cache and v_cache are of the context's heads, head dims and dtype
        Errors: InvalidArgumentError (not the plan's shape), StateError (no decode step).
        """
        return self._launch(q, options).run(lib.radix_paged_attention_launch)

    def prefill(
        self, q: Tensor, **options: Unpack[AttentionOptions]
    ) -> tuple[Tensor, Tensor | None]:
        """Context.prefill of the planned step, as paged_attention. [D]

        q  [num_query_tokens, num_q_heads, head_dim]; with bounds max_query_tokens rows
        """
        return self._launch(q, options).run(lib.radix_prefill_launch)

    def _launch(self, q: Tensor, options: Any) -> Launch:
        given = [name for name in _PLANNED if options.get(name) is not None]
        if given:
            raise TypeError(f"the plan has its own {', '.join(given)}")
        return Launch(self.ctx, q, None, options, self.pointer)


def _flags(bounds: bool, unshared: bool, batch_invariant: bool) -> int:
    flags = PlanFlag.BOUNDS if bounds else PlanFlag(0)
    flags |= PlanFlag.UNSHARED if unshared else PlanFlag(0)
    flags |= PlanFlag.BATCH_INVARIANT if batch_invariant else PlanFlag(0)
    return int(flags)


def _tree_argument(tree: BlockTree) -> tuple[Any, list[Array]]:
    """A radix_tree_view of what an update reads, and what it points to."""
    keep = []
    for name in ("parent", "block_begin", "block_ids"):
        check_host(getattr(tree, name), f"tree.{name}")
        keep.append(int_input(getattr(tree, name), np.int32, f"tree.{name}"))
    parent, begin, ids = keep
    if begin.size != parent.size + 1:
        raise ValueError(f"tree.block_begin has {begin.size} entries: expected {parent.size + 1}")
    view = ffi.new("radix_tree_view *", {"struct_size": ffi.sizeof("radix_tree_view")})
    view.block_size, view.num_nodes, view.num_blocks = tree.block_size, parent.size, ids.size
    view.parent, view.block_begin = pointer("int32_t *", parent), pointer("int32_t *", begin)
    view.block_ids = pointer("radix_block *", ids)
    return view, keep


class PlanCalls(ContextCore):
    """Making plans. See Context."""

    def plan(
        self,
        max_seqs: int,
        *,
        num_q_heads: int,
        max_query_tokens: int = 0,
        max_query_len: int = 0,
        max_context_len: int = 0,
        window: int = 0,
        block_size: int = 0,
        bounds: bool = False,
        unshared: bool = False,
        batch_invariant: bool = False,
        memory: Tensor | None = None,
    ) -> Plan:
        """An empty plan. [F] (radix_plan_create)

        max_seqs          sequences of a step
        num_q_heads       of the launches
        max_query_tokens  query rows of a step; 0 = max_seqs (decode)
        max_query_len     query rows of a sequence; 0 = max_query_tokens
        max_context_len   tokens of a sequence; 0 = what a request of the context may have
        window            of the launches, when all have the same; 0 fits every window
        block_size        of the launches' k_cache and v_cache; 0 = the context's
        bounds            launches get these capacities instead of a step's sizes, for captured
                          graphs
        unshared          every sequence reads all of its K/V by itself, shared or not
        batch_invariant   a row's bits do not depend on the rest of the step
        memory            contiguous memory of the context's device, 64-byte aligned, plan_bytes()
                          long, kept alive by the plan; None: the plan's own
        Errors: InvalidArgumentError, BufferTooSmallError (memory), StateError (a context without a
        shape), OutOfMemoryError.
        """
        config = self._plan_config(
            max_seqs, num_q_heads, max_query_tokens, max_query_len, max_context_len, window,
            block_size, _flags(bounds, unshared, batch_invariant),
        )  # fmt: skip
        keep = None if memory is None else view_memory(memory, "memory", self.place())
        if keep is not None:
            config.memory, config.memory_size = keep.pointer("void *"), keep.nbytes
        return Plan(self, config, keep)

    def plan_bytes(
        self,
        max_seqs: int,
        *,
        num_q_heads: int,
        max_query_tokens: int = 0,
        max_query_len: int = 0,
        max_context_len: int = 0,
        window: int = 0,
        block_size: int = 0,
        bounds: bool = False,
        unshared: bool = False,
        batch_invariant: bool = False,
    ) -> int:
        """Bytes of device memory that such a plan needs. [F]"""
        config = self._plan_config(
            max_seqs, num_q_heads, max_query_tokens, max_query_len, max_context_len, window,
            block_size, _flags(bounds, unshared, batch_invariant),
        )  # fmt: skip
        size = ffi.new("uint64_t *")
        check(lib.radix_plan_bytes(self.pointer, config, size))
        return int(size[0])

    @staticmethod
    def _plan_config(
        max_seqs: int,
        num_q_heads: int,
        max_query_tokens: int,
        max_query_len: int,
        max_context_len: int,
        window: int,
        block_size: int,
        flags: int,
    ) -> Any:
        config = ffi.new("radix_plan_config *", {"struct_size": ffi.sizeof("radix_plan_config")})
        config.flags = flags
        config.max_seqs, config.num_q_heads, config.window = max_seqs, num_q_heads, window
        config.max_query_tokens, config.max_query_len = max_query_tokens, max_query_len
        config.max_context_len, config.block_size = max_context_len, block_size
        return config
