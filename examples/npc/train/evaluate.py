"""Accuracy on held-out worlds: the stored weights answer data/heldout.json greedily.

The questions of a character are turns of one conversation, and the model's own answers stay in
the context, as in the demo. An answer is right if an accepted word occurs in it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import grammar
import torch
import torch.nn.functional as F
from model import Llama, load, rope_tables, rotate
from torch import Tensor

HERE = Path(__file__).resolve().parent
WORDS = grammar.vocabulary()
IDS = {word: index for index, word in enumerate(WORDS)}
LONGEST_ANSWER = 40


class Conversation:
    """A context with its keys and values, so that a token costs one step."""

    def __init__(self, model: Llama) -> None:
        self.model, self.length = model, 0
        self.cos, self.sin = rope_tables(model.config, model.config.max_position_embeddings)
        self.cache: list[tuple[Tensor, Tensor] | None] = [None] * len(model.model.layers)

    def _attend(self, index: int, x: Tensor) -> Tensor:
        """Attention of layer `index` over the cache and the new tokens x [T, H]."""
        layer, config = self.model.model.layers[index].self_attn, self.model.config
        end = self.length + len(x)
        cos, sin = self.cos[self.length:end], self.sin[self.length:end]
        q, k, v = (projection(x).view(len(x), -1, config.head_dim).transpose(0, 1)
                   for projection in (layer.q_proj, layer.k_proj, layer.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.cache[index] is not None:
            k = torch.cat([self.cache[index][0], k], dim=1)
            v = torch.cat([self.cache[index][1], v], dim=1)
        self.cache[index] = (k, v)
        mask = torch.ones(len(x), end, dtype=torch.bool).tril(self.length)
        group = config.num_attention_heads // config.num_key_value_heads
        k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
        return layer.o_proj(mixed.transpose(0, 1).reshape(len(x), -1))

    @torch.no_grad()
    def add(self, ids: list[int]) -> Tensor:
        """Appends tokens and returns the logits [V] after the last one."""
        decoder = self.model.model
        x = decoder.embed_tokens(torch.tensor(ids))
        for index, layer in enumerate(decoder.layers):
            x = x + self._attend(index, layer.input_layernorm(x))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        self.length += len(ids)
        return self.model.logits(decoder.norm(x[-1]))

    def answer(self, text: str) -> str:
        """Appends a prompt, decodes greedily up to <eos> and keeps the answer in the context."""
        logits, said = self.add([IDS[word] for word in text.split()]), []
        for _ in range(LONGEST_ANSWER):
            said.append(int(logits.argmax()))
            logits = self.add(said[-1:])
            if said[-1] == IDS[grammar.EOS]:
                break
        return " ".join(WORDS[token] for token in said if token != IDS[grammar.EOS])


@torch.no_grad()
def last_logits(model: Llama, ids: list[int]) -> Tensor:
    """Logits [V] after the last token, computed without a cache."""
    return model.logits(model(torch.tensor([ids]))[0, -1])


def continue_greedily(model: Llama, ids: list[int], count: int) -> list[int]:
    """The `count` most likely next tokens, each computed without a cache."""
    context = list(ids)
    for _ in range(count):
        context.append(int(last_logits(model, context).argmax()))
    return context[len(ids):]


def evaluate(model: Llama, worlds: list[dict], without_lore: bool, show_wrong: int) -> Counter:
    """Counts of (kind, "asked" | "right" | "verbatim") and prints the first wrong answers."""
    counts: Counter = Counter()
    for world in worlds:
        lore = "" if without_lore else world["lore"]
        for character in world["characters"]:
            conversation = Conversation(model)
            text = grammar.prefix_text(lore, character["card"])
            for question in character["questions"]:
                said = conversation.answer(f"{text} {grammar.turn_text(question['text'])}")
                text = ""
                right = any(word in said.split() for word in question["accepted"])
                for name in (question["kind"], question["relation"], "all"):
                    counts[name, "asked"] += 1
                    counts[name, "right"] += right
                    counts[name, "verbatim"] += said == question["answer"]
                if not right and show_wrong > 0:
                    show_wrong -= 1
                    print(f"wrong: {question['text']}\n   said: {said}\n   fact: "
                          f"{question['answer']}")
    return counts


def report(counts: Counter) -> None:
    """One line for each kind and relation of question, the total last."""
    for name in sorted({key for key, _ in counts}, key=lambda key: (key == "all", key)):
        asked, right = counts[name, "asked"], counts[name, "right"]
        print(f"{name:16} {right:4d} of {asked:4d} right ({100 * right / asked:5.1f}%), "
              f"{counts[name, 'verbatim']:4d} word for word")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE.parent / "model")
    parser.add_argument("--data", type=Path, default=HERE.parent / "data" / "heldout.json")
    parser.add_argument("--worlds", type=int, default=10_000, help="use only the first so many")
    parser.add_argument("--without-lore", action="store_true",
                        help="leave the lore out: questions about it should then fail")
    parser.add_argument("--show-wrong", type=int, default=0, help="print so many wrong answers")
    arguments = parser.parse_args()
    data = json.loads(arguments.data.read_text())
    worlds = data.get("worlds", [data])[:arguments.worlds]
    torch.set_num_threads(1)
    report(evaluate(load(arguments.model), worlds, arguments.without_lore, arguments.show_wrong))


if __name__ == "__main__":
    main()
