"""Medians, spread, interleaved rounds and a budget of seconds. Pure: clocks are handed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_SAMPLE_SECONDS = 0.5e-3  # a sample repeats short launches until it lasts about this long
MAX_REPEATS = 64
MAX_SETS = 512


def quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between the sorted values; q in [0, 1]. NaN for none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


@dataclass(frozen=True)
class Summary:
    """Seconds of one launch over the rounds of a run."""

    median: float
    p25: float
    p75: float
    minimum: float
    runs: int

    @property
    def spread(self) -> float:
        """The middle half of the samples, as a fraction of the median."""
        return (self.p75 - self.p25) / self.median


def summarize(samples: Sequence[float]) -> Summary:
    if not samples:
        raise ValueError("no samples to summarize")
    median, p25, p75 = (quantile(samples, q) for q in (0.5, 0.25, 0.75))
    return Summary(median, p25, p75, minimum=min(samples), runs=len(samples))


def repeats_for(seconds: float) -> int:
    """Launches of a sample, from the time of one."""
    if not seconds > 0:
        return MAX_REPEATS
    return max(1, min(MAX_REPEATS, math.ceil(MIN_SAMPLE_SECONDS / seconds)))


# A sampler runs a number of launches and says how many seconds one took.
Sampler = Callable[[int], float]


def interleaved(
    samplers: Sequence[Sampler], rounds: int, stop: Callable[[], bool]
) -> list[Summary]:
    """One round takes one sample of each in turn, so that what disturbs one disturbs all.

    Each is warmed up first, and its repeats follow from three single launches. `stop` ends the
    rounds early, but never before the third.
    """
    repeats = []
    for sample in samplers:
        sample(2)
        repeats.append(repeats_for(quantile([sample(1) for _ in range(3)], 0.5)))
    samples: list[list[float]] = [[] for _ in samplers]
    for done in range(rounds):
        if done >= 3 and stop():
            break
        for kept, sample, n in zip(samples, samplers, repeats, strict=True):
            kept.append(sample(n))
    return [summarize(s) for s in samples]


def rotation(bytes_each: int, l2_bytes: int, room: int) -> int:
    """How many sets of data launches walk in turn, so that none finds its own in the L2 cache.

    Together four times the cache, at least two sets where there is room. 0: not even one fits.
    """
    wanted = max(2, math.ceil(4 * l2_bytes / bytes_each))
    return max(0, min(wanted, MAX_SETS, room // bytes_each))


class Budget:
    """Seconds that a run may take. A task starts when the longest of its kind so far would fit
    (`expected`: of a kind that has not run)."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float],
        started: float | None = None,
        expected: dict[str, float] | None = None,
    ) -> None:
        self._clock = clock
        self._end = (clock() if started is None else started) + seconds
        self._longest = dict(expected or {})

    def left(self) -> float:
        return self._end - self._clock()

    def fits(self, kind: str) -> bool:
        return self.left() > 1.2 * self._longest.get(kind, 0.0) + 0.5

    def took(self, kind: str, seconds: float) -> None:
        self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))
