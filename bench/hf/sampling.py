"""Sampling with radixattn against torch's own operators, on the CPU.

    ./run bench torch-sampling [--json FILE] [--rounds N] [--threads N]

Microseconds a row for peaked logits like a language model's, by
  torch      argmax; softmax and multinomial; topk, softmax and multinomial; or sort, softmax, cumulative
             sum, mask and multinomial, as transformers' warpers do
  radixattn  Context.sample, arrays of parameters made beforehand, the call of Python included
Ways run in turn, round after round, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import radixattn as rx
import torch

TOP_K, TOP_P = 50, 0.9


def peaked(rows: int, vocab: int) -> torch.Tensor:
    """A token of rank r has about r^-1.3 of the first one's probability; in random order."""
    random = torch.Generator().manual_seed(vocab)
    ranks = -1.3 * torch.log(torch.arange(vocab) + 1.0)
    noise = torch.rand(rows, vocab, generator=random) - 0.5
    order = torch.stack([torch.randperm(vocab, generator=random) for _ in range(rows)])
    return torch.gather(12 + ranks + noise, 1, order).contiguous()


def torch_greedy(logits: torch.Tensor) -> torch.Tensor:
    return torch.argmax(logits, dim=-1)


def torch_temperature(logits: torch.Tensor) -> torch.Tensor:
    return torch.multinomial(torch.softmax(logits / 0.8, dim=-1), 1)


def torch_top_k(logits: torch.Tensor) -> torch.Tensor:
    values, ids = torch.topk(logits / 0.8, TOP_K, dim=-1)
    return torch.gather(ids, 1, torch.multinomial(torch.softmax(values, dim=-1), 1))


def torch_top_p(logits: torch.Tensor) -> torch.Tensor:
    values, ids = torch.sort(logits / 0.8, dim=-1, descending=True)
    probabilities = torch.softmax(values, dim=-1)
    before = torch.cumsum(probabilities, dim=-1) - probabilities
    kept = probabilities.masked_fill(before >= TOP_P, 0.0)
    return torch.gather(ids, 1, torch.multinomial(kept, 1))


def options(setting: str, rows: int) -> dict:
    each: dict = {"seeds": np.arange(rows, dtype=np.uint64)}
    if setting != "greedy":
        each["temperature"] = np.full(rows, 0.8, np.float32)
    if setting == "top_k":
        each["top_k"] = np.full(rows, TOP_K, np.int32)
    if setting == "top_p":
        each["top_p"] = np.full(rows, TOP_P, np.float32)
    return each


TORCH = {
    "greedy": torch_greedy,
    "temperature": torch_temperature,
    "top_k": torch_top_k,
    "top_p": torch_top_p,
}


def seconds(call: Callable[[], object], at_least: float = 0.02) -> float:
    """Of one call: as many in a row as take at_least seconds."""
    calls, spent = 0, 0.0
    begin = time.perf_counter()
    while spent < at_least:
        call()
        calls += 1
        spent = time.perf_counter() - begin
    return spent / calls


def measure(ctx: rx.Context, setting: str, rows: int, vocab: int, rounds: int) -> dict:
    logits = peaked(rows, vocab)
    how = options(setting, rows)
    ways = {
        "torch": lambda: TORCH[setting](logits),
        "radixattn": lambda: ctx.sample(logits, **how),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way) / rows * 1e6)
    theirs, ours = (statistics.median(times[name]) for name in ("torch", "radixattn"))
    return {
        "name": f"sampling.{setting}.{vocab // 1000}k.b{rows}",
        "torch_us": round(theirs, 2),
        "radixattn_us": round(ours, 2),
        "ratio": round(theirs / ours, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    print(f"{'name':34} {'torch, us':>12} {'radixattn, us':>14} {'ratio':>8}")
    with rx.Context(num_blocks=1, metadata_only=True, num_threads=arguments.threads) as ctx:
        for setting in TORCH:
            for vocab in (32_000, 128_000):
                for rows in (1, 16):
                    r = measure(ctx, setting, rows, vocab, arguments.rounds)
                    results.append(r)
                    print(f"{r['name']:34} {r['torch_us']:12} {r['radixattn_us']:14} {r['ratio']:8}")
    if arguments.json:
        about = {
            "date": str(date.today()),
            "command": "./run bench torch-sampling",
            "torch": torch.__version__,
            "threads": arguments.threads,
            "unit": "us a row, medians of interleaved rounds",
        }
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(about | {"results": results}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
