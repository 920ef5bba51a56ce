"""Continuous batching of a transformers model over a radixattn context.

A step computes the new tokens of all its requests in one forward pass of shape [1, tokens]: no
padding, whatever their lengths; prompts in chunks beside requests that generate. Attention follows
block tables, so requests share the blocks of a common prefix, also with requests long finished.

One thread. The model is used as it is, with its attention implementation set to "radixattn" until
close().
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from radixattn.context import Context
from radixattn.enums import RowStatus
from radixattn.hf import attention
from radixattn.hf.models import check_context, geometry, make_context
from radixattn.hf.outputs import Event, Output
from radixattn.hf.paged import StepCache
from radixattn.hf.progress import Progress
from radixattn.hf.sampling import Choice, Row, SamplingParams, sample
from radixattn.hf.scheduler import Entry, Scheduler, Seq
from radixattn.hf.step import Step, finish_launches
from radixattn.hf.text import TextStream

if TYPE_CHECKING:
    from typing_extensions import Self

_REASONS = {
    RowStatus.NAN: "the model's logits are no numbers",
    RowStatus.EMPTY: "every token is banned",
    RowStatus.PARAMETER: "logit_bias or the prompt has a token outside of the logits",
}

Prompt: TypeAlias = "str | Sequence[int] | torch.Tensor"
"""Text (with a tokenizer), or token ids."""
OnEvent: TypeAlias = Callable[[Event], object]


@dataclass(eq=False)
class _Live:
    """A request that has not finished."""

    output: Output
    params: SamplingParams
    sequence: Seq
    on_event: OnEvent | None
    text: TextStream | None = None
    ends: frozenset[int] = frozenset()
    begun: float = field(default_factory=time.monotonic)


class Engine:
    """Generates for many prompts at once, with prefix sharing.

        engine = Engine(model, tokenizer, num_blocks=4096)
        for output in engine.generate(prompts, SamplingParams(max_new_tokens=64)):
            print(output.cached_tokens, output.text)

    model             a transformers causal language model (see models.py), in eval mode
    tokenizer         its tokenizer; None: prompts are token ids, and there is no text
    ctx               a Context for the model (make_context), which others may use, too; None: one
                      of its own, which close() ends
    max_batch_tokens  tokens of one forward pass: longer prompts are computed in chunks
    max_num_seqs      requests that run at once
    prefix_caching    False: every prompt is computed whole
    batch_invariant   True: attention gives a token the same bits in every batch, cached, chunked,
                      shared or not. Logits have the same bits, too, when the model's own products
                      and norms do: torch's on their own do not promise it
    any_family        see models.geometry
    context_options   of its own context, as Context's: num_blocks, memory_budget, block_size, ...
    Errors: UnsupportedModelError, ValueError, and those of Context.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        ctx: Context | None = None,
        max_batch_tokens: int = 2048,
        max_num_seqs: int = 64,
        prefix_caching: bool = True,
        batch_invariant: bool = False,
        any_family: bool = False,
        **context_options: Any,
    ) -> None:
        if not 1 <= max_num_seqs <= max_batch_tokens:
            raise ValueError(
                f"max_num_seqs is {max_num_seqs}: expected 1 to max_batch_tokens, "
                f"{max_batch_tokens}"
            )
        if ctx is not None and context_options:
            raise TypeError(f"ctx has its own {', '.join(sorted(context_options))}")
        if model.training:
            raise ValueError("the model is in training mode: expected model.eval()")
        shape = geometry(model, any_family=any_family)
        self._owns_ctx = ctx is None
        self.ctx = ctx or make_context(model, any_family=any_family, **context_options)
        check_context(self.ctx, shape)
        self.model, self.tokenizer, self.shape = model, tokenizer, shape
        config = self.ctx.config
        pool = min(config.num_blocks, config.max_blocks_per_request) * config.block_size
        self.max_length = min(shape.max_positions, pool)
        self._eos = _end_tokens(model)
        self._scheduler = Scheduler(
            self.ctx,
            max_batch_tokens=max_batch_tokens,
            max_num_seqs=max_num_seqs,
            prefix_caching=prefix_caching,
        )
        self._plan = self.ctx.plan(
            max_num_seqs, num_q_heads=shape.num_q_heads, max_query_tokens=max_batch_tokens,
            max_context_len=pool, batch_invariant=batch_invariant,
        )  # fmt: skip
        self._cache = StepCache(model, shape.num_layers)
        self._live: dict[int, _Live] = {}
        self._untold: deque[tuple[OnEvent | None, Event]] = deque()
        self._numbers = itertools.count()
        self._open = True
        attention.use(model)

    # ---- life

    def close(self) -> None:
        """Ends all requests, frees the plan and the engine's own context, and sets the model's
        attention implementation back. A second close does nothing."""
        if not self._open:
            return
        self._open = False
        for live in list(self._live.values()):
            self._scheduler.remove(live.sequence)
        self._live.clear()
        finish_launches(self.shape)
        self._plan.close()
        if self._owns_ctx:
            self.ctx.close()
        attention.release(self.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # ---- requests

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        on_event: OnEvent | None = None,
        extra_key: int = 0,
    ) -> int:
        """Queues a request; step() works on it. Returns its id.

        on_event   called with each of its events
        extra_key  requests share blocks only when theirs are equal (an adapter, a tenant's salt)
        An impossible request (an empty prompt, longer than the model or the pool allow, stop
        strings without a tokenizer, a prompt that the tokenizer does not take) ends with
        finish_reason "error" in the next step; others go on.
        TypeError: params is something else. RuntimeError: the engine is closed.
        """
        self._check_open()
        params = SamplingParams() if params is None else _checked(params, "params")
        number = next(self._numbers)
        output = Output(number, [])
        live = _Live(output, params, Seq(number, [], extra_key), on_event)
        try:
            self._prepare(live, prompt)
        except Exception as error:  # whatever the tokenizer raises
            output.finish_reason, output.error = "error", error
        self._live[number] = live
        if not output.finished:
            self._scheduler.add(live.sequence)
        return number

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("the engine is closed")

    def _prepare(self, live: _Live, prompt: Prompt) -> None:
        params, output = live.params, live.output
        key = live.sequence.extra_key
        if not isinstance(key, int) or not 0 <= key < 2**64:
            raise ValueError(f"extra_key is {key!r}: expected 0 to 2^64 - 1")
        output.prompt_token_ids = tokens = self._tokens(prompt)
        live.sequence.tokens = list(tokens)
        if not tokens:
            raise ValueError("the prompt has no tokens: expected at least 1")
        vocabulary = self.model.config.get_text_config().vocab_size
        if not 0 <= min(tokens) <= max(tokens) < vocabulary:
            raise ValueError(
                f"the prompt has token ids {min(tokens)} to {max(tokens)}: expected 0 to "
                f"{vocabulary - 1}"
            )
        if len(tokens) + params.max_new_tokens > self.max_length:
            raise ValueError(
                f"the prompt has {len(tokens)} tokens and max_new_tokens is "
                f"{params.max_new_tokens}: expected at most {self.max_length} together (the model "
                f"has {self.shape.max_positions} positions, the pool "
                f"{self.ctx.config.num_blocks} blocks of {self.ctx.config.block_size})"
            )
        if params.stop and self.tokenizer is None:
            raise ValueError("stop strings need a tokenizer: expected Engine(model, tokenizer)")
        if self.tokenizer is not None:
            live.text = TextStream(self.tokenizer, params.stop)
        eos = frozenset() if params.ignore_eos else self._eos
        live.ends = eos | frozenset(params.stop_token_ids)

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ValueError("a prompt of text needs a tokenizer: expected token ids")
            return list(self.tokenizer(prompt)["input_ids"])
        if isinstance(prompt, torch.Tensor | np.ndarray):
            prompt = prompt.tolist()
        return [int(token) for token in prompt]

    def abort(self, request_id: int) -> Output:
        """Ends a request; returns what there is, with finish_reason "abort". No event follows.

        KeyError: no such request, or it has finished.
        """
        live = self._live.pop(request_id)
        self._scheduler.remove(live.sequence)
        live.output.finish_reason = "abort"
        return live.output

    @property
    def num_unfinished(self) -> int:
        """Requests that step() has work for."""
        return len(self._live)

    # ---- steps

    def step(self) -> list[Event]:
        """One forward pass; returns what it did to requests. [] when there is nothing to do.

        An error of the model is raised; all requests then begin again in the next step. An error of
        an on_event is raised when the others have been called. An on_event may add and abort
        requests; what it aborts has no more events, those of this step included.
        RuntimeError: the engine is closed.
        """
        self._check_open()
        try:
            batch = self._scheduler.schedule()
            complete = [self._live[e.sequence.number] for e in batch if e.complete]
            choices = self._choose(batch, complete) if batch else []
            if batch:
                self._scheduler.commit(batch)
        except BaseException:
            self._scheduler.abandon()
            raise
        events = self._refused()
        for sequence, error in self._scheduler.failed:
            events.append(self._end(self._live[sequence.number], "error", error=error))
        events += self._advance(complete, choices)
        self._tell(events)
        return [event for event in events if not self._ended_early(event.output)]

    def _tell(self, events: Sequence[Event]) -> None:
        """Forgets what has finished, then calls whoever wants to know."""
        for event in events:
            self._untold.append((self._live[event.request_id].on_event, event))
        for event in events:
            if event.finished:
                del self._live[event.request_id]
        first_error: BaseException | None = None
        while self._untold:  # a step that an on_event makes goes on here, before its own events
            on_event, event = self._untold.popleft()
            if on_event is None or self._ended_early(event.output):
                continue
            try:
                on_event(event)
            except BaseException as error:
                first_error = first_error or error
        if first_error is not None:
            raise first_error

    def _ended_early(self, output: Output) -> bool:
        """By abort() or close(): no event of the request follows."""
        return output.finish_reason == "abort" or not (self._open or output.finished)

    def _refused(self) -> list[Event]:
        """Events of requests that add() found impossible."""
        return [
            Event(live.output.request_id, (), "", True, live.output)
            for live in self._live.values()
            if live.output.finished
        ]

    def _choose(self, batch: Sequence[Entry], complete: Sequence[_Live]) -> list[Choice]:
        """Computes a step; returns the next token of each of its complete entries."""
        rows = [
            Row(live.params, live.sequence.tokens, len(live.output.prompt_token_ids))
            for live in complete
        ]
        with torch.inference_mode():
            return sample(self.ctx, self._forward(batch), rows)

    def _forward(self, batch: Sequence[Entry]) -> torch.Tensor:
        """Logits [complete entries, vocabulary] after the step's tokens."""
        requests = [e.sequence.request for e in batch if e.sequence.request is not None]
        lengths = [e.end - e.begin for e in batch]
        decode = all(n == 1 for n in lengths)
        self._plan.update(requests, None if decode else lengths)
        self._cache.step = Step(self.ctx, self._plan, decode)
        tokens = [t for e in batch for t in e.sequence.tokens[e.begin : e.end]]
        positions = [p for e in batch for p in range(e.begin, e.end)]
        last = [
            row - 1 for e, row in zip(batch, itertools.accumulate(lengths), strict=True)
            if e.complete
        ]  # fmt: skip
        device = self.shape.device
        logits = self.model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=torch.tensor(last, dtype=torch.long, device=device),
        ).logits
        self._cache.step = None
        rows: torch.Tensor = logits[0]
        return rows if len(rows) == len(last) else rows[last]  # some models keep all

    def _advance(self, lives: Sequence[_Live], choices: Sequence[Choice]) -> list[Event]:
        """Each request has one more token, or an error."""
        now = time.monotonic()
        for live, choice in zip(lives, choices, strict=True):
            if choice.status != RowStatus.OK:
                continue
            output = live.output
            if output.time_to_first_token is None:
                output.time_to_first_token = now - live.begun
            output.token_ids.append(choice.token)
            live.sequence.tokens.append(choice.token)
            if live.params.logprobs is not None:
                output.logprobs.append(choice.logprob)
                output.top_logprobs.append(choice.top_logprobs)
        return [self._follow(live, choice) for live, choice in zip(lives, choices, strict=True)]

    def _follow(self, live: _Live, choice: Choice) -> Event:
        """What a request's new token leads to."""
        output, token = live.output, choice.token
        if choice.status != RowStatus.OK:
            error = ValueError(
                f"token {len(output.token_ids)} cannot be chosen: {_REASONS[choice.status]}"
            )
            return self._end(live, "error", error=error)
        if token in live.ends:
            return self._end(live, "stop", token=token, reason=token)
        text = live.text.add(token) if live.text else ""
        output.text += text
        if live.text and live.text.stopped_by is not None:
            return self._end(live, "stop", token=token, reason=live.text.stopped_by, text=text)
        if len(output.token_ids) >= live.params.max_new_tokens:
            return self._end(live, "length", token=token, text=text)
        self._note(live)
        return Event(output.request_id, (token,), text, False, output)

    def _end(
        self,
        live: _Live,
        reason_kind: str,
        *,
        token: int | None = None,
        reason: int | str | None = None,
        text: str = "",
        error: Exception | None = None,
    ) -> Event:
        """A request's last event; its blocks stay cached."""
        output = live.output
        if live.text:
            rest = live.text.finish()
            output.text += rest
            text += rest
            if live.text.stopped_by is not None and reason is None:
                reason_kind, reason = "stop", live.text.stopped_by
        self._note(live)
        self._scheduler.remove(live.sequence)
        output.finish_reason, output.stop_reason, output.error = reason_kind, reason, error
        tokens = () if token is None else (token,)
        return Event(output.request_id, tokens, text, True, output)

    @staticmethod
    def _note(live: _Live) -> None:
        """What the scheduler knows about a request, into its output."""
        cached, borrowed = live.sequence.first_match or (0, 0)
        live.output.cached_tokens = cached + borrowed
        live.output.borrowed_tokens = borrowed
        live.output.preemptions = live.sequence.preemptions

    # ---- many at once

    def stream(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | Sequence[SamplingParams | None] | None = None,
        *,
        progress: bool = False,
    ) -> Iterator[Event]:
        """Runs prompts to their ends and yields their events; ids are consecutive, in order.

        params    one for all, or one a prompt; None: SamplingParams()
        progress  a bar on stderr
        Left early (break, or an error), it aborts what has not finished. Between its events other
        streams, step() and abort() may be used. RuntimeError: the engine is closed.
        """
        return self._run(prompts, params, progress, None)

    def _run(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | Sequence[SamplingParams | None] | None,
        progress: bool,
        outputs: list[Output] | None,
    ) -> Iterator[Event]:
        """stream(); outputs, if any, gets those of its requests, in order."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        each = _one_each(params, len(prompts))
        ids: set[int] = set()
        events: deque[Event] = deque()  # steps may be others', too
        bar = Progress(len(prompts), progress)
        try:
            for prompt, how in zip(prompts, each, strict=True):
                number = self.add(prompt, how, on_event=events.append)
                ids.add(number)
                if outputs is not None:
                    outputs.append(self._live[number].output)
            while True:
                while events:
                    event = events.popleft()
                    if self._ended_early(event.output):
                        continue
                    if event.finished:
                        ids.discard(event.request_id)
                    bar.update(event)
                    yield event
                if self._open:
                    ids &= self._live.keys()  # the others were aborted
                if not ids:
                    return
                self.step()
        finally:
            bar.close()
            for number in ids & self._live.keys():
                self.abort(number)

    def generate(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams | Sequence[SamplingParams | None] | None = None,
        *,
        progress: bool = False,
    ) -> list[Output]:
        """Runs prompts to their ends; returns an output each, in order. As stream()."""
        outputs: list[Output] = []
        for _event in self._run(prompts, params, progress, outputs):
            pass
        return outputs


def _one_each(
    params: SamplingParams | Sequence[SamplingParams | None] | None, n: int
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * n
    if not isinstance(params, Sequence):
        return [_checked(params, "params")] * n
    if len(params) != n:
        raise ValueError(f"params has {len(params)} entries: expected {n}, one a prompt")
    return [
        SamplingParams() if how is None else _checked(how, f"params[{i}]")
        for i, how in enumerate(params)
    ]


def _checked(params: object, name: str) -> SamplingParams:
    if not isinstance(params, SamplingParams):
        raise TypeError(f"{name} is a {type(params).__name__}: expected SamplingParams")
    return params


def _end_tokens(model: Any) -> frozenset[int]:
    """The model's end-of-sequence tokens: of its generation config, else of its config."""
    for config in (getattr(model, "generation_config", None), model.config):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    return frozenset()
