"""Engine: streaming, stop strings, errors of single requests, sharing within a step."""

from __future__ import annotations

import random

import pytest
import torch
import transformers as tf
from families import VOCABULARY, baseline, make_config, make_model, tokens

import radixattn as rx
from radixattn.hf import Engine, SamplingParams, UnsupportedModelError, make_context

NEW = 12
GREEDY = SamplingParams(max_new_tokens=NEW)
SYSTEM = tokens(26, 2)


@pytest.fixture
def widths(llama):
    """Tokens of each forward pass."""
    seen = []
    handle = llama.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    yield seen
    handle.remove()


# ---- sharing


def test_three_requests_with_one_system_prompt(engine, llama):
    prompts = [SYSTEM + tokens(5 + i, 50 + i) for i in range(3)]
    outputs = [engine.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert [o.cached_tokens for o in outputs] == [0, 24, 24]
    assert [o.borrowed_tokens for o in outputs] == [0, 0, 0]
    assert [o.token_ids for o in outputs] == [baseline(llama, p, NEW) for p in prompts]


def test_prompts_that_arrive_together_compute_their_prefix_once(engine, llama, widths):
    prompts = [SYSTEM + tokens(3, 80 + i) for i in range(16)]
    outputs = engine.generate(prompts, GREEDY)
    assert [o.borrowed_tokens for o in outputs] == [0] + [24] * 15
    assert widths[0] == len(prompts[0]) + 15 * (len(prompts[0]) - 24)
    assert widths[1:] == [16] * (NEW - 1)
    assert [o.token_ids for o in outputs] == [baseline(llama, p, NEW) for p in prompts]


def test_equal_prompts_whose_length_is_whole_blocks(engine, llama):
    prompt = SYSTEM[:24]
    outputs = engine.generate([prompt] * 4, GREEDY)
    assert [o.token_ids for o in outputs] == [baseline(llama, prompt, NEW)] * 4
    again = engine.generate([prompt], GREEDY)[0]
    assert again.cached_tokens == 23  # the last token must run to give logits
    assert again.token_ids == outputs[0].token_ids


def test_the_next_turn_finds_the_answer(engine, llama):
    first = engine.generate([SYSTEM], SamplingParams(max_new_tokens=20))[0]
    turn = SYSTEM + first.token_ids + tokens(4, 81)
    second = engine.generate([turn], GREEDY)[0]
    assert second.cached_tokens == 44  # all but the last generated token have K/V: 45, whole blocks
    assert second.token_ids == baseline(llama, turn, NEW)


def test_without_prefix_caching_nothing_is_shared(llama, widths):
    with Engine(llama, num_blocks=128, block_size=4, prefix_caching=False) as engine:
        outputs = engine.generate([SYSTEM] * 3, GREEDY) + engine.generate([SYSTEM], GREEDY)
    assert [o.cached_tokens for o in outputs] == [0] * 4
    assert widths[0] == 3 * len(SYSTEM)
    assert {tuple(o.token_ids) for o in outputs} == {tuple(baseline(llama, SYSTEM, NEW))}


def test_extra_keys_do_not_share(engine):
    outputs = {}
    for key in (1, 2, 1):
        engine.add(SYSTEM, SamplingParams(max_new_tokens=1), extra_key=key)
        while engine.num_unfinished:
            for event in engine.step():
                outputs[event.request_id] = event.output.cached_tokens
    assert list(outputs.values()) == [0, 0, 24]


def test_requests_that_come_later_join_the_batch(engine, llama, widths):
    first = engine.add(SYSTEM, GREEDY)
    engine.step()
    engine.step()
    second = engine.add([*SYSTEM, 7], GREEDY)
    done = {}
    while engine.num_unfinished:
        done |= {e.request_id: e.output for e in engine.step() if e.finished}
    assert widths[:4] == [26, 1, 1 + 3, 2]
    assert done[first].token_ids == baseline(llama, SYSTEM, NEW)
    assert done[second].token_ids == baseline(llama, [*SYSTEM, 7], NEW)


@pytest.mark.parametrize("batch_tokens", [8, 9, 13, 40])
def test_a_step_computes_no_more_than_max_batch_tokens(llama, widths, batch_tokens):
    prompts = [SYSTEM + tokens(i, 90 + i) for i in range(8)]
    with Engine(
        llama, num_blocks=128, block_size=4, max_batch_tokens=batch_tokens, max_num_seqs=8
    ) as engine:
        outputs = engine.generate(prompts, GREEDY)
    assert max(widths) == batch_tokens
    assert [o.token_ids for o in outputs] == [baseline(llama, p, NEW) for p in prompts]


def test_the_step_works_through_the_queue_with_few_places(llama, widths):
    prompts = [tokens(4 + i, 110 + i) for i in range(7)]
    with Engine(llama, num_blocks=128, block_size=4, max_num_seqs=2) as engine:
        outputs = engine.generate(prompts, GREEDY)
    assert [o.token_ids for o in outputs] == [baseline(llama, p, NEW) for p in prompts]


def test_what_another_user_of_the_context_never_writes_is_not_borrowed(llama):
    prompt = [*SYSTEM, 4]
    expected = baseline(llama, prompt, NEW)
    with make_context(llama, num_blocks=128, block_size=4) as ctx, Engine(llama, ctx=ctx) as engine:
        with ctx.begin(prompt) as other:
            other.append(prompt)
            first = engine.generate([prompt], GREEDY)[0]
        again = engine.generate([prompt], GREEDY)[0]
        ctx.check()
    assert (first.token_ids, first.cached_tokens) == (expected, 0)
    assert (again.token_ids, again.cached_tokens) == (expected, 24)


def test_what_another_engine_computes_is_not_borrowed(llama):
    """One runs in the middle of the other's step."""
    prompts = [[*SYSTEM, 4], [*SYSTEM, 5]]
    inner = []
    with (
        make_context(llama, num_blocks=128, block_size=4) as ctx,
        Engine(llama, ctx=ctx) as first,
        Engine(llama, ctx=ctx) as second,
    ):
        real = first._choose

        def choose(*args):
            if not inner:
                inner.extend(second.generate(prompts, GREEDY))
            return real(*args)

        first._choose = choose
        outer = first.generate(prompts, GREEDY)
        ctx.check()
    expected = [baseline(llama, p, NEW) for p in prompts]
    assert [o.token_ids for o in inner] == expected
    assert [o.token_ids for o in outer] == expected
    assert [o.borrowed_tokens for o in outer] == [0, 24]
    assert inner[0].borrowed_tokens == 0


# ---- pressure


def test_cached_prefixes_are_evicted_when_blocks_are_short(llama):
    prompts = [tokens(30, 120 + i) for i in range(6)]
    with Engine(llama, num_blocks=24, block_size=4, max_num_seqs=2) as engine:
        for _ in range(2):
            outputs = engine.generate(prompts, GREEDY)
            assert [o.token_ids for o in outputs] == [baseline(llama, p, NEW) for p in prompts]
        assert engine.ctx.stats().blocks_evicted > 50
        engine.ctx.check()


@pytest.mark.parametrize("blocks", [12, 15, 20])
def test_preemption_gives_the_same_tokens(llama, blocks):
    prompts = [tokens(9 + i, 130 + i) for i in range(5)]
    with Engine(llama, num_blocks=blocks, block_size=4) as engine:
        outputs = engine.generate(prompts, SamplingParams(max_new_tokens=25))
        engine.ctx.check()
    assert sum(o.preemptions for o in outputs) > 0
    assert outputs[0].preemptions == 0  # the oldest keeps its blocks
    assert [o.token_ids for o in outputs] == [baseline(llama, p, 25) for p in prompts]


def test_draws_do_not_depend_on_batch_or_preemption(llama):
    prompts = [tokens(9 + i, 140 + i) for i in range(5)]
    params = [
        SamplingParams(max_new_tokens=25, temperature=0.8, top_k=20, top_p=0.9, seed=i)
        for i in range(5)
    ]
    with Engine(llama, num_blocks=200, block_size=4) as engine:
        alone = [
            engine.generate([p], how)[0].token_ids for p, how in zip(prompts, params, strict=True)
        ]
        again = engine.generate(prompts, params)
    with Engine(llama, num_blocks=15, block_size=4) as engine:
        pressed = engine.generate(prompts, params)
    assert sum(o.preemptions for o in pressed) > 0
    assert [o.token_ids for o in again] == alone == [o.token_ids for o in pressed]
    assert alone != [baseline(llama, p, 25) for p in prompts]


# ---- ends


def test_end_of_sequence_of_the_generation_config(llama):
    expected = baseline(llama, SYSTEM, NEW)
    end = expected[5]
    n = expected.index(end) + 1
    llama.generation_config.eos_token_id = [VOCABULARY - 1, end]
    try:
        with Engine(llama, num_blocks=32) as engine:
            stopped = engine.generate([SYSTEM], GREEDY)[0]
            past = engine.generate([SYSTEM], SamplingParams(max_new_tokens=NEW, ignore_eos=True))[0]
    finally:
        llama.generation_config.eos_token_id = None
    assert (stopped.token_ids, stopped.finish_reason, stopped.stop_reason) == (
        expected[:n], "stop", end,
    )  # fmt: skip
    assert (past.token_ids, past.finish_reason) == (expected, "length")


def test_stop_token_ids(engine, llama):
    expected = baseline(llama, SYSTEM, NEW)
    n = expected.index(expected[3]) + 1
    output = engine.generate(
        [SYSTEM], SamplingParams(max_new_tokens=NEW, stop_token_ids=[expected[3]])
    )[0]
    assert (output.token_ids, output.stop_reason) == (expected[:n], expected[3])


@pytest.mark.parametrize("cut", [(1, 4), (3, 9), (8, 11)])
def test_a_stop_string_over_several_tokens(engine, cut):
    whole = engine.generate([SYSTEM], GREEDY)[0]
    stop = whole.text[cut[0] : cut[1]]
    place = whole.text.index(stop)
    params = SamplingParams(max_new_tokens=NEW, stop=["never there", stop])
    events = list(engine.stream([SYSTEM], params))
    output = events[-1].output
    assert output.text == whole.text[:place] == "".join(e.text for e in events)
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)
    assert len(output.token_ids) < NEW


def test_text_and_tokens_stream_in_order(engine):
    prompts = [SYSTEM, SYSTEM[:5], tokens(9, 3)]
    events = list(engine.stream(prompts, GREEDY))
    for number in range(3):
        mine = [e for e in events if e.request_id == number]
        output = mine[-1].output
        assert [e.finished for e in mine] == [False] * (NEW - 1) + [True]
        assert "".join(e.text for e in mine) == output.text
        assert [t for e in mine for t in e.token_ids] == output.token_ids
        assert output.text == engine.tokenizer.decode(output.token_ids)
        assert output.time_to_first_token > 0


def test_text_prompts_are_tokenized(engine):
    text = engine.tokenizer.decode(SYSTEM)
    output = engine.generate(text, GREEDY)[0]
    assert output.prompt_token_ids == engine.tokenizer(text)["input_ids"]


def test_callbacks_get_the_events_of_their_request(engine):
    seen = []
    engine.add(SYSTEM, GREEDY)
    number = engine.add(SYSTEM[:3], SamplingParams(max_new_tokens=2), on_event=seen.append)
    while engine.num_unfinished:
        engine.step()
    assert [(e.request_id, e.finished) for e in seen] == [(number, False), (number, True)]


def test_tensors_are_prompts(engine, llama):
    output = engine.generate([torch.tensor(SYSTEM)], GREEDY)[0]
    assert output.token_ids == baseline(llama, SYSTEM, NEW)


def test_progress_goes_to_stderr_and_only_when_asked(engine, capsys):
    engine.generate([SYSTEM], GREEDY)
    assert capsys.readouterr() == ("", "")
    engine.generate([SYSTEM, SYSTEM], GREEDY, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err


@pytest.mark.parametrize("seed", range(12))
def test_random_workloads_give_the_baselines_tokens(llama, seed):
    """Prompts of few words that share beginnings, arriving and aborted at any time, in pools of any
    size."""
    choose = random.Random(seed)
    words = [tokens(choose.randint(1, 9), 200 + i) for i in range(4)]
    block_size = choose.choice([1, 2, 3, 8])
    engine = Engine(
        llama, num_blocks=choose.choice([45, 70, 300]) // block_size, block_size=block_size,
        max_batch_tokens=choose.choice([6, 17, 200]), max_num_seqs=choose.choice([1, 3, 6]),
    )  # fmt: skip
    prompts, outputs = {}, {}
    with engine:
        for _ in range(400):
            if len(prompts) < 25 and choose.random() < 0.6:
                prompt = [t for _ in range(choose.randint(1, 4)) for t in choose.choice(words)]
                how = SamplingParams(max_new_tokens=choose.randint(1, 9))
                prompts[engine.add(prompt, how)] = (prompt, how.max_new_tokens)
            for event in engine.step():
                if event.finished:
                    outputs[event.request_id] = event.output
            unfinished = sorted(prompts.keys() - outputs.keys())
            if unfinished and choose.random() < 0.03:
                number = choose.choice(unfinished)
                outputs[number] = engine.abort(number)
            engine.ctx.check()
            if len(prompts) == 25 and not engine.num_unfinished:
                break
    assert len(outputs) == 25
    for number, (prompt, count) in prompts.items():
        output = outputs[number]
        assert output.error is None
        expected = baseline(llama, prompt, count)
        assert output.token_ids == expected[: len(output.token_ids)]
        assert output.finish_reason == "abort" or output.token_ids == expected


# ---- aborts and errors


def test_an_aborted_request_gives_its_blocks_back(engine, llama):
    first, second = engine.add(SYSTEM, GREEDY), engine.add([*SYSTEM, 3], GREEDY)
    engine.step()
    engine.step()
    output = engine.abort(first)
    assert (output.finish_reason, len(output.token_ids)) == ("abort", 2)
    done = [e.output for _ in range(NEW) for e in engine.step() if e.finished]
    assert [o.request_id for o in done] == [second]
    assert done[0].token_ids == baseline(llama, [*SYSTEM, 3], NEW)
    with pytest.raises(KeyError):
        engine.abort(first)


def test_a_waiting_request_can_be_aborted(engine):
    number = engine.add(SYSTEM, GREEDY)
    assert engine.abort(number).token_ids == []
    assert engine.step() == []


def test_impossible_requests_fail_alone(engine, llama):
    good, bad = SYSTEM, {
        "no tokens": [],
        "token ids": [1, VOCABULARY],
        "at most 512 together": tokens(505, 4),
    }  # fmt: skip
    outputs = engine.generate([good, *bad.values(), good], GREEDY)
    assert [o.finish_reason for o in outputs] == ["length", "error", "error", "error", "length"]
    for output, text in zip(outputs[1:4], bad, strict=True):
        assert isinstance(output.error, ValueError)
        assert text in str(output.error)
        assert output.token_ids == []
    assert outputs[4].token_ids == baseline(llama, SYSTEM, NEW)


def test_a_request_longer_than_the_pool_fails_alone(llama):
    with Engine(llama, num_blocks=8, block_size=4) as engine:
        outputs = engine.generate([SYSTEM, SYSTEM[:9]], GREEDY)
    assert "8 blocks of 4" in str(outputs[0].error)
    assert outputs[1].token_ids == baseline(llama, SYSTEM[:9], NEW)


def test_blocks_that_others_hold_fail_only_the_request_that_needs_them(llama):
    with (
        make_context(llama, num_blocks=10, block_size=4) as ctx,
        ctx.begin(tokens(28, 5)) as other,
    ):
        other.append(tokens(28, 5))
        with Engine(llama, ctx=ctx) as engine:
            outputs = engine.generate([SYSTEM, SYSTEM[:3]], [GREEDY, SamplingParams(2)])
    assert isinstance(outputs[0].error, rx.NoBlocksError)
    assert outputs[1].token_ids == baseline(llama, SYSTEM[:3], 2)


def test_a_generating_request_without_blocks_fails_alone(llama):
    with (
        make_context(llama, num_blocks=10, block_size=4) as ctx,
        ctx.begin(tokens(24, 5)) as other,
    ):
        other.append(tokens(24, 5))
        with Engine(llama, ctx=ctx) as engine:
            output = engine.generate([SYSTEM[:10]], SamplingParams(max_new_tokens=20))[0]
            assert isinstance(output.error, rx.NoBlocksError)
            assert output.token_ids == baseline(llama, SYSTEM[:10], 7)
            assert engine.generate([SYSTEM[:10]], SamplingParams(2))[0].finish_reason == "length"


def test_an_error_of_the_model_leaves_its_requests_for_the_next_step(engine, llama):
    def fail(*_args):
        raise RuntimeError("planted")

    prompts = [SYSTEM, [*SYSTEM, 4]]
    numbers = [engine.add(p, GREEDY) for p in prompts]
    engine.step()
    handle = llama.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        engine.step()
    handle.remove()
    done = {}
    while engine.num_unfinished:
        done |= {e.request_id: e.output.token_ids for e in engine.step() if e.finished}
    assert done == {n: baseline(llama, p, NEW) for n, p in zip(numbers, prompts, strict=True)}


def test_an_error_of_the_tokenizer_loses_no_token(engine, llama, monkeypatch):
    numbers = [engine.add(p, GREEDY) for p in (SYSTEM, [*SYSTEM, 4])]
    monkeypatch.setattr(type(engine.tokenizer), "decode", lambda *_args, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    monkeypatch.undo()
    done = {}
    while engine.num_unfinished:
        done |= {e.request_id: e.output.token_ids for e in engine.step() if e.finished}
    assert done[numbers[1]] == baseline(llama, [*SYSTEM, 4], NEW)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("where", ["begin", "run_ops", "stats", "commit"])
def test_an_error_of_the_cache_leaves_no_hole(engine, llama, monkeypatch, where, steps):
    numbers = [engine.add(SYSTEM, GREEDY)]
    for _ in range(steps):
        engine.step()  # one is running
    numbers.append(engine.add([*SYSTEM, 4], GREEDY))
    monkeypatch.setattr(engine.ctx, where, lambda *_args, **_options: 1 / 0, raising=False)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    monkeypatch.undo()
    done = {}
    while engine.num_unfinished:
        done |= {e.request_id: e.output.token_ids for e in engine.step() if e.finished}
        engine.ctx.check()
    assert done == {
        numbers[0]: baseline(llama, SYSTEM, NEW), numbers[1]: baseline(llama, [*SYSTEM, 4], NEW)
    }  # fmt: skip
    assert engine.generate([SYSTEM], GREEDY)[0].token_ids == baseline(llama, SYSTEM, NEW)


@pytest.mark.parametrize("extra_key", [-1, 2**64, "tenant", None])
def test_a_bad_extra_key_fails_alone(engine, llama, extra_key):
    engine.add(SYSTEM, GREEDY)
    number = engine.add(SYSTEM, GREEDY, extra_key=extra_key)
    events = engine.step()
    [failed] = [e.output for e in events if e.finished]
    assert failed.request_id == number
    assert "extra_key is" in str(failed.error)
    while engine.num_unfinished:
        engine.step()


def test_prompts_that_are_no_prompts_fail_alone(engine, llama):
    bad = [None, 7, torch.tensor([SYSTEM]), ["text"], [2**70]]
    outputs = engine.generate([SYSTEM, *bad], GREEDY)
    assert [o.finish_reason for o in outputs] == ["length"] + ["error"] * len(bad)
    assert engine.num_unfinished == 0


@pytest.mark.parametrize("error", [Exception, RuntimeError, KeyError])
def test_a_tokenizer_that_raises_fails_only_its_request(engine, llama, monkeypatch, error):
    def refuse(*_args):
        raise error("planted")

    monkeypatch.setattr(type(engine.tokenizer), "__call__", refuse)
    outputs = engine.generate(["text", SYSTEM], GREEDY)
    assert [o.finish_reason for o in outputs] == ["error", "length"]
    assert "planted" in str(outputs[0].error)
    assert outputs[1].token_ids == baseline(llama, SYSTEM, NEW)


def test_an_interrupted_add_registers_nothing(engine, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(engine.tokenizer), "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.add("text")
    assert engine.num_unfinished == 0
    assert engine.step() == []


@pytest.mark.parametrize("params", [{}, {"max_new_tokens": 3}, 5, "greedy"])
def test_params_of_another_type_are_refused_at_once(engine, params):
    kind = type(params).__name__
    with pytest.raises(TypeError, match=f"^params is a {kind}: expected SamplingParams$"):
        engine.add(SYSTEM, params)
    with pytest.raises(TypeError, match=rf"^params\[1\] is a {kind}: expected SamplingParams$"):
        engine.generate([SYSTEM, SYSTEM], [GREEDY, params])
    if not isinstance(params, str):
        with pytest.raises(TypeError, match=f"^params is a {kind}: expected SamplingParams$"):
            engine.generate([SYSTEM], params)
    assert engine.num_unfinished == 0


def test_a_full_request_table_lets_the_rest_wait(llama):
    prompts = [SYSTEM + tokens(3, 150 + i) for i in range(3)]
    prompts += [tokens(5 + i, 160 + i) for i in range(6)]
    with Engine(llama, num_blocks=128, block_size=4, preallocate=True, max_requests=4) as engine:
        outputs = engine.generate(prompts, GREEDY)
        assert engine.ctx.stats().requests_live == 0
    assert [o.token_ids for o in outputs] == [baseline(llama, p, NEW) for p in prompts]


def test_a_request_table_that_others_have_filled_fails_requests(llama):
    with (
        make_context(llama, num_blocks=64, block_size=4, preallocate=True, max_requests=1) as ctx,
        Engine(llama, ctx=ctx) as engine,
    ):
        with ctx.begin([1]):
            output = engine.generate([SYSTEM], GREEDY)[0]
            assert isinstance(output.error, rx.FullError)
        assert engine.generate([SYSTEM], GREEDY)[0].finish_reason == "length"


@pytest.mark.parametrize("nothing", [0, None])
def test_options_of_0_and_none_are_left_out(llama, nothing):
    names = (
        "num_blocks", "block_size", "num_layers", "num_kv_heads", "head_dim", "head_dim_v",
        "kv_dtype", "memory_budget", "max_requests", "device", "num_threads", "executor",
        "kv_layout", "evict_policy", "kv_memory", "metadata_only",
    )  # fmt: skip
    options = dict.fromkeys(names, nothing)
    if nothing == 0:  # these have no 0
        options.update(executor=None, kv_memory=None)
    with make_context(llama, **options) as ctx, make_context(llama) as plain:
        assert ctx.config == plain.config
        assert ctx.config.kv_dtype == rx.DType.F32
        assert (ctx.config.block_size, ctx.config.num_blocks) == (16, 65536 // 16)


def test_every_seed_draws(engine):
    for seed in (0, 2**63 - 1, 2**63, 2**64 - 1):
        how = SamplingParams(max_new_tokens=3, temperature=1.0, seed=seed)
        first, second = (engine.generate([SYSTEM], how)[0] for _ in range(2))
        assert first.token_ids == second.token_ids
        assert first.finish_reason == "length"


def test_a_callback_that_raises_silences_no_other(engine):
    told = []

    def raising(_event):
        raise KeyError("planted")

    engine.add(SYSTEM, SamplingParams(max_new_tokens=1), on_event=raising)
    engine.add(SYSTEM, SamplingParams(max_new_tokens=1), on_event=told.append)
    with pytest.raises(KeyError, match="planted"):
        engine.step()
    assert [e.finished for e in told] == [True]
    assert engine.num_unfinished == 0


def test_stop_strings_need_a_tokenizer(llama):
    with Engine(llama, num_blocks=32) as engine:
        outputs = engine.generate([SYSTEM, "text"], SamplingParams(max_new_tokens=2, stop="x"))
    assert "stop strings need a tokenizer" in str(outputs[0].error)
    assert "text needs a tokenizer" in str(outputs[1].error)


def test_a_closed_engine_says_so():
    model = make_model("llama")
    engine = Engine(model, num_blocks=32)
    engine.add(SYSTEM, GREEDY)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.add(SYSTEM)


def test_bad_arguments_of_an_engine(llama):
    with pytest.raises(ValueError, match="max_num_seqs is 9"):
        Engine(llama, max_num_seqs=9, max_batch_tokens=8)
    with rx.Context(num_blocks=4, num_layers=3, num_kv_heads=2, head_dim=64) as ctx:
        with pytest.raises(ValueError, match="head_dim is 64: expected the model's, 32"):
            Engine(llama, ctx=ctx)
        with pytest.raises(TypeError, match="ctx has its own num_blocks"):
            Engine(llama, ctx=ctx, num_blocks=3)
    training = tf.AutoModelForCausalLM.from_config(make_config("llama"))
    training.train()
    with pytest.raises(ValueError, match="training mode"):
        Engine(training)
    assert llama.config._attn_implementation != "radixattn"


# ---- models that are not covered


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (tf.GPT2Config(n_layer=1, n_embd=32, n_head=1, vocab_size=9), "'gpt2'"),
        (
            tf.BloomConfig(n_layer=1, hidden_size=32, n_head=1, vocab_size=9),
            "'bloom'",
        ),
        (tf.MambaConfig(num_hidden_layers=1, hidden_size=32, vocab_size=9), "'mamba'"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_other_families_are_refused(config, text):
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModelError, match=text):
        Engine(model, num_blocks=4)


@pytest.mark.parametrize(
    ("family", "changes", "text"),
    [
        ("llama", {"head_dim": 16}, "head_dim is 16"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type is 'dynamic'",
        ),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
    ids=["head_dim", "rope", "bidirectional"],
)
def test_configs_that_would_give_other_results_are_refused(family, changes, text):
    model = tf.AutoModelForCausalLM.from_config(make_config(family, **changes)).eval()
    with pytest.raises(UnsupportedModelError, match=text):
        Engine(model, num_blocks=4)


def test_a_model_of_text_and_images_is_refused():
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 1, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = make_config("gemma3_text").to_dict()
    config = tf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    with pytest.raises(UnsupportedModelError, match="model_type is 'gemma3'"):
        Engine(tf.Gemma3ForConditionalGeneration(config).eval(), num_blocks=4)


def test_an_encoder_decoder_is_refused():
    config = tf.T5Config(
        d_model=32, num_layers=1, num_heads=1, vocab_size=9, d_ff=32, decoder_start_token_id=0
    )
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        Engine(tf.T5ForConditionalGeneration(config).eval(), num_blocks=4)


def test_a_model_on_no_device_is_refused():
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(make_config("llama")).eval()
    with pytest.raises(UnsupportedModelError, match="the model is on meta"):
        Engine(model, num_blocks=4)


def test_any_family_tries_a_model_that_is_not_listed():
    torch.manual_seed(2)
    config = tf.Olmo2Config(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModelError, match="any_family=True"):
        Engine(model, num_blocks=8)
    with Engine(model, num_blocks=8, any_family=True) as engine:
        output = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=5))[0]
    assert output.token_ids == baseline(model, [1, 2, 3], 5)
