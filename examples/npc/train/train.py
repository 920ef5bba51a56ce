"""Trains the characters' model on conversations that grammar.py invents, on a CPU.

Only the answers carry loss, the asked-for words four times as much as the others. A curriculum
begins with tiny worlds and grows them whenever the asked-for words come out right, because
looking a word up is learned quickly in short text and transfers to long text.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import grammar
import torch
import torch.nn.functional as F
from model import Config, Llama, begin_with_lookup, save
from torch import Tensor

FACT_WEIGHT = 4.0
FIRST_SIZE, GROWTH, READY_AT = 0.1, 1.4, 0.85
QUESTIONS_A_SEQUENCE = 26
HELD_OUT_SEEDS = 1_000_000_000  # seeds from here on are never trained on

IDS = {word: index for index, word in enumerate(grammar.vocabulary())}


@dataclass
class Sequence:
    """Token ids, and for each the weight of predicting it (0: no loss; above 1: a fact)."""

    ids: list[int]
    weights: list[float]

    def add(self, text: str, facts: tuple[str, ...] | None = None) -> None:
        """Appends text; `facts` None means that it is prompt, not answer."""
        for word in text.split():
            self.ids.append(IDS[word])
            self.weights.append(
                0.0 if facts is None else FACT_WEIGHT if word in facts else 1.0)


def make_sequence(seed: int, size: float) -> Sequence:
    """One world, one card and a long conversation about them."""
    rng = random.Random(seed)
    world = grammar.make_world(rng, size)
    character = grammar.make_character(world, rng)
    sequence = Sequence([], [])
    sequence.add(grammar.prefix_text(world.text, character.text))
    for question in grammar.all_questions(world, character, rng)[:QUESTIONS_A_SEQUENCE]:
        sequence.add(grammar.turn_text(question.text))
        sequence.add(f"{question.answer} {grammar.EOS}", question.facts)
    return sequence


class Batches:
    """Batches of about `tokens` tokens; each sequence has a seed of its own."""

    def __init__(self, tokens: int, seed: int) -> None:
        self.tokens, self.next_seed = tokens, seed * 10_000_000
        self.rng = random.Random(seed)

    def draw(self, size: float) -> tuple[Tensor, Tensor]:
        """ids and weights, each [B, T], padded on the right with weight 0."""
        sequences: list[Sequence] = []
        longest = 0
        while (len(sequences) + 1) * longest <= self.tokens:
            drawn = size * (1.0 if self.rng.random() < 0.7 else self.rng.uniform(0.4, 1.0))
            sequences.append(make_sequence(self.next_seed, drawn))
            self.next_seed += 1
            assert self.next_seed < HELD_OUT_SEEDS
            longest = max(longest, len(sequences[-1].ids))
        ids = torch.zeros(len(sequences), longest, dtype=torch.long)
        weights = torch.zeros(len(sequences), longest)
        for row, sequence in enumerate(sequences):
            ids[row, :len(sequence.ids)] = torch.tensor(sequence.ids)
            weights[row, :len(sequence.ids)] = torch.tensor(sequence.weights)
        return ids, weights


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    warm = min(1.0, (step + 1) / 30)
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / steps)
    return peak * warm * (0.02 + 0.98 * cosine)


def loss_and_accuracy(model: torch.nn.Module, ids: Tensor, weights: Tensor
                      ) -> tuple[Tensor, float]:
    """Weighted cross-entropy of the answers, and the share of fact words predicted right."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model(ids[:, :-1])
        wanted = weights[:, 1:] > 0
        logits = model.logits(hidden[wanted]).float()
    targets, weight = ids[:, 1:][wanted], weights[:, 1:][wanted]
    loss = (F.cross_entropy(logits, targets, reduction="none") * weight).sum() / weight.sum()
    right = (logits.argmax(-1) == targets)[weight > 1]
    return loss, right.float().mean().item()


def make_optimizer(model: Llama) -> torch.optim.Optimizer:
    """AdamW; norms and the embedding do not decay."""
    decays = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() < 2 or "embed" in n]
    groups = [{"params": decays, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-8)


def train(arguments: argparse.Namespace) -> None:
    """The whole run: batches, curriculum, log, checkpoints."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    model = Llama(Config(vocab_size=len(IDS)))
    begin_with_lookup(model)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    if arguments.resume:
        model.load_state_dict(torch.load(arguments.resume))
    optimizer = make_optimizer(model)
    batches = Batches(arguments.tokens, arguments.seed)
    size, smooth, start, logged, seen = arguments.size, 0.0, time.time(), 0.0, 0
    for step in range(arguments.steps):
        ids, weights = batches.draw(size)
        loss, accuracy = loss_and_accuracy(model, ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.lr)
        optimizer.step()
        seen += ids.numel()
        smooth = 0.95 * smooth + 0.05 * accuracy
        if time.time() - logged > arguments.log_seconds or step + 1 == arguments.steps:
            logged = time.time()
            print(f"{logged - start:6.0f} s  step {step + 1:5d}  size {size:.2f}  batch "
                  f"{tuple(ids.shape)}  loss {loss.item():.3f}  facts {smooth:.3f}  "
                  f"tokens {seen / 1e6:.2f}M", flush=True)
            save(model, arguments.out)
            torch.save(model.state_dict(), arguments.out / "checkpoint.pt")
        if smooth > READY_AT and size < 1.0:
            size, smooth = min(1.0, size * GROWTH), smooth - 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("trained"), help="folder to write")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens in a batch")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--size", type=float, default=FIRST_SIZE, help="size of the first worlds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log-seconds", type=float, default=30.0)
    parser.add_argument("--resume", type=Path, help="a checkpoint.pt to start from")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
