"""The plain tests of the package (../tests) need no torch; these do: ./run test hf."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import transformers
from families import FAMILIES, make_model
from words import make_tokenizer

from radixattn.hf import Engine

torch.set_num_threads(1)  # threads only wait for each other over models as small as these
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=sorted(FAMILIES))
def model(request):
    """A model of each family; its attention implementation must be the old one afterwards."""
    model = make_model(request.param)
    before = model.config._attn_implementation
    yield model
    assert model.config._attn_implementation == before


@pytest.fixture
def llama():
    return make_model("llama")


@pytest.fixture
def engine(llama):
    with Engine(llama, make_tokenizer(), num_blocks=128, block_size=4) as engine:
        yield engine
        engine.ctx.check()
        stats = engine.ctx.stats()
    assert stats.requests_live == 0
