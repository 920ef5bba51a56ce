"""The command line: what it says where nothing can be measured, and that it runs as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpubench import __main__ as main
from gpubench import machine
from gpubench.cases import HEADLINE
from gpubench.report import OURS, Report, failed_row

GPU = Path(__file__).resolve().parents[1]


class NoTorch:
    """An import hook: there is no torch."""

    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'")


def test_the_list_is_the_grid_in_order():
    done = subprocess.run(
        [sys.executable, "-m", "gpubench", "--list"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(GPU)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "0 gpu.decode.bf16.b32.c4096 sdpa_flash sdpa_cudnn flashinfer"
    assert len(lines) == len(main.chosen(main.parse([])))


def test_without_torch_it_says_so(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTorch(), *sys.meta_path])
    assert main.main([]) == 2
    message = capsys.readouterr().err
    assert "has no PyTorch" in message
    assert "PYTHON=" in message


def test_only_chooses_by_name(monkeypatch, capsys):
    names = [case.name for case in main.chosen(main.parse(["--only", "swap_out"]))]
    assert names == [
        "gpu.swap_out.bf16.n256.l32.scattered",
        "gpu.swap_out.bf16.n256.l32.neighbours",
    ]
    assert main.chosen(main.parse(["--only", "nonsense"])) == []


def test_seconds_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        main.parse(["--seconds", "0"])
    assert "expected more than 0" in capsys.readouterr().err


def test_the_end_writes_both_files_and_the_exit_status_follows(tmp_path, capsys):
    files = [tmp_path / "a.json", tmp_path / "a.md"]
    options = main.parse(["--json", str(files[0]), "--markdown", str(files[1])])
    report = Report({}, [failed_row(HEADLINE, OURS, "broke")], [("x", "no time left")])
    assert main.finish(options, report) == 1
    assert '"broke"' in files[0].read_text()
    assert "error: broke" in files[1].read_text()
    said = capsys.readouterr().out
    assert "left out: 1 (no time left), first x" in said
    assert "1 of ours are wrong or failed: gpu.decode.bf16.b32.c4096" in said
    report.rows = [failed_row(HEADLINE, "flex", "broke")]
    assert main.finish(options, report) == 0


def test_a_program_that_is_not_there_says_nothing():
    assert machine.output_of(["/nowhere/nvidia-smi"]) == ""
    assert machine.output_of([sys.executable, "-c", "raise SystemExit(1)"]) == ""
    assert machine.output_of([sys.executable, "-c", "print(1); print(2)"]) == "1 2"
