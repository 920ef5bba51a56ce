"""The attention implementation "radixattn" of transformers, and its masks.

Registered in AttentionInterface and AttentionMaskInterface, transformers' public registries. The
function finds its step on the keys that a cache of this package returned from update().
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from radixattn.hf.models import UnsupportedModelError
from radixattn.hf.step import Step

NAME = "radixattn"
_MARK = "_radixattn_step"


def mark(key: torch.Tensor, step: Step, layer: int) -> torch.Tensor:
    """A view of keys that tells attention_forward which step and layer they belong to."""
    seen = key.view(key.shape)
    setattr(seen, _MARK, (step, layer))
    return seen


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What AttentionInterface calls.

    query           [batch, num_q_heads, length, head_dim], turned already
    key             what the cache's update() returned; its K/V stand in the paged cache
    attention_mask  what mask() returned
    sliding_window  visible tokens, the query's own included: as transformers' masks count
    s_aux           [num_q_heads] attention sinks
    Returns ([batch, length, num_q_heads, head_dim], None): there are no attention weights.
    UnsupportedModelError: dropout, attention weights, not causal, another mask.
    """
    found = getattr(key, _MARK, None)
    if found is None:
        raise UnsupportedModelError(
            "the attention implementation is 'radixattn', and keys come from elsewhere: expected "
            "past_key_values of radixattn.hf (or model.set_attn_implementation('sdpa'))"
        )
    step, layer = found
    _check_call(module, dropout, kwargs)
    _check_mask(step, attention_mask)
    options: dict[str, Any] = {"window": sliding_window or 0, "softcap": softcap or 0.0}
    if scaling is not None:
        options["scale"] = float(scaling)
    if s_aux is not None:
        options["sinks"] = s_aux.detach().float().contiguous()
    return step.attend(layer, query, **options), None


def _check_call(module: torch.nn.Module, dropout: float, kwargs: dict[str, Any]) -> None:
    if dropout:
        raise UnsupportedModelError(f"dropout is {dropout}: expected 0 (model.eval())")
    if kwargs.get("output_attentions"):
        raise UnsupportedModelError(
            "output_attentions is True: expected False, the kernels keep no attention weights"
        )
    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UnsupportedModelError("is_causal is False: expected causal attention")
    for name in ("position_bias", "head_mask", "block_mask"):
        if kwargs.get(name) is not None:
            raise UnsupportedModelError(f"{name} is given: expected none, it is not covered")


def _check_mask(step: Step, attention_mask: torch.Tensor | None) -> None:
    """The mask must say what the cache knows; looked at once a step."""
    if step.mask_checked:
        return
    if attention_mask is not None and attention_mask.ndim != 2:
        raise UnsupportedModelError(
            f"attention_mask has {attention_mask.ndim} dimensions: expected [batch, tokens]"
        )
    if step.mask is None:
        fits = attention_mask is None or bool(attention_mask.all())
    else:
        fits = attention_mask is not None and torch.equal(attention_mask.bool(), step.mask)
    if not fits:
        raise UnsupportedModelError(
            "attention_mask is not the one that the cache was begun with, continued with ones: "
            "expected padding at the left only, and begin(input_ids, attention_mask)"
        )
    step.mask_checked = True


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *args: Any,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool | None = None,
    **kwargs: Any,
) -> torch.Tensor | None:
    """What AttentionMaskInterface calls: passes the 2-D mask on; causality and windows are the
    kernels'.

    UnsupportedModelError: a mask that is more than causal (or sliding) and padding.
    """
    if not allow_is_causal_skip:
        raise UnsupportedModelError(
            "the model asks for a mask that is not plainly causal (bidirectional tokens, packed "
            "sequences, an extra mask): expected causal attention, with sliding windows or without"
        )
    return attention_mask


def register() -> None:
    """Makes "radixattn" known to transformers. Called when radixattn.hf is imported."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, mask)


@dataclass
class _Users:
    """Who has set a model to radixattn, and what it had before the first of them."""

    count: int
    before: str


_users: WeakKeyDictionary[Any, _Users] = WeakKeyDictionary()


def use(model: Any) -> None:
    """Sets the model's attention implementation to radixattn, until as many release() follow."""
    if model in _users:
        _users[model].count += 1
        model.set_attn_implementation(NAME)
        return
    before = str(model.config._attn_implementation)
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise UnsupportedModelError(
            f"{type(model).__name__} takes no other attention implementation: expected a model "
            "that dispatches through AttentionInterface"
        )
    _users[model] = _Users(1, before)


def release(model: Any) -> None:
    """The end of one use(); the last one sets back what the model had before the first."""
    users = _users[model]
    users.count -= 1
    if users.count == 0:
        del _users[model]
        model.set_attn_implementation(users.before)


def check_used(model: Any) -> None:
    """UnsupportedModelError unless the model attends by radixattn: with another implementation it
    would see the new keys only."""
    found = model.config._attn_implementation
    if found != NAME:
        raise UnsupportedModelError(
            f"the model's attention implementation is {found!r}, and its cache is radixattn's: "
            f"expected model.set_attn_implementation({NAME!r})"
        )
