"""Which tokens of which requests the next forward pass computes, and their blocks.

Order of a step: every running request that generates gets one token; then prompts that have begun
go on; then waiting requests are admitted, in order of arrival, as far as max_batch_tokens and
blocks reach. When blocks are short, the youngest running request is preempted: its blocks are given
up (what was published stays cached while there is room), and it comes again, first in the queue,
with the tokens that it has.

Prompts that arrive together share: a request's slots are reserved before the next one is matched,
so that the next one borrows blocks which the same forward pass computes (K/V of a layer are written
before its attention reads). Blocks that others of the same context have reserved are never
borrowed: nobody here knows when they are written.

Knows blocks and tokens only: no model, no device. One thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radixattn.context import Context
from radixattn.errors import FullError, NoBlocksError, QuotaError, RadixError
from radixattn.request import Request
from radixattn.results import Match
from radixattn.tensors import Array


@dataclass(eq=False)
class Seq:
    """A request as the scheduler sees it.

    tokens    prompt and what was generated
    reserved  leading tokens whose K/V is there, or is computed by the step at hand
    """

    number: int
    tokens: list[int]
    extra_key: int = 0
    request: Request | None = None
    reserved: int = 0
    first_match: tuple[int, int] | None = None  # cached and borrowed tokens, at first admission
    preemptions: int = 0

    @property
    def pending(self) -> int:
        """Tokens that are to be computed."""
        return len(self.tokens) - self.reserved


@dataclass(frozen=True)
class Entry:
    """A sequence in a step: its tokens [begin, end) are computed."""

    sequence: Seq
    begin: int
    end: int

    @property
    def complete(self) -> bool:
        """The last known token is among them: the next one can be chosen."""
        return self.end == len(self.sequence.tokens)


class Scheduler:
    """Queues over one context.

    max_batch_tokens  tokens of a step, at least max_num_seqs
    max_num_seqs      requests running at once
    prefix_caching    False: nothing is shared and nothing cached is used
    """

    def __init__(
        self, ctx: Context, *, max_batch_tokens: int, max_num_seqs: int, prefix_caching: bool = True
    ) -> None:
        self.ctx = ctx
        self.max_batch_tokens = max_batch_tokens
        self.max_num_seqs = max_num_seqs
        self.prefix_caching = prefix_caching
        self.waiting: deque[Seq] = deque()
        self.running: list[Seq] = []
        self.failed: list[tuple[Seq, RadixError]] = []
        self._batch: list[Entry] = []
        self._budget = 0

    # ---- queues

    def add(self, sequence: Seq) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Seq) -> None:
        """Ends a sequence, running or waiting; what it published stays cached."""
        self._release(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    # ---- a step

    def schedule(self) -> list[Entry]:
        """The next step's entries; their slots are reserved, copies on write are done.

        self.failed gets the sequences for which there can be no blocks.
        """
        self._batch, self._budget = [], self.max_batch_tokens
        self.failed = []
        preempted = self._generate()
        self._continue_prompts()
        if not preempted:
            self._admit()
        self._drop_broken_promises()
        return self._batch

    def commit(self, batch: Sequence[Entry]) -> None:
        """K/V of the step are written: full blocks become visible to others."""
        requests = [e.sequence.request for e in batch if e.sequence.request is not None]
        ends = np.array([e.end for e in batch if e.sequence.request is not None], np.uint64)
        self.ctx.commit(requests, ends)

    def abandon(self) -> None:
        """The step failed, wherever: all requests begin again from what is published."""
        for sequence, _error in reversed(self.failed):
            self.waiting.appendleft(sequence)
        for sequence in self.waiting:
            self._release(sequence)
        for sequence in reversed(list(self.running)):
            self._preempt(sequence)
        self._batch, self.failed = [], []

    def _generate(self) -> bool:
        """One token for each sequence that has no more pending. Returns whether one was
        preempted."""
        before = len(self.running)
        ready = [s for s in self.running if s.pending == 1]
        while ready:
            tokens = np.fromiter((s.tokens[-1] for s in ready), np.int32, len(ready))
            try:
                self._append(ready, tokens, None)
                break
            except (NoBlocksError, QuotaError) as error:
                victim = self.running[-1]
                if len(self.running) == 1:
                    self._fail(victim, error)
                else:
                    self._preempt(victim)
                if victim in ready:
                    ready.remove(victim)
        for sequence in ready:
            self._take(sequence, 1)
        return len(self.running) < before

    def _continue_prompts(self) -> None:
        taken = {e.sequence.number for e in self._batch}
        for sequence in list(self.running):
            if sequence.number in taken or not sequence.pending or not self._budget:
                continue
            error = self._reserve(sequence, min(sequence.pending, self._budget))
            if error is not None and len(self.running) == 1:
                self._fail(sequence, error)  # else the others go on, and free blocks or preempt it

    def _admit(self) -> None:
        while self.waiting and self._budget and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            error = self._begin(sequence)
            if error is None:
                self.waiting.popleft()
                self.running.append(sequence)
            elif self.running:
                return  # blocks will come back
            else:
                self.waiting.popleft()
                self.failed.append((sequence, error))

    def _begin(self, sequence: Seq) -> RadixError | None:
        """Matches a waiting sequence and reserves its first chunk; an error leaves it waiting."""
        try:
            match = self._match(sequence, self.prefix_caching)
            if match.pending_tokens and not self._computes(sequence, match):
                self._release(sequence)
                match = self._match(sequence, False)
        except (FullError, NoBlocksError, QuotaError) as full:
            return full
        error: RadixError | None = None
        if self.running and not self._has_room(sequence):
            error = RadixError(0, "not enough blocks for the whole prompt yet")
        if error is None:
            error = self._reserve(sequence, min(sequence.pending, self._budget))
        if error is not None:
            self._release(sequence)
        elif sequence.first_match is None:
            sequence.first_match = (match.cached_tokens, match.pending_tokens)
        return error

    def _match(self, sequence: Seq, share_pending: bool) -> Match:
        """The sequence gets a request, which has what the result says."""
        caching = self.prefix_caching
        request = self.ctx.begin(
            sequence.tokens, extra_key=sequence.extra_key, no_match=not caching,
            share_pending=share_pending, remap_duplicates=caching,
        )  # fmt: skip
        match = request.match
        assert match is not None
        sequence.request, sequence.reserved = request, match.cached_tokens + match.pending_tokens
        return match

    def _computes(self, sequence: Seq, match: Match) -> bool:
        """What a sequence has borrowed belongs to one that runs here, and not to another user of
        the context. One lender has lent it all."""
        size = self.ctx.config.block_size
        begin, end = match.cached_tokens, sequence.reserved
        borrowed = match.blocks[begin // size : end // size]
        for other in self.running:
            if other.request is None or other.reserved < end:
                continue
            if other.tokens[begin:end] != sequence.tokens[begin:end]:
                continue  # cheaper than its blocks
            if np.array_equal(other.request.block_table()[begin // size : end // size], borrowed):
                return True
        return False

    def _has_room(self, sequence: Seq) -> bool:
        """There are blocks for all that is pending, so that it need not be preempted at once."""
        size = self.ctx.config.block_size
        needed = -(-len(sequence.tokens) // size) - sequence.reserved // size
        stats = self.ctx.stats()
        return needed <= stats.blocks_free + stats.blocks_cached

    # ---- blocks

    def _reserve(self, sequence: Seq, count: int) -> RadixError | None:
        """Slots for the next count tokens, into the batch; or the error that said there are
        none."""
        chunk = sequence.tokens[sequence.reserved : sequence.reserved + count]
        try:
            self._append([sequence], np.array(chunk, np.int32), [count])
        except (NoBlocksError, QuotaError) as error:
            return error
        self._take(sequence, count)
        return None

    def _append(
        self, sequences: Sequence[Seq], tokens: Array, counts: Sequence[int] | None
    ) -> None:
        requests = [s.request for s in sequences if s.request is not None]
        self.ctx.run_ops(self.ctx.append_slots(requests, tokens, counts).ops)

    def _take(self, sequence: Seq, count: int) -> None:
        begin = sequence.reserved
        sequence.reserved += count
        self._budget -= count
        self._batch.append(Entry(sequence, begin, sequence.reserved))

    def _preempt(self, sequence: Seq) -> None:
        self._release(sequence)
        sequence.preemptions += 1
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)

    def _fail(self, sequence: Seq, error: RadixError) -> None:
        self.remove(sequence)
        self.failed.append((sequence, error))

    def _release(self, sequence: Seq) -> None:
        if sequence.request is not None:
            sequence.request.free()
        sequence.request, sequence.reserved = None, 0

    def _drop_broken_promises(self) -> None:
        """Sequences whose lender is gone before it computed what they borrowed begin again."""
        for entry in reversed(self._batch):
            sequence = entry.sequence
            if sequence.request is None or sequence.request.match is None:
                continue
            match = sequence.request.match
            begun_now = entry.begin == match.cached_tokens + match.pending_tokens
            if not (match.pending_tokens and begun_now):
                continue
            if sequence.request.info().ready_tokens < entry.begin:
                self._batch.remove(entry)
                self._preempt(sequence)
