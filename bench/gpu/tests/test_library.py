"""The calls that the benchmark makes, on the CPU backend: the same structs, the same path."""

from __future__ import annotations

import ctypes
import math
import re

import numpy as np
import pytest

from gpubench import header
from gpubench.launches import Array, Context, int32s, tensor
from gpubench.library import Library, RadixError, find_library

BLOCK, HEADS, KV_HEADS, DIM = 16, 4, 2, 64


def array(values):
    names = {np.dtype("float32"): "f32", np.dtype("float16"): "f16", np.dtype("int32"): "int32"}
    assert values.flags.c_contiguous
    return Array(values.ctypes.data, names[values.dtype], values.shape)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def ctx(lib):
    made = Context(lib, "cpu")
    yield made
    made.close()


def attention(q, k, v, before):
    """float64; row r of q sees keys up to before + r."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    x = np.einsum("rhd,lhd->hrl", q, k) / math.sqrt(q.shape[2])
    seen = np.arange(len(k))[None, :] <= before + np.arange(len(q))[:, None]
    x = np.where(seen[None], x, -np.inf)
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hrl,lhd->rhd", weights, v)


class Batch:
    """Two sequences over shuffled blocks, one ending inside a block."""

    def __init__(self, rng, q_lens):
        self.lens = np.array([37, 64], np.int32)
        self.table = np.array([[5, 2, 7, -1], [0, 3, 6, 1]], np.int32)
        self.k = rng.standard_normal((8, BLOCK, KV_HEADS, DIM), np.float32)
        self.v = rng.standard_normal((8, BLOCK, KV_HEADS, DIM), np.float32)
        self.cu = np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32)
        self.q = rng.standard_normal((int(self.cu[-1]), HEADS, DIM), np.float32)
        self.out = np.full_like(self.q, np.nan)

    def attn(self, ctx, prefill):
        attn = ctx.attention(
            array(self.q),
            array(self.out),
            (array(self.k), array(self.v)),
            array(self.table),
            array(self.lens),
            max_context_len=64,
            cu_q_lens=self.cu.ctypes.data if prefill else None,
            max_query_len=int(np.diff(self.cu).max()),
        )
        size = ctx.workspace_bytes(attn)
        self.space = np.empty(size + 64, np.uint8)
        attn.workspace = self.space.ctypes.data + -self.space.ctypes.data % 64
        attn.workspace_size = size
        return attn

    def expected(self):
        parts = []
        for s, length in enumerate(self.lens):
            blocks = self.table[s, : -(-length // BLOCK)]
            k, v = (x[blocks].reshape(-1, KV_HEADS, DIM)[:length] for x in (self.k, self.v))
            q = self.q[self.cu[s] : self.cu[s + 1]]
            parts.append(attention(q, k, v, length - len(q)))
        return np.concatenate(parts)


def test_structs_and_prototypes_fit_the_library(lib):
    for name, kind in lib.api.structs.items():
        assert lib.dll.radix_struct_size(name.encode()) == ctypes.sizeof(kind), name
    assert lib.cuda_devices() >= 0
    assert "radixattn" in lib.build_info()


def test_another_layout_or_abi_is_refused_at_load(tmp_path):
    text = header.default_header().read_text(encoding="utf-8")
    changed = tmp_path / "radixattn.h"
    wider = re.sub(r"uint32_t num_blocks;( +/\* 0 = derive)", r"uint64_t num_blocks;\1", text)
    assert wider != text
    changed.write_text(wider)
    with pytest.raises(ImportError, match=r"radix_config is \d+ bytes"):
        Library(find_library(), changed)
    changed.write_text(text.replace("#define RADIXATTN_ABI 1u", "#define RADIXATTN_ABI 2u"))
    with pytest.raises(ImportError, match=r"has ABI 1, radixattn\.h has 2"):
        Library(find_library(), changed)


def test_a_library_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"/nowhere/libradixattn\.so: no such file"):
        find_library("/nowhere/libradixattn.so")


def test_decode_through_the_benchmark_s_structs(ctx, rng):
    batch = Batch(rng, [1, 1])
    ctx.decode(batch.attn(ctx, prefill=False), None)
    np.testing.assert_allclose(batch.out, batch.expected(), atol=2e-6)


def test_decode_by_a_plan_of_foreign_tables(lib, rng):
    batch = Batch(rng, [1, 1])
    ctx = Context(
        lib, "cpu", flags=lib.constant("RADIX_CTX_METADATA_ONLY"), kv_dtype="f32", num_blocks=8,
        block_size=BLOCK, num_layers=1, num_kv_heads=KV_HEADS, head_dim=DIM,
    )  # fmt: skip
    attn = batch.attn(ctx, prefill=False)
    tables, lens = int32s(batch.table.flatten().tolist()), int32s(batch.lens.tolist())
    plan = ctx.plan(tables, lens, batch.table.shape[1], HEADS, None)
    plan.fill(attn)
    assert attn.context_lens != batch.lens.ctypes.data  # the plan's own
    assert attn.plan == plan.handle.value
    assert plan.items() == 0  # the CPU has no work list
    ctx.decode(attn, None)
    np.testing.assert_allclose(batch.out, batch.expected(), atol=2e-6)
    plan.close()
    ctx.close()


def test_prefill_of_new_tokens_behind_old_ones(ctx, rng):
    batch = Batch(rng, [9, 64])
    ctx.prefill(batch.attn(ctx, prefill=True), None)
    np.testing.assert_allclose(batch.out, batch.expected(), atol=4e-6)


def test_rope_turns_q_and_writes_k_and_v(ctx, rng):
    tokens = 5
    q = rng.standard_normal((tokens, HEADS, DIM), np.float32)
    k = rng.standard_normal((tokens, KV_HEADS, DIM), np.float32)
    v = rng.standard_normal((tokens, KV_HEADS, DIM), np.float32)
    caches = [np.zeros((4, BLOCK, KV_HEADS, DIM), np.float32) for _ in range(2)]
    slots = np.array([3, 60, 17, 18, 0], np.int64)
    positions = np.array([0, 9, 1, 1000, 7], np.int32)

    def turned(x):
        half = DIM // 2
        angle = positions[:, None] * 500000.0 ** -(np.arange(half) / half)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        low, high = x[..., :half].astype(np.float64), x[..., half:].astype(np.float64)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    expected_q, expected_k = turned(q), turned(k)
    rope = ctx.rope(
        (array(q), array(k), array(v)),
        (array(caches[0]), array(caches[1])),
        slots.ctypes.data,
        positions.ctypes.data,
        DIM,
        500000.0,
    )
    ctx.rope_append(rope, None)
    k_cache, v_cache = (cache.reshape(-1, KV_HEADS, DIM) for cache in caches)
    np.testing.assert_allclose(q, expected_q, atol=1e-6)
    np.testing.assert_allclose(k_cache[slots], expected_k, atol=1e-6)
    np.testing.assert_array_equal(v_cache[slots], v)


def test_a_layer_of_one_token_for_each_sequence(ctx, rng):
    batch = Batch(rng, [1, 1])
    hidden, columns = 48, (HEADS + 2 * KV_HEADS) * DIM
    x = rng.standard_normal((2, hidden), np.float32)
    y = np.full_like(x, np.nan)
    norm = rng.standard_normal(hidden, np.float32)
    w_qkv = rng.standard_normal((columns, hidden), np.float32) / 7
    w_o = rng.standard_normal((hidden, HEADS * DIM), np.float32) / 16
    # Position 0 does not turn: what rotary embedding does is another test's.
    slots = np.array([7 * BLOCK + 36 % BLOCK, 1 * BLOCK + 63 % BLOCK], np.int64)  # the last tokens'
    positions = np.zeros(2, np.int32)
    none = Array(0, "f32", ())
    kv = (array(batch.k), array(batch.v))
    rope = ctx.rope(
        (none, Array(0, "f32", (2,)), none), kv, slots.ctypes.data, positions.ctypes.data, DIM, 1e4
    )
    weights = {"norm": array(norm), "w_qkv": array(w_qkv), "w_o": array(w_o)}
    layer = ctx.layer(
        array(x), array(y), weights, batch.attn(ctx, prefill=False), rope,
        q_heads=HEADS, norm_eps=1e-5,
    )  # fmt: skip
    size = ctx.layer_workspace_bytes(layer)
    space = np.empty(size + 64, np.uint8)
    layer.workspace = space.ctypes.data + -space.ctypes.data % 64
    layer.workspace_size = size
    ctx.run_layer(layer, None)

    h = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * norm
    q, k, v = np.split((h @ w_qkv.T).reshape(2, -1, DIM), [HEADS, HEADS + KV_HEADS], axis=1)
    np.testing.assert_allclose(batch.k.reshape(-1, KV_HEADS, DIM)[slots], k, atol=1e-5)
    np.testing.assert_allclose(batch.v.reshape(-1, KV_HEADS, DIM)[slots], v, atol=1e-5)
    batch.q = q
    np.testing.assert_allclose(y, batch.expected().reshape(2, -1) @ w_o.T, atol=1e-5)


def test_copies_and_swaps_over_memory_of_the_caller(lib, rng):
    layers, blocks = 2, 8
    size = (layers, 2, blocks, BLOCK, KV_HEADS, DIM)
    memory = np.empty(math.prod(size) + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    kv = memory[start : start + math.prod(size)].reshape(size)
    kv[:] = rng.standard_normal(size, np.float32)
    before = kv.copy()
    ctx = Context(
        lib, "cpu", kv_dtype="f32", num_blocks=blocks, block_size=BLOCK, num_layers=layers,
        num_kv_heads=KV_HEADS, head_dim=DIM, kv_memory=kv.ctypes.data, kv_memory_size=kv.nbytes,
    )  # fmt: skip
    k1, v1 = ctx.kv_arrays(1)
    assert (k1.data, v1.data) == (kv[1, 0].ctypes.data, kv[1, 1].ctypes.data)

    ctx.copy_blocks(int32s([1, 4, 6, 2]), None)
    np.testing.assert_array_equal(kv[:, :, [4, 2]], before[:, :, [1, 6]])
    np.testing.assert_array_equal(kv[:, :, [0, 1, 3, 5, 6, 7]], before[:, :, [0, 1, 3, 5, 6, 7]])

    chosen = [7, 0, 3]
    host = np.full((3, layers, 2, BLOCK, KV_HEADS, DIM), np.nan, np.float32)
    assert ctx.swap_bytes(3) == host.nbytes
    ctx.swap_out(int32s(chosen), host.ctypes.data, host.nbytes, None)
    np.testing.assert_array_equal(host, before[:, :, chosen].transpose(2, 0, 1, 3, 4, 5))
    ctx.swap_in(int32s([5, 6, 1]), host.ctypes.data, host.nbytes, None)
    np.testing.assert_array_equal(kv[:, :, [5, 6, 1]], before[:, :, chosen])
    ctx.close()
    ctx.close()  # no effect


def test_a_failed_call_says_which_and_why(ctx, rng):
    batch = Batch(rng, [1, 1])
    attn = batch.attn(ctx, prefill=False)
    attn.max_context_len = 40
    with pytest.raises(
        RadixError, match=r"radix_paged_attention_launch: INVALID: context_lens\[1\] is 64"
    ):
        ctx.decode(attn, None)
    assert np.isnan(batch.out).all()


def test_a_field_that_the_header_does_not_have_is_an_error(lib):
    with pytest.raises(AttributeError, match="radix_attn has no field num_tokens"):
        lib.struct("radix_attn", num_tokens=1)
    with pytest.raises(ValueError, match="at most 5 dimensions"):
        tensor(lib, Array(0, "f32", (1,) * 6))
