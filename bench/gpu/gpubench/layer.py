"""The attention block of a layer on the device: data, launches, PyTorch's, the plain reference.

Launches walk the layers, each with weights and K/V of its own, so that none finds them in the L2
cache.

    x, y    [batch * q_len, hidden]
    w_qkv   [layers, (q_heads + 2 * kv_heads) * head_dim, hidden]
    w_o     [layers, hidden, q_heads * head_dim]
    k, v    [layers, batch * blocks_per_seq, block_size, kv_heads, head_dim]
    table   [batch, blocks_per_seq], blocks in random order

The new tokens are the last of each sequence. A launch computes their K and V and writes them, to
the same numbers each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from gpubench.cases import Layer
from gpubench.flow import Check, Contender, NoRoomError
from gpubench.launches import Array
from gpubench.report import OURS
from gpubench.stats import rotation
from gpubench.torch_backend import TorchBackend, array, compare, int_array
from gpubench.transfers import THETA, turned

NORM_EPS = 1e-5
# Of the relative error: what lies between the steps is rounded about ten times on the way.
TOLERANCE = {"bf16": 2.5e-2, "f16": 4e-3, "f32": 1e-5}


class LayerWork:
    """One case. flow.Work."""

    def __init__(self, backend: TorchBackend, case: Layer) -> None:
        self.backend, self.case, self.shape = backend, case, case.shape
        each = case.weight_bytes + case.kv_bytes
        self.layers = rotation(each, backend.l2_bytes, backend.room())
        if self.layers == 0:
            raise NoRoomError(f"needs {each / 1e9:.1f} GB of device memory")
        self._make_data()
        self.launches = [self._layer(layer) for layer in range(self.layers)]
        size = max(backend.context.layer_workspace_bytes(d) for d in self.launches)
        self.workspace = torch.empty(size + 64, dtype=torch.uint8, device=backend.device)
        for d in self.launches:
            d.workspace = self.workspace.data_ptr() + -self.workspace.data_ptr() % 64
            d.workspace_size = size

    def _make_data(self) -> None:
        backend, case, shape = self.backend, self.case, self.shape
        dtype, hidden, layers = shape.q_dtype, case.hidden, self.layers
        out_of = shape.q_heads * shape.head_dim
        columns = out_of + 2 * shape.kv_heads * shape.head_dim
        self.x = backend.random((case.rows, hidden), dtype)
        self.y = torch.empty_like(self.x)
        self.norm = backend.random((layers, hidden), dtype).mul_(0.1).add_(1)
        self.w_qkv = backend.random((layers, columns, hidden), dtype).mul_(hidden**-0.5)
        self.w_o = backend.random((layers, hidden, out_of), dtype).mul_(out_of**-0.5)
        blocks = case.batch * case.blocks_per_seq
        pool = (layers, blocks, shape.block_size, shape.kv_heads, shape.head_dim)
        self.k, self.v = backend.random(pool, shape.dtype), backend.random(pool, shape.dtype)
        self.table = backend.int32s(torch.randperm(blocks).view(case.batch, -1))
        self.lens = backend.int32s(torch.tensor(case.lens))
        self.cu_q_lens = backend.int32s(torch.arange(case.batch + 1) * case.q_len)
        new = torch.arange(case.context - case.q_len, case.context, device=backend.device)
        self.positions = backend.int32s(new.repeat(case.batch))
        block = self.table.long()[:, new // shape.block_size]
        self.slots = (block * shape.block_size + new % shape.block_size).flatten().contiguous()

    def _layer(self, layer: int) -> Any:
        case, shape, context = self.case, self.shape, self.backend.context
        kv = (array(self.k[layer]), array(self.v[layer]))
        none = Array(0, shape.q_dtype, ())  # the layer's own
        attn = context.attention(
            none,
            none,
            kv,
            int_array(self.table),
            int_array(self.lens),
            max_context_len=case.context,
            cu_q_lens=self.cu_q_lens.data_ptr() if case.q_len > 1 else None,
            max_query_len=case.q_len,
        )
        rope = context.rope(
            (none, Array(0, shape.q_dtype, (case.rows,)), none),
            kv,
            self.slots.data_ptr(),
            self.positions.data_ptr(),
            shape.head_dim,
            THETA,
        )
        weights = {"norm": self.norm, "w_qkv": self.w_qkv, "w_o": self.w_o}
        return context.layer(
            array(self.x),
            array(self.y),
            {name: array(weight[layer]) for name, weight in weights.items()},
            attn,
            rope,
            q_heads=shape.q_heads,
            norm_eps=NORM_EPS,
        )

    def close(self) -> None:
        self.__dict__.clear()

    # ---- ours ------------------------------------------------------------------------------------

    def launch(self, i: int) -> None:
        self.backend.context.run_layer(self.launches[i % self.layers], self.backend.stream())

    def ours(self) -> Contender:
        def check() -> Check:
            self.y.fill_(math.nan)
            self.launch(0)
            self.backend.wait()
            return self.check(self.y)

        return Contender(OURS, self.backend.sampler(self.launch), check)

    # ---- PyTorch ---------------------------------------------------------------------------------

    def peer(self, name: str) -> Contender:
        if name != "torch":
            raise ValueError(f"no peer for a layer is named {name!r}")
        run = self._torch()

        def check() -> Check:
            y = run(0)
            self.backend.wait()
            return self.check(y)

        return Contender(name, self.backend.sampler(run), check)

    def _torch(self) -> Callable[[int], torch.Tensor]:
        """PyTorch's operators one after the other, over a dense K/V cache of its own."""
        from torch.nn.attention.bias import causal_lower_right

        case, shape = self.case, self.shape
        k_cache, v_cache = self._dense()
        options: dict[str, Any] = {"enable_gqa": shape.q_heads != shape.kv_heads}
        if case.q_len == case.context:
            options["is_causal"] = True
        elif case.q_len > 1:
            options["attn_mask"] = causal_lower_right(case.q_len, case.context)
        cos, sin = self._angles()
        rows = (case.batch, case.q_len, -1, shape.head_dim)
        counts = [shape.q_heads, shape.kv_heads, shape.kv_heads]
        new = slice(case.context - case.q_len, case.context)

        def turn(x: torch.Tensor) -> torch.Tensor:
            low, high = x.chunk(2, dim=-1)
            return x * cos + torch.cat((-high, low), dim=-1) * sin

        def run(i: int) -> torch.Tensor:
            layer = i % self.layers
            h = rms_norm(self.x, (case.hidden,), self.norm[layer], NORM_EPS)
            qkv = linear(h, self.w_qkv[layer]).view(rows).transpose(1, 2)
            q, k, v = qkv.split(counts, dim=1)
            k_cache[layer, :, :, new] = turn(k)
            v_cache[layer, :, :, new] = v
            out = scaled_dot_product_attention(turn(q), k_cache[layer], v_cache[layer], **options)
            return linear(out.transpose(1, 2).reshape(case.rows, -1), self.w_o[layer])

        return run

    def _angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of the new positions, [q_len, head_dim], as wide as the heads' dtype."""
        half = self.shape.head_dim // 2
        exponent = torch.arange(half, device=self.x.device, dtype=torch.float64) / half
        new = self.positions[: self.case.q_len].double()
        angle = (new[:, None] * THETA**-exponent).repeat(1, 2)
        return angle.cos().to(self.x.dtype), angle.sin().to(self.x.dtype)

    def _sequence(self, layer: int, s: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of a sequence without its blocks, [context, kv_heads, head_dim]."""
        blocks = self.table[s].long()
        k, v = (kv[layer][blocks].flatten(0, 1)[: self.case.context] for kv in (self.k, self.v))
        return k, v

    def _dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of all layers gathered, [layers, batch, kv_heads, context, head_dim] each."""
        case, shape = self.case, self.shape
        self.backend.need(self.layers * case.dense_bytes)
        size = (self.layers, case.batch, shape.kv_heads, case.context, shape.head_dim)
        k, v = (self.backend.empty(size, shape.q_dtype) for _ in range(2))
        for layer in range(self.layers):
            for s in range(case.batch):
                one_k, one_v = self._sequence(layer, s)
                k[layer, s].copy_(one_k.transpose(0, 1))
                v[layer, s].copy_(one_v.transpose(0, 1))
        return k, v

    # ---- reference -------------------------------------------------------------------------------

    def check(self, y: torch.Tensor) -> Check:
        """Some rows of three sequences of the first layer in double precision; everywhere else the
        result must at least be finite."""
        tolerance = TOLERANCE[self.shape.q_dtype]
        if not bool(torch.isfinite(y).all()):
            return Check(math.nan, math.nan, tolerance)
        n = self.case.q_len
        rows = torch.tensor(sorted({0, n // 3, n // 2, n - 1}), device=y.device)
        got, expected = [], []
        for s in sorted({0, self.case.batch // 2, self.case.batch - 1}):
            got.append(y[s * n + rows])
            expected.append(self._reference(s, rows))
        return compare(torch.cat(got), torch.cat(expected), tolerance)

    def _reference(self, s: int, rows: torch.Tensor) -> torch.Tensor:
        """Cached tokens as they are, new ones from x: what the launch wrote is not looked at."""
        case, shape = self.case, self.shape
        of_sequence = slice(s * case.q_len, (s + 1) * case.q_len)
        x, positions = self.x[of_sequence].double(), self.positions[of_sequence]
        h = x / (x.square().mean(dim=-1, keepdim=True) + NORM_EPS).sqrt() * self.norm[0].double()
        qkv = (h @ self.w_qkv[0].double().T).view(case.q_len, -1, shape.head_dim)
        q, new_k, new_v = qkv.split([shape.q_heads, shape.kv_heads, shape.kv_heads], dim=1)
        k, v = (part.double() for part in self._sequence(0, s))
        k[case.context - case.q_len :] = turned(new_k, positions)
        v[case.context - case.q_len :] = new_v
        q = turned(q, positions)[rows].view(len(rows), shape.kv_heads, -1, shape.head_dim)
        scores = torch.einsum("rhgd,lhd->rhgl", q, k) / math.sqrt(shape.head_dim)
        later = torch.arange(len(k), device=x.device)[None, :] > positions[rows][:, None]
        scores = scores.masked_fill(later[:, None, None, :], -math.inf)
        out = torch.einsum("rhgl,lhd->rhgd", torch.softmax(scores, dim=-1), v)
        return out.reshape(len(rows), -1) @ self.w_o[0].double().T
