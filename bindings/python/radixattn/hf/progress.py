"""A progress bar on stderr."""

from __future__ import annotations

import sys
from typing import Any

from radixattn.hf.outputs import Event


class Progress:
    """Counts finished requests, generated tokens and cached ones; silent unless shown."""

    def __init__(self, total: int, shown: bool) -> None:
        self._bar: Any = None
        self._tokens = self._cached = 0
        if shown:
            from tqdm import tqdm  # transformers needs it, too

            self._bar = tqdm(total=total, file=sys.stderr, unit="request", dynamic_ncols=True)

    def update(self, event: Event) -> None:
        if self._bar is None:
            return
        self._tokens += len(event.token_ids)
        if event.finished:
            self._cached += event.output.cached_tokens
            self._bar.update(1)
        self._bar.set_postfix(tokens=self._tokens, cached=self._cached, refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
