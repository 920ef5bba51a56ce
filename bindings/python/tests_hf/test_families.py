"""Every family through the engine: tokens and logits of transformers' own attention.

Largest difference of logits seen: 1.4e-5, of f32 logits up to 7; see TOLERANCE.
"""

from __future__ import annotations

import pytest
import torch
from families import baseline, baseline_logits, make_model, tokens

import radixattn as rx
import radixattn.hf.engine as engine_module
from radixattn.hf import Engine, SamplingParams, make_context

TOLERANCE = 5e-5
NEW = 10
GREEDY = SamplingParams(max_new_tokens=NEW)
SHARED = tokens(21, 1)


def prompts_of(batch: int, shared: bool) -> list[list[int]]:
    """Prompts of different lengths, longer than the windows; of 2 and more some are equal."""
    head = SHARED if shared else []
    prompts = [head + tokens(3 + 5 * i, 100 + i) for i in range(batch)]
    if batch > 2:
        prompts[2] = prompts[1]
    return prompts


@pytest.fixture
def logits_of(monkeypatch):
    """Every row of logits that an engine's sampler saw, by (request's params, index)."""
    seen = {}
    real = engine_module.sample

    def spy(ctx, logits, rows):
        for x, row in zip(logits, rows, strict=True):
            seen[row.params.seed, len(row.tokens) - row.prompt_len] = x.clone()
        return real(ctx, logits, rows)

    monkeypatch.setattr(engine_module, "sample", spy)
    return seen


@pytest.mark.parametrize("how", ["sdpa", "eager"])
def test_tokens_equal_those_of_transformers(model, how):
    prompts = prompts_of(8, shared=True)
    expected = {tuple(p): baseline(model, p, NEW, how) for p in prompts}
    with Engine(model, num_blocks=256, block_size=4) as engine:
        for batch in range(1, 9):
            outputs = engine.generate(prompts[:batch], GREEDY)
            assert [o.token_ids for o in outputs] == [expected[tuple(p)] for p in prompts[:batch]]
        assert all(o.cached_tokens >= len(SHARED) - 1 for o in outputs)
        engine.ctx.check()


@pytest.mark.parametrize("shared", [False, True])
def test_logits_equal_those_of_transformers(model, logits_of, shared):
    prompts = prompts_of(4, shared)
    params = [SamplingParams(max_new_tokens=NEW, seed=i) for i in range(4)]
    worst = 0.0
    with Engine(model, num_blocks=256, block_size=4) as engine:
        for _ in range(2):  # computed, then cached
            outputs = engine.generate(prompts, params)
            for i, output in enumerate(outputs):
                whole = baseline_logits(model, prompts[i] + output.token_ids)
                ours = torch.stack([logits_of[i, n] for n in range(NEW)])
                theirs = whole[len(prompts[i]) - 1 : -1]
                worst = max(worst, float((ours - theirs).abs().max()))
            logits_of.clear()
    assert worst < TOLERANCE


def test_chunked_prompts_give_the_same_tokens(model):
    prompts = prompts_of(6, shared=True)
    expected = [baseline(model, p, NEW) for p in prompts]
    with Engine(model, num_blocks=256, block_size=4, max_batch_tokens=9, max_num_seqs=6) as engine:
        outputs = engine.generate(prompts, GREEDY)
    assert [o.token_ids for o in outputs] == expected


def test_preempted_requests_resume_with_the_same_tokens(model):
    prompts = prompts_of(5, shared=False)
    expected = [baseline(model, p, 20) for p in prompts]
    with Engine(model, num_blocks=18, block_size=4, prefix_caching=True) as engine:
        outputs = engine.generate(prompts, SamplingParams(max_new_tokens=20))
        stats = engine.ctx.stats()
        engine.ctx.check()
    assert [o.token_ids for o in outputs] == expected
    assert sum(o.preemptions for o in outputs) > 0
    assert stats.blocks_evicted > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_stay_close(model, logits_of, dtype):
    half = model.__class__(model.config).to(dtype).eval()
    half.load_state_dict(model.state_dict())
    prompt = tokens(40, 7)
    with Engine(half, num_blocks=64, block_size=4) as engine:
        engine.generate([prompt[:30]], SamplingParams(max_new_tokens=1, seed=9))
        engine.generate([prompt], SamplingParams(max_new_tokens=1, seed=0))
    ours = logits_of[0, 0].float()
    exact = baseline_logits(model, prompt)[-1]
    theirs = baseline_logits(half, prompt)[-1].float()
    # About as far from the f32 logits as transformers' own attention in this dtype.
    assert (ours - exact).abs().max() < 2 * (theirs - exact).abs().max() + 0.05


@pytest.mark.parametrize(("kv_dtype", "tolerance"), [("f16", 0.02), ("bf16", 0.2)])
def test_a_cache_of_half_precision_under_an_f32_model(logits_of, kv_dtype, tolerance):
    model, prompt = make_model("llama"), tokens(40, 7)
    with Engine(model, num_blocks=64, kv_dtype=kv_dtype) as engine:
        engine.generate([prompt], SamplingParams(max_new_tokens=1, seed=0))
    difference = (logits_of[0, 0] - baseline_logits(model, prompt)[-1]).abs().max()
    assert TOLERANCE < difference < tolerance


def test_a_context_fits_the_model_when_nothing_is_said():
    model = make_model("gemma2")
    with make_context(model) as ctx:
        config = ctx.config
    assert (config.num_layers, config.num_kv_heads, config.head_dim) == (3, 2, 32)
    assert (config.num_blocks * config.block_size, config.kv_dtype) == (65536, rx.DType.F32)
    with make_context(model, memory_budget=1 << 20, block_size=8) as ctx:
        assert ctx.config.num_blocks == (1 << 20) // (8 * 3 * 2 * 2 * 32 * 4)
