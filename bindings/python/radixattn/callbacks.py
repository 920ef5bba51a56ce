"""The callbacks of a context: allocator, executor, log; and the sink of a text that the library
writes.

Promises: no Python exception reaches C. One in an allocator's alloc counts as "out of memory"; one
in an executor leaves no task undone (the calling thread runs the rest) and is reported like one in
log or free: through sys.unraisablehook.
Thread rule: the library may call from any thread of its own or of the caller; Python's lock is
taken for the call. A callback must not call a control-plane function of the same context.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
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
    """One parallel_for: every index runs exactly once, and finish() returns when all have run."""

    def __init__(self, n: int, task: Callable[[int], None]) -> None:
        self._task = task
        self._unclaimed = set(range(n))
        self._left = n
        self._changed = threading.Condition()

    def run(self, index: int) -> None:
        with self._changed:
            if index not in self._unclaimed:
                raise ValueError(f"task {index} does not exist or has run already")
            self._unclaimed.remove(index)
        self._task(index)
        with self._changed:
            self._left -= 1
            self._changed.notify_all()

    def finish(self) -> None:
        while True:
            with self._changed:
                if not self._unclaimed:
                    self._changed.wait_for(lambda: self._left == 0)
                    return
                index = next(iter(self._unclaimed))
            try:
                self.run(index)
            except ValueError:
                continue  # another thread took it meanwhile


def _parallel_for(executor: Executor | ParallelFor) -> ParallelFor:
    if isinstance(executor, Executor):
        pool = executor
        return lambda n, run: list(pool.map(run, range(n)))
    return executor


def executor_struct(executor: Executor | ParallelFor, max_workers: int, keep: list[object]) -> Any:
    """A radix_executor over a concurrent.futures.Executor of threads, or a function
    parallel_for(n, run)."""
    spread = _parallel_for(executor)

    def parallel_for(_user: Any, n: int, task: Any, argument: Any) -> None:
        tasks = _Tasks(n, lambda index: task(argument, index))
        try:
            spread(n, tasks.run)
        finally:
            tasks.finish()

    struct = ffi.new("radix_executor *", {"struct_size": ffi.sizeof("radix_executor")})
    struct.max_workers = max_workers or getattr(executor, "_max_workers", 0)
    struct.parallel_for = callback = ffi.callback(
        "radix_parallel_for_fn", parallel_for, onerror=report
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
