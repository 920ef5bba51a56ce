"""sample(): against distributions written out."""

from __future__ import annotations

import math

import pytest
import torch

from radixattn.hf import SamplingParams
from radixattn.hf.sampling import sample

LOGITS = torch.tensor([0.5, 2.0, -1.0, 2.0, 1.0])


def draws(params: dict, n: int = 4000) -> list[float]:
    """How often each token comes."""
    how = SamplingParams(seed=3, **params)
    counts = [0] * len(LOGITS)
    for token in sample(LOGITS.expand(n, -1), [how] * n, list(range(n))):
        counts[token] += 1
    return [count / n for count in counts]


def test_greedy_takes_the_lowest_id_of_equal_logits():
    assert sample(LOGITS[None], [SamplingParams()], [0]) == [1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_are_those_of_softmax(temperature):
    expected = torch.softmax(LOGITS / temperature, 0)
    for ours, wanted in zip(draws({"temperature": temperature}), expected.tolist(), strict=True):
        assert abs(ours - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 4000)


def test_top_k_keeps_the_k_likeliest():
    kept = [i for i, f in enumerate(draws({"temperature": 2.0, "top_k": 3})) if f]
    assert kept == [1, 3, 4]
    kept = [i for i, f in enumerate(draws({"temperature": 2.0, "top_k": 1})) if f]
    assert kept == [1]


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, [1]), (0.6, [1, 3]), (0.8, [1, 3, 4])])
def test_top_p_keeps_the_token_that_reaches_it(top_p, kept):
    # softmax: 0.093, 0.416, 0.021, 0.416, 0.153 -> sums 0.416, 0.733, 0.886 after renaming
    probabilities = torch.softmax(LOGITS, 0)
    sums = probabilities[torch.tensor([1, 3, 4, 0, 2])].cumsum(0).tolist()
    assert sums[len(kept) - 1] >= top_p > (sums[len(kept) - 2] if len(kept) > 1 else 0)
    assert [i for i, f in enumerate(draws({"temperature": 1.0, "top_p": top_p})) if f] == kept


def test_a_draw_depends_on_seed_and_index_only():
    how = [SamplingParams(temperature=1.0, seed=s) for s in (1, 1, 2)]
    rows = LOGITS.expand(3, -1)
    runs = [sample(rows, how, [i, i, i]) for i in range(50)]
    assert all(a == b for a, b, _ in runs)
    assert any(a != c for a, _, c in runs)
    assert len({a for a, _, _ in runs}) > 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0), ("temperature", -0.1), ("temperature", math.inf), ("top_k", -1),
        ("top_p", 0.0), ("top_p", 1.5), ("seed", -1), ("stop", [""]),
    ],
)  # fmt: skip
def test_bad_parameters_name_themselves(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*: expected"):
        SamplingParams(**{name: value})
