"""How the next token is chosen. The only module that looks at logits.

Greedy rows take the highest logit, the lowest id of equal ones. Other rows draw with one uniform
number that depends on the seed and the index of the token alone: not on the batch, nor on whether
the request was preempted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class SamplingParams:
    """How a request generates.

    max_new_tokens  at most so many
    temperature     0 = greedy; else logits are divided by it
    top_k           > 0: only the k likeliest tokens, after temperature
    top_p           only the likeliest tokens whose probabilities together reach it (after top_k)
    seed            of the draws; None = 0: runs repeat
    stop            strings that end the text; they are not part of it
    stop_token_ids  tokens that end it, besides the model's own end-of-sequence tokens
    ignore_eos      generate past end-of-sequence tokens
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = field(default=())
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, fine, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("seed", self.seed is None or 0 <= self.seed < 2**64, "0 to 2^64 - 1"),
            ("stop", all(self.stop), "strings that are not empty"),
        ):
            if not fine:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {expected}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def sample(
    logits: torch.Tensor, params: Sequence[SamplingParams], indices: Sequence[int]
) -> list[int]:
    """The next token of each row.

    logits   [rows, vocabulary]
    params   one a row
    indices  which generated token of its request each row makes, from 0
    """
    tokens: list[int] = torch.argmax(logits, dim=-1).tolist()
    for row, (how, index) in enumerate(zip(params, indices, strict=True)):
        if not how.greedy:
            tokens[row] = _draw(logits[row], how, index)
    return tokens


def _draw(logits: torch.Tensor, how: SamplingParams, index: int) -> int:
    """A token of one row, [vocabulary]."""
    scores, ids = torch.sort(logits.double() / how.temperature, descending=True, stable=True)
    if how.top_k:
        scores, ids = scores[: how.top_k], ids[: how.top_k]
    probabilities = torch.softmax(scores, dim=-1)
    total = torch.cumsum(probabilities, dim=-1)
    # The token that reaches top_p is the last one kept.
    kept = int((total < how.top_p).sum()) + 1 if how.top_p < 1 else len(total)
    total = total[:kept]
    point = _uniform(how.seed or 0, index) * float(total[-1])
    return int(ids[min(int((total <= point).sum()), len(total) - 1)])


def _uniform(seed: int, index: int) -> float:
    """A number in [0, 1) of (seed, index)."""
    return float(np.random.Generator(np.random.Philox(key=[seed, index])).random())
