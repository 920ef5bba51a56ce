"""sample(): against distributions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import radixattn as rx
from radixattn.enums import RowStatus
from radixattn.hf import SamplingParams
from radixattn.hf.sampling import Row, sample

LOGITS = torch.tensor([0.5, 2.0, -1.0, 2.0, 1.0])


@pytest.fixture(scope="module", autouse=True)
def ctx():
    with rx.Context(num_blocks=1, metadata_only=True) as context:
        yield context


@pytest.fixture
def draws(ctx):
    def run(params: dict, n: int = 4000) -> list[float]:
        """How often each token comes."""
        how = SamplingParams(seed=3, **params)
        counts = [0] * len(LOGITS)
        rows = [Row(how, range(i), i) for i in range(n)]  # positions of their own
        for choice in sample(ctx, LOGITS.expand(n, -1).contiguous(), rows):
            counts[choice.token] += 1
        return [count / n for count in counts]

    return run


def greedy(ctx, tokens=(), prompt_len=0, logits=LOGITS, **params):
    [choice] = sample(ctx, logits[None], [Row(SamplingParams(**params), tokens, prompt_len)])
    return choice


def test_greedy_takes_the_lowest_id_of_equal_logits(ctx):
    assert greedy(ctx).token == 1


def test_nothing_to_choose_is_nothing(ctx):
    assert sample(ctx, LOGITS[:0, None], []) == []


def test_penalties_and_bias_change_the_likeliest(ctx):
    assert greedy(ctx, [1], 1, repetition_penalty=1.1).token == 3
    assert greedy(ctx, [1], 1, presence_penalty=0.5).token == 1  # of the output only
    assert greedy(ctx, [1], 0, presence_penalty=0.5).token == 3
    assert greedy(ctx, [1, 3, 3], 0, frequency_penalty=0.2).token == 1
    assert greedy(ctx, logit_bias={1: -math.inf, 0: 1.6}).token == 0


def test_rows_keep_their_parameters_apart(ctx):
    rows = [
        Row(SamplingParams(), [1, 1], 0),
        Row(SamplingParams(frequency_penalty=1.0), [1, 3, 4], 0),
        Row(SamplingParams(logit_bias={2: 9.0}), [1], 1),
        Row(SamplingParams(repetition_penalty=5.0, logit_bias={4: 0.5}), [1, 3], 2),
    ]
    choices = sample(ctx, LOGITS.expand(4, -1).contiguous(), rows)
    assert [c.token for c in choices] == [1, 1, 2, 4]


def test_logprobs_are_the_models_own(ctx):
    logprobs = torch.log_softmax(LOGITS, 0)
    choice = greedy(ctx, logprobs=3, logit_bias={0: 9.0})
    assert choice.token == 0
    assert math.isclose(choice.logprob, float(logprobs[0]), abs_tol=1e-5)
    assert list(choice.top_logprobs) == [1, 3, 4]
    for token, logprob in choice.top_logprobs.items():
        assert math.isclose(logprob, float(logprobs[token]), abs_tol=1e-5)
    assert greedy(ctx, logprobs=128).top_logprobs.keys() == set(range(5))
    assert greedy(ctx, logprobs=0).top_logprobs == {}


def test_a_row_without_a_choice_says_why(ctx):
    nan = torch.full((5,), math.nan)
    assert greedy(ctx, logits=nan)[:2] == (-1, RowStatus.NAN)
    banned = dict.fromkeys(range(5), -math.inf)
    assert greedy(ctx, logit_bias=banned)[:2] == (-1, RowStatus.EMPTY)
    assert greedy(ctx, logit_bias={5: 1.0})[:2] == (-1, RowStatus.PARAMETER)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_are_those_of_softmax(draws, temperature):
    expected = torch.softmax(LOGITS / temperature, 0)
    for ours, wanted in zip(draws({"temperature": temperature}), expected.tolist(), strict=True):
        assert abs(ours - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 4000)


def test_top_k_keeps_the_k_likeliest(draws):
    kept = [i for i, f in enumerate(draws({"temperature": 2.0, "top_k": 3})) if f]
    assert kept == [1, 3, 4]
    kept = [i for i, f in enumerate(draws({"temperature": 2.0, "top_k": 1})) if f]
    assert kept == [1]


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, [1]), (0.6, [1, 3]), (0.8, [1, 3, 4])])
def test_top_p_keeps_the_token_that_reaches_it(draws, top_p, kept):
    # softmax: 0.093, 0.416, 0.021, 0.416, 0.153 -> sums 0.416, 0.733, 0.886 after renaming
    probabilities = torch.softmax(LOGITS, 0)
    sums = probabilities[torch.tensor([1, 3, 4, 0, 2])].cumsum(0).tolist()
    assert sums[len(kept) - 1] >= top_p > (sums[len(kept) - 2] if len(kept) > 1 else 0)
    assert [i for i, f in enumerate(draws({"temperature": 1.0, "top_p": top_p})) if f] == kept


def test_min_p_and_typical_p_cut(draws):
    # p 0.084, 0.379, 0.019, 0.379, 0.139; |-ln p - entropy| 1.18, 0.32, 2.68, 0.32, 0.68
    assert [i for i, f in enumerate(draws({"temperature": 1.0, "min_p": 0.3})) if f] == [1, 3, 4]
    assert [i for i, f in enumerate(draws({"temperature": 1.0, "typical_p": 0.3})) if f] == [1]
    kept = [i for i, f in enumerate(draws({"temperature": 1.0, "typical_p": 0.8})) if f]
    assert kept == [1, 3, 4]


def test_a_draw_depends_on_seed_and_position_only(ctx):
    how = [SamplingParams(temperature=1.0, seed=s) for s in (1, 1, 2)]
    logits = LOGITS.expand(3, -1).contiguous()
    runs = [
        [c.token for c in sample(ctx, logits, [Row(h, range(i), 0) for h in how])]
        for i in range(50)
    ]
    assert all(a == b for a, b, _ in runs)
    assert any(a != c for a, _, c in runs)
    assert len({a for a, _, _ in runs}) > 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0), ("temperature", -0.1), ("temperature", math.inf), ("top_k", -1),
        ("top_p", 0.0), ("top_p", 1.5), ("seed", -1), ("stop", [""]), ("min_p", 1.1),
        ("typical_p", 0.0), ("repetition_penalty", 0.0), ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf), ("logit_bias", {1: math.inf}), ("logprobs", 129),
        ("logit_bias", {2**31: 1.0}), ("logit_bias", {-1: 1.0}), ("logit_bias", {"7": 1.0}),
        ("logit_bias", {1: 1e39}), ("top_p", 1e-46), ("typical_p", 1e-46), ("temperature", 1e-46),
        ("temperature", 1e39), ("repetition_penalty", 1e39), ("presence_penalty", -1e39),
        ("top_k", 2.7), ("seed", 2.7), ("seed", 2.0), ("max_new_tokens", 2.7), ("logprobs", 2.7),
    ],
)  # fmt: skip
def test_bad_parameters_name_themselves(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*: expected"):
        SamplingParams(**{name: value})


def test_whole_numbers_of_numpy_are_taken(ctx):
    how = SamplingParams(top_k=np.int32(3), seed=np.uint64(2**63), max_new_tokens=np.int64(2))
    assert sample(ctx, torch.zeros(1, 8), [Row(how, [1], 1)])[0].token == 0
