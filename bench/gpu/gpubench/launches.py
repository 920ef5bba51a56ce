"""Contexts and launch structs over memory that somebody else owns: addresses in, calls out.

Knows neither torch nor numpy: an Array says where a tensor lies. A launch struct keeps no memory
alive; who makes it keeps the tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpubench.library import Library

DTYPES = {
    "f32": "RADIX_F32",
    "f16": "RADIX_F16",
    "bf16": "RADIX_BF16",
    "e4m3": "RADIX_F8_E4M3",
    "e5m2": "RADIX_F8_E5M2",
}
DEVICES = {"cpu": "RADIX_DEV_CPU", "cuda": "RADIX_DEV_CUDA"}


@dataclass(frozen=True)
class Array:
    """A dense row-major tensor somewhere: its address, dtype (a key of DTYPES) and shape."""

    address: int
    dtype: str
    shape: tuple[int, ...]


def tensor(lib: Library, array: Array) -> Any:
    """radix_tensor of it; strides stay 0, which means row-major."""
    if len(array.shape) > 5:
        raise ValueError(f"a tensor of shape {array.shape}: expected at most 5 dimensions")
    made = lib.struct("radix_tensor", data=array.address, ndim=len(array.shape))
    made.dtype = lib.constant(DTYPES[array.dtype])
    made.shape[: len(array.shape)] = array.shape
    return made


class Context:
    """A radix_ctx*. Without a shape it is metadata only: launches bring their own K/V."""

    def __init__(self, lib: Library, device: str, **config: Any) -> None:
        self.lib = lib
        self.handle = ctypes.c_void_p()
        fields = {"abi": lib.api.abi, "device": lib.constant(DEVICES[device]), "num_blocks": 1}
        if "num_layers" not in config:
            fields["flags"] = lib.constant("RADIX_CTX_METADATA_ONLY")
        if "kv_dtype" in config:
            config["kv_dtype"] = lib.constant(DTYPES[config["kv_dtype"]])
        fields.update(config)
        made = lib.struct("radix_config", **fields)
        lib.call("radix_ctx_create", ctypes.byref(made), ctypes.byref(self.handle))

    def close(self) -> None:
        if self.handle:
            self.lib.dll.radix_ctx_destroy(ctypes.byref(self.handle))

    def kv_arrays(self, layer: int) -> tuple[Any, Any]:
        """radix_tensor of K and V of a layer of the context's KV memory."""
        k, v = self.lib.struct("radix_tensor"), self.lib.struct("radix_tensor")
        self.lib.call("radix_ctx_kv_tensor", self.handle, layer, ctypes.byref(k), ctypes.byref(v))
        return k, v

    # ---- attention -------------------------------------------------------------------------------

    def attention(
        self,
        q: Array,
        out: Array,
        kv: tuple[Array, Array],
        tables: Array,
        lens: Array,
        *,
        max_context_len: int,
        cu_q_lens: int | None = None,
        max_query_len: int = 1,
    ) -> Any:
        """radix_attn for decode, or for prefill when cu_q_lens (an address) is given.

        q, out [rows, heads, dim]; kv [blocks, block_size, kv_heads, dim]; tables [seqs, blocks a
        row] and lens [seqs] of int32. The workspace is still to be set: see workspace_bytes.
        """
        lib = self.lib
        return lib.struct(
            "radix_attn",
            num_seqs=lens.shape[0],
            max_context_len=max_context_len,
            max_query_len=max_query_len,
            kv_layout=lib.constant("RADIX_LAYOUT_NHD"),
            q=tensor(lib, q),
            out=tensor(lib, out),
            k_cache=tensor(lib, kv[0]),
            v_cache=tensor(lib, kv[1]),
            block_tables=tables.address,
            block_table_stride=tables.shape[1],
            context_lens=lens.address,
            cu_q_lens=cu_q_lens,
        )

    def workspace_bytes(self, attn: Any) -> int:
        size = ctypes.c_uint64()
        self.lib.call("radix_attn_workspace", self.handle, ctypes.byref(attn), ctypes.byref(size))
        return size.value

    def decode(self, attn: Any, stream: int | None) -> None:
        status = self.lib.dll.radix_paged_attention_launch(self.handle, ctypes.byref(attn), stream)
        if status != 0:
            self.lib.fail("radix_paged_attention_launch", status)

    def prefill(self, attn: Any, stream: int | None) -> None:
        status = self.lib.dll.radix_prefill_launch(self.handle, ctypes.byref(attn), stream)
        if status != 0:
            self.lib.fail("radix_prefill_launch", status)

    # ---- layers ----------------------------------------------------------------------------------

    def layer(
        self,
        x: Array,
        y: Array,
        weights: dict[str, Array],
        attn: Any,
        rope: Any,
        *,
        q_heads: int,
        norm_eps: float,
    ) -> Any:
        """radix_layer of decode, or of prefill where attn has cu_q_lens. weights: norm, w_qkv, w_o.
        The workspace is still to be set: see layer_workspace_bytes."""
        lib = self.lib
        part = "decode" if attn.cu_q_lens is None else "prefill"
        made = lib.struct(
            "radix_layer",
            num_q_heads=q_heads,
            norm_eps=norm_eps,
            x=tensor(lib, x),
            y=tensor(lib, y),
            **{name: tensor(lib, array) for name, array in weights.items()},
            **{part: ctypes.addressof(attn), f"{part}_rope": ctypes.addressof(rope)},
        )
        made.parts = (attn, rope)  # the struct has their addresses only
        return made

    def layer_workspace_bytes(self, layer: Any) -> int:
        size = ctypes.c_uint64()
        self.lib.call("radix_layer_workspace", self.handle, ctypes.byref(layer), ctypes.byref(size))
        return size.value

    def run_layer(self, layer: Any, stream: int | None) -> None:
        status = self.lib.dll.radix_layer_launch(self.handle, ctypes.byref(layer), stream)
        if status != 0:
            self.lib.fail("radix_layer_launch", status)

    # ---- plans -----------------------------------------------------------------------------------

    def plan(
        self,
        tables: Any,
        lens: Any,
        width: int,
        q_heads: int,
        stream: int | None,
        flags: Sequence[str] = (),
    ) -> Plan:
        """A plan of one decode step: tables (int32s, rows of width) and lens lie on the host; flags
        are names of RADIX_PLAN_*."""
        return Plan(self, tables, lens, width, q_heads, stream, flags)

    # ---- sampling --------------------------------------------------------------------------------

    def sample(
        self,
        logits: Array,
        parameters: Mapping[str, int],
        out: tuple[int, int],
        logprobs: int | None,
    ) -> Any:
        """radix_sample of logits [rows, vocab]: parameters are addresses of arrays by the names of
        its fields, out those of tokens and status."""
        return self.lib.struct(
            "radix_sample",
            logits=tensor(self.lib, logits),
            out_tokens=out[0],
            out_status=out[1],
            out_logprobs=logprobs,
            **parameters,
        )

    def sample_workspace_bytes(self, made: Any) -> int:
        size = ctypes.c_uint64()
        self.lib.call("radix_sample_workspace", self.handle, ctypes.byref(made), ctypes.byref(size))
        return size.value

    def sample_launch(self, made: Any, stream: int | None) -> None:
        status = self.lib.dll.radix_sample_launch(self.handle, ctypes.byref(made), stream)
        if status != 0:
            self.lib.fail("radix_sample_launch", status)

    # ---- writes, copies, swaps -------------------------------------------------------------------

    def rope(
        self,
        qkv: tuple[Array, Array, Array],
        kv: tuple[Array, Array],
        slots: int,
        positions: int,
        rotary_dim: int,
        theta: float,
    ) -> Any:
        """radix_rope_append: q [tokens, heads, dim] turns in place, k and v go to their slots."""
        lib = self.lib
        return lib.struct(
            "radix_rope_append",
            rotary_dim=rotary_dim,
            style=lib.constant("RADIX_ROPE_NEOX"),
            theta=theta,
            kv_layout=lib.constant("RADIX_LAYOUT_NHD"),
            q=tensor(lib, qkv[0]),
            k=tensor(lib, qkv[1]),
            v=tensor(lib, qkv[2]),
            k_cache=tensor(lib, kv[0]),
            v_cache=tensor(lib, kv[1]),
            slots=slots,
            positions=positions,
            num_tokens=qkv[1].shape[0],
        )

    def rope_append(self, rope: Any, stream: int | None) -> None:
        status = self.lib.dll.radix_rope_append_launch(self.handle, ctypes.byref(rope), stream)
        if status != 0:
            self.lib.fail("radix_rope_append_launch", status)

    def copy_blocks(self, pairs: Any, stream: int | None) -> None:
        """pairs: int32s(...) of {src, dst}."""
        self.lib.call("radix_copy_blocks", self.handle, pairs, len(pairs) // 2, stream)

    def swap_bytes(self, num_blocks: int) -> int:
        size = ctypes.c_uint64()
        self.lib.call("radix_swap_bytes", self.handle, num_blocks, ctypes.byref(size))
        return size.value

    def swap_out(self, blocks: Any, host: int, size: int, stream: int | None) -> None:
        self.lib.call("radix_swap_out", self.handle, blocks, len(blocks), host, size, stream)

    def swap_in(self, blocks: Any, host: int, size: int, stream: int | None) -> None:
        self.lib.call("radix_swap_in", self.handle, blocks, len(blocks), host, size, stream)


class Plan:
    """A radix_plan* of a step over tables of our own, not of the context's requests."""

    def __init__(
        self,
        ctx: Context,
        tables: Any,
        lens: Any,
        width: int,
        q_heads: int,
        stream: int | None,
        flags: Sequence[str] = (),
    ) -> None:
        self.lib = lib = ctx.lib
        self.handle = ctypes.c_void_p()
        config = lib.struct(
            "radix_plan_config",
            flags=sum(lib.constant(flag) for flag in flags),
            max_seqs=len(lens),
            max_context_len=max(lens),
            num_q_heads=q_heads,
        )
        made = ctypes.byref(self.handle)
        lib.call("radix_plan_create", ctx.handle, ctypes.byref(config), made)
        desc = lib.struct(
            "radix_plan_desc",
            num_seqs=len(lens),
            block_tables=ctypes.addressof(tables),
            block_table_stride=width,
            context_lens=ctypes.addressof(lens),
        )
        lib.call("radix_plan_update", self.handle, ctypes.byref(desc), stream)

    def fill(self, attn: Any) -> None:
        """Tables, lengths, workspace and work list of the plan instead of the struct's own."""
        self.lib.call("radix_plan_attn", self.handle, ctypes.byref(attn))

    def items(self) -> int:
        """Of the work list; 0: there is none."""
        info = self.lib.struct("radix_plan_info")
        self.lib.call("radix_plan_get_info", self.handle, ctypes.byref(info))
        return info.num_items

    def close(self) -> None:
        """After the last launch has finished, before the context's end."""
        if self.handle:
            self.lib.dll.radix_plan_destroy(ctypes.byref(self.handle))


def int32s(values: Sequence[int]) -> Any:
    """A host array of int32, for lists of blocks."""
    return (ctypes.c_int32 * len(values))(*values)
