"""Small random models of each family, made from their configs: nothing is downloaded.

Weights are larger than transformers' own, so that attention decides tokens; windows, soft caps and
scales are set where they show.
"""

from __future__ import annotations

import functools

import torch
import transformers as tf

VOCABULARY = 199
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}
WINDOWS = {"sliding_window": 7}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
MOE = {"num_experts_per_tok": 2}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip

# name -> (config class, what differs from SMALL)
FAMILIES = {
    "llama": (tf.LlamaConfig, {}),
    "llama_mha": (tf.LlamaConfig, {"num_key_value_heads": 4}),
    "llama3_rope": (tf.LlamaConfig, {"rope_parameters": LLAMA3}),
    "llama_yarn": (
        tf.LlamaConfig,
        {"rope_parameters": YARN | {"original_max_position_embeddings": 128}},
    ),
    "qwen2": (tf.Qwen2Config, {"head_dim": None, "hidden_size": 128}),
    "qwen2_window": (
        tf.Qwen2Config,
        WINDOWS
        | {
            "head_dim": None, "hidden_size": 128, "use_sliding_window": True,
            "max_window_layers": 1,
        },
    ),
    "qwen3": (tf.Qwen3Config, {}),
    "qwen3_moe": (
        tf.Qwen3MoeConfig,
        MOE | {"num_experts": 4, "moe_intermediate_size": 32},
    ),
    "mistral": (tf.MistralConfig, WINDOWS),
    "mistral_full": (tf.MistralConfig, {"sliding_window": None}),
    "mixtral": (tf.MixtralConfig, MOE | {"num_local_experts": 4, "sliding_window": 9}),
    "phi3": (tf.Phi3Config, WINDOWS | {"head_dim": None, "hidden_size": 128}),
    "gemma": (tf.GemmaConfig, {"head_dim": 256, "num_key_value_heads": 1}),
    "gemma2": (
        tf.Gemma2Config,
        WINDOWS
        | {
            "layer_types": MIXED, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 17,
        },
    ),
    "gemma3_text": (
        tf.Gemma3TextConfig,
        WINDOWS | {"layer_types": MIXED, "query_pre_attn_scalar": 17, "head_dim": 64},
    ),
    "gpt_oss": (
        tf.GptOssConfig,
        WINDOWS
        | MOE
        | {
            "layer_types": MIXED, "num_local_experts": 4, "hidden_size": 64,
            "rope_parameters": YARN | {"original_max_position_embeddings": 128},
        },
    ),
}  # fmt: skip


COUNTED = {kind.model_type for kind, _ in FAMILIES.values()}


def make_config(name: str, **changes: object) -> tf.PreTrainedConfig:
    kind, differs = FAMILIES[name]
    values = {
        k: v for k, v in {**SMALL, **differs, **changes}.items() if v is not None or k in _NONE
    }
    return kind(**values)


_NONE = {"eos_token_id", "bos_token_id", "sliding_window"}


@functools.cache
def make_model(name: str) -> tf.PreTrainedModel:
    """The model of a family, in eval mode; shared by all tests: they leave it as it was."""
    torch.manual_seed(11)
    model = tf.AutoModelForCausalLM.from_config(make_config(name), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim == 1 and not bool(parameter.any()):  # sinks, biases: zeros hide mistakes
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def attention_of(model: tf.PreTrainedModel, how: str) -> str:
    """how, or eager for the families to which transformers gives no sdpa."""
    return "eager" if model.config.model_type in ("gemma2", "gpt_oss") else how


def tokens(count: int, seed: int) -> list[int]:
    """count token ids, none of them padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (count,), generator=generator).tolist()


def baseline(model: tf.PreTrainedModel, prompt: list[int], n: int, how: str = "sdpa") -> list[int]:
    """n greedy tokens by transformers' own cache and attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation(attention_of(model, how))
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False
    )
    model.set_attn_implementation(before)
    return out[0, len(prompt) :].tolist()


@torch.inference_mode()
def baseline_logits(model: tf.PreTrainedModel, ids: list[int], how: str = "sdpa") -> torch.Tensor:
    """Logits [len(ids), vocabulary] of one forward pass without a cache."""
    before = model.config._attn_implementation
    model.set_attn_implementation(attention_of(model, how))
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    model.set_attn_implementation(before)
    return logits
