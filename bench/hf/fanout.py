"""Time to first token and tokens a second of radixattn.hf.Engine on a fan-out workload.

    ./run bench hf [--json FILE] [--rounds N]

16 prompts of 1,024 tokens, 32 new tokens each, on a random Llama of 8 layers x 512 (f32, CPU):
  shared    the first 1,000 tokens of every prompt are the same
  unshared  nothing is
one after the other (serial: a request is sent when the one before has ended) or all at once (batch),
by
  plain     transformers' own generate() with a DynamicCache and sdpa attention
  off       the engine with prefix_caching=False
  on        the engine; its cache is empty when a workload begins
Cases run in turn, round after round, and medians of the rounds are compared. ttft is the median over
requests 2 to 16 in serial, over all requests in batch. A round of two prompts warms up, untimed, and
the tokens of all cases of a workload must be equal. --clock cpu counts the CPU seconds of this
process instead, which others on the machine disturb less; with --threads 1 they are nearly those of
an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import radixattn as rx
import torch
import transformers
from radixattn.hf import Engine, SamplingParams, make_context
from transformers.generation.streamers import BaseStreamer

PROMPTS, PROMPT_TOKENS, SHARED_TOKENS, NEW_TOKENS, VOCABULARY = 16, 1024, 1000, 32, 4096


clock: Callable[[], float] = time.perf_counter  # or time.process_time, see --clock


def now() -> float:
    return clock()


@dataclass
class Result:
    """A run of a workload: time to first token of each request, seconds of all, tokens of all."""

    ttft: list[float]
    seconds: float
    tokens: list[list[int]]


class FirstToken(BaseStreamer):
    """Notes when generate() has its first token: the second put(), after the prompt's."""

    def __init__(self) -> None:
        self.puts, self.when = 0, 0.0

    def put(self, value: torch.Tensor) -> None:
        self.puts += 1
        if self.puts == 2:
            self.when = now()

    def end(self) -> None:
        pass


Table = dict[str, dict[str, Callable[[], Result]]]
"""Workload -> way -> run."""


def make_model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=2, head_dim=64, max_position_embeddings=2048,
        eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def make_prompts(shared: bool) -> list[list[int]]:
    generator = torch.Generator().manual_seed(6)
    prompts = torch.randint(1, VOCABULARY, (PROMPTS, PROMPT_TOKENS), generator=generator)
    if shared:
        prompts[:, :SHARED_TOKENS] = prompts[0, :SHARED_TOKENS]
    return prompts.tolist()


def plain_serial(model: torch.nn.Module, prompts: list[list[int]]) -> Result:
    model.set_attn_implementation("sdpa")
    begin, ttft, tokens = now(), [], []
    for prompt in prompts:
        ids, first, sent = torch.tensor([prompt]), FirstToken(), now()
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
            streamer=first,
        )  # fmt: skip
        ttft.append(first.when - sent)
        tokens.append(out[0, len(prompt) :].tolist())
    return Result(ttft, now() - begin, tokens)


class FirstStep(transformers.StoppingCriteria):
    """As FirstToken, for batches, which take no streamer; stops nothing."""

    def __init__(self) -> None:
        self.when = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        self.when = self.when or now()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def plain_batch(model: torch.nn.Module, prompts: list[list[int]]) -> Result:
    model.set_attn_implementation("sdpa")
    ids, first, begin = torch.tensor(prompts), FirstStep(), now()
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
        stopping_criteria=transformers.StoppingCriteriaList([first]),
    )  # fmt: skip
    seconds = now() - begin
    return Result([first.when - begin] * len(prompts), seconds, out[:, len(prompts[0]) :].tolist())


def engine_run(
    model: torch.nn.Module, ctx: rx.Context, prompts: list[list[int]], caching: bool, serial: bool
) -> Result:
    ctx.clear()
    params = SamplingParams(max_new_tokens=NEW_TOKENS)
    with Engine(model, ctx=ctx, prefix_caching=caching, max_num_seqs=PROMPTS) as engine:
        begin, ttft, tokens = now(), [], {}
        for group in [[prompt] for prompt in prompts] if serial else [prompts]:
            sent, first = now(), {}
            for event in engine.stream(group, params):
                first.setdefault(event.request_id, now() - sent)
                tokens[event.request_id] = event.output.token_ids
            ttft += first.values()
        seconds = now() - begin
    return Result(ttft, seconds, [tokens[number] for number in sorted(tokens)])


def cases(model: torch.nn.Module, ctx: rx.Context, count: int) -> Table:
    """Workload -> way -> run."""
    table: Table = {}
    for kind in ("shared", "unshared"):
        prompts = make_prompts(kind == "shared")[:count]
        for order, plain in (("serial", plain_serial), ("batch", plain_batch)):
            serial = order == "serial"
            table[f"{kind}.{order}"] = {
                "plain": lambda plain=plain, p=prompts: plain(model, p),
                "off": lambda p=prompts, s=serial: engine_run(model, ctx, p, False, s),
                "on": lambda p=prompts, s=serial: engine_run(model, ctx, p, True, s),
            }
    return table


def run_round(table: Table) -> dict[tuple[str, str], Result]:
    """Every case once; the program ends when one generates other tokens than plain."""
    results = {}
    for workload, ways in table.items():
        for way, run in ways.items():
            result = results[workload, way] = run()
            if result.tokens != results[workload, "plain"].tokens:
                raise SystemExit(f"{workload}: {way} generated other tokens than plain")
    return results


def measure(table: Table, rounds: int) -> list[dict[str, object]]:
    times: dict[tuple[str, str], list[Result]] = {}
    for number in range(rounds):
        for case, result in run_round(table).items():
            times.setdefault(case, []).append(result)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return [row(workload, way, results, times) for (workload, way), results in times.items()]


def row(
    workload: str, way: str, results: list[Result], times: dict[tuple[str, str], list[Result]]
) -> dict[str, object]:
    first = 1 if workload.endswith("serial") else 0

    def ttft(runs: list[Result]) -> float:
        return statistics.median(statistics.median(run.ttft[first:]) for run in runs)

    def rate(runs: list[Result]) -> float:
        return statistics.median(PROMPTS * NEW_TOKENS / run.seconds for run in runs)

    plain = times[(workload, "plain")]
    return {
        "name": f"hf.{workload}.{way}",
        "ttft_ms": round(1000 * ttft(results), 2),
        "tokens_per_s": round(rate(results), 2),
        "ttft_speedup": round(ttft(plain) / ttft(results), 3),
        "tokens_per_s_ratio": round(rate(results) / rate(plain), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Fan-out on the Hugging Face engine.")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="workloads whose names contain this")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--note", default="", help="said in the JSON, such as 'shared machine'")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or os.cpu_count() or 1)
    if arguments.clock == "cpu":
        global clock
        clock = time.process_time
    model = make_model()
    with make_context(model, num_blocks=PROMPTS * (PROMPT_TOKENS + NEW_TOKENS) // 16 + 64) as ctx:
        warm, table = (
            {k: v for k, v in cases(model, ctx, count).items() if arguments.only in k}
            for count in (2, PROMPTS)
        )
        run_round(warm)
        rows = measure(table, arguments.rounds)
    print("| name | ttft, ms | tokens/s | ttft, plain / this | tokens/s, this / plain |")
    print("|---|---|---|---|---|")
    for r in rows:
        print("| " + " | ".join(str(value) for value in r.values()) + " |")
    if arguments.json:
        report = {
            "benchmark": "hf",
            "date": date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
            "note": arguments.note,
            "versions": {
                "radixattn": rx.build_info(), "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "rounds": arguments.rounds,
            "clock": arguments.clock,
            "workload": {
                "prompts": PROMPTS, "prompt_tokens": PROMPT_TOKENS, "shared_tokens": SHARED_TOKENS,
                "new_tokens": NEW_TOKENS, "model": "Llama, 8 layers x 512, GQA 8:2, f32",
            },
            "results": rows,
        }  # fmt: skip
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
