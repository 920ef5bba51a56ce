"""A tokenizer made here: every token of the tests' vocabulary is a word or a piece of one."""

from __future__ import annotations

import functools

from families import VOCABULARY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@functools.cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: 0 is padding, the rest letters, spaces and bytes of longer characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = [c for c in alphabet if c.isascii() and c.isalnum()] + ["Ġ"]  # Ġ: the space
    others = [c for c in alphabet if c not in first]
    names = ["<pad>", *first, *others][:VOCABULARY]
    core = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", padding_side="left")
