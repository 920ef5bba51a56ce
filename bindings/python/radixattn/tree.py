"""The radix tree as arrays, and lookups of many prompts in it.

export_tree is control plane, tag [C]; match_batch is data plane, tag [D]: no lock, any number of
threads at a time when what they write does not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.core import ContextCore
from radixattn.enums import NS_DEFAULT
from radixattn.errors import check
from radixattn.memory import stream_pointer
from radixattn.request import Namespace, id_of
from radixattn.tensors import Array, Ints, int_input, output, pointer


@dataclass(frozen=True)
class TreeView:
    """The tree below one namespace and extra_key at one moment (radix_tree_view), int32 arrays.

    Nodes stand breadth first, siblings sorted by the tokens of their first block; the root is none
    of them.

    parent        [num_nodes], -1 = the root
    depth_blocks  [num_nodes] blocks above the node's first
    child_begin   [num_nodes + 2]: children of node i are [child_begin[i + 1], child_begin[i + 2]),
                  those of the root [child_begin[0], child_begin[1])
    block_begin   [num_nodes + 1]: blocks of node i are [block_begin[i], block_begin[i + 1])
    block_ids     [num_blocks]
    tokens        [num_blocks, block_size]
    """

    parent: Array
    depth_blocks: Array
    child_begin: Array
    block_begin: Array
    block_ids: Array
    tokens: Array

    @property
    def num_nodes(self) -> int:
        return int(self.parent.size)

    @property
    def num_blocks(self) -> int:
        return int(self.block_ids.size)

    @property
    def block_size(self) -> int:
        return int(self.tokens.shape[1])


@dataclass(frozen=True)
class BatchMatch:
    """What of each prompt is in the tree.

    nodes   int32 [n]: the deepest node of which at least a block matches; -1 = none
    tokens  int32 [n]: leading tokens that match, in whole blocks
    tables  int32 [n, width]: the blocks that hold them, then -1; None unless asked for
    """

    nodes: Array
    tokens: Array
    tables: Array | None


def _empty_tree(num_nodes: int, num_blocks: int, block_size: int) -> TreeView:
    return TreeView(
        np.empty(num_nodes, np.int32),
        np.empty(num_nodes, np.int32),
        np.empty(num_nodes + 2, np.int32),
        np.empty(num_nodes + 1, np.int32),
        np.empty(num_blocks, np.int32),
        np.empty((num_blocks, block_size), np.int32),
    )


def _tree_struct(tree: TreeView) -> Any:
    """A radix_tree_view over the arrays: capacities and counts are their sizes."""
    io = ffi.new("radix_tree_view *", {"struct_size": ffi.sizeof("radix_tree_view")})
    io.block_size = tree.block_size
    io.nodes_cap = io.num_nodes = tree.num_nodes
    io.blocks_cap = io.num_blocks = tree.num_blocks
    for name in ("parent", "depth_blocks", "child_begin", "block_begin"):
        setattr(io, name, pointer("int32_t *", getattr(tree, name)))
    io.block_ids = pointer("radix_block *", tree.block_ids)
    io.tokens = pointer("radix_token *", tree.tokens)
    return io


def _check_tree(tree: TreeView) -> None:
    sizes = {
        "child_begin": (tree.num_nodes + 2,),
        "block_begin": (tree.num_nodes + 1,),
        "block_ids": (tree.num_blocks,),
        "tokens": (tree.num_blocks, tree.block_size),
    }
    for name, shape in sizes.items():
        array = getattr(tree, name)
        if array.dtype != np.int32 or array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(
                f"tree.{name} has dtype {array.dtype} and shape {array.shape}: "
                f"expected contiguous int32, {shape}"
            )


class TreeCalls(ContextCore):
    """The tree as arrays. See Context."""

    def export_tree(
        self, *, namespace: Namespace | int = NS_DEFAULT, extra_key: int = 0
    ) -> TreeView:
        """Copies the committed tree below (namespace, extra_key): a picture of this moment. [C]
        (radix_tree_export)

        StaleIdError: namespace.
        """
        number, block_size = id_of(namespace, self), self.config.block_size
        tree = _empty_tree(0, 0, block_size)
        while True:  # another thread's commit may come between the question and the copy
            io = _tree_struct(tree)
            status = lib.radix_tree_export(self.pointer, number, extra_key, io)
            nodes, blocks = int(io.num_nodes), int(io.num_blocks)
            if status == lib.RADIX_OK and (nodes, blocks) == (tree.num_nodes, tree.num_blocks):
                return tree
            if status != lib.RADIX_E_BUFFER:
                check(status)
            tree = _empty_tree(nodes, blocks, block_size)

    def match_batch(
        self,
        tree: TreeView,
        prompts: Sequence[Ints] | Ints,
        prompt_begin: Ints | None = None,
        *,
        tables: Array | bool = False,
        stream: int | None = None,
    ) -> BatchMatch:
        """The longest prefix of each prompt in the tree: what peek_prefix says, for many prompts.
        [D] (radix_match_batch_launch)

        tree          of export_tree, in host memory
        prompts       a sequence of prompts; with prompt_begin int32 [num_tokens], one prompt after
                      the other
        prompt_begin  int64 [n + 1]: prompt i is prompts[prompt_begin[i]:prompt_begin[i + 1]]
        tables        int32 [n, width] output, without gaps; True: a new array as wide as the
                      longest prompt; rows that are too short get the first blocks
        Errors: InvalidArgumentError; TypeError and ValueError for what is no such array.
        """
        _check_tree(tree)
        flat, begin = _flat_prompts(prompts, prompt_begin)
        n = begin.size - 1
        nodes, tokens = np.empty(n, np.int32), np.empty(n, np.int32)
        rows: Array | None = None
        if tables is True:
            longest = int(np.diff(begin).max(initial=0))
            rows = np.empty((n, max(longest // tree.block_size, 1)), np.int32)
        elif tables is not False:
            rows = output(tables, np.int32, "tables", ndim=2)
            if rows.shape[0] < n or not rows.flags.c_contiguous:
                raise ValueError(f"tables has shape {rows.shape}: expected {n} rows without gaps")
        d = ffi.new("radix_match_batch *", {"struct_size": ffi.sizeof("radix_match_batch")})
        d.num_prompts, d.num_tokens = n, flat.size
        d.prompts = pointer("radix_token *", flat)
        d.prompt_begin = pointer("int64_t *", begin)
        d.out_nodes, d.out_tokens = pointer("int32_t *", nodes), pointer("int32_t *", tokens)
        d.out_tables = pointer("int32_t *", rows)
        d.table_stride = 0 if rows is None else rows.shape[1]
        io = _tree_struct(tree)
        check(lib.radix_match_batch_launch(self.pointer, io, d, stream_pointer(stream)))
        return BatchMatch(nodes, tokens, rows)


def _flat_prompts(prompts: Sequence[Ints] | Ints, prompt_begin: Ints | None) -> tuple[Array, Array]:
    if prompt_begin is not None:
        begin = int_input(prompt_begin, np.int64, "prompt_begin")
        if begin.size == 0:
            raise ValueError("prompt_begin has 0 entries: expected at least 1")
        return int_input(prompts, np.int32, "prompts"), begin  # type: ignore[arg-type]
    each = [int_input(p, np.int32, f"prompts[{i}]") for i, p in enumerate(prompts)]  # type: ignore[arg-type]
    begin = np.zeros(len(each) + 1, np.int64)
    np.cumsum([p.size for p in each], out=begin[1:])
    return np.concatenate([np.empty(0, np.int32), *each]), begin
