"""The tree as arrays, and batches of prompts looked up in it."""

from __future__ import annotations

import numpy as np
import pytest

import radixattn as rx


def cached(ctx, tokens, **where):
    """Leaves tokens in the cache, unleased."""
    with ctx.begin(tokens, match_all=True, **where) as request:
        new = tokens[request.match.cached_tokens :]
        if len(new):
            request.append(new)
        request.commit()


def test_an_exported_tree(meta):
    for tail in ([50, 51, 52, 53], [40, 41, 42, 43]):
        cached(meta, [*range(8), *tail])
    cached(meta, [-1, 0, 0, 0])
    tree = meta.export_tree()
    assert (tree.num_nodes, tree.num_blocks, tree.block_size) == (4, 5, 4)
    assert tree.parent.tolist() == [-1, -1, 1, 1]
    assert tree.depth_blocks.tolist() == [0, 0, 2, 2]
    assert tree.child_begin.tolist() == [0, 2, 2, 4, 4, 4]
    assert tree.block_begin.tolist() == [0, 1, 3, 4, 5]
    assert tree.tokens.tolist() == [
        [-1, 0, 0, 0], [0, 1, 2, 3], [4, 5, 6, 7], [40, 41, 42, 43], [50, 51, 52, 53]
    ]  # fmt: skip
    match = meta.peek_prefix([*range(8), 50, 51, 52, 53])
    assert tree.block_ids[[1, 2, 4]].tolist() == match.blocks.tolist()


def test_empty_trees_and_trees_of_their_own(meta):
    assert meta.export_tree().num_nodes == 0
    assert meta.export_tree().child_begin.tolist() == [0, 0]
    with meta.create_namespace("other") as namespace:
        cached(meta, range(4), namespace=namespace)
        cached(meta, range(8), extra_key=3)
        assert meta.export_tree().num_blocks == 0
        assert meta.export_tree(namespace=namespace).num_blocks == 1
        assert meta.export_tree(extra_key=3).num_blocks == 2
    with pytest.raises(rx.StaleIdError):
        meta.export_tree(namespace=namespace)


def test_a_batch_gives_what_peek_gives(make_ctx, rng):
    ctx = make_ctx(metadata_only=True, num_blocks=200, block_size=2, num_threads=2)
    prompts = [rng.integers(-1, 2, rng.integers(0, 15), dtype=np.int32) for _ in range(80)]
    for prompt in prompts[::2]:
        cached(ctx, prompt)
    found = ctx.match_batch(ctx.export_tree(), prompts, tables=True)
    assert found.tokens.max() > 2
    for i, prompt in enumerate(prompts):
        match = ctx.peek_prefix(prompt)
        assert found.tokens[i] == match.cached_tokens
        assert (found.nodes[i] < 0) == (match.cached_tokens == 0)
        width = found.tables.shape[1]
        row = match.blocks.tolist() + [-1] * (width - len(match.blocks))
        assert found.tables[i].tolist() == row


def test_arrays_of_the_caller(meta):
    cached(meta, range(8))
    tree = meta.export_tree()
    flat = np.array([9, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7], np.int32)
    tables = np.full((3, 1), -7, np.int32)
    found = meta.match_batch(tree, flat, [0, 1, 5, 13], tables=tables)
    assert found.nodes.tolist() == [-1, 0, 0]
    assert found.tokens.tolist() == [0, 4, 8]
    assert found.tables is tables
    assert tables[:, 0].tolist() == [-1, tree.block_ids[0], tree.block_ids[0]]
    assert meta.match_batch(tree, []).nodes.size == 0
    assert meta.match_batch(tree, [[], [1]]).tables is None


def test_bad_batches_are_named(meta):
    cached(meta, range(8))
    tree = meta.export_tree()
    with pytest.raises(rx.InvalidArgumentError, match=r"prompt_begin\[1\] is 9: expected 0..4"):
        meta.match_batch(tree, range(4), [0, 9])
    with pytest.raises(ValueError, match="prompt_begin has 0 entries"):
        meta.match_batch(tree, range(4), [])
    with pytest.raises(OverflowError, match=r"prompts\[1\] has values beyond int32"):
        meta.match_batch(tree, [[1], [2**31]])
    with pytest.raises(ValueError, match="expected 2 rows without gaps"):
        meta.match_batch(tree, [[1], [2]], tables=np.zeros((1, 4), np.int32))
    wrong = rx.TreeView(
        tree.parent, tree.depth_blocks, tree.child_begin[:-1], tree.block_begin,
        tree.block_ids, tree.tokens,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"tree.child_begin has shape \(2,\): expected \(3,\)"):
        meta.match_batch(wrong, [[1]])
