"""From cases to rows: check, measure in turn with the peers, go on, stop in time. Pure.

Everything that touches a device is behind Backend; tests hand in one with a clock of their own.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gpubench import report
from gpubench.cases import Case
from gpubench.report import OURS, Report, Row
from gpubench.stats import Budget, Sampler, Summary, interleaved

ROUNDS = {0: 31, 1: 21}  # by rank; 11 for the others
LIMIT_ROUNDS = 9
WHY_TIME = "no time left"
PEER_SECONDS = 60.0  # in all, for a peer to get ready: some compile when they are first called


class TooSlowError(Exception):
    """A peer was not ready in time."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises TooSlowError in the body after so many seconds. Only on the main thread, where signals
    arrive; elsewhere without effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TooSlowError(f"not ready after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class NoRoomError(Exception):
    """The case does not fit into the device's memory; the text says what it needs."""


class DeviceLostError(Exception):
    """Nothing more can be measured in this process."""


@dataclass(frozen=True)
class Check:
    """A result against a plain reference on the same data."""

    max_error: float
    relative_error: float  # of the worst row: norm of the difference over that of the reference
    tolerance: float  # of relative_error

    @property
    def ok(self) -> bool:
        return self.relative_error <= self.tolerance  # False for NaN


@dataclass
class Contender:
    """An implementation, ready to run."""

    name: str
    sample: Sampler
    check: Callable[[], Check]


class Work(Protocol):
    """A case on the device."""

    def ours(self) -> Contender: ...
    def peer(self, name: str) -> Contender: ...  # any exception: this peer cannot
    def close(self) -> None: ...


class Backend(Protocol):
    def limits(self) -> list[tuple[str, str, float, Sampler]]: ...  # name, unit, work / 1e9 or 1e12
    def prepare(self, case: Case) -> Work: ...
    def no_room(self, error: Exception) -> bool: ...  # the case is too large for this device
    def lost(self, error: Exception) -> bool: ...  # the device does not work any more


@dataclass
class Run:
    """One pass over a list of cases. say gets each line for the terminal."""

    backend: Backend
    budget: Budget
    clock: Callable[[], float]
    say: Callable[[str], None]
    out: Report
    save: Callable[[], None] = lambda: None  # after each case, in case the next one hangs
    limits: dict[str, float] = field(default_factory=dict)
    peer_seconds: dict[str, float] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # peers that are not asked again

    def all(self, cases: Sequence[Case]) -> Report:
        self.say(report.HEADING)
        todo = list(cases)
        try:
            self._limits("")
            while todo:
                self._case(todo[0])
                del todo[0]
                self.save()
            self._limits(".again")
        except DeviceLostError as error:
            self.out.stopped = str(error)
            self.out.left_out += [(case.name, "device lost") for case in todo]
        return self.out

    # ---- limits ----------------------------------------------------------------------------------

    def _limits(self, suffix: str) -> None:
        """What the machine can do; measured again at the end to see whether it drifted."""
        if suffix and not self.budget.fits("limits"):
            self.out.left_out.append((f"gpu.limit.*{suffix}", WHY_TIME))
            return
        begin = self.clock()
        try:
            measured = self.backend.limits()
            summaries = interleaved(
                [sampler for *_, sampler in measured], LIMIT_ROUNDS, lambda: False
            )
        except Exception as error:
            raise DeviceLostError(f"the limits cannot be measured: {_describe(error)}") from error
        for (name, unit, work, _), summary in zip(measured, summaries, strict=True):
            value = work / summary.median
            if not suffix:
                self.limits[name] = value
            self._add(Row(name + suffix, "machine", unit, value, summary=summary))
        self.budget.took("limits", self.clock() - begin)

    # ---- a case ----------------------------------------------------------------------------------

    def _case(self, case: Case) -> None:
        kind = "late" if case.label else case.kind
        if not self.budget.fits(kind):
            self.out.left_out.append((case.name, WHY_TIME))
            return
        begin = self.clock()
        work = None
        try:
            work = self.backend.prepare(case)
            self._measure(case, work)
        except DeviceLostError:
            raise
        except Exception as error:
            if self.backend.no_room(error):
                self.out.left_out.append((case.name, report.one_line(str(error), 80)))
            else:
                self._failed(case, OURS, error)
        finally:
            if work is not None:
                work.close()
        self.budget.took(kind, self.clock() - begin)

    def _measure(self, case: Case, work: Work) -> None:
        ready = self._ready(case, work)
        rounds = ROUNDS.get(case.rank, 11)
        try:
            summaries = self._interleaved(ready, rounds)
        except Exception as error:
            if len(ready) == 1 or self.backend.lost(error):
                raise
            for contender, _ in ready[1:]:
                self._failed(case, contender.name, error)
            ready = ready[:1]
            summaries = self._interleaved(ready, rounds)
        for (contender, check), summary in zip(ready, summaries, strict=True):
            status = report.OK if check.ok else report.WRONG
            message = "" if check.ok else _wrong(check)
            self._add(
                report.measured_row(
                    case,
                    contender.name,
                    summary,
                    self.limits,
                    max_error=check.max_error,
                    relative_error=check.relative_error,
                    status=status,
                    message=message,
                )
            )

    def _interleaved(self, ready: list[tuple[Contender, Check]], rounds: int) -> list[Summary]:
        samplers = [contender.sample for contender, _ in ready]
        return interleaved(samplers, rounds, lambda: self.budget.left() < 0)

    def _ready(self, case: Case, work: Work) -> list[tuple[Contender, Check]]:
        """Ours and the peers that can, each run once and checked; the others become rows."""
        ours = work.ours()
        ready = [(ours, ours.check())]
        for name in case.peers:
            if name in self.gone:
                continue
            begin = self.clock()
            try:
                with deadline(min(PEER_SECONDS, self.budget.left())):
                    peer = work.peer(name)
                    check = peer.check()
                    peer.sample(1)
                ready.append((peer, check))
            except Exception as error:
                self._failed(case, name, error)
                if isinstance(error, ImportError | TooSlowError):
                    self._forget(name, _describe(error))
            spent = self.peer_seconds.get(name, 0.0) + self.clock() - begin
            self.peer_seconds[name] = spent
            if spent > PEER_SECONDS:
                self._forget(name, f"took {spent:.0f} s to get ready so far")
        return ready

    def _forget(self, peer: str, why: str) -> None:
        if peer not in self.gone:
            self.gone.add(peer)
            self.out.left_out.append((f"peer {peer} of later cases", why))

    def _failed(self, case: Case, implementation: str, error: Exception) -> None:
        self._add(report.failed_row(case, implementation, _describe(error)))
        if self.backend.lost(error):
            raise DeviceLostError(f"{case.name} ({implementation}): {_describe(error)}") from error

    def _add(self, row: Row) -> None:
        self.out.rows.append(row)
        self.say(report.table_line(row))


def _describe(error: Exception) -> str:
    return report.one_line(f"{type(error).__name__}: {error}")


def _wrong(check: Check) -> str:
    if math.isnan(check.relative_error):
        return "the result has numbers that are none, or places that nobody wrote"
    return f"relative error {check.relative_error:.2e}: expected at most {check.tolerance:.0e}"
