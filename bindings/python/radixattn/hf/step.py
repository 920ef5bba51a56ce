"""One forward pass over the paged cache: K/V of its tokens are written, its queries attend.

A step has a plan, made before the forward pass, and every layer uses it. Rows are query tokens, one
sequence after the other. Data plane: no tree, no lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from radixattn.context import Context
from radixattn.hf.models import Geometry
from radixattn.plan import Plan


def finish_launches(shape: Geometry) -> None:
    """Waits until a CUDA device has done what was launched: before memory that it uses goes away.
    On the CPU launches have finished when they return."""
    if shape.device.type == "cuda":
        torch.cuda.synchronize(shape.device)


@dataclass
class Step:
    """What every layer of a forward pass needs.

    plan    updated for this step
    decode  every sequence has one query row
    slots   int64 [num_rows] where K/V of each row go, -1 = nowhere, on the context's device; None:
            the plan's own
    rows    int64 [num_rows] of the batch's flat [batch * length] tokens those that are rows (the
            others are padding); None: all of them
    mask    bool [batch, context] that attention_mask must equal; None: there is no padding
    """

    ctx: Context
    plan: Plan
    decode: bool
    slots: Any = None
    rows: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    mask_checked: bool = False

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Writes K and V, [batch, num_kv_heads, length, head_dim], turned already, to their
        slots."""
        k, v = self._flat(key), self._flat(value)
        if self.slots is None:
            self.plan.rope_append(k, v, layer=layer)
        else:
            self.ctx.rope_append(k, v, self.slots, layer=layer)

    def attend(self, layer: int, query: torch.Tensor, **options: Any) -> torch.Tensor:
        """Attention of query, [batch, num_q_heads, length, head_dim], over what the plan says.

        Returns [batch, length, num_q_heads, head_dim]; padding gets zeros. options: scale, window,
        softcap, sinks.
        """
        batch, heads, length, dim = query.shape
        q = self._flat(query)
        out = q.new_empty((q.shape[0], heads, dim))
        launch = self.plan.paged_attention if self.decode else self.plan.prefill
        launch(q, out=out, layer=layer, **options)
        if self.rows is not None:
            whole = q.new_zeros((batch * length, heads, dim))
            out = whole.index_copy_(0, self.rows, out)
        return out.view(batch, length, heads, dim)

    def _flat(self, states: torch.Tensor) -> torch.Tensor:
        """[batch, heads, length, dim] as rows [num_rows, heads, dim]; a view where that is
        possible."""
        batch, heads, length, dim = states.shape
        flat = states.transpose(1, 2).reshape(batch * length, heads, dim)
        if self.rows is not None:
            flat = flat.index_select(0, self.rows)
        return flat if flat.stride(-1) == 1 else flat.contiguous()
