"""The attention layer against numpy in float64, and against itself in every form of a step."""

from __future__ import annotations

import numpy as np
import pytest

import radixattn as rx

HIDDEN, DIM, KV_HEADS, ROTARY = 48, 32, 2, 32


class Model:
    """One layer as Llama and Qwen3 have it, its embedding, and what it computes without a cache."""

    def __init__(self, rng, *, heads=4, bias=False, norm=True, head_norms=False, dtype=np.float32):
        self.heads = heads

        def random(*shape, scale=None):
            scale = 1.5 / np.sqrt(shape[-1]) if scale is None else scale
            return (scale * rng.standard_normal(shape)).astype(dtype)

        self.embedding = rng.standard_normal((100, HIDDEN)).astype(np.float32)
        self.weights = {
            "w_q": random(heads * DIM, HIDDEN),
            "w_k": random(KV_HEADS * DIM, HIDDEN),
            "w_v": random(KV_HEADS * DIM, HIDDEN),
            "w_o": random(HIDDEN, heads * DIM),
        }
        for name in ("q", "k", "v", "o") if bias else ():
            self.weights["b_" + name] = random(len(self.weights["w_" + name]), scale=0.3)
        if norm:
            self.weights["norm"] = 1 + random(HIDDEN, scale=0.3)
        for name in ("q_norm", "k_norm") if head_norms else ():
            self.weights[name] = 1 + random(DIM, scale=0.3)

    def x(self, tokens):
        return self.embedding[np.asarray(tokens)]

    def _normed(self, x, name):
        if name not in self.weights:
            return x
        rms = np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
        return x / rms * self.weights[name].astype(np.float64)

    def _product(self, x, name):
        y = x @ self.weights["w_" + name].astype(np.float64).T
        return (
            y + self.weights["b_" + name].astype(np.float64) if "b_" + name in self.weights else y
        )

    def expected(self, tokens, first, reference):
        """y of tokens [first, len) in float64."""
        h = self._normed(self.x(tokens).astype(np.float64), "norm")
        q, k, v = (self._product(h, name).reshape(len(tokens), -1, DIM) for name in "qkv")
        q, k = turned(self._normed(q, "q_norm")), turned(self._normed(k, "k_norm"))
        heads, _ = reference(q[first:], k, v)
        return self._product(heads.reshape(len(tokens) - first, -1), "o")


def turned(x):
    """NeoX pairs, theta 10000, positions from 0."""
    half = ROTARY // 2
    angles = np.arange(len(x))[:, None, None] * 10000.0 ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], axis=-1
    )


class Steps:
    """Requests of a context; each call is what one step of some of them needs."""

    def __init__(self, ctx, model):
        self.ctx, self.model, self.tokens = ctx, model, {}

    def begin(self, tokens):
        request = self.ctx.begin(tokens)
        self.tokens[request] = list(tokens[: request.match.cached_tokens])
        return request

    def rows(self, jobs, *, decode):
        """LayerRows of [(request, new tokens)], and the rows of x."""
        slots, positions, fresh = [], [], []
        cu = [0]
        for request, new in jobs:
            reserved = request.append(np.array(new, np.int32))
            self.ctx.run_ops(reserved.ops)
            have = len(self.tokens[request])
            slots += reserved.slots.tolist()
            positions += range(have, have + len(new))
            fresh += new
            cu.append(len(fresh))
            self.tokens[request] += new
        tables, lens = self.ctx.block_tables([request for request, _ in jobs])
        rows = rx.LayerRows(
            lens, slots, positions, cu_q_lens=None if decode else cu, block_tables=tables,
            rotary_dim=ROTARY,
        )  # fmt: skip
        return rows, fresh

    def layer(self, decode=(), prefill=(), **options):
        parts, fresh = {}, []
        for name, jobs in (("decode", decode), ("prefill", prefill)):
            if jobs:
                parts[name], tokens = self.rows(jobs, decode=name == "decode")
                fresh += tokens
        x = self.model.x(fresh)
        options = {"num_q_heads": self.model.heads, **self.model.weights, **options}
        return self.ctx.layer(x, **parts, **options)


@pytest.fixture
def model(rng):
    return Model(rng)


def close(y, expected, atol=3e-5):
    np.testing.assert_allclose(y, expected, atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    "shape", [{}, {"bias": True}, {"head_norms": True}, {"heads": 8, "norm": False}, {"heads": 2}]
)
def test_prompts_steps_and_both_at_once(ctx, rng, reference, shape, dtype):
    model = Model(rng, dtype=dtype, **shape)
    steps = Steps(ctx, model)
    a = steps.begin(range(11))
    y = steps.layer(prefill=[(a, list(range(11)))])
    close(y, model.expected(steps.tokens[a], 0, reference))
    a.commit()
    b = steps.begin([*range(9), 40, 41, 42])
    assert b.match.cached_tokens == 8
    y = steps.layer(decode=[(a, [50])], prefill=[(b, [8, 40, 41, 42])])
    close(y[:1], model.expected(steps.tokens[a], 11, reference))
    close(y[1:], model.expected(steps.tokens[b], 8, reference))
    y = steps.layer(decode=[(a, [51]), (b, [52])])
    close(y[0], model.expected(steps.tokens[a], 12, reference)[0])
    close(y[1], model.expected(steps.tokens[b], 12, reference)[0])


def test_a_chunked_prompt_gives_the_same_bits(make_ctx, model):
    whole, chunked = (Steps(make_ctx(), model) for _ in range(2))
    tokens = list(range(40))
    expected = whole.layer(prefill=[(whole.begin(tokens), tokens)])
    request = chunked.begin(tokens)
    parts = [tokens[:7], tokens[7:8], tokens[8:33], tokens[33:]]
    y = np.concatenate([chunked.layer(prefill=[(request, part)]) for part in parts])
    assert np.array_equal(y, expected)


def test_fused_weights_give_the_same_bits(make_ctx, rng):
    model = Model(rng, bias=True)
    apart, fused = (Steps(make_ctx(), model) for _ in range(2))
    tokens = list(range(10))
    expected = apart.layer(prefill=[(apart.begin(tokens), tokens)])
    w = model.weights
    options = {
        "w_qkv": np.concatenate([w["w_q"], w["w_k"], w["w_v"]]),
        "b_qkv": np.concatenate([w["b_q"], w["b_k"], w["b_v"]]),
        **dict.fromkeys(["w_q", "w_k", "w_v", "b_q", "b_k", "b_v"]),
    }
    assert np.array_equal(fused.layer(prefill=[(fused.begin(tokens), tokens)], **options), expected)


def test_bfloat16_in_and_out(ctx, rng, reference):
    model = Model(rng)

    def bits(x):  # truncated, so that both sides have the same numbers
        return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)

    def numbers(b):
        return (np.asarray(b).view(np.uint16).astype(np.uint32) << 16).view(np.float32)

    model.embedding = numbers(bits(model.embedding))
    model.weights = {name: numbers(bits(w)) for name, w in model.weights.items()}
    steps = Steps(ctx, model)
    tokens = list(range(9))
    rows, fresh = steps.rows([(steps.begin(tokens), tokens)], decode=False)
    weights = {name: rx.bf16(bits(w)) for name, w in model.weights.items()}
    y = ctx.layer(rx.bf16(bits(model.x(fresh))), num_q_heads=4, prefill=rows, **weights)
    close(numbers(y), model.expected(tokens, 0, reference), atol=2e-2)


def test_x_itself_and_the_residual(make_ctx, model):
    apart, in_place = (Steps(make_ctx(), model) for _ in range(2))
    tokens = list(range(6))
    expected = apart.layer(prefill=[(apart.begin(tokens), tokens)])
    rows, fresh = in_place.rows([(in_place.begin(tokens), tokens)], decode=False)
    x = model.x(fresh)
    residual = x.copy()
    y = in_place.ctx.layer(
        x, num_q_heads=4, prefill=rows, y=x, add=True, norm_eps=1e-6, **model.weights
    )
    assert y is x
    close(x, residual + expected, atol=1e-6)


def test_gemma_s_norm_weights(make_ctx, model):
    one, other = (Steps(make_ctx(), model) for _ in range(2))
    tokens = list(range(6))
    expected = one.layer(prefill=[(one.begin(tokens), tokens)])
    y = other.layer(
        prefill=[(other.begin(tokens), tokens)],
        norm=model.weights["norm"] - 1,
        norm_plus_one=True,
    )
    close(y, expected, atol=1e-5)


def test_plans(make_ctx, model):
    tables, planned = (Steps(make_ctx(), model) for _ in range(2))
    prompt = list(range(9))
    for steps in (tables, planned):
        steps.request = steps.begin(prompt)
        steps.layer(prefill=[(steps.request, prompt)])
    expected = tables.layer(decode=[(tables.request, [50])])
    ctx = planned.ctx
    ctx.run_ops(planned.request.append([50]).ops)
    with ctx.plan(max_seqs=2, num_q_heads=4) as plan:
        plan.update([planned.request])
        rows = rx.LayerRows(plan=plan, rotary_dim=ROTARY)
        y = ctx.layer(model.x([50]), num_q_heads=4, decode=rows, **model.weights)
        assert np.array_equal(y, expected)
        with pytest.raises(ValueError, match="prefill has no cu_q_lens"):
            ctx.layer(model.x([50]), num_q_heads=4, prefill=rows, **model.weights)


def test_own_products(make_ctx, rng):
    model = Model(rng, bias=True)
    library, own = (Steps(make_ctx(), model) for _ in range(2))
    tokens = list(range(7))
    expected = library.layer(prefill=[(library.begin(tokens), tokens)])
    seen = []

    def gemm(g):
        seen.append((g.x.shape, g.weight.shape, g.add, g.stream))
        assert g.struct.struct_size == rx.struct_size("radix_gemm")
        product = g.x @ g.weight.T + g.bias
        g.y[:] = g.y + product if g.add else product

    y = own.layer(prefill=[(own.begin(tokens), tokens)], gemm=gemm, add=True)
    close(y, expected)
    q, kv = 4 * DIM, KV_HEADS * DIM
    assert seen == [
        ((7, HIDDEN), (q, HIDDEN), False, 0),
        ((7, HIDDEN), (kv, HIDDEN), False, 0),
        ((7, HIDDEN), (kv, HIDDEN), False, 0),
        ((7, q), (HIDDEN, q), True, 0),
    ]


def test_a_product_that_raises(ctx, model):
    steps = Steps(ctx, model)

    def gemm(_product):
        raise ZeroDivisionError("no product today")

    with pytest.raises(rx.CallbackError, match="w_q") as caught:
        steps.layer(prefill=[(steps.begin([1, 2]), [1, 2])], gemm=gemm)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_products_with_bfloat16_weights(ctx, rng):
    model = Model(rng, norm=False)
    steps = Steps(ctx, model)
    kinds = []
    rows, fresh = steps.rows([(steps.begin([1, 2]), [1, 2])], decode=False)
    weights = {name: rx.bf16(np.zeros(w.shape, np.uint16)) for name, w in model.weights.items()}
    ctx.layer(
        model.x(fresh), num_q_heads=4, prefill=rows, **weights,
        gemm=lambda g: (kinds.append((g.weight.dtype, g.weight.shape)), g.y.fill(0)),
    )  # fmt: skip
    assert {kind for kind, _ in kinds} == {rx.numpy_dtype(rx.DType.BF16)}
    assert kinds[-1][1] == (HIDDEN, 4 * DIM)


def test_the_workspace(ctx, model):
    steps = Steps(ctx, model)
    rows, fresh = steps.rows([(steps.begin([1, 2]), [1, 2])], decode=False)
    x = model.x(fresh)
    needed = ctx.layer_workspace(x, num_q_heads=4, prefill=rows, **model.weights)
    assert needed > 0
    expected = ctx.layer(x, num_q_heads=4, prefill=rows, **model.weights)
    space = rx.aligned_memory(needed)
    given = {"num_q_heads": 4, "prefill": rows, "workspace": space, **model.weights}
    assert np.array_equal(ctx.layer(x, **given), expected)
    given["workspace"] = space[: needed - 1]
    with pytest.raises(rx.BufferTooSmallError) as caught:
        ctx.layer(x, **given)
    assert caught.value.needed == needed


def test_two_ranks_sum_to_one(make_ctx, rng):
    model = Model(rng, heads=4, bias=True)
    single = Steps(make_ctx(), model)
    tokens = list(range(12))
    expected = single.layer(prefill=[(single.begin(tokens), tokens)])
    total = 0
    for rank in range(2):
        steps = Steps(make_ctx(num_kv_heads=1), model)
        rows, fresh = steps.rows([(steps.begin(tokens), tokens)], decode=False)
        q, kv = slice(rank * 2 * DIM, (rank + 1) * 2 * DIM), slice(rank * DIM, (rank + 1) * DIM)
        w = dict(model.weights)
        w.update(w_q=w["w_q"][q], b_q=w["b_q"][q], w_o=w["w_o"][:, q])
        w.update({name: w[name][kv] for name in ("w_k", "w_v", "b_k", "b_v")})
        if rank != 0:
            del w["b_o"]
        total = total + steps.ctx.layer(model.x(fresh), num_q_heads=2, prefill=rows, **w)
    close(total, expected)


def test_misuse(ctx, model):
    steps = Steps(ctx, model)
    request = steps.begin([1, 2])
    rows, fresh = steps.rows([(request, [1, 2])], decode=False)
    x = model.x(fresh)
    given = {"num_q_heads": 4, "prefill": rows, **model.weights}
    with pytest.raises(TypeError, match=r"unknown option.*w_z"):
        ctx.layer(x, **given, w_z=x)
    with pytest.raises(ValueError, match="x has shape"):
        ctx.layer(x[0], **given)
    with pytest.raises(ValueError, match="decode has a cu_q_lens"):
        ctx.layer(x, **{**given, "decode": rows, "prefill": None})
    with pytest.raises(rx.InvalidArgumentError, match="w_o"):
        ctx.layer(x, **{**given, "w_o": x})
    with pytest.raises(rx.InvalidArgumentError, match="decode and d->prefill are NULL"):
        ctx.layer(x, **{**given, "prefill": None})
    with pytest.raises(ValueError, match="positions has 1 entries"):
        ctx.layer(x, **{**given, "prefill": rx.LayerRows([2], [0, 1], [0], cu_q_lens=[0, 2],
                                                         block_tables=[[0]])})  # fmt: skip
    with pytest.raises(TypeError, match="the layer has its own out"):
        rx.LayerRows([2], [0, 1], out=x)
    with pytest.raises(TypeError, match="context_lens and slots, or plan"):
        rx.LayerRows([2])
    with (
        ctx.plan(max_seqs=2, num_q_heads=4) as plan,
        pytest.raises(TypeError, match="the plan has its own slots"),
    ):
        rx.LayerRows(slots=[1], plan=plan)


def test_lse_of_a_part(ctx, model):
    steps = Steps(ctx, model)
    rows, fresh = steps.rows([(steps.begin([1, 2]), [1, 2])], decode=False)
    lse = np.full((2, 4), np.nan, np.float32)
    rows.options["lse"] = lse
    ctx.layer(model.x(fresh), num_q_heads=4, prefill=rows, **model.weights)
    assert np.isfinite(lse).all()
