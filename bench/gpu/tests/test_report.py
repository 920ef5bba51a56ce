"""Rows, the terminal's table, JSON and markdown."""

from __future__ import annotations

import json
import math

import pytest

from gpubench import report
from gpubench.cases import HEADLINE, Prefill
from gpubench.report import ERROR, OURS, WRONG, Report, Row
from gpubench.stats import summarize

LIMITS = {"gpu.limit.copy": 4000.0, "gpu.limit.matmul.bf16": 800.0}
MACHINE = {"gpu": "A GPU", "driver": "1.2", "cuda": "13.0", "torch": "2", "date": "today"}


def headline_row(**more):
    seconds = HEADLINE.bytes / 3000e9
    summary = summarize([seconds, seconds, 1.1 * seconds])
    return report.measured_row(HEADLINE, OURS, summary, LIMITS, **more)


def test_decode_is_bytes_over_the_copy_bandwidth():
    row = headline_row()
    assert (row.unit, row.reference) == ("GB/s", "gpu.limit.copy")
    assert row.value == pytest.approx(3000)
    assert row.ratio == pytest.approx(0.75)


def test_prefill_is_flops_over_the_matrix_rate():
    case = Prefill(batch=1, context=8192, q_len=8192)
    row = report.measured_row(case, OURS, summarize([case.flops / 400e12]), LIMITS)
    assert (row.unit, row.reference) == ("TFLOP/s", "gpu.limit.matmul.bf16")
    assert row.ratio == pytest.approx(0.5)


def test_peers_have_names_of_their_own():
    row = report.measured_row(HEADLINE, "flashinfer", summarize([1e-3]), LIMITS)
    assert row.name == "gpu.decode.bf16.b32.c4096.flashinfer"
    assert not row.ours


def test_a_line_has_time_rate_ratio_spread_and_error():
    line = report.table_line(headline_row(max_error=1.5e-3))
    expected = "gpu.decode.bf16.b32.c4096 179.0 3000 GB/s 0.750 5.0% 1.50e-03"
    assert line.split() == expected.split()
    assert len(report.HEADING) >= len(line)


def test_wrong_results_and_errors_show_and_only_ours_fail_the_run():
    wrong = headline_row(status=WRONG, message="off by one")
    assert "WRONG: off by one" in report.table_line(wrong)
    broken = report.failed_row(HEADLINE, "flashinfer", "ImportError:\n  no such module")
    assert "ERROR ImportError: no such module" in report.table_line(broken)
    assert Report(MACHINE, [wrong]).failed
    assert Report(MACHINE, [report.failed_row(HEADLINE, OURS, "x")]).failed
    assert not Report(MACHINE, [headline_row(), broken]).failed
    assert Report(MACHINE, [headline_row()], stopped="device lost").failed
    assert Report(MACHINE, []).failed  # nothing measured is no success


def test_the_json_has_the_fields_of_the_other_benchmarks_and_no_nan():
    rows = [headline_row(max_error=math.nan), report.failed_row(HEADLINE, "flex", "no")]
    rows.append(Row("gpu.limit.copy", "machine", "GB/s", 4000.0))
    text = Report(MACHINE, rows, [("gpu.decode.x", "no time left")]).to_json()
    assert "NaN" not in text
    document = json.loads(text)
    first, error, limit = document["rows"]
    for row in document["rows"]:
        assert {"name", "value", "unit", "reference", "reference_value", "ratio"} <= set(row)
    assert first["ratio"] == pytest.approx(0.75)
    assert first["time_us"] == pytest.approx(HEADLINE.bytes / 3e6)
    assert (first["runs"], first["status"]) == (3, "ok")
    assert "max_error" not in first
    assert (error["value"], error["status"], error["message"]) == (None, ERROR, "no")
    assert (limit["ratio"], limit["reference_value"]) == (None, None)
    assert document["machine"] == MACHINE
    assert document["left_out"] == [{"name": "gpu.decode.x", "why": "no time left"}]
    assert document["failed"] is False


def test_the_markdown_table_has_a_line_a_row_and_says_what_is_missing():
    rows = [headline_row(), report.failed_row(HEADLINE, "flex", "a | b")]
    left_out = [(f"case{i}", "no time left") for i in range(5)]
    text = Report(MACHINE, rows, left_out).to_markdown()
    lines = text.splitlines()
    assert lines[0].startswith("Machine: A GPU, driver 1.2, CUDA 13.0")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert table[2] == (
        "| gpu.decode.bf16.b32.c4096 | radixattn | 179.0 us | 3000 GB/s | 0.750 | 5.0% |"
    )
    assert "a \\| b" in table[3]
    assert "5 (no time left): case0, case1, case2, ..." in text


def test_the_headline_is_one_line():
    assert Report(MACHINE, [headline_row()]).headline() == (
        "[gpu.decode.bf16.b32.c4096] ratio = 0.750 (3000 GB/s)"
    )
    assert "WRONG" in Report(MACHINE, [headline_row(status=WRONG, message="m")]).headline()
    assert "not measured" in Report(MACHINE, []).headline()


def test_long_messages_are_one_short_line():
    assert report.one_line("a\n  b") == "a b"
    assert len(report.one_line("x" * 1000)) == 200
