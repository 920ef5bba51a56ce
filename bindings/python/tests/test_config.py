"""Every option reaches the library, and the callbacks work."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty

import numpy as np
import pytest

import radixattn as rx
from radixattn import callbacks
from radixattn.callbacks import _Tasks

libc = ctypes.CDLL(None)
libc.aligned_alloc.restype = ctypes.c_void_p
libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


class CountingAllocator:
    """malloc that keeps books; alloc fails after `limit` calls."""

    def __init__(self, limit=None):
        self.live = {}
        self.calls = 0
        self.limit = limit

    def alloc(self, size, align):
        self.calls += 1
        if self.limit is not None and self.calls > self.limit:
            return 0
        address = libc.aligned_alloc(align, -(-size // align) * align)
        self.live[address] = (size, align)
        return address

    def free(self, address, size, align):
        assert self.live.pop(address) == (size, align)
        libc.free(address)

    def as_option(self):
        return rx.Allocator(self.alloc, self.free)


def test_defaults_are_resolved(make_ctx):
    config = make_ctx(block_size=0).config
    assert config.block_size == 16
    assert config.head_dim_v == 32
    assert config.max_requests == 1024
    assert config.max_blocks_per_request == config.num_blocks == 32
    assert config.kv_layout is rx.KvLayout.NHD
    assert config.evict_policy is rx.EvictPolicy.LRU
    assert config.device is rx.Device.CPU
    assert config.abi == rx.abi()


def test_every_option_arrives(make_ctx):
    config = make_ctx(
        num_blocks=0, memory_budget=1 << 20, block_size=8, num_layers=3, num_kv_heads=1,
        head_dim=64, head_dim_v=32, kv_dtype=np.float16, kv_layout="hnd", max_requests=7,
        max_blocks_per_request=5, max_pins=3, max_namespaces=2, evict_policy="lfu", device="cpu",
        device_index=0, cpu_target=rx.CpuTarget.BASELINE, num_threads=2, log_level="warn",
        external_sync=True, preallocate=True, defer_free=True, metadata_only=False,
    ).config  # fmt: skip
    assert config.num_blocks == (1 << 20) // (3 * 8 * (64 + 32) * 2)
    assert (config.block_size, config.num_layers, config.num_kv_heads) == (8, 3, 1)
    assert (config.head_dim, config.head_dim_v) == (64, 32)
    assert config.kv_dtype is rx.DType.F16
    assert config.kv_layout is rx.KvLayout.HND
    assert (config.max_requests, config.max_blocks_per_request) == (7, 5)
    assert (config.max_pins, config.max_namespaces) == (3, 2)
    assert config.evict_policy is rx.EvictPolicy.LFU
    assert config.cpu_target is rx.CpuTarget.BASELINE
    assert config.num_threads == 2
    assert config.log_level is rx.LogLevel.WARN
    assert config.flags == (
        rx.ContextFlag.EXTERNAL_SYNC | rx.ContextFlag.PREALLOCATE | rx.ContextFlag.DEFER_FREE
    )


def test_unknown_options_and_names(make_ctx):
    with pytest.raises(TypeError, match=r"unknown option.*num_block"):
        rx.Context(num_block=3)
    with pytest.raises(ValueError, match="evict_policy is 'mru': expected one of lru, lfu"):
        make_ctx(evict_policy="mru")
    with pytest.raises(TypeError, match="kv_dtype is"):
        make_ctx(kv_dtype=np.complex64)
    with pytest.raises(OverflowError):
        make_ctx(num_blocks=-1)


def test_the_caller_s_kv_memory(make_ctx):
    options = {"num_blocks": 8, "num_layers": 2, "num_kv_heads": 2, "head_dim": 32}
    size = rx.kv_bytes(**options)
    assert size == 8 * 16 * 2 * 2 * 32 * 2 * 2
    memory = rx.aligned_memory(size)
    ctx = make_ctx(**options, block_size=16, kv_dtype="f16", kv_memory=memory)
    for layer in range(2):
        for view in ctx.kv_views(layer):
            assert np.shares_memory(view, memory)
    assert ctx.config.kv_memory == memory.__array_interface__["data"][0]
    assert ctx.config.kv_memory_size == size
    memory.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        make_ctx(**options, kv_memory=memory)
    with pytest.raises(TypeError, match="contiguous"):
        make_ctx(**options, kv_memory=bytearray(size))


def test_memory_comes_from_the_allocator_and_goes_back():
    books = CountingAllocator()
    ctx = rx.Context(num_blocks=8, num_layers=1, num_kv_heads=1, head_dim=32,
                     allocator=books.as_option())  # fmt: skip
    stats = ctx.stats()
    taken = sum(size for size, _ in books.live.values())
    assert stats.kv_bytes == 8 * 16 * 32 * 2 * 2
    assert taken >= stats.kv_bytes
    with ctx.begin([]) as request:
        request.append(count=100)
    ctx.close()
    gc.collect()
    assert books.calls > 0
    assert books.live == {}


def test_every_failing_allocation_of_a_creation_is_an_error():
    failures = 0
    for limit in range(1000):
        books = CountingAllocator(limit)
        try:
            rx.Context(num_blocks=8, metadata_only=True, allocator=books.as_option()).close()
        except rx.OutOfMemoryError:
            failures += 1
            assert books.live == {}
        else:
            break
    assert failures == limit > 3


def test_an_allocator_that_raises_is_out_of_memory(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)

    def alloc(_size, _align):
        raise KeyError("books")

    with pytest.raises(rx.OutOfMemoryError):
        rx.Context(num_blocks=8, metadata_only=True, allocator=rx.Allocator(alloc, print))
    assert seen
    assert seen[0].exc_type is KeyError


def launch(ctx, rng):
    """A decode over 4 sequences of 30 tokens; the same for every context of one geometry."""
    for layer in range(2):
        for view in ctx.kv_views(layer):
            view[:] = np.arange(view.size, dtype=np.float32).reshape(view.shape) % 7 - 3
    q = rng.standard_normal((4, 4, 32), np.float32)
    tables = np.arange(32, dtype=np.int32).reshape(4, 8)
    return ctx.paged_attention(q, [30] * 4, block_tables=tables)[0]


def test_a_thread_pool_of_the_caller(make_ctx):
    expected = launch(make_ctx(), np.random.default_rng(3))
    with ThreadPoolExecutor(2) as pool:
        ctx = make_ctx(executor=pool)
        assert np.array_equal(launch(ctx, np.random.default_rng(3)), expected)
        ctx.close()


def test_a_function_of_the_caller(make_ctx):
    expected = launch(make_ctx(), np.random.default_rng(3))
    calls = []

    def parallel_for(n, run):
        calls.append(n)
        for index in reversed(range(n)):
            run(index)

    ctx = make_ctx(executor=parallel_for, max_workers=3)
    assert np.array_equal(launch(ctx, np.random.default_rng(3)), expected)
    assert calls


def test_an_executor_that_fails_leaves_no_task_undone(make_ctx, monkeypatch):
    expected = launch(make_ctx(), np.random.default_rng(3))
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)

    def parallel_for(_n, run):
        run(0)
        raise KeyError("no more threads")

    ctx = make_ctx(executor=parallel_for, max_workers=2)
    assert np.array_equal(launch(ctx, np.random.default_rng(3)), expected)
    assert seen
    assert seen[0].exc_type is KeyError


def test_the_library_s_own_threads(make_ctx):
    expected = launch(make_ctx(), np.random.default_rng(3))
    assert np.array_equal(launch(make_ctx(num_threads=2), np.random.default_rng(3)), expected)


def test_launches_from_the_threads_of_the_pool():
    """They wait for no thread of the pool: here the only one is the caller."""
    code = (
        "import radixattn as rx, numpy as np\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\n"
        "ctx = rx.Context(num_blocks=32, num_layers=1, num_kv_heads=2, head_dim=32, block_size=4,\n"
        "                 kv_dtype='f32', executor=pool, max_workers=2)\n"
        "for view in ctx.kv_views(0): view[:] = 1\n"
        "q, tables = np.ones((4, 4, 32), np.float32), np.arange(32).reshape(4, 8)\n"
        "job = lambda _: ctx.paged_attention(q, [30] * 4, block_tables=tables)[0]\n"
        "for out in pool.map(job, range(5)): assert (out == 1).all()\n"
        "pool.shutdown()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""


def test_a_pool_that_is_shut_down_leaves_no_task_undone(make_ctx, monkeypatch):
    expected = launch(make_ctx(), np.random.default_rng(3))
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    pool = ThreadPoolExecutor(2)
    ctx = make_ctx(executor=pool)
    pool.shutdown()
    assert np.array_equal(launch(ctx, np.random.default_rng(3)), expected)
    assert {one.exc_type for one in seen} == {RuntimeError}


class Runs:
    """A task of C that counts how often each index has run, and its parallel_for."""

    def __init__(self, executor, n=5, max_workers=3):
        self.counts, self.n, self._keep = [0] * n, n, []
        self._struct = callbacks.executor_struct(executor, max_workers, self._keep)
        self._task = rx.ffi.callback("radix_task_fn", self._count)

    def _count(self, argument, index):
        assert argument == rx.ffi.cast("void *", 64)
        time.sleep(0)  # others may run
        self.counts[index] += 1

    def __call__(self):
        self._struct.parallel_for(rx.ffi.NULL, self.n, self._task, rx.ffi.cast("void *", 64))


def interrupt_at(step, call):
    """call(), with KeyboardInterrupt before an opcode or a line of callbacks.py, the step-th; False
    when there are fewer."""
    left = step

    def trace(frame, event, _arg):
        nonlocal left
        if frame.f_code.co_filename != callbacks.__file__:
            return None
        frame.f_trace_opcodes = True
        if event in ("call", "line", "opcode"):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return left < 0


@pytest.mark.parametrize("form", ["pool", "function", "nothing"])
def test_an_interrupt_loses_and_repeats_no_task(monkeypatch, form):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: seen.append(one.exc_type))

    def parallel_for(n, run):
        for index in range(n if form == "function" else 0):
            run(index)

    class Counting(ThreadPoolExecutor):
        submitted = 0

        def submit(self, *args):
            self.submitted += 1
            return super().submit(*args)

    with Counting(2) as pool:
        runs = Runs(pool if form == "pool" else parallel_for)
        step = 0
        while interrupt_at(step, runs):
            assert runs.counts == [1] * runs.n, f"at step {step}"
            runs.counts = [0] * runs.n
            step += 1
        assert runs.counts == [1] * runs.n
        if form == "pool":
            before = pool.submitted
            runs()
            assert pool.submitted > before, "interrupts have lost all helpers"
    assert step > 100
    assert seen == [KeyboardInterrupt] * step


class Busy(Executor):
    """A pool whose threads have other things to do."""

    def __init__(self):
        self.waiting = []

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        self.waiting.append(lambda: future.set_result(function(*args, **kwargs)))
        return future


class Failing(Executor):
    """A pool that takes what it cannot run, as one of processes does."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        future.set_exception(TypeError("cannot pickle"))
        return future


def test_what_a_pool_cannot_run_is_reported(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: seen.append(str(one.exc_value)))
    runs = Runs(Failing(), max_workers=3)
    runs()
    runs()  # looks at what became of the first
    assert runs.counts == [2] * runs.n
    assert seen == ["cannot pickle"] * 2


def test_a_pool_without_a_free_thread():
    pool = Busy()
    runs = Runs(pool, max_workers=3)
    for times in (1, 2, 3):
        thread = threading.Thread(target=lambda: [runs() for _ in range(100)], daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert runs.counts == [100 * times] * runs.n
        assert len(pool.waiting) == 2 * 3  # not two for each of the launches
        while pool.waiting:  # they come, too late
            pool.waiting.pop()()
        assert runs.counts == [100 * times] * runs.n


def test_tasks_run_once_and_finish_waits():
    ran = []
    tasks = _Tasks(20, lambda argument, index: argument.append(index), ran)

    def run(index):
        with suppress(ValueError):  # finish() was faster
            tasks.run(index)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(0, 20, 2)]
    for thread in threads:
        thread.start()
    tasks.finish()
    assert sorted(ran) == list(range(20))
    for index in (4, 20, -1):
        with pytest.raises(ValueError, match=f"task {index} does not exist or has run already"):
            tasks.run(index)
    for thread in threads:
        thread.join()


def test_finish_waits_through_interrupts():
    begun, go_on, ended = (threading.Event() for _ in range(3))

    def task(_argument, index):
        if index == 0:
            begun.set()
            go_on.wait()
            ended.set()

    class Impatient:
        times = 0

        def put(self, _item):
            pass

        def get(self, timeout):
            self.times += 1
            if self.times <= 4:
                raise KeyboardInterrupt
            go_on.set()
            ended.wait(timeout)
            raise Empty

    tasks = _Tasks(2, task, None)
    tasks._all_done = Impatient()
    other = threading.Thread(target=tasks.run, args=(0,))
    other.start()
    begun.wait()
    with pytest.raises(KeyboardInterrupt):
        tasks.finish()
    assert ended.is_set()
    other.join()
    tasks.finish()  # there is nothing more to do


def test_a_late_helper_runs_nothing():
    ran = []
    tasks = _Tasks(3, lambda _argument, index: ran.append(index), None)
    tasks.finish()
    tasks.drain()
    assert ran == [0, 1, 2]


def test_the_log(make_ctx):
    lines = []
    ctx = make_ctx(log=lambda level, text: lines.append((level, text)), log_level="debug")
    with pytest.raises(rx.StaleIdError):
        ctx.tokens(77)
    levels = [level for level, _ in lines]
    assert rx.LogLevel.INFO in levels
    assert levels[-1] == rx.LogLevel.DEBUG
    assert rx.last_error() in lines[-1][1]
    silent = []
    make_ctx(log=lambda *line: silent.append(line), log_level="off")
    assert silent == []


def test_cuda_without_a_device_is_no_device() -> None:
    if rx.device_count("cuda") > 0:
        pytest.skip("this machine has a GPU")
    with pytest.raises(rx.NoDeviceError, match="CUDA"):
        rx.Context(device="cuda", num_blocks=4, num_layers=1, num_kv_heads=1, head_dim=32)
