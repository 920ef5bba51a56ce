"""Copies of K/V memory: the operations of an append, whole blocks, and to and from host buffers.

Thread rule: data plane, tag [D]: no lock. Calls may run at the same time on several threads when
what they write does not overlap. On the CPU a call has finished when it returns.
stream: None on the CPU; the address of a cudaStream_t on CUDA.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.core import ContextCore
from radixattn.errors import BufferTooSmallError, check, make_error
from radixattn.results import OP_DTYPE
from radixattn.tensors import Array, Ints, int_input, output, pointer


def stream_pointer(stream: int | None) -> Any:
    """The radix_stream of a stream argument."""
    return ffi.cast("radix_stream", stream or 0)


class MemoryCalls(ContextCore):
    """Copies of K/V memory. See Context."""

    def run_ops(self, ops: Array, *, stream: int | None = None) -> None:
        """Runs the operations of an append (AppendResult.ops, OP_DTYPE [n]), in order. [D]

        InvalidArgumentError: a block id or count out of range; nothing is written then.
        """
        if not isinstance(ops, np.ndarray) or ops.dtype != OP_DTYPE or ops.ndim != 1:
            raise TypeError("ops must be a 1-D array of OP_DTYPE, as AppendResult.ops")
        ops = np.ascontiguousarray(ops)
        first = pointer("radix_op *", ops)
        check(lib.radix_run_ops(self.pointer, first, ops.size, stream_pointer(stream)))

    def copy_blocks(self, pairs: Ints, *, stream: int | None = None) -> None:
        """Copies whole blocks, all layers, in order. pairs: int32 [n, 2], each {src, dst}. [D]"""
        array = np.ascontiguousarray(int_input(pairs, np.int32, "pairs", ndim=2))
        if array.shape[1] != 2:
            raise ValueError(f"pairs has shape {array.shape}: expected (n, 2)")
        first = pointer("radix_block *", array)
        check(lib.radix_copy_blocks(self.pointer, first, len(array), stream_pointer(stream)))

    def swap_bytes(self, num_blocks: int) -> int:
        """Bytes that num_blocks blocks take in a host image. [F]"""
        size = ffi.new("uint64_t *")
        check(lib.radix_swap_bytes(self.pointer, num_blocks, size))
        return int(size[0])

    def swap_out(
        self, blocks: Ints, out: Array | None = None, *, stream: int | None = None
    ) -> Array:
        """K/V of blocks (int32 [n]) to host memory: uint8 [swap_bytes(n)]; for each block, for each
        layer, K then V. [D]

        out: a uint8 output; BufferTooSmallError (with needed) when it is too small. Returns out.
        """
        ids = int_input(blocks, np.int32, "blocks")
        if out is None:
            out = np.empty(self.swap_bytes(ids.size), np.uint8)
        out = output(out, np.uint8, "out")
        first, host = pointer("radix_block *", ids), pointer("void *", out)
        s = stream_pointer(stream)
        status = lib.radix_swap_out(self.pointer, first, ids.size, host, out.size, s)
        if status == lib.RADIX_E_BUFFER:
            error = make_error(status, needed=self.swap_bytes(ids.size))
            assert isinstance(error, BufferTooSmallError)
            raise error
        check(status)
        return out

    def swap_in(self, blocks: Ints, data: Array, *, stream: int | None = None) -> None:
        """K/V of blocks (int32 [n]) from an image of swap_out: uint8, exactly swap_bytes(n) long.

        [D]
        """
        ids = int_input(blocks, np.int32, "blocks")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
            raise TypeError("data must be a 1-D array of uint8, as swap_out returns")
        data = np.ascontiguousarray(data)
        first, host = pointer("radix_block *", ids), pointer("void *", data)
        s = stream_pointer(stream)
        check(lib.radix_swap_in(self.pointer, first, ids.size, host, data.size, s))
