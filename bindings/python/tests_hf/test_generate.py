"""RadixCache under model.generate()."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import transformers as tf
from families import attention_of, baseline, baseline_logits, make_config, make_model, tokens
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

import radixattn as rx
from radixattn.hf import Engine, RadixCache, SamplingParams, UnsupportedModelError, make_context

NEW = 8
SYSTEM = tokens(26, 2)


def left_padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def one(prompt: list[int]) -> dict[str, torch.Tensor]:
    return left_padded([prompt])


@pytest.fixture
def cache(llama):
    with RadixCache(llama, num_blocks=128, block_size=4) as cache:
        yield cache
        cache.ctx.check()


def plainly(model, inputs, **options):
    before = model.config._attn_implementation
    model.set_attn_implementation(attention_of(model, "sdpa"))
    out = model.generate(**inputs, **options)
    model.set_attn_implementation(before)
    return out


def test_three_requests_with_one_system_prompt(model):
    prompts = [SYSTEM + tokens(5 + i, 50 + i) for i in range(3)]
    expected = [baseline(model, p, NEW) for p in prompts]
    cached = []
    with RadixCache(model, num_blocks=128, block_size=4) as cache:
        for prompt, wanted in zip(prompts, expected, strict=True):
            inputs = one(prompt)
            cached += cache.begin(**inputs)
            out = model.generate(
                **inputs, past_key_values=cache, max_new_tokens=NEW, do_sample=False
            )
            cache.finish(out)
            assert out[0, len(prompt) :].tolist() == wanted
        cache.ctx.check()
    assert cached == [0, 24, 24]  # whole blocks of 4 of the 26 shared tokens


@pytest.mark.parametrize("batch", [2, 5, 8])
def test_padded_batches_give_the_tokens_of_single_prompts(model, batch):
    prompts = [SYSTEM[: 3 * i] + tokens(1 + 2 * i, 60 + i) for i in range(batch)]
    expected = [baseline(model, p, NEW) for p in prompts]
    inputs = left_padded(prompts)
    with RadixCache(model, num_blocks=256, block_size=4) as cache:
        for _ in range(3):
            out = cache.generate(**inputs, max_new_tokens=NEW, do_sample=False)
            assert out[:, inputs["input_ids"].shape[1] :].tolist() == expected
            cache.ctx.check()


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_chunks_of_a_batch_of_which_one_row_is_cached(model, chunk):
    prompts = [SYSTEM, tokens(11, 75), tokens(30, 76)]
    expected = [baseline(model, p, NEW) for p in prompts]
    inputs = left_padded(prompts)
    with RadixCache(model, num_blocks=256, block_size=4) as cache:
        cache.generate(**one(SYSTEM), max_new_tokens=1)
        out = cache.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, prefill_chunk_size=chunk
        )
        cache.ctx.check()
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == expected


def test_only_what_no_row_has_is_computed(cache, llama):
    """The forward pass gets the columns after the shortest cached ones."""
    inputs = one(SYSTEM)
    cache.generate(**inputs, max_new_tokens=1, do_sample=False)
    published = cache.ctx.stats().blocks_published
    widths = []
    handle = llama.register_forward_pre_hook(
        lambda _module, _args, kwargs: widths.append(kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    cache.generate(**inputs, max_new_tokens=2, do_sample=False)
    handle.remove()
    assert widths == [len(SYSTEM) - 24, 1]
    assert cache.ctx.stats().blocks_published == published


def test_generated_tokens_are_found_by_the_next_turn(cache, llama):
    first = cache.generate(**one(SYSTEM), max_new_tokens=20, do_sample=False)[0].tolist()
    turn = first + tokens(3, 70)
    assert cache.begin(**one(turn)) == [44]  # 26 + 19 tokens have K/V, in whole blocks
    out = llama.generate(**one(turn), past_key_values=cache, max_new_tokens=NEW, do_sample=False)
    assert out[0, len(turn) :].tolist() == baseline(llama, turn, NEW)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "top_k": 5, "temperature": 0.7},
        {"prefill_chunk_size": 5},
        {"repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_ways_of_generating(model, options):
    prompts = [SYSTEM, SYSTEM[:9] + tokens(4, 71)]
    inputs = left_padded(prompts)
    options = {"max_new_tokens": NEW, **options}
    torch.manual_seed(3)
    expected = plainly(model, inputs, **options)
    with RadixCache(model, num_blocks=256, block_size=4) as cache:
        for _ in range(2):
            torch.manual_seed(3)
            out = cache.generate(**inputs, **options)
            assert torch.equal(out, expected)
            cache.ctx.check()


def test_a_failed_forward_pass_leaves_the_cache_usable(cache, llama):
    inputs = one(SYSTEM)

    def fail(*_args):
        raise RuntimeError("planted")

    handle = llama.model.layers[1].mlp.register_forward_pre_hook(fail)
    cache.begin(**inputs)
    with pytest.raises(RuntimeError, match="planted"):
        llama.generate(**inputs, past_key_values=cache, max_new_tokens=2)
    handle.remove()
    out = llama.generate(**inputs, past_key_values=cache, max_new_tokens=NEW, do_sample=False)
    assert out[0, len(SYSTEM) :].tolist() == baseline(llama, SYSTEM, NEW)


def test_crop_takes_columns_back(cache, llama):
    ids = torch.tensor([SYSTEM])
    cache.begin(ids)
    with torch.no_grad():
        llama(ids, past_key_values=cache)
        cache.crop(-6)
        assert cache.get_seq_length() == len(SYSTEM) - 6
        other = torch.tensor([tokens(6, 72)])
        ours = llama(other, past_key_values=cache).logits
        llama.set_attn_implementation("sdpa")
        whole = llama(torch.cat([ids[:, :-6], other], 1)).logits
    llama.set_attn_implementation("radixattn")
    torch.testing.assert_close(ours, whole[:, -6:], atol=5e-5, rtol=0)


def test_rows_can_be_selected_and_repeated(cache, llama):
    prompts = [SYSTEM, SYSTEM[:20] + tokens(6, 73)]
    ids = torch.tensor(prompts)
    step = torch.tensor([[5], [6], [7]])
    cache.begin(ids)
    with torch.no_grad():
        llama(ids, past_key_values=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0, 1]))
        assert cache.batch_size == 3
        ours = llama(step, past_key_values=cache).logits[:, 0]
        llama.set_attn_implementation("sdpa")
        whole = llama(torch.cat([ids[[1, 0, 0]], step], 1)).logits[:, -1]
    llama.set_attn_implementation("radixattn")
    torch.testing.assert_close(ours, whole, atol=5e-5, rtol=0)


def test_an_engine_and_a_cache_share_one_context(llama):
    with make_context(llama, num_blocks=128, block_size=4) as ctx:
        with Engine(llama, ctx=ctx) as engine:
            engine.generate([SYSTEM], SamplingParams(max_new_tokens=1))
        with RadixCache(llama, ctx=ctx) as cache:
            assert cache.begin(torch.tensor([[*SYSTEM, 1]])) == [24]
        ctx.check()


def test_an_engine_borrows_nothing_of_a_failed_forward_pass(llama):
    def fail(*_args):
        raise RuntimeError("planted")

    prompt = [*SYSTEM, 1]
    expected = baseline(llama, prompt, NEW)
    with (
        make_context(llama, num_blocks=128, block_size=4) as ctx,
        RadixCache(llama, ctx=ctx) as cache,
        Engine(llama, ctx=ctx) as engine,
    ):
        cache.begin(torch.tensor([prompt]))
        handle = llama.model.layers[0].mlp.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="planted"):
            llama.generate(torch.tensor([prompt]), past_key_values=cache, max_new_tokens=1)
        handle.remove()
        outputs = [engine.generate([prompt], SamplingParams(NEW))[0] for _ in range(2)]
        ctx.check()
    assert [o.token_ids for o in outputs] == [expected] * 2
    assert [o.cached_tokens for o in outputs] == [0, 24]


def test_extra_keys_do_not_share(cache):
    ids = torch.tensor([SYSTEM])
    cache.generate(ids, max_new_tokens=1)
    assert cache.begin(ids, extra_key=1) == [0]
    assert cache.begin(ids) == [24]


# ---- what is wrong says so


def test_padding_at_the_right_is_refused(cache):
    mask = torch.ones(1, 6, dtype=torch.long)
    mask[0, 5] = 0
    with pytest.raises(ValueError, match="padding at the left only"):
        cache.begin(torch.ones(1, 6, dtype=torch.long), mask)


def test_a_mask_that_begin_did_not_get_is_refused(cache, llama):
    inputs = left_padded([SYSTEM, SYSTEM[:7]])
    cache.begin(inputs["input_ids"])
    with pytest.raises(UnsupportedModelError, match="attention_mask is not the one"):
        llama.generate(**inputs, past_key_values=cache, max_new_tokens=1)


def test_a_batch_that_was_not_begun_is_refused(cache, llama):
    with pytest.raises(ValueError, match="expected begin"):
        llama.generate(**one(SYSTEM), past_key_values=cache, max_new_tokens=1)


def test_beams_that_begin_does_not_know_are_refused(cache, llama):
    inputs = one(SYSTEM)
    cache.begin(**inputs)
    with pytest.raises(ValueError, match="expand= the number of beams"):
        llama.generate(**inputs, past_key_values=cache, max_new_tokens=1, num_beams=2)


def test_assisted_generation_is_refused(cache):
    with pytest.raises(UnsupportedModelError, match="assisted generation"):
        cache.generate(**one(SYSTEM), max_new_tokens=4, prompt_lookup_num_tokens=2)


def test_a_pool_that_is_too_small_says_so_and_recovers(llama):
    """The second row finds no blocks when the first has them already."""
    with RadixCache(llama, num_blocks=10, block_size=4) as cache:
        ids = torch.tensor([SYSTEM, tokens(len(SYSTEM), 74)])
        cache.begin(ids)
        with pytest.raises(rx.NoBlocksError), torch.no_grad():
            llama(ids, past_key_values=cache)
        with torch.no_grad():
            ours = llama(ids[:, :20], past_key_values=cache).logits
            llama.set_attn_implementation("sdpa")
            whole = llama(ids[:, :20]).logits
        llama.set_attn_implementation("radixattn")
        cache.ctx.check()
    torch.testing.assert_close(ours, whole, atol=5e-5, rtol=0)


def test_a_forward_pass_that_finds_blocks_for_its_known_tokens_only(llama):
    with RadixCache(llama, num_blocks=7, block_size=4) as cache:
        ids = torch.tensor([SYSTEM])
        cache.begin(ids)
        with torch.no_grad():
            with pytest.raises(rx.RadixError):  # four tokens more than were begun with
                llama(torch.tensor([[*SYSTEM, 1, 2, 3, 4]]), past_key_values=cache)
            ours = llama(ids, past_key_values=cache).logits
        cache.ctx.check()
    whole = baseline_logits(llama, SYSTEM)
    torch.testing.assert_close(ours[0], whole, atol=5e-5, rtol=0)


def test_attention_weights_are_refused(cache, llama):
    ids = torch.tensor([SYSTEM])
    cache.begin(ids)
    with pytest.raises(UnsupportedModelError, match="output_attentions"), torch.no_grad():
        llama(ids, past_key_values=cache, output_attentions=True)


def test_gradients_are_refused(cache, llama):
    ids = torch.tensor([SYSTEM])
    cache.begin(ids)
    with pytest.raises(UnsupportedModelError, match="gradients"):
        llama(ids, past_key_values=cache)


def test_a_mask_of_four_dimensions_is_refused(cache, llama):
    ids = torch.tensor([SYSTEM])
    cache.begin(ids)
    mask = torch.ones(1, 1, len(SYSTEM), len(SYSTEM)).tril()
    with pytest.raises(UnsupportedModelError, match="4 dimensions"), torch.no_grad():
        llama(ids, attention_mask=mask, past_key_values=cache)


def test_dropout_is_refused(llama):
    config = make_config("llama", attention_dropout=0.1)
    model = tf.AutoModelForCausalLM.from_config(config).train()
    with RadixCache(model, num_blocks=32) as cache:
        ids = torch.tensor([SYSTEM])
        cache.begin(ids)
        with pytest.raises(UnsupportedModelError, match=r"dropout is 0\.1"), torch.no_grad():
            model(ids, past_key_values=cache)


def test_attention_that_is_not_causal_is_refused(cache, llama, monkeypatch):
    ids = torch.tensor([SYSTEM])
    cache.begin(ids)
    monkeypatch.setattr(llama.model.layers[0].self_attn, "is_causal", False)
    with pytest.raises(UnsupportedModelError, match="is_causal is False"), torch.no_grad():
        llama(ids, past_key_values=cache)


def test_masks_that_are_more_than_causal_are_refused(cache, llama):
    embeds = torch.zeros(1, 3, 4)
    make = functools.partial(create_causal_mask, llama.config, embeds, None, None)
    assert make() is None
    with pytest.raises(UnsupportedModelError, match="not plainly causal"):
        make(block_sequence_ids=torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(UnsupportedModelError, match="not plainly causal"):
        make(position_ids=torch.tensor([[0, 1, 0]]))  # two packed sequences
    with pytest.raises(UnsupportedModelError, match="not plainly causal"):
        create_bidirectional_mask(llama.config, embeds, None)


def test_another_cache_is_refused_while_ours_is_set(cache, llama):
    with pytest.raises(UnsupportedModelError, match="keys come from elsewhere"):
        llama.generate(**one(SYSTEM), max_new_tokens=1)


def test_sequences_of_another_batch_are_refused(cache, llama):
    inputs = one(SYSTEM)
    cache.begin(**inputs)
    out = llama.generate(**inputs, past_key_values=cache, max_new_tokens=3)
    with pytest.raises(ValueError, match="sequences has shape"):
        cache.finish(out[:, :-2])
    cache.finish(out)


def test_an_attention_that_would_not_see_the_cache_is_refused(cache, llama):
    inputs = one(SYSTEM)
    cache.begin(**inputs)
    llama.set_attn_implementation("sdpa")
    try:
        with pytest.raises(UnsupportedModelError, match="implementation is 'sdpa', and its cache"):
            llama.generate(**inputs, past_key_values=cache, max_new_tokens=1)
    finally:
        llama.set_attn_implementation("radixattn")


def test_the_last_user_sets_the_models_attention_back(llama):
    before = llama.config._attn_implementation
    with Engine(llama, num_blocks=32) as engine:
        cache = RadixCache(llama, num_blocks=32)
        engine.close()
        out = cache.generate(**one(SYSTEM), max_new_tokens=NEW, do_sample=False)
        cache.close()
    assert llama.config._attn_implementation == before
    assert out[0, len(SYSTEM) :].tolist() == baseline(llama, SYSTEM, NEW)


def test_copies_are_refused(cache):
    with pytest.raises(TypeError, match="shared already"):
        copy.deepcopy(cache)


def test_a_closed_cache_says_so(llama):
    cache = RadixCache(llama, num_blocks=32)
    cache.close()
    with pytest.raises(RuntimeError, match="closed"):
        cache.begin(torch.tensor([SYSTEM]))


def test_close_sets_the_models_attention_back():
    model = make_model("llama")
    before = model.config._attn_implementation
    cache = RadixCache(model, num_blocks=8)
    assert model.config._attn_implementation == "radixattn"
    cache.close()
    cache.close()
    assert model.config._attn_implementation == before
