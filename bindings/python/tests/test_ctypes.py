"""The raw C ABI through ctypes, without the package's cffi: a step of an engine in calls of the
library.

Structs are declared here once more, by hand, as a foreign language's binding would; their sizes are
compared with what the library says. The four short names are used: append_slot, get_block_tables,
free_request, paged_attention_launch.
"""

from __future__ import annotations

import ctypes as c

import numpy as np
import pytest

from radixattn._ffi import library_path

F32, OK, STALE, INVALID, VERSION = 1, 0, -6, -1, -2
BLOCK, HEADS, KV_HEADS, DIM = 16, 4, 2, 64


class Tensor(c.Structure):
    _fields_ = [
        ("data", c.c_void_p), ("dtype", c.c_int32), ("device", c.c_int32),
        ("device_index", c.c_int32), ("ndim", c.c_int32),
        ("shape", c.c_int64 * 5), ("stride", c.c_int64 * 5),
    ]  # fmt: skip


class Config(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32), ("abi", c.c_uint32), ("flags", c.c_uint32),
        ("device", c.c_int32), ("device_index", c.c_int32), ("kv_dtype", c.c_int32),
        ("num_blocks", c.c_uint32), ("block_size", c.c_uint32), ("num_layers", c.c_uint32),
        ("num_kv_heads", c.c_uint32), ("head_dim", c.c_uint32), ("head_dim_v", c.c_uint32),
        ("max_requests", c.c_uint32), ("max_blocks_per_request", c.c_uint32),
        ("max_pins", c.c_uint32), ("max_namespaces", c.c_uint32), ("kv_layout", c.c_int32),
        ("evict_policy", c.c_int32), ("cpu_target", c.c_int32), ("num_threads", c.c_uint32),
        ("log_level", c.c_int32), ("reserved0", c.c_uint32), ("memory_budget", c.c_uint64),
        ("kv_memory", c.c_void_p), ("kv_memory_size", c.c_uint64), ("host_alloc", c.c_void_p),
        ("executor", c.c_void_p), ("log", c.c_void_p), ("log_user", c.c_void_p),
        ("next", c.c_void_p),
        ("device_alloc", c.c_void_p),
    ]  # fmt: skip


class RequestDesc(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32), ("flags", c.c_uint32), ("ns", c.c_uint64),
        ("extra_key", c.c_uint64), ("tokens", c.POINTER(c.c_int32)), ("num_tokens", c.c_uint64),
    ]  # fmt: skip


class Match(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32), ("blocks_cap", c.c_uint32), ("cached_tokens", c.c_uint64),
        ("pending_tokens", c.c_uint64), ("num_blocks", c.c_uint64),
        ("blocks", c.POINTER(c.c_int32)),
    ]  # fmt: skip


class Op(c.Structure):
    _fields_ = [
        ("kind", c.c_int32), ("src", c.c_int32), ("dst", c.c_int32), ("num_tokens", c.c_uint32),
    ]  # fmt: skip


class Append(c.Structure):
    _fields_ = [
        ("req", c.c_uint64), ("tokens", c.POINTER(c.c_int32)),
        ("num_tokens", c.c_uint32), ("reserved0", c.c_uint32),
    ]  # fmt: skip


class AppendOut(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32), ("flags", c.c_uint32), ("slots", c.POINTER(c.c_int64)),
        ("slots_cap", c.c_uint64), ("ops", c.POINTER(Op)), ("ops_cap", c.c_uint32),
        ("num_ops", c.c_uint32), ("num_slots", c.c_uint64), ("num_done", c.c_uint32),
        ("short_blocks", c.c_uint32), ("evicted_blocks", c.c_uint32), ("reserved0", c.c_uint32),
    ]  # fmt: skip


class CommitItem(c.Structure):
    _fields_ = [("req", c.c_uint64), ("num_valid_tokens", c.c_uint64)]


class Attn(c.Structure):
    _fields_ = [
        ("struct_size", c.c_uint32), ("flags", c.c_uint32), ("layer", c.c_uint32),
        ("num_seqs", c.c_uint32), ("max_context_len", c.c_uint32), ("max_query_len", c.c_uint32),
        ("window", c.c_uint32), ("scale", c.c_float), ("softcap", c.c_float),
        ("kv_layout", c.c_int32), ("q", Tensor), ("out", Tensor), ("lse", Tensor),
        ("k_cache", Tensor), ("v_cache", Tensor), ("block_tables", c.POINTER(c.c_int32)),
        ("block_table_stride", c.c_int64), ("block_begin", c.POINTER(c.c_int32)),
        ("block_ids", c.POINTER(c.c_int32)), ("context_lens", c.POINTER(c.c_int32)),
        ("cu_q_lens", c.POINTER(c.c_int32)), ("alibi_slopes", c.POINTER(c.c_float)),
        ("sinks", c.POINTER(c.c_float)), ("workspace", c.c_void_p), ("workspace_size", c.c_uint64),
        ("next", c.c_void_p),
        ("k_scale", c.c_void_p),
        ("v_scale", c.c_void_p),
        ("tree_mask", c.c_void_p),
        ("tree_mask_stride", c.c_int64),
        ("plan", c.c_void_p),
    ]  # fmt: skip


STRUCTS = {
    "radix_tensor": Tensor, "radix_config": Config, "radix_request_desc": RequestDesc,
    "radix_match": Match, "radix_op": Op, "radix_append": Append, "radix_append_out": AppendOut,
    "radix_commit_item": CommitItem, "radix_attn": Attn,
}  # fmt: skip


def sized(kind, **fields):
    return kind(struct_size=c.sizeof(kind), **fields)


def int32s(values):
    return (c.c_int32 * len(values))(*values)


def tensor_of(array):
    tensor = Tensor(data=array.ctypes.data, dtype=F32, ndim=array.ndim)
    tensor.shape[: array.ndim] = array.shape
    return tensor


@pytest.fixture(scope="module")
def lib():
    library = c.CDLL(str(library_path()))
    status, pointer, u32, u64 = c.c_int32, c.c_void_p, c.c_uint32, c.c_uint64
    library.radix_abi.restype, library.radix_abi.argtypes = u32, []
    library.radix_struct_size.restype = c.c_size_t
    library.radix_struct_size.argtypes = [c.c_char_p]
    library.radix_last_error.restype = c.c_size_t
    library.radix_last_error.argtypes = [c.c_char_p, c.c_size_t]
    library.radix_ctx_destroy.restype = None
    library.radix_ctx_destroy.argtypes = [c.POINTER(pointer)]
    signatures = {
        "radix_ctx_create": [c.POINTER(Config), c.POINTER(pointer)],
        "radix_ctx_kv_tensor": [pointer, u32, c.POINTER(Tensor), c.POINTER(Tensor)],
        "radix_begin_request": [pointer, c.POINTER(RequestDesc), c.POINTER(u64), c.POINTER(Match)],
        "radix_run_ops": [pointer, c.POINTER(Op), u32, pointer],
        "radix_commit": [pointer, c.POINTER(CommitItem), u32, pointer],
        "radix_check": [pointer],
        "radix_attn_workspace": [pointer, c.POINTER(Attn), c.POINTER(u64)],
        "append_slot": [pointer, c.POINTER(Append), u32, c.POINTER(AppendOut)],
        "get_block_tables": [
            pointer, c.POINTER(u64), u32, c.POINTER(c.c_int32), c.c_int64, c.POINTER(c.c_int32),
            c.POINTER(u64),
        ],
        "free_request": [pointer, u64, u32],
        "paged_attention_launch": [pointer, c.POINTER(Attn), pointer],
    }  # fmt: skip
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = status, arguments
    return library


@pytest.fixture
def ctx(lib):
    config = sized(
        Config, abi=lib.radix_abi(), kv_dtype=F32, num_blocks=16, block_size=BLOCK, num_layers=1,
        num_kv_heads=KV_HEADS, head_dim=DIM,
    )  # fmt: skip
    pointer = c.c_void_p()
    assert lib.radix_ctx_create(c.byref(config), c.byref(pointer)) == OK
    yield pointer
    assert lib.radix_check(pointer) == OK
    lib.radix_ctx_destroy(c.byref(pointer))
    assert pointer.value is None


def last_error(lib):
    text = c.create_string_buffer(512)
    lib.radix_last_error(text, len(text))
    return text.value.decode()


def begin(lib, ctx, tokens):
    """(request, cached tokens)"""
    ids = int32s(tokens)
    desc = sized(RequestDesc, tokens=ids, num_tokens=len(tokens))
    request, match = c.c_uint64(), sized(Match)
    status = lib.radix_begin_request(ctx, c.byref(desc), c.byref(request), c.byref(match))
    assert status == OK, last_error(lib)
    return request.value, match.cached_tokens


def append(lib, ctx, request, tokens):
    """Slots of the new tokens, after running what the append asks for."""
    slots, ops = (c.c_int64 * len(tokens))(), (Op * 1)()
    item = Append(req=request, tokens=int32s(tokens), num_tokens=len(tokens))
    out = sized(AppendOut, slots=slots, slots_cap=len(slots), ops=ops, ops_cap=1)
    assert lib.append_slot(ctx, c.byref(item), 1, c.byref(out)) == OK, last_error(lib)
    assert (out.num_done, out.num_slots) == (1, len(tokens))
    assert lib.radix_run_ops(ctx, ops, out.num_ops, None) == OK
    return list(slots)


def kv_arrays(lib, ctx):
    """K and V of layer 0 over the library's memory, [num_slots, KV_HEADS, DIM] each."""
    tensors = Tensor(), Tensor()
    assert lib.radix_ctx_kv_tensor(ctx, 0, c.byref(tensors[0]), c.byref(tensors[1])) == OK
    arrays = []
    for tensor in tensors:
        assert list(tensor.shape)[:4] == [16, BLOCK, KV_HEADS, DIM]
        memory = (c.c_float * (16 * BLOCK * KV_HEADS * DIM)).from_address(tensor.data)
        arrays.append(np.frombuffer(memory, np.float32).reshape(-1, KV_HEADS, DIM))
    return arrays


def block_table(lib, ctx, request):
    """(the row, 8 entries long, and the length in tokens)"""
    row, length = (c.c_int32 * 8)(), (c.c_int32 * 1)()
    ids = (c.c_uint64 * 1)(request)
    assert lib.get_block_tables(ctx, ids, 1, row, 8, length, None) == OK, last_error(lib)
    return row, length


def attend(lib, ctx, request, q):
    """Decode attention of q [1, HEADS, DIM] over a request's tokens. Returns (out, lse)."""
    row, length = block_table(lib, ctx, request)
    out, lse = np.zeros((1, HEADS, DIM), np.float32), np.zeros((1, HEADS), np.float32)
    launch = sized(
        Attn, num_seqs=1, max_context_len=length[0], q=tensor_of(q), out=tensor_of(out),
        lse=tensor_of(lse), block_tables=row, block_table_stride=8, context_lens=length,
    )  # fmt: skip
    size = c.c_uint64()
    assert lib.radix_attn_workspace(ctx, c.byref(launch), c.byref(size)) == OK, last_error(lib)
    space = np.empty(size.value + 64, np.uint8)
    launch.workspace = space.ctypes.data + -space.ctypes.data % 64
    launch.workspace_size = size.value
    status = lib.paged_attention_launch(ctx, c.byref(launch), None)
    assert status == OK, last_error(lib)
    return out, lse


def test_struct_sizes(lib):
    for name, kind in STRUCTS.items():
        assert lib.radix_struct_size(name.encode()) == c.sizeof(kind), name


def test_attention_over_a_shared_prefix(lib, ctx, rng, reference):
    prompt = list(range(37))
    k = rng.standard_normal((37, KV_HEADS, DIM), np.float32)
    v = rng.standard_normal((37, KV_HEADS, DIM), np.float32)
    q = rng.standard_normal((1, HEADS, DIM), np.float32)
    k_cache, v_cache = kv_arrays(lib, ctx)

    first, cached = begin(lib, ctx, prompt)
    assert cached == 0
    slots = append(lib, ctx, first, prompt)
    k_cache[slots], v_cache[slots] = k, v
    item = CommitItem(req=first, num_valid_tokens=37)
    assert lib.radix_commit(ctx, c.byref(item), 1, None) == OK

    second, cached = begin(lib, ctx, prompt)
    assert cached == 32  # two blocks of 16 come from the first request
    slots = append(lib, ctx, second, prompt[cached:])
    assert len(slots) == 5
    k_cache[slots], v_cache[slots] = k[32:], v[32:]
    rows = [list(block_table(lib, ctx, r)[0])[:3] for r in (first, second)]
    assert rows[0][:2] == rows[1][:2]
    assert rows[0][2] != rows[1][2]

    expected, expected_lse = reference(q, k, v)
    results = [attend(lib, ctx, request, q) for request in (first, second)]
    for out, lse in results:
        np.testing.assert_allclose(out, expected, atol=2e-6)
        np.testing.assert_allclose(lse, expected_lse, atol=2e-6)
    assert np.array_equal(results[0][0], results[1][0])
    for request in (first, second):
        assert lib.free_request(ctx, request, 0) == OK


def test_a_freed_request_is_stale(lib, ctx):
    request, _ = begin(lib, ctx, [1, 2, 3])
    assert lib.free_request(ctx, request, 0) == OK
    assert lib.free_request(ctx, request, 0) == STALE
    assert "req" in last_error(lib)
    row, length = (c.c_int32 * 8)(*[9] * 8), (c.c_int32 * 1)(9)
    ids = (c.c_uint64 * 1)(request)
    assert lib.get_block_tables(ctx, ids, 1, row, 8, length, None) == STALE
    assert list(row) == [9] * 8  # a failed call has written nothing
    assert length[0] == 9


def test_a_wrong_abi_number_is_refused(lib):
    config = sized(Config, abi=lib.radix_abi() + 1, num_blocks=4, flags=4)
    pointer = c.c_void_p(1)
    assert lib.radix_ctx_create(c.byref(config), c.byref(pointer)) == VERSION
    assert pointer.value is None


def test_an_older_caller_s_shorter_struct_is_read_as_zeros(lib):
    config = sized(Config, abi=lib.radix_abi(), num_blocks=4, flags=4)
    config.struct_size = Config.memory_budget.offset
    pointer = c.c_void_p()
    assert lib.radix_ctx_create(c.byref(config), c.byref(pointer)) == OK, last_error(lib)
    lib.radix_ctx_destroy(c.byref(pointer))
    assert pointer.value is None


def test_a_null_pointer_is_an_error_not_a_crash(lib, ctx):
    assert lib.append_slot(ctx, None, 1, None) == INVALID
    assert lib.paged_attention_launch(ctx, None, None) in (INVALID, VERSION)
