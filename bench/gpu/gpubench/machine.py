"""What a figure has to say about where it comes from."""

from __future__ import annotations

import datetime
import shlex
import subprocess
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]


def output_of(command: list[str]) -> str:
    """What a program prints, one line; "" when it cannot be run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, cwd=_ROOT
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(done.stdout.split())


def git_commit() -> str:
    """The commit, "+changes" when the tree differs from it; "" outside of a repository."""
    commit = output_of(["git", "rev-parse", "--short=12", "HEAD"])
    changed = commit and output_of(["git", "status", "--porcelain", "--untracked-files=no"])
    return commit + ("+changes" if changed else "")


def gpu_query(what: str) -> str:
    return output_of(["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", "--id=0"])


def describe(arguments: list[str], library: Any, device: str, torch: Any) -> dict[str, Any]:
    """The head of the JSON file."""
    gpu = torch.cuda.get_device_name(0) if device == "cuda" else "none (cpu)"
    return {
        "gpu": gpu,
        "driver": gpu_query("driver_version") if device == "cuda" else "",
        "memory": gpu_query("memory.total") if device == "cuda" else "",
        "cuda": torch.version.cuda or "",
        "torch": torch.__version__,
        "library": library.build_info(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["./run", "bench", "gpu", *arguments]),
        "git_commit": git_commit(),
    }
