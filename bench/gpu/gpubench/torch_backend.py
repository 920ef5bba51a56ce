"""flow.Backend by PyTorch: memory, random data, clocks, limits. The only device calls of the
benchmark besides our own launches are torch's.

On "cpu" everything but graphs and fp8 runs the same way, at toy sizes: how it is tested where no
GPU is.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gpubench.cases import Attention, Case, CopyBlocks, Layer, Rope, Sample, Swap
from gpubench.flow import Check, NoRoomError, Work
from gpubench.launches import Array, Context
from gpubench.library import Library, RadixError
from gpubench.stats import Sampler

TORCH_DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_CHUNK = 1 << 26  # numbers drawn at once
_MAX_HOLD = 0.02  # seconds
_HERTZ = 2e9  # cycles that _sleep counts in a second, about
_sleep = getattr(torch.cuda, "_sleep", None)  # torch's own tests use it; not documented


class HostSampler:
    """Seconds of a run where calls return when they are done."""

    def __init__(self, run: Callable[[int], Any], launches: int = 1) -> None:
        self._run, self._launches, self._next = run, launches, 0

    def __call__(self, repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            self._run(self._next)
            self._next += 1
        return (time.perf_counter() - begin) / repeats / self._launches


class CudaSampler:
    """Seconds of a run between two events of the stream.

    A kernel that only waits holds the stream back until all launches of the sample are queued, so
    that Python's speed does not show. Whether it held long enough is asked (the first event must
    not have passed yet); if not, the sample is taken again with twice the wait.
    """

    def __init__(self, run: Callable[[int], Any], launches: int = 1) -> None:
        self._run, self._launches, self._next = run, launches, 0
        self._hold = 2e-4
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def __call__(self, repeats: int) -> float:
        while True:
            held = self._queue(repeats)
            self._end.synchronize()
            if held or self._hold >= _MAX_HOLD or _sleep is None:
                return self._begin.elapsed_time(self._end) / 1e3 / repeats / self._launches
            self._hold = min(2 * self._hold, _MAX_HOLD)

    def _queue(self, repeats: int) -> bool:
        if _sleep is not None:
            _sleep(int(self._hold * _HERTZ))
        self._begin.record()
        for _ in range(repeats):
            self._run(self._next)
            self._next += 1
        held = not self._begin.query()
        self._end.record()
        return held


class TorchBackend:
    """Of one device, "cuda" (the first) or "cpu"."""

    def __init__(self, lib: Library, device: str) -> None:
        self.lib, self.device = lib, device
        self.cuda = device == "cuda"
        torch.manual_seed(7)
        if not self.cuda:
            torch.set_num_threads(1)  # toy sizes
        torch.backends.cuda.matmul.allow_tf32 = False  # the reference is plain
        if self.cuda:
            torch.cuda.init()
            torch.cuda.synchronize()
        self.context = Context(lib, device)  # attention and rope bring their own K/V

    # ---- memory ----------------------------------------------------------------------------------

    @property
    def l2_bytes(self) -> int:
        if not self.cuda:
            return 1 << 16
        return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20

    def room(self) -> int:
        """Bytes that a case may take."""
        if not self.cuda:
            return 1 << 28
        gc.collect()
        torch.cuda.empty_cache()
        return int(0.85 * torch.cuda.mem_get_info()[0])

    def need(self, size: int) -> None:
        if size > self.room():
            raise NoRoomError(f"needs {size / 1e9:.1f} GB of device memory")

    def empty(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        return torch.empty(tuple(shape), dtype=TORCH_DTYPES[dtype], device=self.device)

    def random(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        """Normal numbers, rounded to the dtype."""
        made = self.empty(shape, dtype)
        for part in made.view(-1).split(_CHUNK):
            part.copy_(torch.randn(part.numel(), device=self.device))
        return made

    def int32s(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.int32).to(self.device).contiguous()

    # ---- running ---------------------------------------------------------------------------------

    def stream(self) -> int | None:
        return torch.cuda.current_stream().cuda_stream if self.cuda else None

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def sampler(self, run: Callable[[int], Any], launches: int = 1) -> Sampler:
        return CudaSampler(run, launches) if self.cuda else HostSampler(run, launches)

    # ---- flow.Backend ----------------------------------------------------------------------------

    def prepare(self, case: Case) -> Work:
        # Here, not above: these modules import this one.
        from gpubench.attention import AttentionWork
        from gpubench.layer import LayerWork
        from gpubench.sampling import SampleWork
        from gpubench.transfers import CopyWork, RopeWork, SwapWork

        kinds: list[tuple[type[Case], Any]] = [
            (Layer, LayerWork),
            (Attention, AttentionWork),
            (Rope, RopeWork),
            (Swap, SwapWork),
            (CopyBlocks, CopyWork),
            (Sample, SampleWork),
        ]
        for kind, work in kinds:
            if isinstance(case, kind):
                return work(self, case)
        raise TypeError(f"{case.name}: no work for {type(case).__name__}")

    def no_room(self, error: Exception) -> bool:
        return isinstance(error, NoRoomError | torch.cuda.OutOfMemoryError)

    def lost(self, error: Exception) -> bool:
        lost = self.lib.constant("RADIX_E_DEVICE_LOST")
        if isinstance(error, RadixError) and error.status == lost:
            return True
        try:
            self.wait()
        except Exception:
            return True
        return False

    def limits(self) -> list[tuple[str, str, float, Sampler]]:
        """Copy and read bandwidth, both ways over the bus, and the matrix rates."""
        size = min(2 << 30, self.room() // 4) if self.cuda else 1 << 20
        side = 8192 if self.cuda else 128
        source = self.random((size // 4,), "f32")
        target = torch.empty_like(source)
        host = torch.empty(min(size, 512 << 20) // 4, dtype=torch.float32, pin_memory=self.cuda)
        part = source[: host.numel()]
        moved = host.numel() * 4 / 1e9
        made = [
            ("gpu.limit.copy", "GB/s", 2 * size / 1e9, lambda i: target.copy_(source)),
            ("gpu.limit.read", "GB/s", size / 1e9, lambda i: source.sum()),
            ("gpu.limit.d2h", "GB/s", moved, lambda i: host.copy_(part, non_blocking=True)),
            ("gpu.limit.h2d", "GB/s", moved, lambda i: part.copy_(host, non_blocking=True)),
        ]
        for dtype in ("bf16", "f16"):
            a, b, c = (self.random((side, side), dtype) for _ in range(3))
            name = f"gpu.limit.matmul.{dtype}"
            made.append((name, "TFLOP/s", 2 * side**3 / 1e12, _product(a, b, c)))
        return [(name, unit, work, self.sampler(run)) for name, unit, work, run in made]


def _product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> Callable[[int], Any]:
    return lambda i: torch.matmul(a, b, out=c)


def array(tensor: torch.Tensor) -> Array:
    """Where a dense tensor lies."""
    if not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is not dense")
    return Array(tensor.data_ptr(), NAMES[tensor.dtype], tuple(tensor.shape))


def int_array(tensor: torch.Tensor) -> Array:
    """The same for tables and lengths, whose dtype nobody asks."""
    if tensor.dtype != torch.int32 or not tensor.is_contiguous():
        raise ValueError(f"a table of {tensor.dtype}: expected a dense one of int32")
    return Array(tensor.data_ptr(), "int32", tuple(tensor.shape))


def compare(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> Check:
    """The worst row: the norm of its difference over its norm (early rows of a prompt are many
    times longer than late ones). NaN in got stays NaN, which is never good."""
    difference = (got.double() - expected.double()).flatten(1)
    norms = expected.double().flatten(1).norm(dim=1)
    relative = (difference.norm(dim=1) / norms).max().item()
    return Check(difference.abs().max().item(), relative, tolerance)
