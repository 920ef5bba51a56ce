"""Medians, interleaving, rotation and the budget."""

from __future__ import annotations

import math

import pytest

from gpubench import stats


def test_quantiles_lie_between_the_sorted_values():
    values = [4.0, 1.0, 3.0, 2.0]
    assert [stats.quantile(values, q) for q in (0, 0.25, 0.5, 1)] == [1.0, 1.75, 2.5, 4.0]
    assert stats.quantile([7.0], 0.75) == 7.0
    assert math.isnan(stats.quantile([], 0.5))


def test_a_summary_has_median_spread_and_minimum():
    summary = stats.summarize([10.0, 12.0, 11.0, 14.0, 9.0])
    assert (summary.median, summary.p25, summary.p75) == (11.0, 10.0, 12.0)
    assert (summary.minimum, summary.runs) == (9.0, 5)
    assert summary.spread == pytest.approx(2 / 11)
    with pytest.raises(ValueError, match="no samples"):
        stats.summarize([])


@pytest.mark.parametrize(
    ("seconds", "repeats"), [(1.0, 1), (0.5e-3, 1), (0.1e-3, 5), (1e-7, 64), (0.0, 64)]
)
def test_short_launches_are_repeated_within_a_sample(seconds, repeats):
    assert stats.repeats_for(seconds) == repeats


def test_rounds_take_one_sample_of_each_in_turn_after_the_warm_up():
    order = []

    def sampler(name, seconds):
        def sample(repeats):
            order.append((name, repeats))
            return seconds

        return sample

    a, b = sampler("a", 0.25e-3), sampler("b", 2.0)
    first, second = stats.interleaved([a, b], 4, lambda: False)
    assert (first.median, second.median) == (0.25e-3, 2.0)
    assert (first.runs, second.runs) == (4, 4)
    warm = [("a", 2), *[("a", 1)] * 3, ("b", 2), *[("b", 1)] * 3]
    assert order == warm + [("a", 2), ("b", 1)] * 4


def test_rounds_stop_early_but_not_before_the_third():
    assert stats.interleaved([lambda n: 1.0], 9, lambda: True)[0].runs == 3


@pytest.mark.parametrize(
    ("each", "l2", "room", "sets"),
    [
        (100, 10, 1000, 2),  # larger than the cache: two, so that one's end is not the next's start
        (10, 10, 1000, 4),  # four times the cache
        (1, 1000, 10**6, 512),  # at most 512
        (100, 10, 150, 1),  # room for one
        (100, 10, 99, 0),  # for none
    ],
)
def test_rotation_passes_the_cache_within_the_room(each, l2, room, sets):
    assert stats.rotation(each, l2, room) == sets


def test_a_task_starts_when_the_longest_of_its_kind_fits():
    now = [100.0]
    budget = stats.Budget(10.0, lambda: now[0], started=98.0, expected={"slow": 9.0})
    assert budget.left() == 8.0
    assert budget.fits("new")
    assert not budget.fits("slow")
    budget.took("decode", 5.0)
    budget.took("decode", 1.0)  # the longest counts
    assert budget.fits("decode")  # 1.2 * 5 + 0.5 < 8
    now[0] = 102.0
    assert not budget.fits("decode")
    assert budget.fits("new")
    now[0] = 107.9
    assert not budget.fits("new")
