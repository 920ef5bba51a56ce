"""TextStream: random tokens and stop strings against the text of all tokens."""

from __future__ import annotations

import random

import pytest
from words import make_tokenizer

from radixattn.hf.text import TextStream


class Pieces:
    """A tokenizer whose tokens are given strings."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def decode(self, tokens, skip_special_tokens):
        return "".join(self.pieces[t] for t in tokens)


def whole(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text up to the first stop string, and whether there is one."""
    places = [text.index(stop) for stop in stops if stop in text]
    return (text[: min(places)], True) if places else (text, False)


@pytest.mark.parametrize("seed", range(300))
def test_what_streams_is_the_text_up_to_the_first_stop_string(seed):
    choose = random.Random(seed)
    pieces = Pieces(*("".join(choose.choices("ab", k=choose.randint(1, 3))) for _ in range(6)))
    stops = ["".join(choose.choices("ab", k=choose.randint(1, 5))) for _ in range(seed % 4)]
    tokens = choose.choices(range(6), k=20)
    stream, parts = TextStream(pieces, stops), []
    for i, token in enumerate(tokens):
        parts.append(stream.add(token))
        so_far, stopped = whole(pieces.decode(tokens[: i + 1], True), stops)
        assert stopped == (stream.stopped_by is not None)
        assert so_far.startswith("".join(parts))
        if stopped:
            break
    parts.append(stream.finish())
    assert "".join(parts) == stream.text == so_far
    assert not any(stop in stream.text for stop in stops)


def test_the_longest_of_stop_strings_at_one_place():
    stream = TextStream(Pieces("xabc"), ["ab", "abc", "bc"])
    assert (stream.add(0), stream.stopped_by) == ("x", "abc")
    assert (stream.add(0), stream.finish()) == ("", "")


def test_a_possible_start_is_held_back_until_it_is_none():
    stream = TextStream(Pieces("one E", "N", "D?", "EN"), ["END"])
    assert [stream.add(i) for i in (0, 1)] == ["one ", ""]
    stream = TextStream(Pieces("one E", "x", "EN"), ["END"])
    assert [stream.add(0), stream.add(1), stream.add(2)] == ["one ", "Ex", ""]
    assert stream.finish() == "EN"


def test_characters_of_several_tokens_come_whole():
    tokenizer = make_tokenizer()
    by_name = tokenizer.get_vocab()
    tokens = [by_name[c] for c in ("a", "Ã", "©", "b")]  # é is the bytes C3 A9
    stream = TextStream(tokenizer)
    assert [stream.add(t) for t in tokens] == ["a", "", "é", "b"]


def test_an_unfinished_character_comes_at_the_end():
    tokenizer = make_tokenizer()
    stream = TextStream(tokenizer)
    assert stream.add(tokenizer.get_vocab()["Ã"]) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
