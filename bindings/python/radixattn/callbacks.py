"""The callbacks of a context: allocator, executor, log; and the sink of a text that the library
writes.

Promises: no Python exception reaches C. One in an allocator's alloc counts as "out of memory"; one
in an executor, KeyboardInterrupt too, leaves no task undone (the calling thread runs the rest) and
repeats none, and is reported like one in log or free: through sys.unraisablehook. A launch waits
for tasks that run, never for a thread of the pool to come: threads of the pool may launch, too.
Thread rule: the library may call from any thread of its own or of the caller; Python's lock is
taken for the call. A callback must not call a control-plane function of the same context.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat, starmap
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

from radixattn._ffi import ffi

ParallelFor = Callable[[int, Callable[[int], None]], object]
LogFunction = Callable[[int, str], object]


@dataclass(frozen=True)
class Allocator:
    """Host memory of a context: metadata and, unless kv_memory is given, the KV memory.

    alloc(size, align) -> address of at least size bytes, a multiple of align (a power of two, at
    most 4096); 0 = none left.
    free(address, size, align) gives it back.
    """

    alloc: Callable[[int, int], int]
    free: Callable[[int, int, int], object]


def report(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
    """An exception that has nowhere to go."""
    sys.unraisablehook(
        SimpleNamespace(
            exc_type=kind,
            exc_value=error,
            exc_traceback=trace,
            err_msg="in a callback of radixattn",
            object=None,
        )
    )


def allocator_struct(allocator: Allocator, keep: list[object]) -> Any:
    """A radix_allocator; what it needs to stay alive is added to keep."""

    def alloc(_user: Any, size: int, align: int) -> Any:
        return ffi.cast("void *", allocator.alloc(size, align))

    def free(_user: Any, address: Any, size: int, align: int) -> None:
        allocator.free(int(ffi.cast("uintptr_t", address)), size, align)

    struct = ffi.new("radix_allocator *", {"struct_size": ffi.sizeof("radix_allocator")})
    callbacks = (
        ffi.callback("radix_alloc_fn", alloc, error=ffi.NULL, onerror=report),
        ffi.callback("radix_free_fn", free, onerror=report),
    )
    struct.alloc, struct.free = callbacks
    keep += [struct, callbacks, allocator]
    return struct


class _Tasks:
    """One parallel_for: every index runs exactly once, and finish() returns when all have run.

    Ctrl-C may raise between any two bytecodes. So a task is claimed, run and counted within one
    call, deque.extend; and there is no lock that it could leave held.
    """

    def __init__(self, n: int, task: Callable[[Any, int], None], argument: Any) -> None:
        self._n = n
        self._task = task
        self._unclaimed = {index: (argument, index) for index in range(n)}
        self._done: deque[None] = deque()  # an entry for each task that has run
        self._all_done: SimpleQueue[None] = SimpleQueue()  # wakes finish()

    def run(self, index: int) -> None:
        try:
            self._done.extend(starmap(self._task, map(self._unclaimed.pop, (index,))))
        except KeyError:
            raise ValueError(f"task {index} does not exist or has run already") from None
        self._wake()

    def drain(self) -> None:
        """Runs what nobody has claimed."""
        claimed = filter(None, map(self._unclaimed.pop, range(self._n), repeat(None)))
        self._done.extend(starmap(self._task, claimed))
        self._wake()

    def _wake(self) -> None:
        if len(self._done) == self._n:
            self._all_done.put(None)

    def finish(self) -> None:
        """Runs what nobody has claimed and waits for what others run; what it was interrupted by
        is raised when all have run."""
        interrupt: BaseException | None = None
        while len(self._done) < self._n:
            try:
                self.drain()
                with suppress(Empty):  # the time limit: an interrupt may have come before a _wake()
                    self._all_done.get(timeout=0.05)
            except BaseException as error:
                interrupt = interrupt or error
        if interrupt is not None:
            raise interrupt


class _Helpers:
    """Threads of a pool: they help where they are free, and one that comes late finds nothing left.

    While none comes, as in a pool whose threads all launch, few of them wait in the pool's queue.
    """

    def __init__(self, pool: Executor, num_threads: int) -> None:
        self._pool = pool
        self._most = num_threads - 1  # of one launch, whose own thread works, too
        self._room = 2 * num_threads  # in the pool's queue
        self._sent: list[Future[None]] = []

    def call(self, n: int, tasks: _Tasks) -> None:
        sent = self._sent = [future for future in self._sent if not self._ended(future)]
        room = self._room - sum(not future.running() for future in sent)
        for _ in range(min(n - 1, self._most, room)):
            sent.append(self._pool.submit(tasks.drain))

    @staticmethod
    def _ended(future: Future[None]) -> bool:
        """Reports what the pool could not run, such as one of processes."""
        if future.done() and not future.cancelled():
            error = future.exception()
            if error is not None:
                report(type(error), error, error.__traceback__)
        return future.done()


def _spread(executor: Executor | ParallelFor, max_workers: int) -> Callable[[int, _Tasks], object]:
    if isinstance(executor, Executor):
        return _Helpers(executor, max_workers or os.cpu_count() or 1).call
    function = executor
    return lambda n, tasks: function(n, tasks.run)


def executor_struct(executor: Executor | ParallelFor, max_workers: int, keep: list[object]) -> Any:
    """A radix_executor over a concurrent.futures.Executor of threads, or a function
    parallel_for(n, run)."""
    max_workers = max_workers or getattr(executor, "_max_workers", 0)
    spread = _spread(executor, max_workers)

    def parallel_for(_user: Any, n: int, task: Any, argument: Any) -> None:
        tasks = _Tasks(n, task, argument)
        spread(n, tasks)
        tasks.finish()

    def failed(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
        call = trace.tb_frame.f_locals  # of parallel_for, wherever it was
        tasks = call.get("tasks") or _Tasks(call["n"], call["task"], call["argument"])
        try:
            tasks.finish()
        finally:
            report(kind, error, trace)

    struct = ffi.new("radix_executor *", {"struct_size": ffi.sizeof("radix_executor")})
    struct.max_workers = max_workers
    struct.parallel_for = callback = ffi.callback(
        "radix_parallel_for_fn", parallel_for, onerror=failed
    )
    keep += [struct, callback, executor]
    return struct


def log_callback(log: LogFunction, keep: list[object]) -> Any:
    """A radix_log_fn that calls log(level, message)."""

    def write(_user: Any, level: int, message: Any, length: int) -> None:
        log(level, bytes(ffi.buffer(message, length)).decode("utf-8", "replace"))

    callback = ffi.callback("radix_log_fn", write, onerror=report)
    keep += [callback, log]
    return callback


class TextSink:
    """Collects what a radix_write_fn is given. An exception in between is kept in ``error``."""

    def __init__(self, forward: Callable[[bytes], object] | None = None) -> None:
        self._pieces: list[bytes] = []
        self._forward = forward or self._pieces.append
        self.error: BaseException | None = None
        self.callback = ffi.callback("radix_write_fn", self._write, error=-1, onerror=self._fail)

    def _write(self, _user: Any, data: Any, length: int) -> int:
        self._forward(bytes(ffi.buffer(data, length)))
        return length

    def _fail(self, _kind: Any, error: BaseException, _trace: Any) -> None:
        self.error = error

    def text(self) -> str:
        return b"".join(self._pieces).decode("utf-8", "replace")
