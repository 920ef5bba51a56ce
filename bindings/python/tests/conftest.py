"""Contexts small enough that edges happen, and a plain attention in float64 to compare with."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest
from simulated import device, fake_torch

import radixattn as rx

GEOMETRY = {
    "num_blocks": 32,
    "block_size": 4,
    "num_layers": 2,
    "num_kv_heads": 2,
    "head_dim": 32,
    "kv_dtype": "f32",
}


@pytest.fixture
def make_ctx():
    """Makes contexts of GEOMETRY with changes; at the end their invariants are checked."""
    made = []

    def make(**changes):
        ctx = rx.Context(**{**GEOMETRY, **changes})
        made.append(ctx)
        return ctx

    yield make
    for ctx in made:
        if not ctx.closed:
            ctx.check()
            ctx.close()


@pytest.fixture
def ctx(make_ctx):
    return make_ctx()


@pytest.fixture
def meta(make_ctx):
    """A context of block ids only."""
    return make_ctx(metadata_only=True)


@pytest.fixture
def clean_device():
    """A simulated CUDA device, which the test leaves without work and without memory."""
    device.reset()
    yield
    gc.collect()
    assert not device.has_work()
    assert device.bytes_live() == 0
    assert device.bad_frees() == 0


@pytest.fixture
def cuda(make_ctx):
    return make_ctx(device="cuda")


@pytest.fixture
def torch(monkeypatch):
    """A torch whose current stream is one of its own."""
    module = fake_torch(device.make_stream())
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def _softmax_rows(x, sinks):
    top = np.maximum(x.max(axis=-1), sinks)
    weights = np.exp(x - top[..., None])
    total = weights.sum(axis=-1) + np.exp(sinks - top)
    return weights / total[..., None], top + np.log(total)


@pytest.fixture
def reference():
    """attention(q [rows, heads, dim], k [len, kv_heads, dim], v, softcap, sinks) in float64,
    causal.

    The rows are the last of the sequence. Returns (out, lse).
    """

    def attention(q, k, v, softcap=0.0, sinks=None):
        q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
        rows, heads, dim = q.shape
        group = heads // k.shape[1]
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        x = np.einsum("rhd,lhd->hrl", q, k) / np.sqrt(dim)
        if softcap:
            x = softcap * np.tanh(x / softcap)
        visible = np.arange(len(k))[None, :] <= np.arange(len(k) - rows, len(k))[:, None]
        x = np.where(visible[None], x, -np.inf)
        sink = np.full((heads, rows), -np.inf) if sinks is None else np.repeat(sinks, rows)
        weights, lse = _softmax_rows(x, np.reshape(sink, (heads, rows)))
        return np.einsum("hrl,lhd->rhd", weights, v), lse.T

    return attention
