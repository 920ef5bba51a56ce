"""python -m radixattn generate: prompts from a file through an Engine, answers to stdout.

One JSON object a line: index, prompt_tokens, cached_tokens, tokens, finish_reason, text; or error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radixattn.hf import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `generate`."""
    parser.add_argument("--model", required=True, help="a folder (or name) that transformers loads")
    parser.add_argument(
        "--prompts", required=True, metavar="FILE",
        help="one prompt a line; with .jsonl an object with a 'prompt' a line; - reads stdin",
    )  # fmt: skip
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default): greedy")
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--typical-p", type=float, default=1.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--presence-penalty", type=float, default=0.0)
    parser.add_argument("--frequency-penalty", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], help="may be given several times")
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16, or auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-blocks", type=int, default=0)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--max-batch-tokens", type=int, default=2048)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--no-prefix-cache", action="store_true", help="compute every prompt whole")
    parser.add_argument("--any-family", action="store_true", help="also models that are not tested")
    parser.add_argument("--text-only", action="store_true", help="only the text, a line each")
    bar = parser.add_mutually_exclusive_group()
    bar.add_argument("--progress", action="store_true", default=None)
    bar.add_argument("--no-progress", dest="progress", action="store_false")


def run(arguments: argparse.Namespace) -> int:
    """Generates; returns the exit status: 0, or 1 when a request failed.

    ImportError without torch and transformers; ValueError, OSError: a bad option or file.
    """
    from radixattn.hf import Engine, SamplingParams  # first: says what is missing

    from transformers import AutoModelForCausalLM, AutoTokenizer  # isort: skip

    params = SamplingParams(
        max_new_tokens=arguments.max_new_tokens, temperature=arguments.temperature,
        top_k=arguments.top_k, top_p=arguments.top_p, min_p=arguments.min_p,
        typical_p=arguments.typical_p, repetition_penalty=arguments.repetition_penalty,
        presence_penalty=arguments.presence_penalty,
        frequency_penalty=arguments.frequency_penalty, seed=arguments.seed,
        stop=tuple(arguments.stop), ignore_eos=arguments.ignore_eos,
    )  # fmt: skip
    prompts = read_prompts(arguments.prompts)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
    shown = arguments.progress
    with Engine(
        model.to(arguments.device).eval(), tokenizer, num_blocks=arguments.num_blocks,
        block_size=arguments.block_size, max_batch_tokens=arguments.max_batch_tokens,
        max_num_seqs=arguments.max_num_seqs, prefix_caching=not arguments.no_prefix_cache,
        any_family=arguments.any_family,
    ) as engine:  # fmt: skip
        outputs = engine.generate(
            prompts, params, progress=sys.stderr.isatty() if shown is None else shown
        )
    for index, output in enumerate(outputs):
        print(output.text if arguments.text_only else json.dumps(summary(index, output)))
    return int(any(output.error for output in outputs))


def read_prompts(name: str) -> list[str]:
    r"""The prompts of a file, empty lines left out. ValueError: a line that is none.

    "\n", "\r\n" and "\r" end a line, as in every text file. splitlines() would also cut at U+2028,
    form feeds and others, which prompts may have.
    """
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line.strip()]
    if not name.endswith(".jsonl"):
        return lines
    prompts = []
    for number, line in enumerate(lines, 1):
        record = json.loads(line)
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            raise ValueError(f"{name}: object {number} has no text 'prompt'")
        prompts.append(record["prompt"])
    return prompts


def summary(index: int, output: Output) -> dict[str, Any]:
    """An output as a line of JSON."""
    line: dict[str, Any] = {"index": index, "prompt_tokens": len(output.prompt_token_ids)}
    if output.error is not None:
        return line | {"finish_reason": "error", "error": str(output.error)}
    return line | {
        "cached_tokens": output.cached_tokens,
        "tokens": len(output.token_ids),
        "finish_reason": output.finish_reason,
        "text": output.text,
    }
