"""`python -m gpubench`, as ./run bench gpu and ./run gpu start it.

Exit status: 0 all well; 1 a wrong result, an error of ours or a device that was lost; 2 nothing
could be measured here (no PyTorch, no GPU, no library), and why.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from gpubench import cases, machine
from gpubench.flow import Run
from gpubench.library import Library, find_library
from gpubench.report import Report
from gpubench.stats import Budget

EXPECTED_SECONDS = {"late": 20.0}  # of what compiles first


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench gpu")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", metavar="FILE", help="write the table for docs/benchmarks.md")
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="stop after so many (default 240)"
    )
    parser.add_argument("--only", metavar="TEXT", help="only cases with this in their name")
    parser.add_argument("--quick", action="store_true", help="a few toy cases: does all of it run?")
    parser.add_argument(
        "--check", action="store_true", help="only ask whether this can be done here"
    )
    parser.add_argument("--list", action="store_true", help="print the cases in order and stop")
    parser.add_argument("--library", metavar="FILE", help="libradixattn.so (default: of build/gpu)")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: toy cases, for tests"
    )
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error(f"--seconds is {options.seconds}: expected more than 0")
    return options


def chosen(options: argparse.Namespace) -> list[cases.Case]:
    small = options.quick or options.device == "cpu"
    every = cases.small_grid(options.device) if small else cases.grid()
    return [case for case in every if not options.only or options.only in case.name]


def why_not(options: argparse.Namespace) -> tuple[Any, str]:
    """(torch, "") or what is missing."""
    try:
        import torch
    except ImportError as error:
        return None, (
            f"{sys.executable} has no PyTorch ({error}): this benchmark needs it for memory, "
            "timing and peers; PYTHON=... ./run bench gpu chooses another Python"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        return None, f"PyTorch {torch.__version__} finds no CUDA device on this machine"
    if not chosen(options):
        return None, f"--only is {options.only!r}: no case has that in its name (--list shows them)"
    return torch, ""


def measure(options: argparse.Namespace, arguments: list[str], started: float) -> Report | str:
    """The report, or why there is none."""
    torch, missing = why_not(options)
    if missing:
        return missing
    try:
        lib = Library(find_library(options.library))
    except (FileNotFoundError, ImportError, OSError) as error:
        return str(error)
    if options.device == "cuda" and lib.cuda_devices() == 0:
        return f"{lib.path} finds no CUDA device: {lib.build_info()}"
    from gpubench.torch_backend import TorchBackend

    report = Report(machine.describe(arguments, lib, options.device, torch))
    budget = Budget(options.seconds, time.monotonic, started, EXPECTED_SECONDS)
    run = Run(
        TorchBackend(lib, options.device),
        budget,
        time.monotonic,
        lambda line: print(line, flush=True),
        report,
        lambda: write(options, report),
    )
    return run.all(chosen(options))


def write(options: argparse.Namespace, report: Report) -> None:
    for path, text in ((options.json, report.to_json), (options.markdown, report.to_markdown)):
        if path:
            Path(path).write_text(text(), encoding="utf-8")


def finish(options: argparse.Namespace, report: Report) -> int:
    """Writes what was asked for, says how it went; the exit status."""
    write(options, report)
    for why, names in report.left_out_by_reason().items():
        print(f"left out: {len(names)} ({why}), first {', '.join(names[:4])}")
    bad = [row.name for row in report.rows if row.bad]
    if bad:
        print(f"{len(bad)} of ours are wrong or failed: {', '.join(bad)}")
    if report.stopped:
        print(f"stopped early: {report.stopped}")
    print(report.headline())
    return 1 if report.failed else 0


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    options = parse(arguments)
    if options.list:
        for case in chosen(options):
            print(f"{case.rank} {case.name} {' '.join(case.peers)}".rstrip())
        return 0
    if options.check:
        _, missing = why_not(options)
        print(f"error: {missing}" if missing else "PyTorch and a GPU are here", file=sys.stderr)
        return 2 if missing else 0
    report = measure(options, arguments, started)
    if isinstance(report, str):
        print(f"error: {report}", file=sys.stderr)
        return 2
    return finish(options, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
