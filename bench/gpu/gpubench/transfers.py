"""What moves K and V: rotary embedding with the write, copies of blocks, swaps with the host."""

from __future__ import annotations

import math
from typing import Any

import torch

from gpubench.cases import CopyBlocks, Rope, Swap
from gpubench.flow import Check, Contender, NoRoomError
from gpubench.launches import Context, int32s
from gpubench.report import OURS
from gpubench.stats import rotation
from gpubench.torch_backend import TorchBackend, array, compare

THETA = 500000.0
# Of the relative error of q, K and V: one rounding (fp8 has three bits behind the point).
ROPE_TOLERANCE = {"bf16": 5e-3, "f16": 1e-3, "f32": 1e-6, "e4m3": 4e-2}


class RopeWork:
    """q, k, v and the pools of several layers; each launch writes one layer's."""

    def __init__(self, backend: TorchBackend, case: Rope) -> None:
        self.backend, self.case = backend, case
        shape = case.shape
        each = case.tokens * (case.row_bytes + shape.token_bytes)
        self.layers = rotation(each, backend.l2_bytes, backend.room())
        if self.layers == 0:
            raise NoRoomError(f"needs {each / 1e9:.1f} GB of device memory")
        self.slots, blocks = _slots(case.tokens, shape.block_size)
        self.positions = backend.int32s(torch.arange(case.tokens) * 3 + 5)
        self.slots = self.slots.to(backend.device)
        rows = (self.layers, case.tokens)
        self.q = backend.random((*rows, shape.q_heads, shape.head_dim), shape.q_dtype)
        self.k = backend.random((*rows, shape.kv_heads, shape.head_dim), shape.q_dtype)
        self.v = backend.random((*rows, shape.kv_heads, shape.head_dim), shape.q_dtype)
        pool = (self.layers, blocks, shape.block_size, shape.kv_heads, shape.head_dim)
        self.k_cache = backend.random(pool, shape.dtype)
        self.v_cache = backend.random(pool, shape.dtype)
        self.launches = [self._rope(layer) for layer in range(self.layers)]

    def _rope(self, layer: int) -> Any:
        return self.backend.context.rope(
            (array(self.q[layer]), array(self.k[layer]), array(self.v[layer])),
            (array(self.k_cache[layer]), array(self.v_cache[layer])),
            self.slots.data_ptr(),
            self.positions.data_ptr(),
            self.case.shape.head_dim,
            THETA,
        )

    def close(self) -> None:
        self.__dict__.clear()

    def launch(self, i: int) -> None:
        rope = self.launches[i % self.layers]
        self.backend.context.rope_append(rope, self.backend.stream())

    def ours(self) -> Contender:
        return Contender(OURS, self.backend.sampler(self.launch), self._check)

    def peer(self, name: str) -> Contender:
        raise ValueError(f"no peer for the rotary embedding is named {name!r}")

    def _check(self) -> Check:
        """q, K and V of the first layer, the worst of the three."""
        q = turned(self.q[0], self.positions)
        k = turned(self.k[0], self.positions)
        self.launch(0)
        self.backend.wait()
        shape = self.case.shape
        cached = [self._cached(cache[0]) for cache in (self.k_cache, self.v_cache)]
        checks = [
            compare(self.q[0], q, ROPE_TOLERANCE[shape.q_dtype]),
            compare(cached[0], k, ROPE_TOLERANCE[shape.dtype]),
            compare(cached[1], self.v[0], ROPE_TOLERANCE[shape.dtype]),
        ]
        return max(checks, key=_badness)

    def _cached(self, cache: torch.Tensor) -> torch.Tensor:
        return cache.float().flatten(0, 1)[self.slots]


def _badness(check: Check) -> float:
    ratio = check.relative_error / check.tolerance
    return math.inf if math.isnan(ratio) else ratio


def _slots(tokens: int, block_size: int) -> tuple[torch.Tensor, int]:
    """(slots, blocks of the pool). Few tokens: one request each, so a block each; many: whole
    blocks in random order."""
    blocks = tokens if tokens <= 256 else -(-tokens // block_size)
    order = torch.randperm(blocks)
    token = torch.arange(tokens)
    if tokens <= 256:
        return order * block_size + token % block_size, blocks
    return order[token // block_size] * block_size + token % block_size, blocks


def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, dim] turned by the angles of its positions, pairs (i, i + dim/2), in
    double precision."""
    half = x.shape[-1] // 2
    low, high = x.double().split(half, dim=-1)
    exponent = torch.arange(half, device=x.device, dtype=torch.float64) / half
    angle = positions.double()[:, None] * THETA**-exponent
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


# ---- blocks --------------------------------------------------------------------------------------


class BlockPool:
    """A context over torch's memory: kv [layers, K and V, blocks, block_size, heads, dim]."""

    def __init__(self, backend: TorchBackend, case: CopyBlocks) -> None:
        shape = case.shape
        size = (case.layers, 2, case.pool_blocks, shape.block_size, shape.kv_heads, shape.head_dim)
        bytes_needed = case.pool_blocks * case.block_bytes
        backend.need(bytes_needed + (bytes_needed >> 2))
        self.kv = backend.random(size, shape.dtype)
        self.context = Context(
            backend.lib,
            backend.device,
            kv_dtype=shape.dtype,
            num_blocks=case.pool_blocks,
            block_size=shape.block_size,
            num_layers=case.layers,
            num_kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            kv_memory=self.kv.data_ptr(),
            kv_memory_size=bytes_needed,
        )
        last_v = self.context.kv_arrays(case.layers - 1)[1]
        if last_v.data != self.kv[-1, 1].data_ptr():
            raise RuntimeError("the context lays its KV memory out otherwise than expected")


class CopyWork:
    """Pairs of blocks, several lists of them in turn."""

    def __init__(self, backend: TorchBackend, case: CopyBlocks) -> None:
        self.backend, self.case = backend, case
        self.pool = BlockPool(backend, case)
        most = case.pool_blocks // (2 * case.blocks)
        lists = max(1, min(most, rotation(case.bytes, backend.l2_bytes, 1 << 60)))
        order = torch.randperm(case.pool_blocks)[: 2 * case.blocks * lists]
        pairs = order.view(lists, case.blocks, 2)
        self.pairs = [int32s(one.flatten().tolist()) for one in pairs]
        self.indices = [
            (one[:, 0].to(backend.device), one[:, 1].to(backend.device)) for one in pairs
        ]

    def close(self) -> None:
        self.backend.wait()
        self.pool.context.close()
        self.__dict__.clear()

    def launch(self, i: int) -> None:
        self.pool.context.copy_blocks(self.pairs[i % len(self.pairs)], self.backend.stream())

    def ours(self) -> Contender:
        return self._contender(OURS, self.launch)

    def peer(self, name: str) -> Contender:
        if name != "torch_index":
            raise ValueError(f"no peer for copies is named {name!r}: expected torch_index")

        def run(i: int) -> None:
            source, target = self.indices[i % len(self.indices)]
            self.pool.kv[:, :, target] = self.pool.kv[:, :, source]

        return self._contender(name, run)

    def _contender(self, name: str, run: Any) -> Contender:
        return Contender(name, self.backend.sampler(run), lambda: self._check(run))

    def _check(self, run: Any) -> Check:
        source, target = self.indices[0]
        expected = self.pool.kv[:, :, source].clone()
        self.pool.kv[:, :, target] = math.nan
        run(0)
        self.backend.wait()
        return _same(self.pool.kv[:, :, target], expected)


class SwapWork:
    """Blocks to pinned host memory or back; two lists of them in turn."""

    def __init__(self, backend: TorchBackend, case: Swap) -> None:
        self.backend, self.case = backend, case
        self.pool = BlockPool(backend, case)
        lists = max(1, min(2, case.pool_blocks // case.blocks))
        order = torch.arange(case.pool_blocks) if case.runs else torch.randperm(case.pool_blocks)
        chosen = order[: case.blocks * lists].view(lists, case.blocks)
        self.indices = [one.to(backend.device) for one in chosen]
        self.blocks = [int32s(one.tolist()) for one in chosen]
        self.size = self.pool.context.swap_bytes(case.blocks)
        if self.size != case.bytes:
            raise RuntimeError(f"an image takes {self.size} bytes: expected {case.bytes}")
        kv = self.pool.kv
        image = (case.blocks, kv.shape[0], 2, *kv.shape[3:])
        self.host = torch.empty(image, dtype=kv.dtype, pin_memory=backend.cuda)

    def close(self) -> None:
        self.backend.wait()
        self.pool.context.close()
        self.__dict__.clear()

    def launch(self, i: int) -> None:
        blocks, stream = self.blocks[i % len(self.blocks)], self.backend.stream()
        swap = self.pool.context.swap_out if self.case.out else self.pool.context.swap_in
        swap(blocks, self.host.data_ptr(), self.size, stream)

    def ours(self) -> Contender:
        return Contender(OURS, self.backend.sampler(self.launch), self._check)

    def peer(self, name: str) -> Contender:
        raise ValueError(f"no peer for swaps is named {name!r}")

    def _check(self) -> Check:
        """The image is for each block, for each layer, K then V."""
        chosen = self.indices[0]
        expected = self.pool.kv[:, :, chosen].permute(2, 0, 1, 3, 4, 5).contiguous()
        if self.case.out:
            self.host.fill_(math.nan)
        else:
            self.host.copy_(expected)
            self.pool.kv[:, :, chosen] = math.nan
        self.backend.wait()
        self.launch(0)
        self.backend.wait()
        if self.case.out:
            return _same(self.host.to(self.backend.device), expected)
        got = self.pool.kv[:, :, chosen].permute(2, 0, 1, 3, 4, 5)
        return _same(got, expected)


def _same(got: torch.Tensor, expected: torch.Tensor) -> Check:
    """Bit for bit."""
    if torch.equal(got, expected):
        return Check(0.0, 0.0, 0.0)
    difference = (got.float() - expected.float()).abs().max().item()
    return Check(difference, math.inf, 0.0)
