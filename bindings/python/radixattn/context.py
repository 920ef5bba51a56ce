"""Context: everything that happens with one cache.

Its methods stand in core (life, KV memory), cache (control plane), tree (the tree as arrays),
memory (copies), attention, sampling, plan and layer.
"""

from __future__ import annotations

from radixattn.attention import AttentionCalls
from radixattn.cache import CacheCalls
from radixattn.layer import LayerCalls
from radixattn.memory import MemoryCalls
from radixattn.plan import PlanCalls
from radixattn.sampling import SamplingCalls
from radixattn.tree import TreeCalls


class Context(
    CacheCalls, TreeCalls, MemoryCalls, AttentionCalls, SamplingCalls, PlanCalls, LayerCalls
):
    """A prefix-sharing paged KV cache with its KV memory and kernels.

        with Context(num_blocks=256, num_layers=2, num_kv_heads=2, head_dim=64) as ctx:
            with ctx.begin(prompt) as request:
                new = prompt[request.match.cached_tokens:]
                reserved = request.append(new)
                ctx.run_ops(reserved.ops)
                ...                # per layer: ctx.rope_append, then ctx.prefill
                request.commit()   # from now on others can match it

    Keyword arguments: see config.Options. Errors of creation: InvalidArgumentError,
    OutOfMemoryError, UnsupportedError (cpu_target, device, kv_dtype), NoDeviceError.

    device="cuda" or "cuda:1": K/V and kernels are on that device, and there the tensors of launches
    must be (see attention.py); launches go to a stream (see memory.py). Requests, block tables and
    lengths come as host memory, as ever.

    Threads: methods tagged [F] are free-threaded, [C] take the context's lock, [D] run without a
    lock on what they are given. close() ends the context; no other thread may be inside a call of
    it then.
    """
