"""The kernels against numpy in float64, with the arrays of every kind that they take."""

from __future__ import annotations

import numpy as np
import pytest
from support import Foreign

import radixattn as rx
from radixattn.attention import thread_workspace


def fill(ctx, rng, length, layer=0):
    """A request of `length` tokens with random K/V. Returns (request, k [length, ...], v)."""
    request = ctx.begin([], no_match=True)
    reserved = request.append(rng.integers(0, 100, length).astype(np.int32))
    config = ctx.config
    k = rng.standard_normal((length, config.num_kv_heads, config.head_dim), np.float32)
    v = rng.standard_normal((length, config.num_kv_heads, config.head_dim_v), np.float32)
    ctx.rope_append(k, v, reserved.slots, layer=layer)
    return request, k, v


def tolerance(dtype):
    return {"f32": 2e-6, "f16": 3e-3, "bf16": 3e-2}[dtype]


def test_rope_append_writes_to_the_slots(ctx, rng):
    request, k, v = fill(ctx, rng, 10, layer=1)
    k_view, v_view = ctx.kv_views(1)
    table = request.block_table()
    assert np.array_equal(k_view[table].reshape(-1, 2, 32)[:10], k)
    assert np.array_equal(v_view[table].reshape(-1, 2, 32)[:10], v)


@pytest.mark.parametrize("style", ["neox", "interleaved"])
def test_rope_turns_q_in_place_and_k(ctx, rng, style):
    request = ctx.begin([])
    slots = request.append(count=5).slots
    k, q = rng.standard_normal((2, 5, 2, 32), np.float32)
    positions = np.array([0, 1, 2, 30, 100], np.int32)

    def turned(x):
        angles = positions[:, None] * 10000.0 ** (-np.arange(8) / 8.0)
        turn = np.exp(1j * angles)[:, None, :]
        first, second = (slice(0, 8), slice(8, 16)) if style == "neox" else (
            slice(0, 16, 2), slice(1, 16, 2))  # fmt: skip
        z = (x[..., first] + 1j * x[..., second]) * turn
        out = x.astype(np.float64)
        out[..., first], out[..., second] = z.real, z.imag
        return out

    expected_q, expected_k = turned(q), turned(k)
    ctx.rope_append(k, k, slots, positions, q=q, rotary_dim=16, style=style)
    np.testing.assert_allclose(q, expected_q, atol=1e-5)
    got = ctx.kv_views(0)[0][request.block_table()].reshape(-1, 2, 32)[:5]
    np.testing.assert_allclose(got, expected_k, atol=1e-5)


def test_rope_scaling_arrives(ctx, rng):
    k = rng.standard_normal((4, 2, 32), np.float32)
    positions = np.array([4, 40, 400, 4000], np.int32)
    turned = {}
    for scaling, options in {
        "none": {}, "linear": {"scale": 4.0},
        "llama3": {"scale": 8.0, "original_max_position": 64, "low_freq_factor": 1.0},
        "yarn": {"scale": 4.0, "original_max_position": 64, "beta_fast": 16.0},
    }.items():  # fmt: skip
        q = k.copy()
        ctx.rope_append(
            k, k, [0, 1, 2, 3], positions, q=q, rotary_dim=32, scaling=scaling, **options
        )
        turned[scaling] = q
    quarter = k.copy()
    ctx.rope_append(k, k, [0, 1, 2, 3], positions // 4, q=quarter, rotary_dim=32)
    np.testing.assert_allclose(turned["linear"], quarter, atol=1e-4)
    values = list(turned.values())
    assert not any(np.allclose(values[i], values[i + 1]) for i in range(3))
    with pytest.raises(rx.InvalidArgumentError):
        ctx.rope_append(k, k, [0, 1, 2, 3], positions, q=quarter, rotary_dim=32, scaling="yarn")
    with pytest.raises(TypeError, match=r"unknown option.*thta"):
        ctx.rope_append(k, k, [0, 1, 2, 3], positions, rotary_dim=32, thta=1)


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_decode(make_ctx, rng, reference, dtype, layout):
    ctx = make_ctx(kv_dtype=dtype, kv_layout=layout, head_dim_v=64)
    sequences = [fill(ctx, rng, length) for length in (1, 7, 30)]
    requests = [request for request, _, _ in sequences]
    q = rng.standard_normal((3, 8, 32), np.float32)
    tables, lens = ctx.block_tables(requests)
    out, lse = ctx.paged_attention(q, lens, block_tables=tables, lse=True)
    assert out.shape == (3, 8, 64)
    assert out.dtype == np.float32
    assert lse.dtype == np.float32
    for i, (_, k, v) in enumerate(sequences):
        expected, expected_lse = reference(q[i : i + 1], k, v)
        np.testing.assert_allclose(out[i : i + 1], expected, atol=tolerance(dtype))
        np.testing.assert_allclose(lse[i : i + 1], expected_lse, atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_prefill_over_a_cached_prefix(make_ctx, rng, reference, dtype):
    ctx = make_ctx(kv_dtype=dtype)
    sequences = [fill(ctx, rng, length) for length in (9, 30)]
    tables, lens = ctx.block_tables([request for request, _, _ in sequences])
    q = rng.standard_normal((13, 4, 32), np.float32)
    out, lse = ctx.prefill(q, lens, [0, 9, 13], block_tables=tables, lse=True)
    for (_, k, v), rows in zip(sequences, (slice(0, 9), slice(9, 13)), strict=True):
        expected, expected_lse = reference(q[rows], k, v)
        np.testing.assert_allclose(out[rows], expected, atol=tolerance(dtype))
        np.testing.assert_allclose(lse[rows], expected_lse, atol=tolerance(dtype))


def test_padded_query_rows_are_left_alone(ctx, rng):
    request = fill(ctx, rng, 9)[0]
    table = request.block_table()[None]
    q = rng.standard_normal((5, 4, 32), np.float32)
    expected, _ = ctx.prefill(q[:3], [9], [0, 3], block_tables=table)
    out, lse = ctx.prefill(q, [9], [0, 3], block_tables=table, lse=True)
    assert np.array_equal(out[:3], expected)
    assert (out[3:] == 0).all()
    assert (lse[3:] == -np.inf).all()
    mine = np.full((5, 4, 32), 8, np.float32)
    ctx.prefill(q, [9], [0, 3], block_tables=table, out=mine)
    assert (mine[3:] == 8).all()


def test_options_arrive(ctx, rng, reference):
    request, k, v = fill(ctx, rng, 20)
    q = rng.standard_normal((1, 4, 32), np.float32)
    table = request.block_table()[None]
    sinks = np.array([0.5, -1, 2, 0], np.float32)

    def attend(**options):
        return ctx.paged_attention(q, [20], block_tables=table, **options)[0]

    np.testing.assert_allclose(
        attend(softcap=2.0, sinks=sinks), reference(q, k, v, 2.0, sinks)[0], atol=2e-6
    )
    np.testing.assert_allclose(attend(window=5), reference(q, k[-5:], v[-5:])[0], atol=2e-6)
    np.testing.assert_allclose(attend(scale=0.5), reference(q * 0.5 * 32**0.5, k, v)[0], atol=2e-5)
    slopes = np.array([0, 0.1, 0.2, 0.3], np.float32)
    biased = attend(alibi_slopes=slopes)
    np.testing.assert_allclose(biased[:, 0], attend()[:, 0], atol=2e-6)
    assert not np.allclose(biased[:, 1:], attend()[:, 1:])
    with pytest.raises(ValueError, match=r"sinks has shape \(3,\): expected \(4,\)"):
        attend(sinks=[1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match=r"unknown option.*windw"):
        attend(windw=5)


def test_tables_as_csr(ctx, rng):
    first, second = fill(ctx, rng, 6)[0], fill(ctx, rng, 13)[0]
    q = rng.standard_normal((2, 4, 32), np.float32)
    tables, lens = ctx.block_tables([first, second])
    expected, _ = ctx.paged_attention(q, lens, block_tables=tables)
    ids = np.concatenate([first.block_table(), second.block_table()])
    out, _ = ctx.paged_attention(q, lens, block_begin=[0, 2, 6], block_ids=ids)
    assert np.array_equal(out, expected)
    with pytest.raises(ValueError, match="block_begin must have 3 entries"):
        ctx.paged_attention(q, lens, block_begin=[0, 2], block_ids=ids)
    with pytest.raises(ValueError, match="entries that never fall"):
        ctx.paged_attention(q, lens, block_begin=[0, 100, 6], block_ids=ids)
    with pytest.raises(ValueError, match="block_begin ends at 7: expected at most 6"):
        ctx.paged_attention(q, lens, block_begin=[0, 2, 7], block_ids=ids)
    with pytest.raises(TypeError, match="give block_tables"):
        ctx.paged_attention(q, lens)


def test_tables_with_longer_rows(ctx, rng):
    request = fill(ctx, rng, 13)[0]
    q = rng.standard_normal((2, 4, 32), np.float32)
    wide = np.full((2, 9), -7, np.int32)
    wide[:, :4] = request.block_table()
    a, _ = ctx.paged_attention(q, [13, 13], block_tables=wide)
    b, _ = ctx.paged_attention(q, [13, 13], block_tables=wide[:, :4])
    assert np.array_equal(a, b)


def test_empty_sequences_give_zero_and_minus_infinity(ctx, rng):
    q = rng.standard_normal((1, 4, 32), np.float32)
    out, lse = ctx.paged_attention(q, [0], block_tables=[[-1]], lse=True)
    assert (out == 0).all()
    assert (lse == -np.inf).all()


def test_caches_of_the_caller(make_ctx, rng, reference):
    ctx = make_ctx(metadata_only=True)
    k_cache, v_cache = (np.zeros((32, 4, 2, d), np.float32) for d in (32, 64))
    request = ctx.begin([])
    slots = request.append(count=10).slots
    k, v = (rng.standard_normal((10, 2, d), np.float32) for d in (32, 64))
    ctx.rope_append(k, v, slots, k_cache=k_cache, v_cache=v_cache)
    q = rng.standard_normal((1, 4, 32), np.float32)
    out, lse = ctx.paged_attention(
        q, [10], block_tables=request.block_table()[None], k_cache=k_cache, v_cache=v_cache
    )
    assert lse is None
    np.testing.assert_allclose(out, reference(q, k, v)[0], atol=2e-6)
    with pytest.raises(TypeError, match="come together"):
        ctx.paged_attention(q, [10], block_tables=[[0]], k_cache=k_cache)


def test_outputs_of_the_caller_numpy(ctx, rng):
    request = fill(ctx, rng, 9)[0]
    q = rng.standard_normal((1, 4, 32), np.float32)
    table = request.block_table()[None]
    expected, expected_lse = ctx.paged_attention(q, [9], block_tables=table, lse=True)
    wide = np.zeros((1, 4, 96), np.float32)
    lse = np.zeros((1, 4), np.float32)
    got, got_lse = ctx.paged_attention(q, [9], block_tables=table, out=wide[:, :, 32:64], lse=lse)
    assert np.shares_memory(got, wide)
    assert got_lse is lse
    assert np.array_equal(wide[:, :, 32:64], expected)
    assert (wide[:, :, :32] == 0).all()
    assert (wide[:, :, 64:] == 0).all()
    assert np.array_equal(lse, expected_lse)
    wide.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        ctx.paged_attention(q, [9], block_tables=table, out=wide[:, :, :32])


def test_everything_through_dlpack(ctx, rng):
    request = fill(ctx, rng, 9)[0]
    q = rng.standard_normal((1, 4, 32), np.float32)
    table = request.block_table()[None]
    expected, expected_lse = ctx.paged_attention(q, [9], block_tables=table, lse=True)
    out, lse = Foreign(np.zeros((1, 4, 32), np.float32)), Foreign(np.zeros((1, 4), np.float32))
    got, got_lse = ctx.paged_attention(
        Foreign(q), Foreign(np.array([9], np.int32)), block_tables=Foreign(table), out=out, lse=lse
    )
    assert got is out
    assert got_lse is lse
    assert np.array_equal(out.array, expected)
    assert np.array_equal(lse.array, expected_lse)
    k, v = (rng.standard_normal((2, 2, 32), np.float32) for _ in "kv")
    slots = request.append(count=2).slots
    ctx.rope_append(
        Foreign(k), Foreign(v), Foreign(slots), Foreign(np.arange(2, dtype=np.int32)),
        q=Foreign(q.reshape(2, 2, 32)), rotary_dim=0,
    )  # fmt: skip
    assert np.array_equal(ctx.kv_views(0)[0].reshape(-1, 2, 32)[slots], k)


def test_queries_in_f16_and_bf16(ctx, rng, reference):
    request, k, v = fill(ctx, rng, 9)
    table = request.block_table()[None]
    q = rng.standard_normal((1, 4, 32), np.float32)
    half, _ = ctx.paged_attention(q.astype(np.float16), [9], block_tables=table)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, reference(q, k, v)[0], atol=3e-3)
    bits = (q.view(np.uint32) >> 16).astype(np.uint16)
    out, _ = ctx.paged_attention(rx.bf16(bits), [9], block_tables=table)
    assert out.dtype == rx.numpy_dtype(rx.DType.BF16)
    wide = (out.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(wide, reference(q, k, v)[0], atol=3e-2)


def test_outputs_in_bfloat16_without_ml_dtypes(ctx, rng, monkeypatch):
    """The package falls back to uint16 bits; the values are the same."""
    from radixattn import tensors

    request = fill(ctx, rng, 9)[0]
    table = request.block_table()[None]
    bits = (rng.standard_normal((1, 4, 32), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    expected, _ = ctx.paged_attention(rx.bf16(bits), [9], block_tables=table)
    monkeypatch.setitem(tensors._TO_NUMPY, rx.DType.BF16, np.dtype(np.uint16))
    out, _ = ctx.paged_attention(rx.bf16(bits), [9], block_tables=table)
    assert out.dtype == np.uint16
    assert np.array_equal(out, expected.view(np.uint16))


def test_padded_rows_are_left_alone(ctx, rng):
    k, q = rng.standard_normal((2, 3, 2, 32), np.float32)
    before = q.copy()
    values = ctx.kv_views(0)[1]
    values[:] = 0
    ctx.rope_append(k, k, [5, -1, -1], [1, 2, 3], q=q, rotary_dim=32)
    assert not np.array_equal(q[0], before[0])
    assert np.array_equal(q[1:], before[1:])
    written = np.flatnonzero(values.reshape(-1, 64).any(axis=1))
    assert written.tolist() == [5]


def test_what_the_library_refuses(ctx, rng):
    request = fill(ctx, rng, 9)[0]
    q = rng.standard_normal((1, 4, 32), np.float32)
    table = request.block_table()[None].copy()
    with pytest.raises(rx.InvalidArgumentError):
        ctx.paged_attention(q[:, :, :24], [9], block_tables=table)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.paged_attention(q[:, :3], [9], block_tables=table)
    with pytest.raises(ValueError, match="q has 1 rows: expected 2"):
        ctx.paged_attention(q, [9, 9], block_tables=np.repeat(table, 2, 0))
    with pytest.raises(ValueError, match="block_tables has 1 rows: expected 2"):
        ctx.paged_attention(np.repeat(q, 2, 0), [9, 9], block_tables=table)
    with pytest.raises(ValueError, match=r"expected .num_rows, num_q_heads, head_dim."):
        ctx.paged_attention(q[0], [9], block_tables=table)
    table[0, 1] = 99
    with pytest.raises(rx.InvalidArgumentError, match="99"):
        ctx.paged_attention(q, [9], block_tables=table)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.paged_attention(q, [9], block_tables=table, max_context_len=5)
    with pytest.raises(ValueError, match="cu_q_lens has 3 entries: expected 2"):
        ctx.prefill(q, [9], [0, 1, 1], block_tables=table)


def test_lengths_that_do_not_fit_together_are_refused(ctx, rng):
    """Nothing is read or written beyond what the arrays hold."""
    request = fill(ctx, rng, 9)[0]
    table = request.block_table()[None]
    q = rng.standard_normal((4, 4, 32), np.float32)
    for cu_q_lens in ([0, 5], [1, 4], [0, -1]):
        with pytest.raises(rx.InvalidArgumentError):
            ctx.prefill(q, [9], cu_q_lens, block_tables=table, max_query_len=5)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.paged_attention(q[:1], [13], block_tables=table)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.paged_attention(q[:1], [9], block_tables=table[:, :2])
    for shape in ((1, 4, 31), (2, 4, 32), (1, 3, 32), (4, 32)):
        with pytest.raises(rx.InvalidArgumentError):
            ctx.paged_attention(q[:1], [9], block_tables=table, out=np.empty(shape, np.float32))
    for shape in ((1, 3), (2, 4), (4,)):
        with pytest.raises(rx.InvalidArgumentError):
            ctx.paged_attention(q[:1], [9], block_tables=table, lse=np.empty(shape, np.float32))
    with pytest.raises(rx.InvalidArgumentError):
        ctx.paged_attention(q[:1], [9], block_tables=table, lse=np.empty((1, 4), np.float16))
    k = rng.standard_normal((3, 2, 32), np.float32)
    slots = [0, 1, 2]
    with pytest.raises(rx.InvalidArgumentError):
        ctx.rope_append(k[:2], k, slots)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.rope_append(k, k[:, :1], slots)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.rope_append(k, k, slots, slots, q=k[:2].copy(), rotary_dim=32)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.rope_append(k, k, [0, 1, 32 * 4])
    with pytest.raises(rx.InvalidArgumentError):
        ctx.rope_append(k, k, slots, rotary_dim=32)
    with pytest.raises(ValueError, match="positions has 2 entries: expected 3"):
        ctx.rope_append(k, k, slots, [0, 1], rotary_dim=32)
    with pytest.raises(TypeError, match="come together"):
        ctx.rope_append(k, k, slots, k_cache=k)


def test_the_workspace(ctx, rng):
    request = fill(ctx, rng, 30)[0]
    q = rng.standard_normal((1, 4, 32), np.float32)
    table = request.block_table()[None]
    expected, _ = ctx.paged_attention(q, [30], block_tables=table)
    size = ctx.attention_workspace(q, [30], block_tables=table)
    longer = ctx.attention_workspace(q, [30], block_tables=table, max_context_len=128)
    assert longer >= size
    space = rx.aligned_memory(max(size, 64))
    out, _ = ctx.paged_attention(q, [30], block_tables=table, workspace=space)
    assert np.array_equal(out, expected)
    prefill = ctx.attention_workspace(q, [30], [0, 1], block_tables=table)
    assert prefill > 0
    with pytest.raises(rx.BufferTooSmallError) as caught:
        ctx.prefill(q, [30], [0, 1], block_tables=table, workspace=rx.aligned_memory(0))
    assert caught.value.needed == prefill


def test_the_workspace_of_a_thread_is_kept(ctx):
    from concurrent.futures import ThreadPoolExecutor

    first = thread_workspace(ctx, 1000)
    assert thread_workspace(ctx, 500) is first
    assert thread_workspace(ctx, 2000) is not first
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(thread_workspace, ctx, 10).result()
    assert not np.shares_memory(other, thread_workspace(ctx, 10))


def test_run_ops_copies_on_write(ctx, rng):
    parent, k, _ = fill(ctx, rng, 6)
    (child,) = parent.fork()
    reserved = child.append([1])
    assert len(reserved.ops) == 1
    ctx.run_ops(reserved.ops)
    got = ctx.kv_views(0)[0][child.block_table()].reshape(-1, 2, 32)[:6]
    assert np.array_equal(got, k)
    assert child.block_table()[1] != parent.block_table()[1]
    bad = reserved.ops.copy()
    bad["dst"] = 1000
    with pytest.raises(rx.InvalidArgumentError):
        ctx.run_ops(bad)
    with pytest.raises(TypeError, match="OP_DTYPE"):
        ctx.run_ops([1])


def test_copy_blocks(ctx, rng):
    k, v = ctx.kv_views(1)
    k[3] = rng.standard_normal(k[3].shape)
    v[3] = rng.standard_normal(v[3].shape)
    ctx.copy_blocks([[3, 5], [5, 6]])
    assert np.array_equal(k[6], k[3])
    assert np.array_equal(v[5], v[3])
    with pytest.raises(rx.InvalidArgumentError):
        ctx.copy_blocks([[3, 32]])
    with pytest.raises(ValueError, match=r"pairs has shape \(1, 3\): expected \(n, 2\)"):
        ctx.copy_blocks([[1, 2, 3]])


def test_swap_out_and_in(ctx, rng):
    for layer in range(2):
        for view in ctx.kv_views(layer):
            view[:] = rng.standard_normal(view.shape)
    size = ctx.swap_bytes(2)
    assert size == 2 * 2 * 2 * 4 * 2 * 32 * 4
    image = ctx.swap_out([7, 2])
    assert (image.dtype, image.size) == (np.uint8, size)
    k, _ = ctx.kv_views(0)
    assert np.array_equal(image[: k[7].nbytes].view(np.float32), k[7].ravel())
    saved = [view[[7, 2]].copy() for layer in range(2) for view in ctx.kv_views(layer)]
    mine = np.zeros(size + 10, np.uint8)
    assert ctx.swap_out([7, 2], mine) is mine
    assert np.array_equal(mine[:size], image)
    ctx.swap_in([20, 21], image)
    got = [view[20:22] for layer in range(2) for view in ctx.kv_views(layer)]
    assert all(np.array_equal(a, b) for a, b in zip(saved, got, strict=True))
    with pytest.raises(rx.BufferTooSmallError) as caught:
        ctx.swap_out([7, 2], np.zeros(10, np.uint8))
    assert caught.value.needed == size
    with pytest.raises(rx.InvalidArgumentError):
        ctx.swap_in([20, 21], mine)
    with pytest.raises(TypeError, match="uint8"):
        ctx.swap_in([1], np.zeros(10, np.float32))


def test_a_cached_prefix_gives_the_same_answer(make_ctx, rng):
    """What the library is for: K/V from the cache instead of computing it again."""
    prompt = rng.integers(0, 50, 22).astype(np.int32)
    embed = rng.standard_normal((2, 50, 2, 32), np.float32)  # K and V of a token
    q = rng.standard_normal((22, 4, 32), np.float32)

    def last_row(ctx):
        with ctx.begin(prompt) as request:
            start = request.match.cached_tokens
            new = prompt[start:]
            reserved = request.append(new)
            ctx.run_ops(reserved.ops)
            where = np.arange(start, 22, dtype=np.int32)
            turned = q[start:].copy()
            ctx.rope_append(
                embed[0, new], embed[1, new], reserved.slots, where, q=turned, rotary_dim=32
            )
            tables, lens = ctx.block_tables([request])
            out, _ = ctx.prefill(turned, lens, [0, len(new)], block_tables=tables)
            request.commit()
            return start, out[-1].copy()

    ctx = make_ctx()
    cold, expected = last_row(ctx)
    warm, got = last_row(ctx)
    assert (cold, warm) == (0, 20)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_tree_masks(ctx, rng, reference):
    """Rows 4, 5 and 6 of a sequence of 7: siblings that see the prefix and themselves."""
    k, v = (rng.standard_normal((7, 2, 32), np.float32) for _ in "kv")
    q = rng.standard_normal((3, 4, 32), np.float32)
    request = ctx.begin([])
    ctx.rope_append(k, v, request.append(count=7).slots)
    table = request.block_table()[None]
    siblings, _ = ctx.prefill(q, [7], [0, 3], block_tables=table, tree_mask=[[1], [2], [4]])
    for row in range(3):
        seen = [0, 1, 2, 3, 4 + row]
        expected, _ = reference(q[row : row + 1], k[seen], v[seen])
        np.testing.assert_allclose(siblings[row : row + 1], expected, atol=5e-6)
    causal, _ = ctx.prefill(q, [7], [0, 3], block_tables=table)
    chain, _ = ctx.prefill(q, [7], [0, 3], block_tables=table, tree_mask=[[1], [3], [7]])
    np.testing.assert_array_equal(chain, causal)
    with pytest.raises(
        rx.InvalidArgumentError, match="tree_mask is given: expected NULL for decode"
    ):
        ctx.paged_attention(q[:1], [7], block_tables=table, tree_mask=[[1]])
