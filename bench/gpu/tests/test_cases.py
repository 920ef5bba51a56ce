"""Names, bytes, FLOPs and the order of the cases."""

from __future__ import annotations

import collections

import pytest

from gpubench import cases
from gpubench.cases import CopyBlocks, Decode, Layer, Prefill, Radix, Rope, Sample, Shape, Swap


def test_the_headline_is_first_and_reads_each_kv_byte_once():
    first = cases.grid()[0]
    assert first.name == "gpu.decode.bf16.b32.c4096"
    assert first.bytes == 32 * 4096 * 2 * 8 * 128 * 2
    assert first.limit == "gpu.limit.copy"
    assert set(first.peers) == {"sdpa_flash", "sdpa_cudnn", "flashinfer"}


def test_decode_bytes_follow_the_dtype_and_the_kv_heads_not_the_query_heads():
    def bytes_of(**shape):
        return Decode(shape=Shape(**shape), batch=2, context=100).bytes

    plain = bytes_of()
    assert bytes_of(dtype="e4m3") == plain // 2
    assert bytes_of(kv_heads=32) == 4 * plain
    assert bytes_of(q_heads=64) == plain
    assert bytes_of(head_dim=64) == plain // 2
    assert bytes_of(block_size=64) == plain


def test_whole_blocks_take_memory_and_tokens_count():
    case = Decode(batch=2, context=100, shape=Shape(block_size=64))
    assert case.blocks_per_seq == 2
    assert case.kv_bytes == 2 * 128 * case.shape.token_bytes
    assert case.dense_bytes == case.bytes
    assert Decode(batch=2, context=100, shape=Shape("e4m3")).dense_bytes == case.bytes


def test_ragged_lengths_fall_evenly_and_only_they_count():
    case = Decode(batch=4, context=100, ragged=True)
    assert case.lens == [100, 75, 50, 25]
    assert case.bytes == 250 * case.shape.token_bytes
    assert Decode(batch=4, context=100).lens == [100] * 4
    for case in cases.grid():
        if getattr(case, "ragged", False):
            assert max(case.lens) == case.context
            assert min(case.lens) > 0


def visible(q_len, context):
    return sum(1 for r in range(q_len) for j in range(context) if j <= context - q_len + r)


@pytest.mark.parametrize(("q_len", "context"), [(1, 1), (5, 5), (3, 10), (1, 7), (16, 80)])
def test_prefill_flops_count_the_visible_pairs(q_len, context):
    case = Prefill(batch=3, q_len=q_len, context=context)
    assert case.flops == 3 * visible(q_len, context) * 32 * (2 * 128 + 2 * 128)


def test_the_matrix_rate_is_that_of_the_dtype_that_computes():
    limits = {d: Prefill(shape=Shape(d), q_len=8, context=8).limit for d in cases.DTYPES}
    assert limits == {
        "bf16": "gpu.limit.matmul.bf16",
        "f16": "gpu.limit.matmul.f16",
        "e4m3": "gpu.limit.matmul.f16",
    }


def test_a_layer_that_decodes_reads_its_weights_and_each_kv_byte_once():
    case = Layer(batch=3, context=100, hidden=512)
    weights = 512 * (32 + 8 + 8) * 128 + 32 * 128 * 512
    assert case.bytes == 2 * weights + 300 * case.shape.token_bytes + 2 * 3 * 512 * 2
    assert (case.limit, case.name) == ("gpu.limit.copy", "gpu.layer.bf16.b3.c100.m512")


def test_a_layer_s_prefill_is_its_products_and_attention():
    case = Layer(batch=3, context=80, q_len=16)
    weights = 2 * 4096 * (32 + 8) * 128
    attention = Prefill(batch=3, context=80, q_len=16).flops
    assert case.flops == 2 * 48 * weights + attention
    assert (case.limit, case.name) == ("gpu.limit.matmul.bf16", "gpu.layer.bf16.b3.q16.c80")


def test_rope_bytes_read_and_write_q_and_move_k_and_v():
    case = Rope(tokens=10)
    q, kv = 32 * 128 * 2, 8 * 128 * 2
    assert case.bytes == 10 * (2 * q + 2 * kv + 2 * kv + 8 + 4)
    fp8 = Rope(tokens=10, shape=Shape("e4m3"))
    assert fp8.bytes == 10 * (2 * q + 2 * kv + 2 * kv // 2 + 8 + 4)


def test_sampling_reads_the_logits_once_and_says_what_cuts_them():
    case = Sample(way="all", rows=3, vocab=100)
    assert case.bytes == 3 * 100 * 2
    assert case.limit == "gpu.limit.read"
    assert case.name == "gpu.sample.all.bf16.b3.v100"
    assert set(case.parameters) == {"temperature", "top_k", "top_p", "min_p"}
    assert set(Sample(way="greedy").parameters.values()) == {None}
    made = cases.sample_grid()
    assert {(c.rows, c.vocab) for c in made} == {
        (rows, vocab) for rows in (1, 64, 256) for vocab in (32000, 128256)
    }
    assert all(c in cases.grid() for c in made)


def test_shared_prefixes_count_each_block_once():
    case = Radix(batch=64, shared=1024, groups=8, group_shared=2048, context=3328)
    assert (case.own, case.distinct_tokens) == (256, 1024 + 8 * 2048 + 64 * 256)
    assert case.bytes == case.distinct_tokens * 2 * 8 * 128 * 2
    assert case.num_blocks == case.distinct_tokens // 16
    assert case.name == "gpu.radix.bf16.b64.s1024.g8x2048.own256"
    assert Radix(invariant=True).name == "gpu.radix.bf16.b64.s4096.own256.invariant"
    for made in cases.radix_grid():
        parts = (made.shared, made.group_shared, made.own)
        assert made.batch % made.groups == 0
        assert all(tokens % made.shape.block_size == 0 for tokens in parts)


def test_copies_read_and_write_and_swaps_cross_the_bus_once():
    block = 32 * 16 * 2 * 8 * 128 * 2
    assert CopyBlocks(blocks=5).bytes == 2 * 5 * block
    assert Swap(blocks=5).bytes == 5 * block
    assert (Swap(out=True).limit, Swap(out=False).limit) == ("gpu.limit.d2h", "gpu.limit.h2d")


def test_names_say_what_differs_from_the_usual_shape():
    shape = Shape("f16", 32, 32, 64, 64)
    assert Decode(shape=shape, batch=8, context=1024).name == (
        "gpu.decode.f16.b8.c1024.h32x32.d64.bs64"
    )
    assert Prefill(batch=8, context=8192, q_len=512).name == "gpu.prefill.bf16.b8.q512.c8192"
    assert Decode(graph=True).name == "gpu.decode.bf16.b32.c4096.graph"
    assert Decode(ragged=True, plan=True).name == "gpu.decode.bf16.b32.c4096.ragged.plan"
    assert Swap(blocks=256, out=False, runs=True).name == "gpu.swap_in.bf16.n256.l32.neighbours"


@pytest.mark.parametrize("grid", [cases.grid(), cases.small_grid(), cases.small_grid("cpu")])
def test_no_name_stands_for_two_cases(grid):
    counts = collections.Counter(case.name for case in grid)
    assert [name for name, n in counts.items() if n > 1] == []


def test_the_grid_has_every_combination_and_what_is_near_the_headline_first():
    grid = cases.grid()
    decode = [c for c in grid if isinstance(c, Decode)]
    decode = [c for c in decode if not (c.graph or c.plan or c.ragged or c.label)]
    assert len(decode) == 4 * 3 * 3 * 2 * 2 * 2
    ranks = [case.rank for case in grid]
    assert ranks == sorted(ranks)
    near = {case.name for case in decode if case.rank == 2}
    assert {"gpu.decode.e4m3.b32.c4096", "gpu.decode.bf16.b32.c4096.d64"} <= near
    assert "gpu.decode.f16.b1.c4096" not in near  # differs in two things
    kinds = {case.kind for case in grid if case.rank <= 1}
    assert kinds == {"decode", "radix", "prefill", "layer", "rope", "copy", "swap", "sample"}


def test_torch_s_attention_is_not_asked_for_fp8():
    for case in cases.grid():
        if case.shape.dtype == "e4m3":
            assert not [peer for peer in case.peers if peer.startswith("sdpa")], case.name


def test_pools_of_copies_hold_their_pairs():
    for case in cases.grid() + cases.small_grid():
        if type(case) is CopyBlocks:
            assert 2 * case.blocks <= case.pool_blocks, case.name
        if isinstance(case, Swap):
            assert case.blocks <= case.pool_blocks, case.name


def test_the_cpu_grid_has_nothing_that_only_cuda_has():
    for case in cases.small_grid("cpu"):
        assert case.shape.dtype != "e4m3"
        assert not getattr(case, "graph", False)
        assert set(case.peers) <= {"sdpa_flash", "torch", "torch_index", "unshared"}
