"""The same memory under torch, where torch is installed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_torch_tensors_in_and_out(make_ctx, reference, dtype):
    ctx = make_ctx(kv_dtype=dtype)
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    cache, _ = (torch.from_dlpack(t) for t in ctx.kv_tensors(0))
    assert cache.dtype == kind
    assert cache.data_ptr() == ctx.kv_views(0)[0].__array_interface__["data"][0]

    request = ctx.begin([])
    reserved = request.append(torch.arange(9, dtype=torch.int32))
    k, v = torch.randn(2, 9, 2, 32).to(kind)
    ctx.rope_append(k, v, reserved.slots)
    table = torch.from_numpy(request.block_table()).long()
    assert torch.equal(cache[table].reshape(-1, 2, 32)[:9], k)

    q, out = torch.randn(1, 4, 32), torch.zeros(1, 4, 32)
    tables, lens = ctx.block_tables([request])
    got, _ = ctx.paged_attention(q, lens, block_tables=tables, out=out)
    assert got is out
    expected, _ = reference(q.numpy(), k.float().numpy(), v.float().numpy())
    np.testing.assert_allclose(out.numpy(), expected, atol=2e-6)
