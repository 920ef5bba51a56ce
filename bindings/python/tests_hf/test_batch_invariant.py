"""Engine(batch_invariant=True): the bits of a request alone, computed whole, in every batch.

The model's products are made row by row, for torch's depend on how many rows there are.
"""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from families import make_config, tokens

import radixattn.hf.engine as engine_module
from radixattn.hf import Engine, SamplingParams

NEW = 4
SHARED = tokens(600, 3)  # more than two segments of 256
PROMPTS = [SHARED + tokens(3 + 40 * i, 200 + i) for i in range(4)]
PARAMS = [SamplingParams(max_new_tokens=NEW, seed=i) for i in range(4)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(12)
    config = make_config("qwen3", max_position_embeddings=1024)
    return tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(autouse=True)
def row_by_row(monkeypatch):
    real = torch.nn.functional.linear

    def linear(x, weight, bias=None):
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) == 0:  # a step that completes no prompt has no logits
            return real(x, weight, bias)
        made = [real(row[None], weight, bias) for row in rows]
        return torch.cat(made).view(*x.shape[:-1], -1)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)


@pytest.fixture
def logits(monkeypatch):
    """Logits by (request's seed, index of the token)."""
    seen = {}
    real = engine_module.sample

    def spy(ctx, rows_of_logits, rows):
        for x, row in zip(rows_of_logits, rows, strict=True):
            seen[row.params.seed, len(row.tokens) - row.prompt_len] = x.clone()
        return real(ctx, rows_of_logits, rows)

    monkeypatch.setattr(engine_module, "sample", spy)
    return seen


def run(model, logits, how, **options):
    """Logits of the prompts, together or one after the other, as one tensor."""
    with Engine(model, num_blocks=256, block_size=16, **options) as engine:
        if how == "together":
            outputs = engine.generate(PROMPTS, PARAMS)
        else:
            pairs = zip(PROMPTS, PARAMS, strict=True)
            outputs = [engine.generate([prompt], params)[0] for prompt, params in pairs]
        engine.ctx.check()
    made = torch.stack([logits[i, n] for i in range(4) for n in range(NEW)])
    logits.clear()
    return made, [o.cached_tokens for o in outputs]


def test_logits_have_the_bits_of_each_prompt_alone(model, logits):
    whole, cached = run(model, logits, "alone", prefix_caching=False, batch_invariant=True)
    assert cached == [0] * 4
    for how, options in (
        ("alone", {}),  # the second and later ones find the beginning cached
        ("together", {}),  # borrowed within a step, and read once for all
        ("together", {"prefix_caching": False}),
        ("together", {"max_batch_tokens": 97, "max_num_seqs": 3}),  # in chunks
        ("together", {"num_threads": 3}),
    ):
        made, cached = run(model, logits, how, batch_invariant=True, **options)
        assert any(cached) == options.get("prefix_caching", True)
        assert torch.equal(made, whole), (how, options)


def test_without_it_they_are_equal_to_rounding(model, logits):
    whole, _ = run(model, logits, "alone", prefix_caching=False)
    made, _ = run(model, logits, "together")
    assert not torch.equal(made, whole), "the prompts are too short for this test to say anything"
    assert float((made - whole).abs().max()) < 5e-5
