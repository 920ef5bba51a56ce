"""A small decoder of the Llama architecture, with Hugging Face's tensor names and RoPE halves.

Shapes: B sequences, T tokens, Hq query heads, Hk key/value heads, D head_dim, V vocabulary.
The parameters' names are the names in `model.safetensors`; `lm_head` is the embedding (tied).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from grammar import BOS, EOS, vocabulary
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """The sizes that training may choose; the names are those of config.json."""

    vocab_size: int
    hidden_size: int = 192
    intermediate_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1000000.0
    max_position_embeddings: int = 2048


def rope_tables(config: Config, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each [T, D]; the two halves of D repeat the same D/2 angles."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32), config.rope_theta ** -half)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on x [B, H, T, D]: element i pairs with element i + D/2."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (projection(x).view(batch, length, -1, self.config.head_dim).transpose(1, 2)
                   for projection in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers, last norm: what Hugging Face calls `model`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        cos, sin = rope_tables(self.config, ids.shape[1])
        if torch.is_autocast_enabled("cpu"):
            cos, sin = cos.bfloat16(), sin.bfloat16()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Llama(nn.Module):
    """The language model; `forward` gives hidden states [B, T, H], `logits` their scores."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        for layer in self.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.data.div_((2 * config.num_hidden_layers) ** 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)


def _orthonormal(rows: int, columns: int) -> Tensor:
    """A random matrix with orthonormal rows."""
    return torch.linalg.qr(torch.randn(columns, rows))[0].T.contiguous()


@torch.no_grad()
def begin_with_lookup(model: Llama) -> None:
    """Starts training from a rough lookup circuit (an induction head) instead of from noise.

    From noise the answers' loss alone did not find it: 6,000 steps ended with 19% of the facts.
    Layer 0, head h looks h+1 tokens back and copies a sketch V of that token into a slot of its
    own. Layer 1 compares the last words before the query with the words before each key, slot by
    slot, and copies the token that it finds. Training moves every weight from there.
    """
    config, back = model.config, model.config.num_attention_heads
    size, hidden = config.head_dim, config.hidden_size
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    model.model.embed_tokens.weight[:, 0] = 1.0  # a constant, from which position is read
    sketch, slots = _orthonormal(size, hidden), _orthonormal(hidden, hidden)
    sketch[:, 0], slots[:, 0] = 0.0, 0.0  # the constant must match nothing
    model.model.layers[0].mlp.down_proj.weight.mul_(0.1)
    half, fast = size // 2, 5  # rotary pairs i and i + half; the first `fast` ones tell positions
    theta = config.rope_theta ** (-torch.arange(fast) * 2.0 / size)
    first.q_proj.weight.zero_(), first.k_proj.weight.zero_()
    for head in range(back):
        rows = slice(head * size, (head + 1) * size)
        first.q_proj.weight[rows][:fast, 0] = 0.75 * torch.cos(-theta * (head + 1))
        first.q_proj.weight[rows][half:half + fast, 0] = 0.75 * torch.sin(-theta * (head + 1))
        first.o_proj.weight[:, rows] = 0.25 * slots[rows].T
    still = [i for i in range(size) if i % half >= fast + 1]  # pairs that hardly turn
    for group in range(config.num_key_value_heads):
        rows = slice(group * size, (group + 1) * size)
        first.k_proj.weight[rows][:fast, 0] = 0.75
        first.v_proj.weight[rows] = sketch
        query, key = torch.zeros(len(still), hidden), torch.zeros(len(still), hidden)
        for slot in ((0, 1, 2), (0, 3, 4))[group]:
            mix = _orthonormal(len(still), size) * 1.3
            seen = 2.4 * sketch if slot == 0 else slots[(slot - 1) * size:slot * size]
            query += mix @ seen
            key += mix @ slots[slot * size:(slot + 1) * size]
        second.k_proj.weight[rows] *= 0.1
        second.k_proj.weight[rows][still] += key
        second.v_proj.weight[rows] = _orthonormal(size, hidden)
        members = back // config.num_key_value_heads
        for head in range(group * members, (group + 1) * members):
            block = slice(head * size, (head + 1) * size)
            second.q_proj.weight[block] *= 0.1
            second.q_proj.weight[block][still] += query
            second.o_proj.weight[:, block] = 0.15 * second.v_proj.weight[rows].T


def hugging_face_config(config: Config) -> dict:
    """config.json."""
    ids = {word: index for index, word in enumerate(vocabulary())}
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **asdict(config),
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
            "rope_scaling": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
            "bos_token_id": ids[BOS], "eos_token_id": ids[EOS]}


def save(model: Llama, folder: Path) -> None:
    """Writes config.json and model.safetensors (bfloat16, rounded to nearest)."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(hugging_face_config(model.config), indent=2)
    (folder / "config.json").write_text(text + "\n")
    tensors = {name: tensor.detach().bfloat16().contiguous()
               for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path) -> Llama:
    """The stored model; its bfloat16 weights are widened to float32."""
    stored = json.loads((folder / "config.json").read_text())
    model = Llama(Config(**{name: stored[name] for name in Config.__dataclass_fields__}))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()
