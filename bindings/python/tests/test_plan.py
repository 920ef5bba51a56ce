"""Plans: a step's arrays made once, launches without tables, and what plans refuse."""

from __future__ import annotations

import numpy as np
import pytest

import radixattn as rx


def filled(make_ctx, **changes):
    """A context whose K/V are numbers, and three requests of it."""
    ctx = make_ctx(**changes)
    rng = np.random.default_rng(3)
    if not changes.get("metadata_only"):
        for layer in range(2):
            for array in ctx.kv_views(layer):
                array[:] = rng.standard_normal(array.shape)
    requests = [ctx.begin([], no_match=True) for _ in range(3)]
    for request, n in zip(requests, (9, 14, 0), strict=True):
        request.append(count=n)
    return ctx, requests


def test_launches_are_those_without_a_plan(make_ctx, rng):
    ctx, requests = filled(make_ctx)
    tables, lens = ctx.block_tables(requests)
    with ctx.plan(4, num_q_heads=4, max_query_tokens=8) as plan:
        plan.update(requests)
        q = rng.standard_normal((3, 4, 32), np.float32)
        expected = ctx.paged_attention(q, lens, block_tables=tables, layer=1, lse=True)
        out, lse = plan.paged_attention(q, layer=1, lse=True)
        np.testing.assert_array_equal(out, expected[0])
        np.testing.assert_array_equal(lse, expected[1])
        assert (lse[2] == -np.inf).all()

        plan.update(requests, [2, 3, 0])
        q = rng.standard_normal((5, 4, 32), np.float32)
        expected, _ = ctx.prefill(q, lens, [0, 2, 5, 5], block_tables=tables)
        np.testing.assert_array_equal(plan.prefill(q)[0], expected)


def test_rope_goes_to_the_steps_slots(make_ctx):
    ctx, requests = filled(make_ctx)
    with ctx.plan(2, num_q_heads=4, max_query_tokens=4, bounds=True) as plan:
        plan.update(requests[:1], [2])
        k = np.full((4, 2, 32), 5, np.float32)  # two of the four rows are padding
        plan.rope_append(k, k, layer=0)
    keys = ctx.kv_views(0)[0].reshape(-1, 2, 32)
    table = ctx.block_tables(requests[:1])[0][0]
    slots = {int(table[t // 4]) * 4 + t % 4 for t in (7, 8)}
    assert {int(i) for i in np.flatnonzero((keys == 5).all(axis=(1, 2)))} == slots


def test_what_an_update_made(make_ctx):
    ctx, requests = filled(make_ctx, metadata_only=True)
    plan = ctx.plan(3, num_q_heads=2)
    plan.update(requests)
    info = plan.info()
    assert (info.num_seqs, info.num_query_tokens, info.max_context_len) == (3, 3, 14)
    assert (info.changed_rows, info.changed_entries) == (2, 7)
    plan.update(requests)
    assert plan.info().changed_rows == 0
    plan.update([])
    assert plan.info().num_seqs == 0
    plan.update([], [])
    assert info.device_bytes > 0
    plan.close()
    plan.close()
    with pytest.raises(rx.ClosedError):
        plan.info()


def test_tables_of_another_cache(make_ctx, rng):
    ctx, _ = filled(make_ctx)
    q = rng.standard_normal((2, 4, 32), np.float32)
    table, lens = np.array([[5, 6, -1], [9, -1, -1]], np.int32), np.array([7, 1], np.int32)
    plan = ctx.plan(2, num_q_heads=4)
    plan.update_tables(table, lens)
    expected, _ = ctx.paged_attention(q, lens, block_tables=table)
    np.testing.assert_array_equal(plan.paged_attention(q)[0], expected)
    with pytest.raises(rx.InvalidArgumentError, match=r"block_tables\[1, 0\] is -1"):
        plan.update_tables([[5, 6, -1], [-1, -1, -1]], lens)
    with pytest.raises(ValueError, match="block_tables has 1 rows: expected 2"):
        plan.update_tables(table[:1], lens)


def test_a_plan_outlives_the_close_of_its_context(make_ctx):
    ctx, requests = filled(make_ctx)
    plan = ctx.plan(3, num_q_heads=4)
    plan.update(requests)
    ctx.close()
    assert plan.info().num_seqs == 3
    plan.close()


def test_what_is_refused(make_ctx, rng):
    ctx, requests = filled(make_ctx)
    with pytest.raises(rx.InvalidArgumentError, match="max_seqs is 0"):
        ctx.plan(0, num_q_heads=4)
    with pytest.raises(rx.InvalidArgumentError, match="num_q_heads is 3"):
        ctx.plan(1, num_q_heads=3)
    plan = ctx.plan(2, num_q_heads=4)
    q = rng.standard_normal((2, 4, 32), np.float32)
    with pytest.raises(rx.StateError, match="no step"):
        plan.paged_attention(q)
    with pytest.raises(rx.BufferTooSmallError, match="num_seqs is 3"):
        plan.update(requests)
    with pytest.raises(ValueError, match="q_lens has 1 entries: expected 2"):
        plan.update(requests[:2], [1])
    plan.update(requests[:2])
    with pytest.raises(TypeError, match="the plan has its own block_tables"):
        plan.paged_attention(q, block_tables=np.zeros((2, 4), np.int32))
    with pytest.raises(rx.InvalidArgumentError, match=r"q.shape\[0\] is 1: expected 2"):
        plan.paged_attention(q[:1])
    requests[0].free()
    with pytest.raises(rx.StaleIdError):
        plan.update(requests[:2])


def test_memory_of_the_caller(make_ctx):
    ctx, requests = filled(make_ctx)
    size = ctx.plan_bytes(3, num_q_heads=4)
    with pytest.raises(rx.BufferTooSmallError, match="memory_size"):
        ctx.plan(3, num_q_heads=4, memory=rx.aligned_memory(size - 64))
    plan = ctx.plan(3, num_q_heads=4, memory=rx.aligned_memory(size))
    plan.update(requests)
    assert plan.info().device_bytes == size


def test_merging_states(ctx, rng):
    outs = [rng.standard_normal((2, 3, 32), np.float32) for _ in range(3)]
    lses = [rng.standard_normal((2, 3), np.float32) for _ in range(3)]
    lses[1][0] = -np.inf
    weights = np.exp(np.stack(lses).astype(np.float64))
    expected = (weights[..., None] * np.stack(outs)).sum(axis=0) / weights.sum(axis=0)[..., None]
    out, lse = np.empty((2, 3, 32), np.float32), np.empty((2, 3), np.float32)
    ctx.merge_states(outs, lses, out, lse)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    np.testing.assert_allclose(lse, np.log(weights.sum(axis=0)), atol=2e-6)
    ctx.merge_states(outs, lses, outs[0])
    np.testing.assert_array_equal(outs[0], out)
    with pytest.raises(ValueError, match="lses has 2 tensors: expected 3"):
        ctx.merge_states(outs, lses[:2], out)
    with pytest.raises(rx.InvalidArgumentError, match="n is 0"):
        ctx.merge_states([], [], out)


def test_zeroes(make_ctx):
    ctx, _ = filled(make_ctx)
    ctx.zero_blocks([3, 5])
    for layer in range(2):
        for array in ctx.kv_views(layer):
            assert not array[[3, 5]].any()
            assert array[4].all()
    with pytest.raises(rx.InvalidArgumentError, match="32"):
        ctx.zero_blocks([32])


def family(make_ctx, **changes):
    """Three requests that begin with the same 12 tokens, and one alone."""
    ctx = make_ctx(**changes)
    first = ctx.begin([], no_match=True)
    first.append(range(12))
    rest = first.fork(2)
    for request, n in zip([first, *rest], (9, 3, 5), strict=True):
        request.append(count=n)
    alone = ctx.begin([], no_match=True)
    alone.append(count=7)
    return ctx, [first, rest[0], alone, rest[1]]


def test_the_tree_of_what_is_shared(make_ctx):
    ctx, requests = family(make_ctx, metadata_only=True)
    plan = ctx.plan(4, num_q_heads=4)
    plan.update(requests)
    tree = plan.tree()
    assert (tree.num_nodes, tree.num_blocks, tree.block_size) == (1, 3, 4)
    assert tree.parent.tolist() == [-1]
    assert tree.depth_blocks.tolist() == [0]
    assert tree.child_begin.tolist() == [0, 1, 1]
    assert tree.block_begin.tolist() == [0, 3]
    assert tree.block_ids.tolist() == ctx.block_tables(requests)[0][0][:3].tolist()
    assert tree.radix_indices.tolist() == [0, 0, -1, 0]
    info = plan.info()
    assert (info.tokens_seen, info.num_nodes) == (21 + 15 + 7 + 17, 1)
    assert info.tokens_read <= info.tokens_seen

    unshared = ctx.plan(4, num_q_heads=4, unshared=True)
    unshared.update(requests)
    assert unshared.tree().num_nodes == 0
    assert unshared.info().tokens_read == unshared.info().tokens_seen
    with pytest.raises(rx.StateError, match="no step"):
        ctx.plan(4, num_q_heads=4).tree()


def test_shared_or_not_the_results_are_close(make_ctx, rng):
    ctx, requests = family(make_ctx)
    for layer in range(2):
        for array in ctx.kv_views(layer):
            array[:] = rng.standard_normal(array.shape)
    q = rng.standard_normal((4, 4, 32), np.float32)
    results = []
    for options in ({}, {"unshared": True}, {"batch_invariant": True}, {"bounds": True}):
        plan = ctx.plan(4, num_q_heads=4, **options)
        assert ctx.plan_bytes(4, num_q_heads=4, **options) > 0
        plan.update(requests)
        results.append(plan.paged_attention(q, layer=1)[0])
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5, atol=1e-6)


def test_the_launches_arithmetic_is_the_plans(make_ctx, rng):
    ctx, requests = family(make_ctx)
    plan = ctx.plan(4, num_q_heads=4)
    plan.update(requests)
    q = rng.standard_normal((4, 4, 32), np.float32)
    with pytest.raises(rx.InvalidArgumentError, match="without RADIX_ATTN_BATCH_INVARIANT"):
        plan.paged_attention(q, batch_invariant=True)
    tables, lens = ctx.block_tables(requests)
    out, _ = ctx.paged_attention(q, lens, block_tables=tables, batch_invariant=True)
    plan = ctx.plan(4, num_q_heads=4, batch_invariant=True)
    plan.update(requests)
    np.testing.assert_array_equal(plan.paged_attention(q)[0], out)
    plan.paged_attention(q, bf16_weights=True)  # f32: no effect


def test_a_step_given_by_a_tree(make_ctx):
    ctx, requests = family(make_ctx, metadata_only=True)
    plan = ctx.plan(4, num_q_heads=4)
    plan.update(requests)
    tree = plan.tree()
    other = ctx.plan(4, num_q_heads=4)
    other.update_tree(tree, tree.radix_indices, [12, 11, 0, 4])
    assert other.tree().block_ids.tolist() == tree.block_ids[:2].tolist()
    other.update_tree(tree, [0], [12], [3])
    assert other.info().num_query_tokens == 3
    with pytest.raises(rx.InvalidArgumentError, match=r"radix_indices\[0\] is 1"):
        other.update_tree(tree, [1], [4])
    with pytest.raises(ValueError, match="radix_indices has 2 entries: expected 1"):
        other.update_tree(tree, [0, 0], [4])

    class Broken:
        parent, block_begin, block_ids, block_size = [-1], [0], [1], 4

    with pytest.raises(ValueError, match=r"tree.block_begin has 1 entries: expected 2"):
        other.update_tree(Broken(), [0], [4])
