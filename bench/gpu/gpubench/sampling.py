"""Tokens from rows of logits: ours, and PyTorch's softmax, sort and multinomial.

A draw is nobody's to foresee, so what is checked is that each token is among those that the cuts
leave, by a plain sort in double precision; a greedy token is the only one. Ours says the token's
log-probability, too, which the plain one must confirm.
"""

from __future__ import annotations

from typing import Any

import torch

from gpubench.cases import Sample
from gpubench.flow import Check, Contender, NoRoomError
from gpubench.report import OURS
from gpubench.stats import rotation
from gpubench.torch_backend import TorchBackend, array

SPREAD = 4.0  # of the logits: about a hundred tokens have nine tenths of the probability
EDGE = 1e-6  # of a sum of probabilities: where the cut of a plain sum may be another token's
LOG_TOLERANCE = 1e-5


class SampleWork:
    """Several batches of logits; launches take them in turn. flow.Work."""

    def __init__(self, backend: TorchBackend, case: Sample) -> None:
        self.backend, self.case = backend, case
        self.batches = rotation(case.bytes, backend.l2_bytes, backend.room())
        if self.batches == 0:
            raise NoRoomError(f"needs {case.bytes / 1e9:.1f} GB of device memory")
        size = (self.batches, case.rows, case.vocab)
        self.logits = backend.random(size, case.shape.dtype).mul_(SPREAD)
        self.tokens = backend.int32s(torch.full((case.rows,), -1))
        self.status = torch.full_like(self.tokens, -1)
        self.logprobs = backend.empty((case.rows,), "f32").zero_()
        self.arrays = {
            name: self._filled(value)
            for name, value in case.parameters.items()
            if value is not None
        }
        order = torch.arange(case.rows, dtype=torch.int64, device=backend.device)
        self.arrays |= {"seeds": order * 7919 + 1, "positions": order}
        self.workspace = torch.empty(0, dtype=torch.uint8, device=backend.device)
        self.launches = [self._sample(batch, None) for batch in range(self.batches)]

    def _filled(self, value: float) -> torch.Tensor:
        dtype = torch.int32 if isinstance(value, int) else torch.float32
        return torch.full((self.case.rows,), value, dtype=dtype, device=self.backend.device)

    def _sample(self, batch: int, logprobs: torch.Tensor | None) -> Any:
        context = self.backend.context
        made = context.sample(
            array(self.logits[batch]),
            {name: tensor.data_ptr() for name, tensor in self.arrays.items()},
            (self.tokens.data_ptr(), self.status.data_ptr()),
            logprobs.data_ptr() if logprobs is not None else None,
        )
        size = context.sample_workspace_bytes(made)
        if size + 64 > self.workspace.numel():  # the first one: all launches are of one shape
            self.workspace = torch.empty(size + 64, dtype=torch.uint8, device=self.backend.device)
        made.workspace = (self.workspace.data_ptr() + 63) // 64 * 64
        made.workspace_size = size
        return made

    def close(self) -> None:
        self.__dict__.clear()

    # ---- ours ------------------------------------------------------------------------------------

    def launch(self, i: int) -> None:
        self._launch(self.launches[i % self.batches])

    def _launch(self, made: Any) -> None:
        self.backend.context.sample_launch(made, self.backend.stream())

    def ours(self) -> Contender:
        return Contender(OURS, self.backend.sampler(self.launch), self._check)

    def _check(self) -> Check:
        """Tokens as they are timed, then the same once more with log-probabilities."""
        self.tokens.fill_(-1)
        self.launch(0)
        self.backend.wait()
        tokens = self.tokens.clone()
        wrong = self._wrong(tokens)
        if wrong == 0 and bool((self.status != 0).any()):
            wrong = self.case.rows
        if wrong != 0:
            return Check(float(wrong), wrong / self.case.rows, 0.0)
        self._launch(self._sample(0, self.logprobs))
        self.backend.wait()
        plain = self.logits[0].double().log_softmax(-1)
        expected = plain.gather(-1, tokens.long()[:, None])[:, 0]
        difference = (self.logprobs.double() - expected).abs()
        relative = (difference / expected.abs().clamp(min=1e-3)).max().item()
        return Check(difference.max().item(), relative, LOG_TOLERANCE)

    # ---- the others ------------------------------------------------------------------------------

    def peer(self, name: str) -> Contender:
        if name != "torch":
            raise ValueError(f"no peer for sampling is named {name!r}: expected torch")

        def check() -> Check:
            wrong = self._wrong(self._by_torch(0))
            return Check(float(wrong), wrong / self.case.rows, 0.0)

        return Contender(name, self.backend.sampler(self._by_torch), check)

    def _by_torch(self, i: int) -> torch.Tensor:
        """As a model's author would write it."""
        x = self.logits[i % self.batches].float()
        wanted = self.case.parameters
        if wanted["temperature"] is None:
            return x.argmax(-1)
        values, order = x.sort(dim=-1, descending=True, stable=True)
        p = _cut(values / wanted["temperature"], wanted)
        return order.gather(-1, torch.multinomial(p, 1))[:, 0]

    # ---- what may be drawn -----------------------------------------------------------------------

    def _wrong(self, tokens: torch.Tensor) -> int:
        """Rows of the first batch whose token the cuts have taken."""
        tokens = tokens.long()
        outside = (tokens < 0) | (tokens >= self.case.vocab)
        if bool(outside.any()):
            return int(outside.sum())
        x = self.logits[0].double()
        values, order = x.sort(dim=-1, descending=True, stable=True)
        wanted = self.case.parameters
        mine = x.gather(-1, tokens[:, None])
        if wanted["temperature"] is None:
            return int((mine != values[:, :1]).sum())
        kept = _cut(values / wanted["temperature"], wanted, EDGE) > 0
        return int((~(kept & (order == tokens[:, None])).any(-1)).sum())


def _cut(scores: torch.Tensor, wanted: dict[str, Any], edge: float = 0.0) -> torch.Tensor:
    """Probabilities of scores that fall along a row, 0 where a cut takes them. edge leaves a little
    more than the cuts do."""
    if wanted["top_k"] is not None:
        scores[:, wanted["top_k"] :] = -torch.inf
    p = scores.softmax(-1)
    if wanted["top_p"] is not None:
        p = p.where(p.cumsum(-1) - p < wanted["top_p"] + edge, 0.0)
    if wanted["min_p"] is not None:
        p = p.where(p >= wanted["min_p"] * p[:, :1] * (1 - edge), 0.0)
    return p
