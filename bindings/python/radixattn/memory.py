"""Copies of K/V memory: the operations of an append, whole blocks, and to and from host buffers.

Thread rule: data plane, tag [D]: no lock. Calls may run at the same time on several threads when
what they write does not overlap. On the CPU a call has finished when it returns.

Streams, here and in attention.py. On the CPU stream is None. On CUDA a call only puts its work
on a stream, and the results are there when that stream has got so far. stream is the address of a
cudaStream_t, an object with ``cuda_stream`` (torch.cuda.Stream), or None: torch's current stream on
the context's device when the program uses torch with CUDA, else 0.
0 is the legacy default stream. It does NOT order against streams made with cudaStreamNonBlocking,
and those of torch's pool (torch.cuda.Stream()) are such: K/V written on one and read on the other
needs an event between the two. Use one stream for all of a context, and there is nothing to order.
Lists of blocks and operations are host memory, read before the call returns.
"""

from __future__ import annotations

import numpy as np

from radixattn._ffi import ffi, lib
from radixattn.core import ContextCore
from radixattn.device import Stream, check_host
from radixattn.errors import BufferTooSmallError, check, make_error
from radixattn.results import OP_DTYPE
from radixattn.tensors import Array, Ints, Tensor, int_input, output, pointer


class MemoryCalls(ContextCore):
    """Copies of K/V memory. See Context."""

    def run_ops(self, ops: Array, *, stream: Stream = None) -> None:
        """Runs the operations of an append (AppendResult.ops, OP_DTYPE [n]), in order. [D]

        stream: see the module, on CUDA the one that K/V are written on.

        InvalidArgumentError: a block id or count out of range; nothing is written then.
        """
        if not isinstance(ops, np.ndarray) or ops.dtype != OP_DTYPE or ops.ndim != 1:
            raise TypeError("ops must be a 1-D array of OP_DTYPE, as AppendResult.ops")
        ops = np.ascontiguousarray(ops)
        first = pointer("radix_op *", ops)
        check(lib.radix_run_ops(self.pointer, first, ops.size, self._stream(stream)))

    def copy_blocks(self, pairs: Ints, *, stream: Stream = None) -> None:
        """Copies whole blocks, all layers, in order. pairs: int32 [n, 2], each {src, dst}. [D]"""
        array = np.ascontiguousarray(int_input(pairs, np.int32, "pairs", ndim=2))
        if array.shape[1] != 2:
            raise ValueError(f"pairs has shape {array.shape}: expected (n, 2)")
        first = pointer("radix_block *", array)
        check(lib.radix_copy_blocks(self.pointer, first, len(array), self._stream(stream)))

    def zero_blocks(self, blocks: Ints, *, stream: Stream = None) -> None:
        """Fills whole blocks (int32 [n]) with zeros, all layers. [D]"""
        ids = int_input(blocks, np.int32, "blocks")
        first = pointer("radix_block *", ids)
        check(lib.radix_zero_blocks(self.pointer, first, ids.size, self._stream(stream)))

    def swap_bytes(self, num_blocks: int) -> int:
        """Bytes that num_blocks blocks take in a host image. [F]"""
        size = ffi.new("uint64_t *")
        check(lib.radix_swap_bytes(self.pointer, num_blocks, size))
        return int(size[0])

    def swap_out(self, blocks: Ints, out: Tensor | None = None, *, stream: Stream = None) -> Array:
        """K/V of blocks (int32 [n]) to host memory: uint8 [swap_bytes(n)]; for each block, for each
        layer, K then V. [D]

        out: a uint8 output in host memory; BufferTooSmallError (with needed) when it is too small.
        Returns it as an array. On CUDA page-locked memory (torch: pin_memory=True) is filled
        asynchronously: keep it and do not read it until the stream is done. Other memory is filled
        when the call returns.
        """
        ids = int_input(blocks, np.int32, "blocks")
        if out is None:
            out = np.empty(self.swap_bytes(ids.size), np.uint8)
        image = output(out, np.uint8, "out")
        first, host = pointer("radix_block *", ids), pointer("void *", image)
        s = self._stream(stream)
        status = lib.radix_swap_out(self.pointer, first, ids.size, host, image.size, s)
        if status == lib.RADIX_E_BUFFER:
            error = make_error(status, needed=self.swap_bytes(ids.size))
            assert isinstance(error, BufferTooSmallError)
            raise error
        check(status)
        return image

    def swap_in(self, blocks: Ints, data: Tensor, *, stream: Stream = None) -> None:
        """K/V of blocks (int32 [n]) from an image of swap_out: uint8, exactly swap_bytes(n) long.

        [D] On CUDA page-locked memory is read asynchronously: keep it as it is until the stream is
        done.
        """
        ids = int_input(blocks, np.int32, "blocks")
        if not isinstance(data, np.ndarray) and hasattr(data, "__dlpack__"):
            check_host(data, "data")
            data = np.from_dlpack(data)  # type: ignore[arg-type]
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
            raise TypeError("data must be a 1-D array of uint8, as swap_out returns")
        data = np.ascontiguousarray(data)
        first, host = pointer("radix_block *", ids), pointer("void *", data)
        s = self._stream(stream)
        check(lib.radix_swap_in(self.pointer, first, ids.size, host, data.size, s))

    def _stream(self, stream: Stream) -> object:
        return ffi.cast("radix_stream", self.place(stream).stream)
