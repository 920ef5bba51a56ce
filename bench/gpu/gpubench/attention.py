"""Decode and prefill on the device: data, launches, graph, and the plain reference.

K/V lie as an engine has them: one pool a layer, the same block table for all layers. Launches walk
the layers in turn, so that none finds its K/V in the L2 cache.

    k, v    [layers, batch * blocks_per_seq, block_size, kv_heads, head_dim]
    table   [batch, blocks_per_seq], blocks in random order
    q, out  [batch * q_len, q_heads, head_dim]
"""

from __future__ import annotations

import math

import torch

from gpubench import peers
from gpubench.cases import Attention, Decode, Radix
from gpubench.flow import Check, Contender, NoRoomError
from gpubench.launches import Context, Plan, int32s
from gpubench.report import OURS
from gpubench.stats import rotation
from gpubench.torch_backend import TorchBackend, array, compare, int_array

# Of the relative error. With normal K and V a rounded P and a rounded output make about 2e-3 of it
# in bf16 and 3e-4 in f16; tests/kernel and tests/gpu bound every single number.
TOLERANCE = {"bf16": 6e-3, "f16": 1.5e-3, "f32": 1e-5}


def _table(case: Attention) -> torch.Tensor:
    """Blocks in random order, [batch, blocks_per_seq]; those of shared tokens in many rows."""
    blocks = torch.randperm(case.num_blocks)
    if not isinstance(case, Radix):
        return blocks.view(case.batch, -1)
    size = case.shape.block_size
    shared, group = case.shared // size, case.group_shared // size
    root, middle, own = blocks.split([shared, case.groups * group, case.batch * case.own // size])
    groups = middle.view(case.groups, group).repeat_interleave(case.batch // case.groups, dim=0)
    return torch.cat([root.expand(case.batch, -1), groups, own.view(case.batch, -1)], dim=1)


class AttentionWork:
    """One case. flow.Work."""

    def __init__(self, backend: TorchBackend, case: Attention) -> None:
        self.backend, self.case, self.shape = backend, case, case.shape
        self.layers = rotation(case.kv_bytes, backend.l2_bytes, backend.room())
        if self.layers == 0:
            raise NoRoomError(f"needs {case.kv_bytes / 1e9:.1f} GB of device memory")
        shape = case.shape
        pool = (self.layers, case.num_blocks, shape.block_size, shape.kv_heads, shape.head_dim)
        self.k = backend.random(pool, shape.dtype)
        self.v = backend.random(pool, shape.dtype)
        self.table = backend.int32s(_table(case))
        self.lens = backend.int32s(torch.tensor(case.lens))
        self.cu_q_lens = backend.int32s(torch.arange(case.batch + 1) * case.q_len)
        self.q = backend.random((case.rows, shape.q_heads, shape.head_dim), shape.q_dtype)
        self.out = torch.empty_like(self.q)
        self.context = backend.context
        self.plans: list[Plan] = []
        self.attn = [self._attn(layer) for layer in range(self.layers)]
        if isinstance(case, Decode) and case.plan:
            invariant = isinstance(case, Radix) and case.invariant
            self._make_context()
            self._add_plan(self.attn, ["RADIX_PLAN_BATCH_INVARIANT"] if invariant else [])
        else:
            self._make_workspace()

    def _make_workspace(self) -> None:
        backend = self.backend
        size = max(backend.context.workspace_bytes(attn) for attn in self.attn)
        self.workspace = torch.empty(size + 64, dtype=torch.uint8, device=backend.device)
        for attn in self.attn:
            attn.workspace = self.workspace.data_ptr() + -self.workspace.data_ptr() % 64
            attn.workspace_size = size

    def _make_context(self) -> None:
        """Of the K/V's shape: plans need one."""
        backend, shape = self.backend, self.shape
        self.context = Context(
            backend.lib,
            backend.device,
            flags=backend.lib.constant("RADIX_CTX_METADATA_ONLY"),
            kv_dtype=shape.dtype,
            num_blocks=self.k.shape[1],
            block_size=shape.block_size,
            num_layers=1,
            num_kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
        )

    def _add_plan(self, launches: list, flags: list[str]) -> None:
        """A plan of the step, whose arrays and workspace the launches get."""
        tables, lens = int32s(self.table.flatten().tolist()), int32s(self.case.lens)
        width, stream = self.case.blocks_per_seq, self.backend.stream()
        plan = self.context.plan(tables, lens, width, self.shape.q_heads, stream, flags)
        self.plans.append(plan)
        for attn in launches:
            plan.fill(attn)

    def _attn(self, layer: int):
        decode = isinstance(self.case, Decode)
        return self.backend.context.attention(
            array(self.q),
            array(self.out),
            (array(self.k[layer]), array(self.v[layer])),
            int_array(self.table),
            int_array(self.lens),
            max_context_len=self.case.context,
            cu_q_lens=None if decode else self.cu_q_lens.data_ptr(),
            max_query_len=self.case.q_len,
        )

    def close(self) -> None:
        """Gives the memory back, also where somebody still holds this object."""
        if self.plans:
            self.backend.wait()
            for plan in self.plans:
                plan.close()
            self.context.close()
        self.__dict__.clear()

    # ---- ours ------------------------------------------------------------------------------------

    def launch(self, i: int) -> None:
        attn, context = self.attn[i % self.layers], self.context
        if isinstance(self.case, Decode):
            context.decode(attn, self.backend.stream())
        else:
            context.prefill(attn, self.backend.stream())

    def ours(self) -> Contender:
        if isinstance(self.case, Decode) and self.case.graph:
            return self._graph()
        return Contender(
            OURS, self.backend.sampler(self.launch), lambda: self._check_ours(self.launch, 0)
        )

    def _graph(self) -> Contender:
        """A replay has one launch a layer."""
        if not self.backend.cuda:
            raise RuntimeError("a CUDA graph needs a GPU")
        self.launch(0)  # loads the kernels: a capture must not
        self.backend.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for layer in range(self.layers):
                self.launch(layer)

        def replay(i: int) -> None:
            graph.replay()

        sampler = self.backend.sampler(replay, self.layers)
        return Contender(OURS, sampler, lambda: self._check_ours(replay, self.layers - 1))

    def _check_ours(self, run, layer: int) -> Check:
        """Runs once into poisoned memory; what is there afterwards is that layer's result."""
        self.out.fill_(math.nan)
        run(0)
        self.backend.wait()
        return self.check(self.out, layer)

    # ---- peers -----------------------------------------------------------------------------------

    def peer(self, name: str) -> Contender:
        if name == "unshared":
            return self._unshared()
        run = peers.make(name, self)

        def check() -> Check:
            out = run(0)
            self.backend.wait()
            return self.check(out.reshape(self.out.shape), 0)

        return Contender(name, self.backend.sampler(run), check)

    def _unshared(self) -> Contender:
        """Ours by a plan that lets every sequence read all of its K/V."""
        launches = [self._attn(layer) for layer in range(self.layers)]
        self._add_plan(launches, ["RADIX_PLAN_UNSHARED"])

        def launch(i: int) -> None:
            self.context.decode(launches[i % self.layers], self.backend.stream())

        return Contender(
            "unshared", self.backend.sampler(launch), lambda: self._check_ours(launch, 0)
        )

    def sequence(self, layer: int, s: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of a sequence without its blocks, [its length, kv_heads, head_dim]."""
        blocks = self.table[s].long()
        both = (kv[layer].view(torch.uint8)[blocks].view(kv.dtype) for kv in (self.k, self.v))
        k, v = (part.flatten(0, 1)[: self.case.lens[s]] for part in both)
        return k, v

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of all layers gathered, [layers, batch, context, kv_heads, head_dim] each."""
        case, shape = self.case, self.shape
        self.backend.need(self.layers * case.dense_bytes)
        size = (self.layers, case.batch, case.context, shape.kv_heads, shape.head_dim)
        k, v = (self.backend.empty(size, shape.q_dtype) for _ in range(2))
        for layer in range(self.layers):
            for s in range(case.batch):
                one_k, one_v = self.sequence(layer, s)
                k[layer, s].copy_(one_k)
                v[layer, s].copy_(one_v)
        return k, v

    # ---- reference -------------------------------------------------------------------------------

    def check(self, out: torch.Tensor, layer: int) -> Check:
        """Some rows of the first, the middle and the last sequence in double precision; everywhere
        else the result must at least be finite."""
        tolerance = TOLERANCE[self.shape.q_dtype]
        if not bool(torch.isfinite(out).all()):
            return Check(math.nan, math.nan, tolerance)
        got, expected = [], []
        for s in sorted({0, self.case.batch // 2, self.case.batch - 1}):
            rows = torch.tensor(self._rows(), device=out.device)
            got.append(out[s * self.case.q_len + rows])
            expected.append(self._reference(layer, s, rows))
        return compare(torch.cat(got), torch.cat(expected), tolerance)

    def _rows(self) -> list[int]:
        """Of a sequence: both ends, the edges of the kernels' tiles."""
        n = self.case.q_len
        edges = {0, 1, 15, 16, 63, 64, 127, 128, n // 2, n - 2, n - 1}
        return sorted(row for row in edges if 0 <= row < n)

    def _reference(self, layer: int, s: int, rows: torch.Tensor) -> torch.Tensor:
        case, shape = self.case, self.shape
        k, v = (part.float().double() for part in self.sequence(layer, s))
        q = self.q[s * case.q_len + rows].double()
        q = q.view(len(rows), shape.kv_heads, -1, shape.head_dim)
        x = torch.einsum("rhgd,lhd->rhgl", q, k) / math.sqrt(shape.head_dim)
        position = len(k) - case.q_len + rows
        keys = torch.arange(len(k), device=q.device)
        hidden = keys[None, :] > position[:, None]
        x = x.masked_fill(hidden[:, None, None, :], -math.inf)
        out = torch.einsum("rhgl,lhd->rhgd", torch.softmax(x, dim=-1), v)
        return out.reshape(len(rows), shape.q_heads, shape.head_dim)
