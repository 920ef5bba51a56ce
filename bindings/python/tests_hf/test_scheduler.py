"""The scheduler alone: block ids, no model."""

from __future__ import annotations

import random

import pytest

import radixattn as rx
from radixattn.hf.scheduler import Scheduler, Seq


@pytest.fixture
def ctx():
    with rx.Context(num_blocks=16, block_size=4, metadata_only=True) as ctx:
        yield ctx
        ctx.check()


def scheduler_of(ctx, **options):
    class Counting(Scheduler):  # without K/V memory there is nothing to copy
        def _append(self, sequences, tokens, counts):
            requests = [s.request for s in sequences]
            self.ctx.append_slots(requests, tokens, counts)

    return Counting(ctx, **{"max_batch_tokens": 32, "max_num_seqs": 8, **options})


def spans(batch):
    return [(e.sequence.number, e.begin, e.end) for e in batch]


def test_a_borrower_runs_in_the_step_of_its_lender(ctx):
    scheduler = scheduler_of(ctx)
    for number in range(2):
        scheduler.add(Seq(number, [*range(8), 50 + number]))
    assert spans(scheduler.schedule()) == [(0, 0, 9), (1, 8, 9)]
    assert scheduler.running[1].first_match == (0, 8)


def test_a_borrower_whose_lender_is_gone_begins_again(ctx):
    scheduler = scheduler_of(ctx)
    for number in range(2):
        scheduler.add(Seq(number, [*range(8), 50 + number]))
    real = scheduler._drop_broken_promises

    def lose_the_lender():
        scheduler._preempt(scheduler.running[0])
        del scheduler._batch[0]
        real()

    scheduler._drop_broken_promises = lose_the_lender
    assert scheduler.schedule() == []
    scheduler._drop_broken_promises = real
    assert [s.preemptions for s in scheduler.waiting] == [1, 1]
    assert spans(scheduler.schedule()) == [(1, 0, 9), (0, 8, 9)]


def test_an_abandoned_step_begins_again_in_order(ctx):
    scheduler = scheduler_of(ctx)
    for number in range(3):
        scheduler.add(Seq(number, list(range(10 * number, 10 * number + 6))))
    first = scheduler.schedule()
    scheduler.abandon()
    assert [s.number for s in scheduler.waiting] == [0, 1, 2]
    assert spans(scheduler.schedule()) == spans(first)


def test_the_youngest_is_preempted_and_comes_back_first(ctx):
    scheduler = scheduler_of(ctx)
    for number in range(3):
        scheduler.add(Seq(number, list(range(20 * number, 20 * number + 18))))
    batch = scheduler.schedule()
    assert spans(batch) == [(0, 0, 18), (1, 0, 14)]  # 32 tokens a step
    scheduler.commit(batch)
    assert spans(scheduler.schedule()) == [(1, 14, 18), (2, 0, 18)]
    scheduler.add(Seq(3, [90]))
    for _ in range(12):
        for sequence in scheduler.running:
            if sequence.pending == 0:
                sequence.tokens.append(99)
        scheduler.commit(scheduler.schedule())
        if scheduler.waiting and scheduler.waiting[0].number == 2:
            break
    assert [s.number for s in scheduler.waiting] == [2, 3]
    assert scheduler.waiting[0].preemptions == 1


def test_what_another_user_of_the_context_has_reserved_is_not_borrowed(ctx):
    scheduler = scheduler_of(ctx)
    with ctx.begin(list(range(8))) as other:
        other.append(list(range(8)))
        scheduler.add(Seq(0, [*range(8), 50]))
        assert spans(scheduler.schedule()) == [(0, 0, 9)]
        assert scheduler.running[0].first_match == (0, 0)
        assert ctx.stats().requests_live == 2


def test_what_another_scheduler_has_reserved_is_not_borrowed(ctx):
    first, second = scheduler_of(ctx), scheduler_of(ctx)
    first.add(Seq(0, [*range(8), 50]))
    lent = first.schedule()
    second.add(Seq(0, [*range(8), 51]))
    batch = second.schedule()
    assert spans(batch) == [(0, 0, 9)]
    second.commit(batch)
    first.commit(lent)


def test_own_blocks_are_borrowed_beside_those_of_others(ctx):
    scheduler = scheduler_of(ctx)
    with ctx.begin(list(range(30, 38))) as other:
        other.append(list(range(30, 38)))
        for number in range(3):
            scheduler.add(Seq(number, [*range(8), 50 + number]))
        assert spans(scheduler.schedule()) == [(0, 0, 9), (1, 8, 9), (2, 8, 9)]


def test_a_request_table_that_is_full_lets_the_rest_wait():
    with rx.Context(
        num_blocks=64, block_size=4, metadata_only=True, preallocate=True, max_requests=2
    ) as ctx:
        scheduler = scheduler_of(ctx)
        for number in range(5):
            scheduler.add(Seq(number, list(range(10 * number, 10 * number + 6))))
        done = []
        while len(scheduler):
            batch = scheduler.schedule()
            assert not scheduler.failed
            scheduler.commit(batch)
            for entry in batch:
                done.append(entry.sequence.number)
                scheduler.remove(entry.sequence)
        assert done == list(range(5))


def test_a_request_table_that_others_have_filled_fails_alone():
    with rx.Context(
        num_blocks=64, block_size=4, metadata_only=True, preallocate=True, max_requests=1
    ) as ctx:
        scheduler = scheduler_of(ctx)
        other = ctx.begin([1])
        scheduler.add(Seq(0, [1, 2]))
        assert scheduler.schedule() == []
        [(sequence, error)] = scheduler.failed
        assert (sequence.number, type(error)) == (0, rx.FullError)
        other.free()
        scheduler.add(Seq(1, [1, 2]))
        assert spans(scheduler.schedule()) == [(1, 0, 2)]


@pytest.mark.parametrize("seed", range(40))
def test_random_runs_end_and_keep_the_rules(ctx, seed):
    """Every token of every sequence is computed, in order, and steps stay within their bounds."""
    choose = random.Random(seed)
    scheduler = scheduler_of(ctx, max_batch_tokens=choose.choice([8, 11, 40]))
    lengths, sequences = {}, {}
    for number in range(14):
        head = list(range(choose.choice([0, 4, 9])))
        tokens = head + [choose.randint(0, 3) for _ in range(choose.randint(1, 12))]
        lengths[number] = len(tokens) + choose.randint(0, 20)
        sequences[number] = Seq(number, tokens)
        scheduler.add(sequences[number])
    for _ in range(3000):
        batch = scheduler.schedule()
        assert not scheduler.failed
        assert len({e.sequence.number for e in batch}) == len(batch)
        assert 0 < sum(e.end - e.begin for e in batch) <= scheduler.max_batch_tokens
        for entry in batch:
            info = entry.sequence.request.info()
            assert info.num_tokens == entry.end == entry.sequence.reserved
            assert entry.begin < entry.end <= len(entry.sequence.tokens)
        scheduler.commit(batch)
        for entry in [e for e in batch if e.complete]:
            if len(entry.sequence.tokens) == lengths[entry.sequence.number]:
                scheduler.remove(entry.sequence)
            else:
                entry.sequence.tokens.append(choose.randint(0, 3))
        ctx.check()
        if len(scheduler) == 0:
            break
    assert len(scheduler) == 0
    assert ctx.stats().requests_live == 0
