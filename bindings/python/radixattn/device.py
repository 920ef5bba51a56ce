"""Where arrays lie and on which stream work runs.

Promises: torch is never imported here; when the program has imported it, its current stream is the
default one, and it makes the outputs that the caller leaves out. Nothing waits for a device.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

DLPACK_CPU = 1  # kDLCPU
DLPACK_CUDA = 2  # kDLCUDA
_HOST = (DLPACK_CPU, 3)  # 3: kDLCUDAHost, page-locked
_NAMES = {DLPACK_CUDA: "cuda", 10: "rocm"}

Stream = Any
"""None, a number (the address of a cudaStream_t), or an object with ``cuda_stream``."""


@dataclass(frozen=True)
class Place:
    """Where a launch runs: on the CPU, or on the CUDA device index, there on a stream."""

    cuda: bool = False
    index: int = 0
    stream: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.cuda else "cpu"

    @property
    def dlpack_stream(self) -> int | None:
        """What ``__dlpack__(stream=...)`` calls the stream: there 1 is the legacy default one."""
        return (self.stream or 1) if self.cuda else None


CPU = Place()


def where(tensor: Any) -> str:
    """The device of an array or tensor by name: "cpu", "cuda:0", ..."""
    if not hasattr(tensor, "__dlpack_device__"):
        return "cpu"
    kind, index = (int(number) for number in tensor.__dlpack_device__())
    if kind in _HOST:
        return "cpu"
    return f"{_NAMES[kind]}:{index}" if kind in _NAMES else f"DLPack device {kind}"


def check_place(tensor: Any, name: str, place: Place) -> None:
    """ValueError unless the array or tensor is where the context is."""
    found = where(tensor)
    if found != str(place):
        raise ValueError(f"{name} is on {found}: the context is on {place}")


def check_host(values: Any, name: str) -> None:
    """ValueError unless the values are in host memory."""
    found = where(values)
    if found != "cpu":
        raise ValueError(f"{name} is on {found}: expected host memory")


# ---- streams and torch


def stream_number(stream: Stream) -> int:
    """The address of a cudaStream_t: of a number or of a torch.cuda.Stream."""
    number: Any = getattr(stream, "cuda_stream", stream)
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(
            f"stream is a {type(stream).__name__}: expected None, the address of a cudaStream_t "
            "or an object with cuda_stream"
        )
    address = int(number)
    if not 0 <= address < 2**64:
        raise ValueError(f"stream is {address}: expected the address of a cudaStream_t, or 0")
    return address


def torch_stream(index: int) -> int | None:
    """torch's current stream on a device; None when torch is not there or not using CUDA."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    return int(cuda.current_stream(index).cuda_stream)


def launch_place(cuda: bool, index: int, stream: Stream) -> Place:
    """The place of a launch with this stream argument."""
    if stream is not None:
        return Place(cuda, index, stream_number(stream))
    return Place(cuda, index, (torch_stream(index) or 0) if cuda else 0)


def torch_maker(tensor: Any, place: Place) -> Any:
    """torch, when it may make arrays beside tensor for a launch at place; else None.

    It may for a tensor of its own and on its current stream: what it makes belongs to that stream
    and, once dropped, is used again in that stream's order.
    """
    torch = sys.modules.get("torch")
    kind = getattr(torch, "Tensor", None)
    if kind is None or not isinstance(tensor, kind):
        return None
    return torch if torch_stream(place.index) == place.stream else None
