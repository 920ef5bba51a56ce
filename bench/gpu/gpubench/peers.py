"""Others' attention on the same data. Each maker gives run(i), which returns the result of layer
i % layers; any exception says that this peer cannot, and becomes a line of the table.

PyTorch's attention knows no block tables: it gets K/V that were gathered densely beforehand, which
is not part of its time. FlashInfer reads the same blocks as we do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from gpubench.cases import Decode, Radix

if TYPE_CHECKING:
    from gpubench.attention import AttentionWork

Run = Callable[[int], torch.Tensor]


def make(name: str, work: AttentionWork) -> Run:
    makers: dict[str, Callable[[AttentionWork], Run]] = {
        "sdpa_flash": lambda w: _sdpa(w, "FLASH_ATTENTION"),
        "sdpa_cudnn": lambda w: _sdpa(w, "CUDNN_ATTENTION"),
        "flex": _flex,
        "flashinfer": _flashinfer,
        "flashinfer_cascade": _flashinfer_cascade,
    }
    if name not in makers:
        raise ValueError(f"no peer is named {name!r}: expected one of {', '.join(makers)}")
    return makers[name](work)


def _dense(work: AttentionWork) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [batch, heads, q_len, dim]; k, v [layers, batch, kv_heads, context, dim] (views)."""
    if len(set(work.case.lens)) > 1:
        raise ValueError("sequences of different lengths")
    k, v = work.dense()
    q = work.q.view(work.case.batch, work.case.q_len, work.shape.q_heads, -1).transpose(1, 2)
    return q, k.transpose(2, 3), v.transpose(2, 3)


def _rows_first(out: torch.Tensor) -> torch.Tensor:
    """[batch, heads, q_len, dim] -> [batch, q_len, heads, dim], without a copy."""
    return out.transpose(1, 2)


# ---- PyTorch -------------------------------------------------------------------------------------


def _sdpa(work: AttentionWork, backend_name: str) -> Run:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.bias import causal_lower_right

    backend = getattr(SDPBackend, backend_name)
    q, k, v = _dense(work)
    options: dict[str, Any] = {"enable_gqa": work.shape.q_heads != work.shape.kv_heads}
    if work.case.q_len == work.case.context:
        options["is_causal"] = True
    elif not isinstance(work.case, Decode):
        options["attn_mask"] = causal_lower_right(work.case.q_len, work.case.context)

    def run(i: int) -> torch.Tensor:
        layer = i % work.layers
        with sdpa_kernel([backend]):
            out = scaled_dot_product_attention(q, k[layer], v[layer], **options)
        return _rows_first(out)

    return run


def _flex(work: AttentionWork) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = _dense(work)
    before = work.case.context - work.case.q_len
    mask = None
    if not isinstance(work.case, Decode):
        mask = create_block_mask(
            lambda b, h, row, key: row + before >= key,
            None,
            None,
            work.case.q_len,
            work.case.context,
            device=work.backend.device,
        )
    compiled = torch.compile(flex_attention, dynamic=False)
    gqa = work.shape.q_heads != work.shape.kv_heads

    def run(i: int) -> torch.Tensor:
        layer = i % work.layers
        return _rows_first(compiled(q, k[layer], v[layer], block_mask=mask, enable_gqa=gqa))

    return run


# ---- FlashInfer ----------------------------------------------------------------------------------


def _flashinfer(work: AttentionWork) -> Run:
    import flashinfer  # not everywhere: its absence is this peer's error

    case, shape = work.case, work.shape
    counts = [-(-length // shape.block_size) for length in case.lens]
    ids = [work.table[s, :count] for s, count in enumerate(counts)]
    last = [n - (count - 1) * shape.block_size for n, count in zip(case.lens, counts, strict=True)]
    pages = (
        work.backend.int32s(torch.tensor([0, *itertools.accumulate(counts)])),
        torch.cat(ids),
        work.backend.int32s(torch.tensor(last)),
    )
    geometry = (shape.q_heads, shape.kv_heads, shape.head_dim, shape.block_size)
    dtypes = {"q_data_type": work.q.dtype, "kv_data_type": work.k.dtype}
    space = torch.zeros(256 << 20, dtype=torch.uint8, device=work.backend.device)
    if isinstance(case, Decode):
        group = shape.q_heads // shape.kv_heads
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            space, "NHD", use_tensor_cores=group >= 4
        )
        wrapper.plan(*pages, *geometry, **dtypes)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(space, "NHD")
        wrapper.plan(work.cu_q_lens, *pages, *geometry, causal=True, **dtypes)

    def run(i: int) -> torch.Tensor:
        layer = i % work.layers
        return wrapper.run(work.q, (work.k[layer], work.v[layer]))

    return run


def _flashinfer_cascade(work: AttentionWork) -> Run:
    """A level for what all share, one for each group's, one for each sequence's own."""
    import flashinfer

    case, shape = work.case, work.shape
    if not isinstance(case, Radix):
        raise ValueError("only of shared prefixes")
    size = shape.block_size
    widths = [case.shared // size, case.group_shared // size, case.own // size]
    counts = [1, case.groups, case.batch]
    levels = [i for i in range(3) if widths[i] > 0]
    begins = [sum(widths[:i]) for i in range(3)]
    space = torch.zeros(512 << 20, dtype=torch.uint8, device=work.backend.device)
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(levels), space, "NHD")

    def ints(values: torch.Tensor) -> torch.Tensor:
        return work.backend.int32s(values)

    def pages(level: int) -> torch.Tensor:
        rows = work.table[:: case.batch // counts[level]]
        return rows[:, begins[level] : begins[level] + widths[level]].reshape(-1)

    wrapper.plan(
        [ints(torch.arange(counts[i] + 1) * (case.batch // counts[i])) for i in levels],
        [ints(torch.arange(counts[i] + 1) * widths[i]) for i in levels],
        [ints(pages(i)) for i in levels],
        [ints(torch.full((counts[i],), size)) for i in levels],
        shape.q_heads,
        shape.kv_heads,
        shape.head_dim,
        size,
        causal=False,
        q_data_type=work.q.dtype,
        kv_data_type=work.k.dtype,
    )

    def run(i: int) -> torch.Tensor:
        layer = i % work.layers
        return wrapper.run(work.q, (work.k[layer], work.v[layer]))

    return run
