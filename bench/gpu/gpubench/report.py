"""Rows, the table in the terminal, the JSON file, the table for docs/benchmarks.md. Pure.

A row compares a rate with a limit of the same run; ratio is the fraction of the limit, higher is
better. A row without a figure says why.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from gpubench.cases import HEADLINE, Case
from gpubench.stats import Summary

OURS = "radixattn"
OK, WRONG, ERROR = "ok", "WRONG", "ERROR"


@dataclass(frozen=True)
class Row:
    name: str
    implementation: str
    unit: str = ""
    value: float = math.nan  # a rate, in unit
    reference: str = ""  # name of the limit's row
    reference_value: float = math.nan
    summary: Summary | None = None
    max_error: float = math.nan  # of the check against a plain reference
    relative_error: float = math.nan
    status: str = OK
    message: str = ""

    @property
    def ratio(self) -> float:
        return self.value / self.reference_value if self.reference_value else math.nan

    @property
    def ours(self) -> bool:
        return self.implementation == OURS

    @property
    def bad(self) -> bool:
        """What makes a run fail: a wrong result or an error of ours. A peer's is its own."""
        return self.ours and self.status != OK


def rate(case: Case, seconds: float) -> tuple[float, str]:
    """What a launch of `seconds` does in a second, in the unit of its limit."""
    if case.bound == "matmul":
        return case.flops / seconds / 1e12, "TFLOP/s"
    return case.bytes / seconds / 1e9, "GB/s"


def measured_row(
    case: Case, implementation: str, summary: Summary, limits: dict[str, float], **more: Any
) -> Row:
    value, unit = rate(case, summary.median)
    name = case.name if implementation == OURS else f"{case.name}.{implementation}"
    reference = limits.get(case.limit, math.nan)
    return Row(name, implementation, unit, value, case.limit, reference, summary, **more)


def failed_row(case: Case, implementation: str, message: str) -> Row:
    name = case.name if implementation == OURS else f"{case.name}.{implementation}"
    return Row(name, implementation, status=ERROR, message=one_line(message))


def one_line(text: str, width: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


# ---- terminal ------------------------------------------------------------------------------------

HEADING = (
    f"{'name':<58} {'time us':>10} {'rate':>9} {'unit':<8} "
    f"{'ratio':>6} {'spread':>6} {'max error':>9}"
)


def table_line(row: Row) -> str:
    if row.status == ERROR:
        return f"{row.name:<58} {'ERROR':>10} {row.message}"
    time = f"{row.summary.median * 1e6:10.1f}" if row.summary else " " * 10
    spread = f"{100 * row.summary.spread:5.1f}%" if row.summary else " " * 6
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.3f}"
    error = "" if math.isnan(row.max_error) else f"{row.max_error:.2e}"
    line = f"{row.name:<58} {time} {row.value:9.4g} {row.unit:<8} {ratio:>6} {spread:>6} {error:>9}"
    if row.status == WRONG:
        return f"{line}  WRONG: {row.message}"
    return line.rstrip()


@dataclass
class Report:
    """What one run found."""

    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # name, why
    stopped: str = ""  # why the run ended before its list did

    @property
    def failed(self) -> bool:
        return bool(self.stopped) or not self.rows or any(row.bad for row in self.rows)

    def headline(self) -> str:
        for row in self.rows:
            if row.name == HEADLINE.name:
                if row.status != OK:
                    return f"{row.name}: {row.status} {row.message}"
                return f"[{row.name}] ratio = {row.ratio:.3f} ({row.value:.0f} {row.unit})"
        return f"{HEADLINE.name}: not measured"

    def left_out_by_reason(self) -> dict[str, list[str]]:
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out:
            reasons.setdefault(why, []).append(name)
        return reasons

    def to_json(self) -> str:
        document = {
            "machine": self.machine,
            "failed": self.failed,
            "stopped": self.stopped,
            "rows": [_row_fields(row) for row in self.rows],
            "left_out": [{"name": name, "why": why} for name, why in self.left_out],
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        lines = [_machine_sentence(self.machine), ""]
        lines.append("| name | implementation | time | rate | fraction of the limit | spread |")
        lines.append("|---|---|---|---|---|---|")
        lines += [_markdown_line(row) for row in self.rows]
        if self.left_out:
            lines += ["", f"Left out: {_counted(self.left_out_by_reason())}."]
        if self.stopped:
            lines += ["", f"Stopped early: {one_line(self.stopped)}"]
        return "\n".join(lines) + "\n"


def _number(value: float) -> float | None:
    return None if math.isnan(value) or math.isinf(value) else value


def _row_fields(row: Row) -> dict[str, Any]:
    """The fields of bench/*.cpp's rows (NaN becomes null), and what a GPU run adds."""
    fields: dict[str, Any] = {
        "name": row.name,
        "value": _number(row.value),
        "unit": row.unit,
        "reference": row.reference,
        "reference_value": _number(row.reference_value),
        "ratio": _number(row.ratio),
        "implementation": row.implementation,
        "status": row.status,
    }
    if row.summary is not None:
        fields["time_us"] = row.summary.median * 1e6
        fields["time_us_p25"] = row.summary.p25 * 1e6
        fields["time_us_p75"] = row.summary.p75 * 1e6
        fields["time_us_min"] = row.summary.minimum * 1e6
        fields["spread"] = row.summary.spread
        fields["runs"] = row.summary.runs
    if not math.isnan(row.max_error):
        fields["max_error"] = _number(row.max_error)
        fields["relative_error"] = _number(row.relative_error)
    if row.message:
        fields["message"] = row.message
    return fields


def _machine_sentence(machine: dict[str, Any]) -> str:
    known = {key: machine.get(key) or "unknown" for key in ("gpu", "driver", "cuda", "torch")}
    return (
        f"Machine: {known['gpu']}, driver {known['driver']}, CUDA {known['cuda']}, "
        f"PyTorch {known['torch']}, {machine.get('date') or 'no date'}, "
        f"commit {machine.get('git_commit') or 'unknown'}, `{machine.get('command') or ''}`."
    )


def _markdown_line(row: Row) -> str:
    if row.status == ERROR:
        message = row.message.replace("|", "\\|")
        return f"| {row.name} | {row.implementation} | error: {message} | | | |"
    time = f"{row.summary.median * 1e6:.1f} us" if row.summary else ""
    spread = f"{100 * row.summary.spread:.1f}%" if row.summary else ""
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.3f}"
    wrong = " WRONG" if row.status == WRONG else ""
    return (
        f"| {row.name}{wrong} | {row.implementation} | {time} | {row.value:.4g} {row.unit} "
        f"| {ratio} | {spread} |"
    )


def _counted(by_reason: dict[str, list[str]]) -> str:
    """How many for each reason, and the first names."""
    parts = []
    for why, names in by_reason.items():
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        parts.append(f"{len(names)} ({why}): {shown}")
    return "; ".join(parts)
