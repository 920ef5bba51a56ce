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
from radixattn.device import Place, Stream
from radixattn.enums import NS_DEFAULT
from radixattn.errors import check
from radixattn.request import Namespace, id_of
from radixattn.tensors import (
    Array,
    Ints,
    Tensor,
    View,
    array_argument,
    int_input,
    output,
    pointer,
)


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
        return int(self.parent.shape[0])

    @property
    def num_blocks(self) -> int:
        return int(self.block_ids.shape[0])

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
        tables: Tensor | bool = False,
        nodes: Tensor | None = None,
        tokens: Tensor | None = None,
        stream: Stream = None,
    ) -> BatchMatch:
        """The longest prefix of each prompt in the tree: what peek_prefix says, for many prompts.
        [D] (radix_match_batch_launch)

        tree          of export_tree; on CUDA the same with its arrays on the context's device
        prompts       a sequence of prompts in host memory; with prompt_begin int32 [num_tokens],
                      one prompt after the other
        prompt_begin  int64 [n + 1]: prompt i is prompts[prompt_begin[i]:prompt_begin[i + 1]];
                      required on CUDA
        tables        int32 [n, width] output, without gaps; True: a new array as wide as the
                      longest prompt (CPU); rows that are too short get the first blocks
        nodes, tokens int32 [n] outputs; default new arrays, on CUDA required
        stream        None on the CPU; on CUDA see memory.py
        Errors: InvalidArgumentError; TypeError and ValueError for what is no such array.
        """
        place = self.place(stream)
        io, keep = _tree_at(tree, place)
        if place.cuda and prompt_begin is None:
            raise TypeError(f"prompt_begin is missing: prompts are one array on {place}")
        flat, begin = _flat_prompts(prompts, prompt_begin, place)
        n = begin.shape[0] - 1
        if tables is True:
            if begin.host is None:
                raise TypeError(f"tables is True: expected an output on {place}")
            longest = int(np.diff(begin.host).max(initial=0))
            tables = np.empty((n, max(longest // tree.block_size, 1)), np.int32)
        given = {"nodes": nodes, "tokens": tokens, "tables": tables}
        results, views = _match_outputs(given, n, place)
        d = ffi.new("radix_match_batch *", {"struct_size": ffi.sizeof("radix_match_batch")})
        d.num_prompts, d.num_tokens = n, flat.shape[0]
        d.prompts = ffi.cast("radix_token *", flat.t.data)
        d.prompt_begin = ffi.cast("int64_t *", begin.t.data)
        for name, result in views.items():
            setattr(d, f"out_{name}", ffi.cast("int32_t *", result.t.data))
        d.table_stride = views["tables"].shape[1] if "tables" in views else 0
        stream_pointer = ffi.cast("radix_stream", place.stream)
        check(lib.radix_match_batch_launch(self.pointer, io, d, stream_pointer))
        del keep
        return BatchMatch(results["nodes"], results["tokens"], results.get("tables"))


def _tree_at(tree: TreeView, place: Place) -> tuple[Any, list[View]]:
    """A radix_tree_view over the arrays of a tree that lies at place, and what it points to."""
    io = ffi.new("radix_tree_view *", {"struct_size": ffi.sizeof("radix_tree_view")})
    num_nodes, num_blocks = tree.num_nodes, tree.num_blocks
    io.block_size, io.num_nodes, io.num_blocks = tree.block_size, num_nodes, num_blocks
    shapes = {
        "child_begin": (num_nodes + 2,),
        "block_begin": (num_nodes + 1,),
        "block_ids": (num_blocks,),
        "tokens": (num_blocks, tree.block_size),
    }
    keep = []
    for name, shape in shapes.items():
        array = array_argument(
            getattr(tree, name), np.int32, f"tree.{name}", place, ndim=len(shape)
        )
        if array.shape != shape:
            raise ValueError(f"tree.{name} has shape {array.shape}: expected {shape}")
        setattr(io, name, ffi.cast("int32_t *", array.t.data))
        keep.append(array)
    return io, keep


def _match_outputs(
    given: dict[str, Any], n: int, place: Place
) -> tuple[dict[str, Any], dict[str, View]]:
    """The outputs of a match, made where they are missing, and their views."""
    results, views = {}, {}
    for name, value in given.items():
        if name == "tables" and (value is False or value is None):
            continue
        ndim = 2 if name == "tables" else 1
        if value is None:
            if place.cuda:
                raise TypeError(f"{name} is missing: expected an int32 output on {place}")
            value = np.empty(n, np.int32)
        if not place.cuda:
            memory = output(value, np.int32, name, ndim=ndim)
            if memory.shape[0] < n or not memory.flags.c_contiguous:
                raise ValueError(f"{name} has shape {memory.shape}: expected {n} rows without gaps")
            array = array_argument(memory, np.int32, name, place, ndim)
        else:
            array = array_argument(value, np.int32, name, place, ndim, writable=True)
        if array.shape[0] < n:
            raise ValueError(f"{name} has shape {array.shape}: expected {n} rows")
        results[name], views[name] = value, array
    return results, views


def _flat_prompts(
    prompts: Sequence[Ints] | Ints, prompt_begin: Ints | None, place: Place
) -> tuple[View, View]:
    if prompt_begin is None:
        each = [int_input(p, np.int32, f"prompts[{i}]") for i, p in enumerate(prompts)]  # type: ignore[arg-type]
        prompt_begin = np.zeros(len(each) + 1, np.int64)
        np.cumsum([p.size for p in each], out=prompt_begin[1:])
        prompts = np.concatenate([np.empty(0, np.int32), *each])
    begin = array_argument(prompt_begin, np.int64, "prompt_begin", place)
    if begin.shape[0] == 0:
        raise ValueError("prompt_begin has 0 entries: expected at least 1")
    return array_argument(prompts, np.int32, "prompts", place), begin
