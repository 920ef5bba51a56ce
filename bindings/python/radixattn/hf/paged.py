"""transformers' Cache over the paged one: what an engine's and generate()'s caches share.

A forward pass calls update() once for each layer; K/V go to the paged cache, and what comes back
are the new keys and values only, marked with the step (see attention.py).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from radixattn.hf.attention import check_used, mark
from radixattn.hf.models import UnsupportedModelError
from radixattn.hf.step import Step


class PagedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of a PagedCache, as transformers wants to see it."""

    is_sliding = False  # windows are the attention function's; all tokens stay
    is_croppable = True
    supports_early_init = False

    def __init__(self, owner: PagedCache, index: int) -> None:
        super().__init__()
        self._owner = owner
        self._index = index

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the memory is the context's."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes K and V, [batch, num_kv_heads, length, head_dim], of the new tokens.

        UnsupportedModelError: they need gradients, or the model attends by something else.
        """
        check_used(self._owner.model)
        if key_states.requires_grad or value_states.requires_grad:
            raise UnsupportedModelError("keys need gradients: expected torch.no_grad()")
        step = self._owner.step_of(self._index, key_states.shape[0], key_states.shape[2])
        step.write(self._index, key_states, value_states)
        self._owner.written(self._index)
        return mark(key_states, step, self._index), value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._owner.get_seq_length()

    def get_max_length(self) -> int:
        return -1


class PagedCache(Cache):  # type: ignore[misc]
    """A Cache whose layers write through steps. Subclasses say which step a forward pass has."""

    def __init__(self, model: Any, num_layers: int) -> None:
        super().__init__(layers=[PagedLayer(self, i) for i in range(num_layers)])
        self.model = model

    def __deepcopy__(self, memo: object) -> PagedCache:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied: expected no copy.deepcopy, prefixes are "
            "shared already"
        )

    def step_of(self, layer: int, batch: int, length: int) -> Step:
        """The step of the forward pass that now writes layer, of [batch, length] tokens."""
        raise NotImplementedError

    def written(self, layer: int) -> None:
        """K/V of a layer are written."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens (columns) that the cache holds."""
        raise NotImplementedError


class StepCache(PagedCache):
    """The cache of a single forward pass, whose step is known before; it holds no columns:
    positions are given."""

    def __init__(self, model: Any, num_layers: int) -> None:
        super().__init__(model, num_layers)
        self.step: Step | None = None

    def step_of(self, layer: int, batch: int, length: int) -> Step:
        assert self.step is not None
        return self.step

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0
