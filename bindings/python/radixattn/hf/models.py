"""Which models radixattn.hf runs, what it reads from their configs, and contexts that fit them.

A model is checked once, when a cache or an engine is made for it: what would give other results
than transformers' own attention raises UnsupportedModelError, which names it and what is expected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch

from radixattn.context import Context

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from radixattn.config import Options

COVERED = (
    "gemma", "gemma2", "gemma3_text", "gpt_oss", "llama", "mistral", "mixtral", "phi3", "qwen2",
    "qwen3", "qwen3_moe",
)  # fmt: skip
"""config.model_type of the families that are compared with transformers' own attention in the
tests."""

_KV_DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_DEFAULT_TOKENS = 65536  # of a context that was not told a size, and
_DEFAULT_BYTES = 1 << 30  # at most this much K/V
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


class UnsupportedModelError(ValueError):
    """The model, or the way it is called, needs something that radixattn.hf does not compute."""


@dataclass(frozen=True)
class Geometry:
    """What of a model shapes its K/V.

    max_positions  tokens of a sequence that the model was made for
    dtype, device  of its activations
    """

    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    dtype: torch.dtype
    device: torch.device


def geometry(model: Any, *, any_family: bool = False) -> Geometry:
    """The geometry of a transformers causal language model.

    any_family: also take a model_type that is not in COVERED, unchecked.
    UnsupportedModelError: encoder-decoder, another family, positions that depend on the length,
    layers of different shapes, bidirectional attention, a head dim or dtype without kernels.
    """
    config = model.config.get_text_config(decoder=True)
    _check_kind(model, config, any_family)
    _check_rope(config)
    _check_layers(config)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if not 32 <= head_dim <= 256 or head_dim % 8:
        raise UnsupportedModelError(
            f"head_dim is {head_dim}: expected 32 to 256 in steps of 8, which the kernels have"
        )
    if model.dtype not in _KV_DTYPES:
        raise UnsupportedModelError(
            f"the model's dtype is {model.dtype}: expected float32, float16 or bfloat16"
        )
    return Geometry(
        num_layers=config.num_hidden_layers,
        num_q_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        max_positions=config.max_position_embeddings,
        dtype=model.dtype,
        device=_device(model),
    )


def _device(model: Any) -> torch.device:
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1 or next(iter(devices)).type not in ("cpu", "cuda"):
        names = ", ".join(sorted(map(str, devices)))
        raise UnsupportedModelError(f"the model is on {names}: expected one device, cpu or cuda")
    return devices.pop()


def _check_kind(model: Any, config: Any, any_family: bool) -> None:
    kind = getattr(model.config, "model_type", "") or type(model).__name__  # the outermost
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{kind} is an encoder-decoder, whose cross attention is not covered: "
            "expected a decoder-only model"
        )
    if getattr(config, "use_bidirectional_attention", None) not in (None, False):
        raise UnsupportedModelError(
            f"use_bidirectional_attention is {config.use_bidirectional_attention!r}: "
            "expected causal attention"
        )
    if kind not in COVERED and not any_family:
        raise UnsupportedModelError(
            f"model_type is {kind!r}: expected one of {', '.join(COVERED)} "
            "(any_family=True tries another one, untested)"
        )


def _rope_types(config: Any) -> Iterator[str]:
    """The rope types of a config: one, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for entry in nested or [parameters]:
        yield entry.get("rope_type", "default")


def _check_rope(config: Any) -> None:
    for kind in _rope_types(config):
        if kind in _LENGTH_DEPENDENT_ROPE:
            raise UnsupportedModelError(
                f"rope_type is {kind!r}, which turns keys by the length of the sequence, so that a "
                "cached prefix would not fit a longer one: expected another one, such as 'yarn'"
            )


def _check_layers(config: Any) -> None:
    known = {"full_attention", "sliding_attention"}
    others = set(getattr(config, "layer_types", None) or known) - known
    if others:
        raise UnsupportedModelError(
            f"layer_types has {', '.join(sorted(others))}: expected {' and '.join(sorted(known))}"
        )
    for name in ("num_kv_shared_layers", "kv_lora_rank", "attention_chunk_size"):
        if getattr(config, name, None):
            raise UnsupportedModelError(
                f"{name} is {getattr(config, name)}: expected a model whose layers each keep their "
                "own keys and values, heads of one size, seen causally"
            )


def make_context(model: Any, *, any_family: bool = False, **options: Unpack[Options]) -> Context:
    """A context whose K/V memory fits a model, on the model's device.

    options  as Context's; left out, 0 or None they are: the model's layers, KV heads and head_dim,
             kv_dtype its dtype, block_size 16, num_threads torch's (CPU), num_blocks for 65,536
             tokens or 1 GiB, whichever is less (memory_budget=... asks for another size)
    Errors: UnsupportedModelError, and those of Context.
    """
    shape = geometry(model, any_family=any_family)
    values: dict[str, Any] = {
        "num_layers": shape.num_layers,
        "num_kv_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "kv_dtype": _KV_DTYPES[shape.dtype],
        "device": "cpu" if shape.device.type == "cpu" else str(shape.device),
        "block_size": 16,
    }
    given = {name: value for name, value in options.items() if not _left_out(name, value)}
    if shape.device.type == "cpu" and "executor" not in given:
        values["num_threads"] = torch.get_num_threads()
    values.update(given)
    if "num_blocks" not in given and "memory_budget" not in given:
        values["num_blocks"] = _default_blocks(shape, values["block_size"])
    return Context(**values)


def _left_out(name: str, value: object) -> bool:
    """The option asks for the default. Values may be arrays; device_index 0 is a device."""
    if value is None:
        return True
    return name != "device_index" and isinstance(value, Integral) and value == 0


def _default_blocks(shape: Geometry, block_size: int) -> int:
    heads = shape.num_layers * shape.num_kv_heads * shape.head_dim
    token_bytes = 2 * heads * shape.dtype.itemsize
    tokens = min(_DEFAULT_TOKENS, _DEFAULT_BYTES // token_bytes)
    return int(max(tokens // block_size, 1))


def check_context(ctx: Context, shape: Geometry) -> None:
    """ValueError unless K/V of a model of this shape fit a context."""
    config = ctx.config
    for name in ("num_layers", "num_kv_heads", "head_dim"):
        if getattr(config, name) != getattr(shape, name):
            raise ValueError(
                f"the context's {name} is {getattr(config, name)}: expected the model's, "
                f"{getattr(shape, name)}"
            )
    place = str(ctx.place())
    device = "cpu" if shape.device.type == "cpu" else f"cuda:{shape.device.index or 0}"
    if place != device:
        raise ValueError(f"the context is on {place}: expected the model's device, {device}")
