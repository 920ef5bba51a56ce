"""Engine: what streams and callbacks may do to requests, their own and others'."""

from __future__ import annotations

import contextlib
import gc
import itertools
import weakref

import pytest
from families import baseline, tokens

from radixattn.hf import Engine, SamplingParams

NEW = 12
GREEDY = SamplingParams(max_new_tokens=NEW)
SYSTEM = tokens(26, 2)


def test_a_stream_whose_requests_are_aborted_ends(engine):
    seen = []
    for event in engine.stream([SYSTEM, SYSTEM[:5], SYSTEM[:9]], GREEDY):
        seen.append((event.request_id, event.finished))
        engine.abort(event.request_id)
    assert seen == [(0, False), (1, False), (2, False)]


def test_no_event_follows_an_abort_in_a_stream(engine):
    events = []
    for event in engine.stream([SYSTEM, SYSTEM[:5]], GREEDY):
        events.append(event.request_id)
        if len(events) == 1:
            engine.abort(1)  # its event of this step waits
    assert events == [0] * NEW


def test_streams_can_be_read_in_turns(engine, llama):
    prompts = [SYSTEM, SYSTEM[:5]]
    first, second = (engine.stream([p], GREEDY) for p in prompts)
    events = list(itertools.chain.from_iterable(zip(first, second, strict=False)))
    events += [*first, *second]
    for number, prompt in enumerate(prompts):
        mine = [e for e in events if e.request_id == number]
        assert [t for e in mine for t in e.token_ids] == baseline(llama, prompt, NEW)
        assert [e.finished for e in mine] == [False] * (NEW - 1) + [True]


def test_a_stream_keeps_its_events_while_others_generate(engine, llama):
    seen = []
    for event in engine.stream([SYSTEM, SYSTEM[:5]], GREEDY):
        if not seen:
            assert engine.generate([SYSTEM[:7]], GREEDY)[0].finish_reason == "length"
        seen.append(event)
    for number, prompt in enumerate((SYSTEM, SYSTEM[:5])):
        mine = [t for e in seen if e.request_id == number for t in e.token_ids]
        assert mine == baseline(llama, prompt, NEW)


def test_a_stream_of_a_closed_engine_says_so(llama):
    engine = Engine(llama, num_blocks=128)
    events = engine.stream([SYSTEM, SYSTEM[:5]], GREEDY)
    next(events)
    engine.close()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        next(events)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.step()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.generate([SYSTEM])


def test_a_stream_closed_with_its_last_event_ends(llama):
    with Engine(llama, num_blocks=128) as engine:
        for event in engine.stream([SYSTEM], GREEDY):
            if event.finished:
                engine.close()


@pytest.mark.parametrize("first", [True, False])
def test_a_callback_may_abort_another_request(engine, first):
    """Whether the other's event of the same step comes before or behind."""
    told = {0: [], 1: []}

    def abort(event):
        told[event.request_id].append(event)
        with contextlib.suppress(KeyError):
            engine.abort(other)

    def note(event):
        told[event.request_id].append(event)

    other = int(first)
    for number, on_event in enumerate([abort, note] if first else [note, abort]):
        assert engine.add(SYSTEM[: 5 + number], GREEDY, on_event=on_event) == number
    events = engine.step()
    assert [e.request_id for e in events] == [1 - other]
    while engine.num_unfinished:
        events += engine.step()
    assert [e.request_id for e in events] == [1 - other] * NEW
    assert (len(told[1 - other]), len(told[other])) == (NEW, 0 if first else 1)


def test_a_request_that_ends_in_this_step_cannot_be_aborted(engine):
    told, errors = [], []

    def abort(_event):
        try:
            engine.abort(1)
        except KeyError as error:
            errors.append(error)

    once = SamplingParams(max_new_tokens=1)
    engine.add(SYSTEM, once, on_event=abort)
    engine.add(SYSTEM, once, on_event=told.append)
    assert [e.finished for e in engine.step()] == [True, True]
    assert (len(told), len(errors)) == (1, 1)
    assert told[0].output.finish_reason == "length"


def test_generate_returns_what_was_aborted_meanwhile(engine, llama):
    engine.add(SYSTEM[:3], GREEDY, on_event=lambda _event: 2 in engine._live and engine.abort(2))
    outputs = engine.generate([SYSTEM, SYSTEM[:5], SYSTEM[:9]], GREEDY)
    assert [o.request_id for o in outputs] == [1, 2, 3]
    assert [o.finish_reason for o in outputs] == ["length", "abort", "length"]
    assert outputs[2].token_ids == baseline(llama, SYSTEM[:9], NEW)


def test_a_stream_keeps_nothing_of_a_finished_request(engine):
    short = SamplingParams(max_new_tokens=2)
    for event in engine.stream([SYSTEM, SYSTEM[:5]], [short, GREEDY]):
        if event.finished and event.request_id == 0:
            output = weakref.ref(event.output)
        if event.request_id == 1 and len(event.output.token_ids) == NEW - 1:
            gc.collect()
            assert output() is None


def test_params_may_be_left_out_for_one(engine):
    outputs = engine.generate([SYSTEM, SYSTEM[:5]], [None, SamplingParams(max_new_tokens=2)])
    assert len(outputs[0].token_ids) == SamplingParams().max_new_tokens
    assert len(outputs[1].token_ids) == 2


def test_a_callback_may_step(engine, llama):
    """Events come in order then, too."""
    seen = []

    def step(event):
        seen.append(event)
        if len(seen) == 1:
            engine.step()

    prompts = [SYSTEM, SYSTEM[:5]]
    for prompt in prompts:
        engine.add(prompt, GREEDY, on_event=step)
    while engine.num_unfinished:
        engine.step()
    for number, prompt in enumerate(prompts):
        mine = [t for e in seen if e.request_id == number for t in e.token_ids]
        assert mine == baseline(llama, prompt, NEW)


def test_a_stream_left_early_aborts_the_rest(engine):
    for event in engine.stream([SYSTEM] * 3, GREEDY):
        assert event.token_ids
        break
    assert engine.num_unfinished == 0
