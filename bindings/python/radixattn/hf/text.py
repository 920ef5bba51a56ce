"""Text out of tokens as they come, held back where it may still change or turn out to be a stop
string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what tokenizers show for the first bytes of a character


class TextStream:
    """The text of one request.

    Promises: what add() and finish() return, put together, is the text of all tokens up to the
    first stop string, and no part of a stop string was ever returned. A character whose bytes come
    in several tokens is returned when it is whole.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._context = 0  # tokens from here are decoded together: spaces depend on the one before
        self._read = 0  # tokens before here have been turned into text
        self._held = ""
        self.text = ""
        self.stopped_by: str | None = None

    def add(self, token: int) -> str:
        """The text that a token adds, as far as it is certain; "" after a stop string."""
        if self.stopped_by is not None:
            return ""
        self._tokens.append(token)
        return self._emit(self._decode(whole=False), last=False)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.stopped_by is not None:
            return ""
        return self._emit(self._decode(whole=True), last=True)

    def _decode(self, *, whole: bool) -> str:
        """New text since the last call; "" while it ends within a character, unless whole."""
        before = self._plain(self._tokens[self._context : self._read])
        now = self._plain(self._tokens[self._context :])
        if len(now) <= len(before) or (now.endswith(_UNFINISHED) and not whole):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return now[len(before) :]

    def _plain(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _emit(self, new: str, *, last: bool) -> str:
        text = self._held + new
        places = [(text.find(stop), stop) for stop in self._stop if stop in text]
        if places:
            # The first to begin; of those the longest.
            place, self.stopped_by = min(places, key=lambda found: (found[0], -len(found[1])))
            out, self._held = text[:place], ""
        else:
            held = 0 if last else self._possible_start(text)
            out, self._held = text[: len(text) - held], text[len(text) - held :]
        self.text += out
        return out

    def _possible_start(self, text: str) -> int:
        """Characters at the end of text that a stop string could begin with."""
        longest = 0
        for stop in self._stop:
            for n in range(min(len(stop) - 1, len(text)), longest, -1):
                if stop.startswith(text[-n:]):
                    longest = n
                    break
        return longest
