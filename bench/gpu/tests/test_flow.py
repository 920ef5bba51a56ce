"""The whole flow with a backend that has a clock of its own and no device."""

from __future__ import annotations

import json
import math
import time

import pytest

from gpubench import flow
from gpubench.cases import Decode, Prefill, grid
from gpubench.flow import Check, Contender, NoRoomError, Run, TooSlowError
from gpubench.report import ERROR, OK, OURS, WRONG, Report
from gpubench.stats import Budget

GOOD = Check(1e-3, 1e-3, 1e-2)


class FakeWork:
    def __init__(self, backend, case):
        self.backend, self.case = backend, case

    def _contender(self, name, seconds):
        check = self.backend.checks.get((self.case.name, name), GOOD)
        fault = self.backend.sample_faults.get((self.case.name, name))

        def sample(repeats):
            self.backend.samples.append((self.case.name, name))
            if fault and len(self.backend.samples) > fault:
                raise RuntimeError("broke while it was timed")
            self.backend.now += seconds * repeats
            return seconds

        return Contender(name, sample, lambda: check)

    def ours(self):
        self.backend.raise_fault(self.case.name, OURS)
        amount = self.case.bytes / 2e12 + self.case.flops / 400e12
        return self._contender(OURS, amount)

    def peer(self, name):
        self.backend.now += self.backend.ready_seconds
        self.backend.raise_fault(self.case.name, name)
        return self._contender(name, self.case.bytes / 1e12 + self.case.flops / 200e12)

    def close(self):
        self.backend.open -= 1


class FakeBackend:
    """Copies 4 TB/s, multiplies 800 TFLOP/s; ours reaches half of both, peers a quarter."""

    def __init__(self):
        self.now = 0.0
        self.open = 0
        self.prepare_seconds, self.ready_seconds = 0.1, 0.0
        self.checks, self.faults, self.sample_faults = {}, {}, {}
        self.samples = []
        self.is_lost = False

    def raise_fault(self, case, name):
        error = self.faults.get((case, name)) or self.faults.get(name)
        if error is not None:
            raise error

    def sampler(self, seconds):
        def sample(repeats):
            self.now += seconds * repeats
            return seconds

        return sample

    def limits(self):
        self.raise_fault("limits", "limits")
        rates = {"copy": 4000, "read": 4200, "d2h": 50, "h2d": 50}
        made = [(f"gpu.limit.{k}", "GB/s", 1.0, self.sampler(1.0 / v)) for k, v in rates.items()]
        for dtype in ("bf16", "f16"):
            made.append((f"gpu.limit.matmul.{dtype}", "TFLOP/s", 8.0, self.sampler(0.01)))
        return made

    def prepare(self, case):
        self.now += self.prepare_seconds
        self.raise_fault(case.name, "prepare")
        self.open += 1
        return FakeWork(self, case)

    def no_room(self, error):
        return isinstance(error, NoRoomError)

    def lost(self, error):
        return self.is_lost


@pytest.fixture
def backend():
    return FakeBackend()


def run(backend, cases, seconds=1000.0, **more):
    lines = []
    clock = lambda: backend.now  # noqa: E731
    budget = Budget(seconds, clock, expected={"late": 20.0})
    out = Run(backend, budget, clock, lines.append, Report({}), **more).all(cases)
    assert backend.open == 0  # every case gave its memory back
    return out, lines


def rows_of(out):
    return {row.name: row for row in out.rows}


def test_limits_come_first_and_last_and_ratios_refer_to_them(backend):
    case = Decode(peers=("flashinfer",))
    prefill = Prefill(batch=1, context=512, q_len=512)
    out, lines = run(backend, [case, prefill])
    rows = rows_of(out)
    assert rows["gpu.limit.copy"].value == pytest.approx(4000)
    assert rows["gpu.limit.copy.again"].value == pytest.approx(4000)
    assert rows[case.name].ratio == pytest.approx(0.5)
    assert rows[case.name].max_error == 1e-3
    assert rows[f"{case.name}.flashinfer"].ratio == pytest.approx(0.25)
    assert rows[prefill.name].ratio == pytest.approx(0.5)
    assert not out.failed
    assert len(lines) == len(out.rows) + 1  # progress: a line a row, below the heading


def test_ours_and_the_peers_take_turns(backend):
    case = Decode(rank=9, peers=("sdpa_flash", "flashinfer"))
    run(backend, [case])
    last = [name for _, name in backend.samples][-6:]
    assert last == [OURS, "sdpa_flash", "flashinfer"] * 2


def test_a_wrong_result_is_marked_and_fails_the_run(backend):
    case = Decode(peers=("sdpa_flash",))
    backend.checks[case.name, OURS] = Check(0.5, 0.3, 1e-2)
    out, lines = run(backend, [case])
    assert rows_of(out)[case.name].status == WRONG
    assert any("WRONG: relative error 3.00e-01: expected at most 1e-02" in line for line in lines)
    assert out.failed


def test_nan_is_wrong(backend):
    case = Decode()
    backend.checks[case.name, OURS] = Check(math.nan, math.nan, 1e-2)
    out, _ = run(backend, [case])
    assert rows_of(out)[case.name].status == WRONG


def test_a_peer_that_fails_is_a_line_and_no_more(backend):
    case = Decode(peers=("sdpa_flash", "flashinfer"))
    backend.faults["sdpa_flash"] = RuntimeError("no kernel\nfor this")
    out, lines = run(backend, [case, Decode(batch=1, peers=("sdpa_flash",))])
    rows = rows_of(out)
    assert rows[f"{case.name}.sdpa_flash"].status == ERROR
    assert rows[f"{case.name}.flashinfer"].status == OK
    assert rows["gpu.decode.bf16.b1.c4096.sdpa_flash"].status == ERROR  # asked again
    assert any("ERROR RuntimeError: no kernel for this" in line for line in lines)
    assert not out.failed


def test_a_peer_that_is_not_installed_is_asked_once(backend):
    cases = [Decode(peers=("flashinfer",)), Decode(batch=1, peers=("flashinfer",))]
    backend.faults["flashinfer"] = ModuleNotFoundError("No module named 'flashinfer'")
    out, _ = run(backend, cases)
    assert [row.name for row in out.rows if row.status == ERROR] == [f"{cases[0].name}.flashinfer"]
    assert out.left_out == [
        (
            "peer flashinfer of later cases",
            "ModuleNotFoundError: No module named 'flashinfer'",
        )
    ]


def test_a_peer_that_compiles_for_long_is_not_asked_for_ever(backend):
    backend.ready_seconds = 25.0
    out, _ = run(backend, [Decode(batch=b, peers=("flashinfer",)) for b in (1, 2, 3, 4, 5)])
    asked = [row.name for row in out.rows if row.implementation == "flashinfer"]
    assert len(asked) == 3  # 75 seconds
    assert out.left_out[0][0] == "peer flashinfer of later cases"


def test_a_peer_that_breaks_while_it_is_timed_does_not_take_ours_along(backend):
    case = Decode(peers=("flashinfer",))
    backend.sample_faults[case.name, "flashinfer"] = 12
    out, _ = run(backend, [case])
    rows = rows_of(out)
    assert rows[case.name].status == OK
    assert rows[f"{case.name}.flashinfer"].status == ERROR
    assert not out.failed


def test_an_error_of_ours_fails_the_run_and_the_next_case_still_runs(backend):
    backend.faults["gpu.decode.bf16.b1.c4096", OURS] = RuntimeError("INVALID: q")
    out, _ = run(backend, [Decode(batch=1), Decode(batch=8)])
    rows = rows_of(out)
    assert rows["gpu.decode.bf16.b1.c4096"].message == "RuntimeError: INVALID: q"
    assert rows["gpu.decode.bf16.b8.c4096"].status == OK
    assert out.failed


def test_a_case_without_room_is_left_out(backend):
    backend.faults["gpu.decode.bf16.b1.c4096", "prepare"] = NoRoomError("needs 70.0 GB")
    out, _ = run(backend, [Decode(batch=1)])
    assert out.left_out == [("gpu.decode.bf16.b1.c4096", "needs 70.0 GB")]
    assert not out.failed


def test_a_lost_device_ends_the_run_and_names_what_is_missing(backend):
    backend.faults["gpu.decode.bf16.b1.c4096", OURS] = RuntimeError("illegal access")
    backend.is_lost = True
    out, _ = run(backend, [Decode(batch=1), Decode(batch=8)])
    assert "illegal access" in out.stopped
    assert ("gpu.decode.bf16.b8.c4096", "device lost") in out.left_out
    assert out.failed


def test_limits_that_cannot_be_measured_end_the_run(backend):
    backend.faults["limits"] = RuntimeError("no device")
    out, _ = run(backend, [Decode()])
    assert "the limits cannot be measured: RuntimeError: no device" in out.stopped
    assert out.failed


def test_the_real_grid_stops_in_time_and_says_what_was_left_out(backend):
    backend.prepare_seconds = 1.0
    saved = []
    out, _ = run(backend, grid(), seconds=100.0, save=lambda: saved.append(1))
    assert 80.0 < backend.now <= 100.0
    measured = [row for row in out.rows if row.ours]
    assert measured[0].name == "gpu.decode.bf16.b32.c4096"
    missing = {name for name, why in out.left_out if why == flow.WHY_TIME}
    assert len(measured) + len([n for n in missing if n != "gpu.limit.*.again"]) == len(grid())
    assert len(saved) == len(grid())
    json.loads(out.to_json())
    assert not out.failed


def test_slow_compilers_do_not_start_when_little_time_is_left(backend):
    late = Decode(label=".late", peers=("flex",))
    out, _ = run(backend, [Decode(), late], seconds=15.0)
    assert (late.name, flow.WHY_TIME) in out.left_out


def test_the_deadline_interrupts_and_leaves_no_alarm_behind():
    with pytest.raises(TooSlowError, match="not ready"), flow.deadline(0.02):
        time.sleep(5)
    with flow.deadline(0.05):
        pass
    time.sleep(0.1)  # an alarm left behind would raise here
