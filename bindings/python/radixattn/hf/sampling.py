"""How the next token is chosen: the library's sampling, with the parameters of each request.

A token depends on its logits, its request's parameters and seed, and its position alone: not on the
batch, nor on whether the request was preempted or its prefix found cached. What each parameter
means, and in which order they act: docs/sampling.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch

from radixattn.context import Context
from radixattn.enums import RowStatus

_MAX_TOP = 128


@dataclass(frozen=True)
class SamplingParams:
    """How a request generates.

    max_new_tokens      at most so many
    temperature         0 = greedy, the likeliest token; else logits are divided by it
    top_k               > 0: only the k likeliest tokens
    top_p               only the likeliest tokens whose probabilities together reach it
    min_p               only tokens with at least this share of the likeliest one's probability
    typical_p           only the most typical tokens whose probabilities together reach it
    repetition_penalty  > 1: tokens of prompt and output lose likelihood, each once
    presence_penalty    taken from the logits of tokens that stand in the output
    frequency_penalty   the same, as often as they stand there
    logit_bias          {token id: what is added to its logit}; -inf bans it
    seed                of the draws; None = 0: runs repeat
    logprobs            None: none; n: the log-probability of each token, and of the n likeliest
                        (0 to 128), in the model's own distribution
    stop                strings that end the text; they are not part of it
    stop_token_ids      tokens that end it, besides the model's own end-of-sequence tokens
    ignore_eos          generate past end-of-sequence tokens
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = field(default=())
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("max_new_tokens", "top_k", "seed", "logprobs"):
            value = getattr(self, name)
            if not isinstance(value, Integral | None):
                raise ValueError(f"{name} is {value!r}: expected a whole number")
        infinity, f32 = float("inf"), _as_f32
        for name, fine, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            (
                "temperature",
                self.temperature == 0 or 0 < f32(self.temperature) < infinity,
                "0 (greedy) or more",
            ),
            ("top_k", 0 <= self.top_k < 2**31, "0 (all) or more"),
            ("top_p", 0 < f32(self.top_p) <= 1, "more than 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 (all) to 1"),
            ("typical_p", 0 < f32(self.typical_p) <= 1, "more than 0, at most 1"),
            ("repetition_penalty", 0 < f32(self.repetition_penalty) < infinity, "more than 0"),
            ("presence_penalty", abs(f32(self.presence_penalty)) < infinity, "a finite number"),
            ("frequency_penalty", abs(f32(self.frequency_penalty)) < infinity, "a finite number"),
            (
                "logit_bias",
                all(
                    isinstance(token, int) and 0 <= token < 2**31 and f32(value) < infinity
                    for token, value in self.logit_bias.items()
                ),
                "token ids, and finite numbers or -inf",
            ),
            ("seed", self.seed is None or 0 <= self.seed < 2**64, "0 to 2^64 - 1"),
            (
                "logprobs",
                self.logprobs is None or 0 <= self.logprobs <= _MAX_TOP,
                f"None, or 0 to {_MAX_TOP}",
            ),
            ("stop", all(self.stop), "strings that are not empty"),
        ):
            if not fine:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {expected}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def penalises(self) -> bool:
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)


def _as_f32(value: float) -> float:
    """What the library is given."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


class Row(NamedTuple):
    """What a row of logits belongs to: the sequence so far, its first prompt_len tokens prompt."""

    params: SamplingParams
    tokens: Sequence[int]
    prompt_len: int


class Choice(NamedTuple):
    """The next token of a row; -1 and why where none can be chosen."""

    token: int
    status: RowStatus
    logprob: float
    top_logprobs: dict[int, float]


_FLOATS = {
    "temperature": 0.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Parameters that are numbers, and their values when they are off."""


class _Arrays:
    """Arrays of a launch, where the logits are."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def __call__(self, values: Any, dtype: Any) -> Any:
        array = np.asarray(values, dtype)
        if array.dtype == np.uint64:  # on a device the bits count
            if self._logits.device.type == "cpu":
                return array
            array = array.view(np.int64)
        return torch.from_numpy(array).to(self._logits.device)

    def empty(self, *shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return self._logits.new_empty(shape, dtype=dtype)


def sample(ctx: Context, logits: torch.Tensor, rows: Sequence[Row]) -> list[Choice]:
    """The next token of each row of logits, [len(rows), vocabulary].

    Errors: as Context.sample.
    """
    if not rows:
        return []
    send, n = _Arrays(logits), len(rows)
    num_top = max(row.params.logprobs or 0 for row in rows)
    num_top = min(num_top, logits.shape[-1])
    outputs: dict[str, Any] = {"tokens": send.empty(n), "status": send.empty(n)}
    if any(row.params.logprobs is not None for row in rows):
        outputs["logprobs"] = send.empty(n, dtype=torch.float32)
    if num_top > 0:
        outputs["top_tokens"] = send.empty(n, num_top)
        outputs["top_logprobs"] = send.empty(n, num_top, dtype=torch.float32)
    chosen = ctx.sample(logits, num_top=num_top, **outputs, **_options(send, rows))
    said = {name: array.tolist() for name, array in outputs.items()}
    del chosen  # its arrays are `outputs`
    return [_choice(said, i, row.params.logprobs or 0) for i, row in enumerate(rows)]


def _choice(said: dict[str, Any], i: int, num_top: int) -> Choice:
    top: dict[int, float] = {}
    if num_top > 0:
        top = dict(
            zip(said["top_tokens"][i][:num_top], said["top_logprobs"][i][:num_top], strict=True)
        )
    logprob = said["logprobs"][i] if "logprobs" in said else float("nan")
    return Choice(said["tokens"][i], RowStatus(said["status"][i]), logprob, top)


def _options(send: _Arrays, rows: Sequence[Row]) -> Any:
    """SampleOptions, without what is off in every row."""
    options: dict[str, Any] = {}
    for name, off in _FLOATS.items():
        values = [getattr(row.params, name) for row in rows]
        if any(value != off for value in values):
            options[name] = send(values, np.float32)
    if any(row.params.top_k for row in rows):
        options["top_k"] = send([row.params.top_k for row in rows], np.int32)
    if not all(row.params.greedy for row in rows):
        options["seeds"] = send([row.params.seed or 0 for row in rows], np.uint64)
        options["positions"] = send([len(row.tokens) for row in rows], np.uint64)
    if any(row.params.penalises for row in rows):
        options |= _history(send, rows)
    if any(row.params.logit_bias for row in rows):
        options |= _bias(send, rows)
    return options


def _history(send: _Arrays, rows: Sequence[Row]) -> dict[str, Any]:
    """Tokens that penalties count, row after row; none of rows without."""
    each = [row.tokens if row.params.penalises else () for row in rows]
    begin = np.cumsum([0, *(len(tokens) for tokens in each)])
    output = [b + min(row.prompt_len, len(t)) for b, row, t in zip(begin, rows, each, strict=False)]
    return {
        "history": send([token for tokens in each for token in tokens], np.int32),
        "history_begin": send(begin, np.int64),
        "output_begin": send(output, np.int64),
    }


def _bias(send: _Arrays, rows: Sequence[Row]) -> dict[str, Any]:
    each = [row.params.logit_bias for row in rows]
    return {
        "bias": send([token for biases in each for token in biases], np.int32),
        "bias_values": send([x for biases in each for x in biases.values()], np.float32),
        "bias_begin": send(np.cumsum([0, *(len(biases) for biases in each)]), np.int64),
    }
