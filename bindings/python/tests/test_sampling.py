"""Sampling and verification: what Python hands over, and what the library does with it."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from support import Foreign

import radixattn as rx


def logits_of(rows=2, vocab=40, seed=3):
    return np.random.default_rng(seed).normal(0, 2, (rows, vocab)).astype(np.float32)


def log_softmax(x):
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_greedy_by_default(meta):
    x = logits_of()
    out = meta.sample(x)
    assert out.tokens.tolist() == x.argmax(axis=1).tolist()
    assert out.status.tolist() == [rx.RowStatus.OK] * 2
    assert out.logprobs is None
    assert out.top_tokens is None


def test_log_probabilities_and_top_tokens(meta):
    x = logits_of()
    out = meta.sample(x, logprobs=True, num_top=5, temperature=0.7, seeds=[1, 2], positions=9)
    want = log_softmax(x)
    order = np.argsort(-x, axis=1, kind="stable")[:, :5]
    assert (out.top_tokens == order).all()
    np.testing.assert_allclose(
        out.top_logprobs, np.take_along_axis(want, order, 1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(out.logprobs, want[[0, 1], out.tokens], rtol=1e-5, atol=1e-6)


def test_final_log_probabilities(meta):
    x = logits_of()
    out = meta.sample(
        x, temperature=2.0, top_k=2, num_top=3, logprobs=True, final_logprobs=True, seeds=5
    )
    assert (out.top_tokens[:, 2] == -1).all()
    assert np.isneginf(out.top_logprobs[:, 2]).all()
    np.testing.assert_allclose(np.exp(out.top_logprobs[:, :2]).sum(axis=1), 1, rtol=1e-6)


def test_a_row_of_parameters_is_one_number_or_an_array(meta):
    x = np.zeros((300, 8), np.float32)
    alone = meta.sample(x, temperature=1, positions=np.arange(300))
    assert set(alone.tokens.tolist()) == set(range(8))
    each = meta.sample(x, temperature=[1.0] * 300, positions=list(range(300)))
    assert (each.tokens == alone.tokens).all()
    cut = meta.sample(x, temperature=1, top_k=np.full(300, 3), positions=np.arange(300))
    assert set(cut.tokens.tolist()) == {0, 1, 2}


def test_seeds_are_64_bits(meta):
    x = np.zeros((2, 1000), np.float32)
    high = meta.sample(x, temperature=1, seeds=[2**64 - 1, 2**63])
    again = meta.sample(x, temperature=1, seeds=np.array([2**64 - 1, 2**63], np.uint64))
    assert (high.tokens == again.tokens).all()
    assert high.tokens[0] != high.tokens[1]
    with pytest.raises(OverflowError, match="seeds has values beyond uint64"):
        meta.sample(x, temperature=1, seeds=[-1, 2])


def test_a_list_of_seeds_on_both_sides_of_63_bits(meta):
    """numpy alone would make float64 of such a list, or objects."""
    x = np.zeros((2, 1000), np.float32)
    for seeds in ([1, 2**63 + 1], [np.uint64(2**63 + 1), 1], [2**64 - 1, np.int32(5)]):
        exact = np.array([int(seed) for seed in seeds], np.uint64)
        given = meta.sample(x, temperature=1, seeds=seeds)
        assert given.tokens.tolist() == meta.sample(x, temperature=1, seeds=exact).tokens.tolist()
    for seeds in ([1, 2**64], [-1, 2**63], [2**70, -(2**70)]):
        with pytest.raises(OverflowError, match="seeds has values beyond uint64"):
            meta.sample(x, temperature=1, seeds=seeds)
    for seeds in ([1, 2.5], [1.0, 2.0], [2**64, 0.5], [2**63 + 1, None]):
        with pytest.raises(TypeError, match=r"seeds has dtype (float64|object): expected int"):
            meta.sample(x, temperature=1, seeds=seeds)


def test_one_integer_for_all_rows_is_exact(meta):
    x = np.zeros((4, 50), np.float32)
    for seed in (7, np.int8(7), np.uint64(7)):
        one = meta.sample(x, temperature=1, seeds=seed, positions=np.arange(4), top_k=np.int16(9))
        each = meta.sample(x, temperature=1, seeds=[7] * 4, positions=np.arange(4), top_k=[9] * 4)
        assert one.tokens.tolist() == each.tokens.tolist()
    meta.sample(x, temperature=1, seeds=2**64 - 1)
    for name, value in (
        ("top_k", 2.7), ("top_k", 2.0), ("seeds", 1.5), ("positions", np.float32(3)),
        ("top_k", True), ("seeds", float("nan")),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"{name} is {value}: expected an integer"):
            meta.sample(x, temperature=1, **{name: value})
    for name, value, limit in (
        ("top_k", 2**31, "int32"), ("top_k", np.int64(2**40), "int32"), ("seeds", -1, "uint64"),
        ("seeds", np.int64(-1), "uint64"), ("positions", 2**64, "uint64"),
    ):  # fmt: skip
        with pytest.raises(OverflowError, match=f"{name} is {value}: expected {limit}"):
            meta.sample(x, temperature=1, **{name: value})


def test_history_as_lists_or_as_one_array(meta):
    x = np.array([[4.0, 3.5, 0.0], [4.0, 3.5, 0.0]], np.float32)
    out = meta.sample(x, history=[[0, 0], []], repetition_penalty=2.0)
    assert out.tokens.tolist() == [1, 0]
    flat = meta.sample(
        x, history=[0, 0, 0], history_begin=[0, 1, 3], output_begin=[0, 3], presence_penalty=1.0
    )
    assert flat.tokens.tolist() == [1, 0]


def test_biases_as_dicts_or_as_arrays(meta):
    x = np.zeros((2, 5), np.float32)
    out = meta.sample(x, bias=[{3: 1.0, 4: -np.inf}, {}])
    assert out.tokens.tolist() == [3, 0]
    flat = meta.sample(x, bias=[2, 1], bias_values=[1.0, 2.0], bias_begin=[0, 1, 2])
    assert flat.tokens.tolist() == [2, 1]


def test_masks_as_bools_or_as_words(meta):
    x = logits_of(2, 70)
    mask = np.zeros((2, 70), bool)
    mask[0, 69] = mask[1, 32] = True
    assert meta.sample(x, allowed=mask).tokens.tolist() == [69, 32]
    words = np.array([[0, 0, 1 << 5], [0, 1, 0]], np.uint32)
    assert meta.sample(x, allowed=words).tokens.tolist() == [69, 32]
    assert meta.sample(x, allowed=words.tolist()).tokens.tolist() == [69, 32]
    assert meta.sample(x, allowed=Foreign(words)).tokens.tolist() == [69, 32]


def test_bools_that_are_no_numpy_array_are_a_mask_too(meta):
    x = logits_of(2, 70)
    mask = np.zeros((2, 70), bool)
    mask[0, 69] = mask[1, 32] = True
    with suppress(BufferError):  # old versions of numpy have no bools in DLPack
        assert meta.sample(x, allowed=Foreign(mask)).tokens.tolist() == [69, 32]
    for given in (mask.tolist(), np.asfortranarray(mask)):
        assert meta.sample(x, allowed=given).tokens.tolist() == [69, 32]
    for given in (mask[:, :69].tolist(), mask[:1], [True] * 70):
        with pytest.raises(ValueError, match=r"allowed has shape .*: expected \(2, 70\)"):
            meta.sample(x, allowed=given)


def test_half_precision_and_strides(meta):
    x = logits_of(2, 40).astype(np.float16)
    assert meta.sample(x).tokens.tolist() == x.argmax(axis=1).tolist()
    wide = np.full((2, 64), np.nan, np.float32)
    wide[:, :40] = x
    assert meta.sample(wide[:, :40]).tokens.tolist() == x.argmax(axis=1).tolist()
    bits = (wide[:, :40].copy().view(np.uint32) >> 16).astype(np.uint16)
    high = (bits.astype(np.uint32) << 16).view(np.float32)
    assert meta.sample(rx.bf16(bits)).tokens.tolist() == high.argmax(axis=1).tolist()
    assert meta.sample(Foreign(x)).tokens.tolist() == x.argmax(axis=1).tolist()


def test_outputs_are_written_in_place(meta):
    x = logits_of()
    tokens, status = np.full(2, -7, np.int32), np.full(2, -7, np.int32)
    logprobs = np.full(2, 7, np.float32)
    out = meta.sample(x, tokens=tokens, status=status, logprobs=logprobs)
    assert out.tokens is tokens
    assert out.logprobs is logprobs
    assert tokens.tolist() == x.argmax(axis=1).tolist()
    assert (logprobs <= 0).all()


def test_rows_that_cannot_be_sampled_say_why(meta):
    x = logits_of(4)
    x[0, 3] = np.nan
    x[1] = -np.inf
    out = meta.sample(x, logprobs=True, top_p=[0.5, 0.5, 1.5, 0.5], temperature=1)
    assert [rx.RowStatus(s) for s in out.status] == [
        rx.RowStatus.NAN, rx.RowStatus.EMPTY, rx.RowStatus.PARAMETER, rx.RowStatus.OK,
    ]  # fmt: skip
    assert out.tokens[:3].tolist() == [-1, -1, -1]
    assert np.isnan(out.logprobs[:3]).all()


def test_no_rows(meta):
    assert meta.sample(np.empty((0, 9), np.float32), temperature=1).tokens.size == 0


def test_what_is_refused(meta):
    x = logits_of()
    with pytest.raises(ValueError, match=r"logits has shape \(40,\)"):
        meta.sample(x[0])
    with pytest.raises(TypeError, match="unknown option"):
        meta.sample(x, temprature=1)
    with pytest.raises(ValueError, match=r"top_p has shape \(3,\): expected \(2,\)"):
        meta.sample(x, top_p=[0.1, 0.2, 0.3])
    with pytest.raises(rx.InvalidArgumentError, match="num_top is 41"):
        meta.sample(x, num_top=41)
    with pytest.raises(ValueError, match="history has 1 rows: expected 2"):
        meta.sample(x, history=[[1]])
    with pytest.raises(TypeError, match="bias_values is missing"):
        meta.sample(x, bias=[1], bias_begin=[0, 1, 1])
    with pytest.raises(ValueError, match="bias_values has 2 entries: expected 1"):
        meta.sample(x, bias=[1], bias_values=[1, 2], bias_begin=[0, 1, 1])
    with pytest.raises(ValueError, match="allowed has shape"):
        meta.sample(x, allowed=np.ones((2, 39), bool))
    with pytest.raises(rx.InvalidArgumentError, match="allowed_stride is 1"):
        meta.sample(x, allowed=np.ones((2, 1), np.uint32))
    with pytest.raises(ValueError, match=r"tokens has shape \(3,\)"):
        meta.sample(x, tokens=np.empty(3, np.int32))
    with pytest.raises(rx.BufferTooSmallError):
        meta.sample(x, workspace=rx.aligned_memory(64))


# ---- verification


def chain(best, vocab=10):
    """Logits of a row a node, each with one likeliest token."""
    x = np.zeros((len(best), vocab), np.float32)
    x[np.arange(len(best)), best] = 9
    return x


def test_a_chain_of_drafts(meta):
    out = meta.verify(chain([3, 7, 2, 5]), [0, 3, 4], [0, 3, 1, 0])
    assert out.tokens.tolist() == [[3, 7, -1], [5, -1, -1]]
    assert out.num_tokens.tolist() == [2, 1]
    assert out.nodes.tolist() == [[0, 1, -1], [0, -1, -1]]
    assert out.status.tolist() == [0, 0]


def test_a_tree_of_drafts(meta):
    # the root's children 1 and 2, child 2's child 3
    out = meta.verify(
        chain([3, 0, 7, 2]), [0, 4], [0, 5, 3, 7], parents=[-1, 0, 0, 2], max_tokens=4
    )
    assert out.tokens.tolist() == [[3, 7, 2, -1]]
    assert out.nodes.tolist() == [[0, 2, 3, -1]]


def test_drafts_give_the_tokens_of_decoding_without(meta):
    x = logits_of(6, 4)
    options = {"temperature": 1.0, "seeds": 11, "positions": np.arange(6)}
    plain = meta.sample(x, **options).tokens
    out = meta.verify(x, [0, 6], [0, *plain[:5]], **options)
    assert out.tokens[0].tolist() == plain.tolist()


def test_draft_probabilities_keep_the_distribution(meta):
    n, vocab = 20000, 5
    rng = np.random.default_rng(1)
    target, q = np.array([2.0, 1, 0, 0, 1], np.float32), np.array([0.1, 0.1, 0.6, 0.1, 0.1])
    drafts = rng.choice(vocab, n, p=q)
    x = np.tile(target, (2 * n, 1))
    nodes = np.zeros(2 * n, np.int32)
    nodes[1::2] = drafts
    for siblings in (False, True):
        out = meta.verify(
            x, np.arange(0, 2 * n + 1, 2), nodes, temperature=1.0,
            draft_probs=np.tile(q.astype(np.float32), (2 * n, 1)), no_replacement=siblings,
            seeds=np.repeat(np.arange(n), 2), positions=np.tile([0, 1], n),
        )  # fmt: skip
        counts = np.bincount(out.tokens[:, 0], minlength=vocab)
        want = np.exp(target) / np.exp(target).sum() * n
        assert ((counts - want) ** 2 / want).sum() < 18.5  # p = 0.001, 4 degrees of freedom
        assert 0.2 < (out.num_tokens == 2).mean() < 0.6


def test_what_verify_refuses(meta):
    x = chain([1, 2])
    with pytest.raises(ValueError, match="draft_tokens has 1 entries: expected 2"):
        meta.verify(x, [0, 2], [0])
    with pytest.raises(ValueError, match="node_begin has 0 entries"):
        meta.verify(x, [], [0, 1])
    with pytest.raises(ValueError, match=r"draft_probs is f32 \(1, 10\)"):
        meta.verify(x, [0, 2], [0, 1], draft_probs=x[:1])
    with pytest.raises(rx.InvalidArgumentError, match="max_tokens is 0"):
        meta.verify(x, [0, 2], [0, 1], max_tokens=0)
    out = meta.verify(x, [0, 0], [0, 1])
    assert out.status.tolist() == [rx.RowStatus.PARAMETER]
