"""Contexts on CUDA, on a simulated device: arguments and streams arrive, and the answers are those
of the CPU."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import simulated
from conftest import GEOMETRY
from simulated import Tensor, device, fake_torch, finish, from_dlpack

import radixattn as rx

if device is None:
    pytest.skip(
        "no simulated CUDA device: ./run python builds it where CUDA's headers are, and sets "
        "RADIXATTN_LIBRARY to .../tests/device/libradixattn_simulated.so",
        allow_module_level=True,
    )

CODES = {"f32": None, "f16": None, "bf16": simulated.BF16}
TOLERANCE = {"f32": 5e-6, "f16": 4e-3, "bf16": 3e-2}


@pytest.fixture(autouse=True)
def clean_device():
    """Every test leaves the device without work and without memory."""
    device.reset()
    yield
    gc.collect()
    assert not device.has_work()
    assert device.bytes_live() == 0
    assert device.bad_frees() == 0


@pytest.fixture
def cuda(make_ctx):
    return make_ctx(device="cuda")


@pytest.fixture
def torch(monkeypatch):
    """A torch whose current stream is one of its own."""
    module = fake_torch(device.make_stream())
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def as_dtype(array, dtype):
    """float32 in the form that numpy has for a dtype: bits for bf16."""
    if dtype == "bf16":
        return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return array.astype({"f32": np.float32, "f16": np.float16}[dtype])


def as_float(array, dtype):
    array = np.asarray(array)
    if dtype == "bf16":
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


class Side:
    """One of the two contexts of a comparison, and how arrays get there."""

    def __init__(self, ctx, dtype):
        self.ctx, self.dtype = ctx, dtype
        self.on_cuda = ctx.config.device == rx.Device.CUDA

    def floats(self, array):
        array = as_dtype(array, self.dtype)
        if self.on_cuda:
            return Tensor.of(array, code=CODES[self.dtype])
        return rx.bf16(array) if self.dtype == "bf16" else array

    def put(self, array, dtype=np.int32):
        array = np.asarray(array, dtype)
        return Tensor.of(array) if self.on_cuda else array

    def get(self, tensor):
        """float32 of a tensor of this side."""
        if self.on_cuda:
            tensor = tensor.numpy()
        elif isinstance(tensor, rx.BFloat16):
            tensor = tensor.bits
        return tensor if np.asarray(tensor).dtype == np.float32 else as_float(tensor, self.dtype)


def both(make_ctx, dtype, **changes):
    return [Side(make_ctx(kv_dtype=dtype, device=d, **changes), dtype) for d in ("cpu", "cuda")]


def step(side, *, rope=True, more=None, **changes):
    """K/V of two sequences written, then prefill and decode; outputs in float32.

    more: arguments of the attention calls, made by a function of side.
    """
    rng = np.random.default_rng(5)
    ctx, heads, dim = side.ctx, 4, side.ctx.config.head_dim
    lens, prefix = [9, 14], [0, 6]
    requests, slots, positions = [], [], []
    for length in lens:
        requests.append(ctx.begin([], no_match=True))
        slots.append(requests[-1].append(count=length).slots)
        positions.append(np.arange(length))
    total = sum(lens)
    k, v = (
        side.floats(rng.standard_normal((total, 2, d), np.float32))
        for d in (dim, ctx.config.head_dim_v)
    )
    q = side.floats(rng.standard_normal((total, heads, dim), np.float32))
    ctx.rope_append(
        k, v, side.put(np.concatenate(slots), np.int64), side.put(np.concatenate(positions)),
        q=q if rope else None, rotary_dim=dim if rope else 0, **changes,
    )  # fmt: skip
    tables, context_lens = ctx.block_tables(requests)
    options = {
        "block_tables": side.put(tables), "max_context_len": max(lens),
        **changes, **(more(side) if more else {}),
    }  # fmt: skip
    new = np.subtract(lens, prefix)  # rows of each sequence
    q_rows = side.floats(rng.standard_normal((int(new.sum()), heads, dim), np.float32))
    cu = np.concatenate([[0], np.cumsum(new)])
    lens_there = side.put(context_lens)
    prefill, prefill_lse = ctx.prefill(
        q_rows, lens_there, side.put(cu), max_query_len=int(new.max()), lse=True, **options
    )
    q_last = side.floats(rng.standard_normal((2, heads, dim), np.float32))
    decode, decode_lse = ctx.paged_attention(q_last, lens_there, lse=True, **options)
    if side.on_cuda:
        assert device.has_work(), "a launch waits for nothing"
        finish()
    for request in requests:
        request.free()
    return [side.get(t) for t in (q, prefill, prefill_lse, decode, decode_lse)]


# ---- creation


def test_devices_by_name(make_ctx):
    for options, index in (
        ({"device": "cuda"}, 0), ({"device": "cuda:1"}, 1), ({"device": "CUDA:0"}, 0),
        ({"device": rx.Device.CUDA, "device_index": 1}, 1),
        ({"device": "cuda:1", "device_index": 1}, 1),
    ):  # fmt: skip
        config = make_ctx(**options).config
        assert (config.device, config.device_index) == (rx.Device.CUDA, index)
    for name in ("cpu", "auto", "cpu:0"):
        assert make_ctx(device=name).config.device is rx.Device.CPU
    assert rx.device_count("cuda") == 2


def test_devices_that_are_none(make_ctx):
    with pytest.raises(rx.NoDeviceError, match=r"device_index is 2: expected 0\.\.1"):
        make_ctx(device="cuda:2")
    with pytest.raises(ValueError, match="device is 'cuda:x': expected a number after the colon"):
        make_ctx(device="cuda:x")
    with pytest.raises(ValueError, match="device is 'cuda:1' and device_index 0: give one"):
        make_ctx(device="cuda:1", device_index=0)
    with pytest.raises(ValueError, match="device is 'gpu': expected one of auto, cpu, cuda"):
        make_ctx(device="gpu:0")
    with pytest.raises(rx.InvalidArgumentError, match="num_threads"):
        make_ctx(device="cuda", num_threads=2)


@pytest.mark.parametrize("dtype", ["f8_e4m3", "f8_e5m2"])
def test_fp8_is_for_cuda(make_ctx, dtype):
    ctx = make_ctx(device="cuda", kv_dtype=dtype)
    assert ctx.config.kv_dtype == rx.DType[dtype.upper()]
    options = {**GEOMETRY, "kv_dtype": dtype, "device": "cuda"}
    assert rx.kv_bytes(**options) * 4 == rx.kv_bytes(**GEOMETRY)
    with pytest.raises(rx.UnsupportedError, match="on the CPU"):
        make_ctx(kv_dtype=dtype)


def test_kv_memory_of_the_caller(make_ctx):
    size = rx.kv_bytes(**GEOMETRY, device="cuda")
    memory = Tensor.of(np.zeros(size, np.uint8))
    ctx = make_ctx(device="cuda", kv_memory=memory)
    assert ctx.config.kv_memory == memory.address
    assert ctx.config.kv_memory_size == size
    k, _ = ctx.kv_tensors(0)
    assert from_dlpack(k).address == memory.address
    as_floats = Tensor.of(np.zeros((size // 8, 2), np.float32))
    assert make_ctx(device="cuda", kv_memory=as_floats).config.kv_memory_size == size
    with pytest.raises(ValueError, match="kv_memory is on cpu: the context is on cuda:1"):
        make_ctx(device="cuda:1", kv_memory=rx.aligned_memory(size))
    with pytest.raises(ValueError, match="kv_memory is on cuda:0: the context is on cuda:1"):
        make_ctx(device="cuda:1", kv_memory=memory)
    with pytest.raises(ValueError, match="kv_memory is on cuda:0: the context is on cpu"):
        make_ctx(kv_memory=memory)
    memory.shape, memory.strides = (size // 2, 1), (2, 1)
    with pytest.raises(TypeError, match="kv_memory has gaps"):
        make_ctx(device="cuda", kv_memory=memory)
    memory.shape, memory.strides, memory.read_only = (size,), None, True
    with pytest.raises(ValueError, match="kv_memory is read-only"):
        make_ctx(device="cuda", kv_memory=memory)


def test_memory_of_the_caller_s_device_allocator():
    live = {}

    def alloc(size, _align):
        address = device.allocate(size)
        live[address] = size
        return address

    def free(address, size, _align):
        assert live.pop(address) == size
        device.release(address)

    ctx = rx.Context(**GEOMETRY, device="cuda", device_allocator=rx.Allocator(alloc, free))
    assert list(live.values()) == [rx.kv_bytes(**GEOMETRY, device="cuda")]
    ctx.close()
    gc.collect()
    assert live == {}
    with pytest.raises(rx.InvalidArgumentError, match="device_alloc"):
        rx.Context(**GEOMETRY, device_allocator=rx.Allocator(alloc, free))


# ---- KV memory


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "f8_e4m3", "f8_e5m2"])
def test_kv_tensors_are_the_kv_memory(make_ctx, dtype, layout):
    ctx = make_ctx(device="cuda:1", kv_dtype=dtype, kv_layout=layout, head_dim_v=64)
    inner = (4, 2) if layout == "nhd" else (2, 4)
    width = {"f32": 4, "f16": 2, "bf16": 2}.get(dtype, 1)
    code = {"bf16": simulated.BF16, "f8_e4m3": 10, "f8_e5m2": 12}.get(dtype, 2)
    k, v = ctx.kv_tensors(1)
    assert k.shape == (32, *inner, 32)
    assert v.shape == (32, *inner, 64)
    assert (k.dtype, k.device) == (rx.DType[dtype.upper()], "cuda:1")
    theirs, theirs_v = from_dlpack(k), from_dlpack(v, max_version=(1, 0))
    assert (theirs.shape, theirs.code, theirs.dtype.itemsize) == (k.shape, code, width)
    assert theirs_v.address - theirs.address >= 32 * 8 * 32 * width
    again, _ = ctx.kv_tensors(1)
    assert from_dlpack(again).address == theirs.address
    other, _ = ctx.kv_tensors(0)
    assert from_dlpack(other).address != theirs.address


def test_kv_tensors_stay_where_they_are(make_ctx):
    ctx = make_ctx(device="cuda", kv_dtype="f8_e4m3")
    k, _ = ctx.kv_tensors(0)
    with pytest.raises(BufferError, match="KV memory on cuda:0 is handed out where it is"):
        k.__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="never copied"):
        k.__dlpack__(copy=True)
    assert from_dlpack(k, dl_device=(2, 0), copy=False).address == from_dlpack(k.bits).address
    assert (from_dlpack(k.bits).code, k.bits.dtype) == (1, rx.DType.U8)
    with pytest.raises(TypeError, match="dtype is f32: expected fp8"):
        _ = make_ctx(device="cuda").kv_tensors(0)[0].bits


def test_kv_views_say_where_the_memory_is(cuda, make_ctx):
    with pytest.raises(rx.UnsupportedError, match=r"the KV memory is on cuda:0.*use kv_tensors"):
        cuda.kv_views(0)
    with pytest.raises(rx.InvalidArgumentError):
        cuda.kv_tensors(2)
    with pytest.raises(rx.StateError):
        make_ctx(device="cuda", metadata_only=True).kv_tensors(0)
    cuda.close()
    with pytest.raises(rx.ClosedError):
        cuda.kv_tensors(0)


def test_kv_tensors_outlive_the_context():
    ctx = rx.Context(**GEOMETRY, device="cuda")
    k = from_dlpack(ctx.kv_tensors(0)[0])
    ctx.close()
    del ctx
    gc.collect()
    assert device.bytes_live() > 0
    assert k.numpy().shape == (32, 4, 2, 32)
    del k
    gc.collect()
    assert device.bytes_live() == 0


# ---- answers


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_a_step_gives_what_the_cpu_gives(make_ctx, torch, dtype, layout):
    cpu, gpu = (step(side) for side in both(make_ctx, dtype, kv_layout=layout, head_dim_v=64))
    assert len(cpu) == len(gpu) == 5
    for expected, got in zip(cpu, gpu, strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(got, expected, atol=TOLERANCE[dtype])
    assert device.last_stream() == torch.cuda.current_stream(0).cuda_stream


def test_options_arrive(make_ctx, torch):
    def more(side):
        return {
            "softcap": 2.0, "window": 5, "scale": 0.3,
            "alibi_slopes": side.put([0.0, 0.1, 0.2, 0.3], np.float32),
            "sinks": side.put([0.5, -1, 2, 0], np.float32),
        }  # fmt: skip

    cpu, gpu = (step(side, more=more) for side in both(make_ctx, "f16"))
    plain = step(Side(make_ctx(kv_dtype="f16"), "f16"))
    assert not np.allclose(cpu[1], plain[1], atol=0.05)
    for expected, got in zip(cpu, gpu, strict=True):
        np.testing.assert_allclose(got, expected, atol=TOLERANCE["f16"])


def test_tables_as_csr_and_outputs_of_the_caller(make_ctx, rng):
    """Without torch: everything is given."""
    results = []
    q = rng.standard_normal((2, 4, 32), np.float32)
    k = rng.standard_normal((19, 2, 32), np.float32)
    for side in both(make_ctx, "f32"):
        ctx, stream = side.ctx, (device.make_stream() if side.on_cuda else None)
        first, second = ctx.begin([]), ctx.begin([])
        slots = np.concatenate([first.append(count=6).slots, second.append(count=13).slots])
        ctx.rope_append(side.floats(k), side.floats(k), side.put(slots, np.int64), stream=stream)
        ids = np.concatenate([first.block_table(), second.block_table()])
        given = {
            "q": side.floats(q), "context_lens": side.put([6, 13]),
            "block_begin": side.put([0, 2, 6]), "block_ids": side.put(ids),
            "max_context_len": 13, "stream": stream,
        }  # fmt: skip
        size = ctx.attention_workspace(**given)
        workspace = side.put(np.zeros(max(size, 64)), np.uint8)
        if not side.on_cuda:
            workspace = rx.aligned_memory(max(size, 64))
        out = side.put(np.full((2, 4, 32), 7), np.float32)
        lse = side.put(np.zeros((2, 4)), np.float32)
        got, got_lse = ctx.paged_attention(**given, out=out, lse=lse, workspace=workspace)
        assert got is out
        assert got_lse is lse
        if side.on_cuda:
            assert device.last_stream() == stream
            finish()
        results.append((side.get(out), side.get(lse)))
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-6)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("dtype", ["f8_e4m3", "f8_e5m2"])
def test_fp8_with_scales(make_ctx, torch, rng, dtype, per_head):
    """Numbers that fp8 holds exactly: then f16 on the CPU must give the same."""
    numbers = np.array([-2, -1.5, -1, -0.5, 0, 0.25, 0.5, 1, 1.5, 3], np.float32)
    scales = np.array([0.5, 4] if per_head else [0.5], np.float32)
    k, v = (rng.choice(numbers, (11, 2, 32)) * scales[:, None] for _ in "kv")
    q = rng.standard_normal((1, 4, 32), np.float32) * 0.3
    results = []
    for side in both(make_ctx, "f16"):
        ctx, scaled = side.ctx, {}
        if side.on_cuda:
            ctx = make_ctx(device="cuda", kv_dtype=dtype)
            there = side.put(scales, np.float32)
            scaled = {"k_scale": there, "v_scale": there}
        request = ctx.begin([])
        slots = side.put(request.append(count=11).slots, np.int64)
        ctx.rope_append(side.floats(k), side.floats(v), slots, **scaled)
        out, _ = ctx.paged_attention(
            side.floats(q), side.put([11]), block_tables=side.put(request.block_table()[None]),
            max_context_len=11, **scaled,
        )  # fmt: skip
        if side.on_cuda:
            finish()
        results.append(side.get(out))
    assert np.abs(results[0]).max() > 0.1
    np.testing.assert_allclose(results[1], results[0], atol=8e-3)


def test_caches_of_the_caller(make_ctx, torch, rng):
    """Of uint8 said to be fp8, and of a context: both through DLPack."""
    k, v = (rng.choice(np.array([-1, 0.5, 2], np.float32), (10, 2, 32)) for _ in "kv")
    q = rng.standard_normal((1, 4, 32), np.float32)
    owner = make_ctx(device="cuda", kv_dtype="f8_e5m2")
    bare = make_ctx(device="cuda", metadata_only=True)
    side = Side(bare, "f32")
    request = bare.begin([])
    slots = side.put(request.append(count=10).slots, np.int64)
    answers = []
    tensors = [Tensor.of(np.zeros((32, 4, 2, 32), np.uint8)) for _ in "kv"]
    for caches in (
        [rx.fp8(t, "f8_e5m2") for t in tensors], owner.kv_tensors(1),
        [rx.fp8(t.bits, rx.DType.F8_E5M2) for t in owner.kv_tensors(0)],
    ):  # fmt: skip
        there = dict(zip(("k_cache", "v_cache"), caches, strict=True))
        bare.rope_append(side.floats(k), side.floats(v), slots, **there)
        out, _ = bare.paged_attention(
            side.floats(q), side.put([10]), block_tables=side.put(request.block_table()[None]),
            max_context_len=10, **there,
        )  # fmt: skip
        finish()
        answers.append(out.numpy())
    cpu = make_ctx()
    mine = cpu.begin([])
    cpu.rope_append(k, v, mine.append(count=10).slots)
    expected, _ = cpu.paged_attention(q, [10], block_tables=mine.block_table()[None])
    for answer in answers:  # q is rounded to 16 bits where K/V has fewer
        np.testing.assert_allclose(answer, expected, atol=4e-3)
    assert all(np.array_equal(answers[0], a) for a in answers)
    with pytest.raises(ValueError, match="dtype is 'f16': expected f8_e4m3 or f8_e5m2"):
        rx.fp8(tensors[0], "f16")
    wrong = rx.fp8(Tensor.of(np.zeros((32, 4, 2, 32), np.float16)), "f8_e4m3")
    with pytest.raises(TypeError, match=r"k_cache has dtype f16: expected uint8 in radixattn\.fp8"):
        bare.rope_append(side.floats(k), side.floats(v), slots, k_cache=wrong, v_cache=wrong)


def test_the_tree_mask_arrives(make_ctx, torch, rng, reference):
    """Rows 4, 5 and 6 of a sequence of 7: siblings that see the prefix and themselves."""
    side = Side(make_ctx(device="cuda"), "f32")
    k, v = (rng.standard_normal((7, 2, 32), np.float32) for _ in "kv")
    q = rng.standard_normal((3, 4, 32), np.float32)
    request = side.ctx.begin([])
    slots = side.put(request.append(count=7).slots, np.int64)
    side.ctx.rope_append(side.floats(k), side.floats(v), slots)
    table = side.put(request.block_table()[None])

    def attend(mask):
        out, _ = side.ctx.prefill(
            side.floats(q), side.put([7]), side.put([0, 3]), block_tables=table,
            max_context_len=7, max_query_len=3,
            tree_mask=None if mask is None else side.put(mask, np.uint8),
        )  # fmt: skip
        finish()
        return out.numpy()

    np.testing.assert_allclose(attend([[1, 0], [3, 0], [7, 0]]), attend(None), atol=5e-6)
    siblings = attend([[1], [2], [4]])
    for row in range(3):
        seen = [0, 1, 2, 3, 4 + row]
        expected, _ = reference(q[row : row + 1], k[seen], v[seen])
        np.testing.assert_allclose(siblings[row : row + 1], expected, atol=5e-6)
    with pytest.raises(ValueError, match="tree_mask has 2 rows: expected 3"):
        attend([[1], [2]])
    with pytest.raises(rx.UnsupportedError, match="tree_mask is given: expected NULL on the CPU"):
        make_ctx().prefill(q, [3], [0, 3], block_tables=[[0]], tree_mask=[[1], [2], [4]])


# ---- copies


def image(ctx):
    """All K/V of a context, as swap_out gives it."""
    result = ctx.swap_out(np.arange(32))
    if ctx.config.device == rx.Device.CUDA:
        finish()
    return result


def filled(make_ctx, rng):
    data = rng.integers(0, 256, rx.kv_bytes(**GEOMETRY), dtype=np.uint8)
    contexts = [make_ctx(device=name) for name in ("cpu", "cuda")]
    for ctx in contexts:
        ctx.swap_in(np.arange(32), data)
    finish()
    assert np.array_equal(image(contexts[1]), data)
    return contexts


def test_copies_do_what_the_cpu_s_do(make_ctx, rng):
    cpu, gpu = contexts = filled(make_ctx, rng)
    before = image(cpu)
    for ctx in contexts:
        ctx.copy_blocks([[3, 5], [5, 6], [7, 3]])
        parent = ctx.begin([])
        parent.append(np.arange(6))
        (child,) = parent.fork()
        reserved = child.append([1])
        assert len(reserved.ops) == 1
        ctx.run_ops(reserved.ops)
        reserved.ops[:] = 0  # it is read during the call only
    assert device.has_work()
    finish()
    assert np.array_equal(image(gpu), image(cpu))
    assert not np.array_equal(image(cpu), before)


def test_swaps_through_host_memory(make_ctx, rng):
    cpu, gpu = filled(make_ctx, rng)
    pinned = PageLocked(np.zeros(gpu.swap_bytes(3), np.uint8))
    out = gpu.swap_out([4, 9, 2], pinned)
    assert np.shares_memory(out, pinned.array)
    finish()
    assert np.array_equal(out, cpu.swap_out([4, 9, 2]))
    for ctx in (cpu, gpu):
        ctx.swap_in([20, 21, 22], pinned)
    finish()
    assert np.array_equal(image(gpu), image(cpu))
    there = Tensor.of(pinned.array)
    with pytest.raises(ValueError, match="data is on cuda:0: expected host memory"):
        gpu.swap_in([1, 2, 3], there)
    with pytest.raises(ValueError, match="out is on cuda:0: expected host memory"):
        gpu.swap_out([1, 2, 3], there)


class PageLocked:
    """A tensor in page-locked host memory, which DLPack calls a device of its own."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **request):
        from radixattn.dlpack import labelled_capsule

        request.pop("dl_device", None)
        return labelled_capsule(self.array, device=(3, 0), **request)

    def __dlpack_device__(self):
        return (3, 0)


def test_contexts_of_two_devices(make_ctx):
    for index in (1, 0):
        ctx = make_ctx(device="cuda", device_index=index)
        ctx.copy_blocks([[0, 1]])
        assert device.launched_on() == index
    finish()


# ---- streams


def copy_on(ctx, **stream):
    """The stream that a copy ran on."""
    ctx.copy_blocks([[0, 1]], **stream)
    finish()
    return device.last_stream() or 0


def test_streams_arrive(cuda, monkeypatch):
    assert copy_on(cuda) == 0
    number = device.make_stream()
    assert copy_on(cuda, stream=number) == number
    assert copy_on(cuda, stream=SimpleNamespace(cuda_stream=number)) == number
    monkeypatch.setitem(sys.modules, "torch", fake_torch(number))
    assert copy_on(cuda) == number
    assert copy_on(cuda, stream=0) == 0
    assert copy_on(cuda, stream=np.int64(number + 4096)) == number + 4096
    sleeping = fake_torch(number)
    sleeping.cuda.is_initialized = lambda: False
    monkeypatch.setitem(sys.modules, "torch", sleeping)
    assert copy_on(cuda) == 0
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert copy_on(cuda) == 0


def test_torch_s_stream_is_that_of_the_context_s_device(make_ctx, monkeypatch):
    module = fake_torch()
    module.cuda.current_stream = lambda index: SimpleNamespace(cuda_stream=4096 * (index + 1))
    monkeypatch.setitem(sys.modules, "torch", module)
    assert copy_on(make_ctx(device="cuda:0")) == 4096
    assert copy_on(make_ctx(device="cuda:1")) == 8192


def test_every_call_takes_a_stream(cuda):
    number = device.make_stream()
    side = Side(cuda, "f32")
    q = side.floats(np.zeros((1, 4, 32)))
    kv = side.floats(np.zeros((1, 2, 32)))
    ops = np.array([(rx.OpKind.COPY, 0, 1, 2)], rx.OP_DTYPE)
    attend = {
        "block_tables": side.put([[0]]), "max_context_len": 1,
        "out": side.floats(np.zeros((1, 4, 32))),
    }  # fmt: skip
    lens, cu = side.put([1]), side.put([0, 1])
    host = cuda.swap_out([0])
    finish()
    for call in (
        lambda s: cuda.run_ops(ops, stream=s),
        lambda s: cuda.copy_blocks([[0, 1]], stream=s),
        lambda s: cuda.swap_out([0], host, stream=s),
        lambda s: cuda.swap_in([0], host, stream=s),
        lambda s: cuda.rope_append(kv, kv, side.put([0], np.int64), stream=s),
        lambda s: cuda.paged_attention(q, lens, stream=s, **attend),
        lambda s: cuda.prefill(q, lens, cu, max_query_len=1, stream=s, **attend),
    ):
        number += 4096
        call(number)
        assert device.last_stream() == number
        finish()
    assert q.asked == [number - 4096, number]  # its owner was asked to order the two streams


def test_the_default_stream_is_1_for_dlpack(cuda):
    kv = Tensor.of(np.zeros((1, 2, 32), np.float32))
    kv.old = True
    cuda.rope_append(kv, kv, Tensor.of(np.zeros(1, np.int64)))
    finish()
    assert kv.asked == [1, 1]


@pytest.mark.parametrize(
    ("stream", "error", "message"),
    [
        (True, TypeError, "stream is a bool: expected None, the address of a cudaStream_t"),
        ("main", TypeError, "stream is a str"),
        (1.5, TypeError, "stream is a float"),
        (-1, ValueError, "stream is -1"),
        (2**64, ValueError, "stream is 18446744073709551616"),
    ],
)
def test_streams_that_are_none(cuda, stream, error, message):
    with pytest.raises(error, match=message):
        cuda.copy_blocks([[0, 1]], stream=stream)


def test_streams_are_for_cuda(ctx):
    with pytest.raises(rx.InvalidArgumentError, match="expected NULL on the CPU"):
        ctx.copy_blocks([[0, 1]], stream=4096)


def test_torch_is_never_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    code = (
        "import sys, radixattn as rx\n"
        "ctx = rx.Context(num_blocks=8, num_layers=1, num_kv_heads=1, head_dim=32, device='cuda')\n"
        "ctx.kv_tensors(0)[0].__dlpack__(stream=1)\n"
        "assert 'torch' not in sys.modules\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


# ---- what is refused


def decode_arguments():
    return {
        "q": Tensor.of(np.zeros((2, 4, 32), np.float32)),
        "context_lens": Tensor.of(np.ones(2, np.int32)),
        "block_tables": Tensor.of(np.zeros((2, 3), np.int32)),
        "out": Tensor.of(np.zeros((2, 4, 32), np.float32)),
        "lse": Tensor.of(np.zeros((2, 4), np.float32)),
        "alibi_slopes": Tensor.of(np.zeros(4, np.float32)),
        "sinks": Tensor.of(np.zeros(4, np.float32)),
        "k_scale": Tensor.of(np.ones(1, np.float32)),
        "v_scale": Tensor.of(np.ones(1, np.float32)),
        "k_cache": Tensor.of(np.zeros((32, 4, 2, 32), np.float32)),
        "v_cache": Tensor.of(np.zeros((32, 4, 2, 32), np.float32)),
        "workspace": Tensor.of(np.zeros(64, np.uint8)),
        "max_context_len": 4,
    }


def prefill_arguments():
    return {
        **decode_arguments(),
        "cu_q_lens": Tensor.of(np.array([0, 1, 2], np.int32)),
        "tree_mask": Tensor.of(np.ones((2, 1), np.uint8)),
        "max_query_len": 1,
    }


def csr_arguments():
    arguments = decode_arguments()
    del arguments["block_tables"]
    return {
        **arguments,
        "block_begin": Tensor.of(np.array([0, 1, 2], np.int32)),
        "block_ids": Tensor.of(np.zeros(2, np.int32)),
    }


def rope_arguments():
    return {
        "k": Tensor.of(np.zeros((3, 2, 32), np.float32)),
        "v": Tensor.of(np.zeros((3, 2, 32), np.float32)),
        "slots": Tensor.of(np.arange(3, dtype=np.int64)),
        "positions": Tensor.of(np.arange(3, dtype=np.int32)),
        "q": Tensor.of(np.zeros((3, 4, 32), np.float32)),
        "k_cache": Tensor.of(np.zeros((32, 4, 2, 32), np.float32)),
        "v_cache": Tensor.of(np.zeros((32, 4, 2, 32), np.float32)),
        "k_scale": Tensor.of(np.ones(2, np.float32)),
        "v_scale": Tensor.of(np.ones(2, np.float32)),
        "rotary_dim": 32,
    }


CALLS = {
    "paged_attention": decode_arguments,
    "csr": csr_arguments,
    "prefill": prefill_arguments,
    "rope_append": rope_arguments,
}


def call(ctx, kind, arguments):
    getattr(ctx, {"csr": "paged_attention"}.get(kind, kind))(**arguments)


def replaced(kind, change):
    """Every tensor argument of a call in turn: its name, and arguments with change(tensor)."""
    for name, value in CALLS[kind]().items():
        if isinstance(value, Tensor):
            yield name, {**CALLS[kind](), name: change(value)}


@pytest.mark.parametrize("kind", CALLS)
def test_every_tensor_lies_on_the_context_s_device(cuda, kind):
    call(cuda, kind, CALLS[kind]())
    finish()
    launches, refused = device.launches(), 0
    for name, arguments in replaced(kind, Tensor.numpy):
        with pytest.raises(ValueError, match=rf"^{name} is on cpu: the context is on cuda:0$"):
            call(cuda, kind, arguments)
        refused += 1
    for name, arguments in replaced(kind, lambda t: Tensor.of(t.numpy(), index=1)):
        with pytest.raises(ValueError, match=rf"^{name} is on cuda:1: the context is on cuda:0$"):
            call(cuda, kind, arguments)
    for name, arguments in replaced(kind, lambda t: t.numpy().tolist()):
        with pytest.raises(TypeError, match=rf"^{name} is a list: expected a tensor on cuda:0"):
            call(cuda, kind, arguments)
    assert refused >= 9
    assert device.launches() == launches


@pytest.mark.parametrize("kind", CALLS)
def test_tensors_of_a_device_do_not_pass_for_the_cpu_s(ctx, kind):
    """Each in turn, the others in host memory; what only CUDA takes is left out."""
    skipped = {"k_scale", "v_scale", "tree_mask"}
    for name, value in CALLS[kind]().items():
        if not isinstance(value, Tensor) or name in skipped:
            continue
        arguments = {
            key: v.numpy() if isinstance(v, Tensor) and key != name else v
            for key, v in CALLS[kind]().items()
            if key not in skipped
        }
        if "workspace" in arguments and name != "workspace":
            arguments["workspace"] = rx.aligned_memory(1 << 16)
        expected = "expected host memory|the context is on cpu"
        with pytest.raises(ValueError, match=rf"^{name} is on cuda:0: ({expected})$"):
            call(ctx, kind, arguments)


@pytest.mark.parametrize("kind", CALLS)
def test_arrays_on_the_device_have_the_right_dtype_and_no_gaps(cuda, kind):
    refused = 0
    for name, arguments in replaced(kind, lambda t: t):
        tensor = arguments[name]
        if name in ("q", "k", "v", "k_cache", "v_cache", "out", "lse"):
            continue  # tensors: the library says what it takes
        array = tensor.numpy()
        wrong = np.int32 if array.dtype != np.int32 else np.int64
        arguments[name] = Tensor.of(array.astype(wrong))
        with pytest.raises(TypeError, match=rf"^{name} has dtype i(32|64): expected (i|f|u)"):
            call(cuda, kind, arguments)
        if array.shape[0] > 1:
            wide = Tensor.of(np.repeat(array, 2, axis=0))
            strides = [2 * stride // array.itemsize for stride in array.strides]
            wide.shape = array.shape
            wide.strides = strides if array.ndim == 1 else (strides[0], 1)
            arguments[name] = wide
            # Gaps in a row are found by the library, gaps between rows by the package.
            found = r": dl_tensor->strides\[0\]" if array.ndim == 1 else " has gaps"
            with pytest.raises(ValueError, match=name + found):
                call(cuda, kind, arguments)
            refused += 1
        arguments[name] = Tensor.of(array[None])
        with pytest.raises(ValueError, match=rf"^{name} has shape \(1,.*: expected [12] dimension"):
            call(cuda, kind, arguments)
    assert refused >= 3
    assert not device.has_work()


def test_outputs_on_the_device_must_be_writable(cuda):
    for kind, names in (("rope_append", ("q", "k_cache")), ("prefill", ("out", "lse"))):
        for name in names:
            arguments = CALLS[kind]()
            arguments[name].read_only = True
            with pytest.raises(ValueError, match=f"^{name} is read-only"):
                call(cuda, kind, arguments)


def test_bounds_are_not_guessed(cuda):
    for kind, name in (("paged_attention", "max_context_len"), ("prefill", "max_query_len")):
        arguments = CALLS[kind]()
        del arguments[name]
        with pytest.raises(TypeError, match=rf"^{name} is missing: \w+ is on cuda:0"):
            call(cuda, kind, arguments)


def test_torch_makes_what_is_left_out(make_ctx, torch):
    """On its own current stream, for its own tensors; else nobody does."""
    ctx = make_ctx(device="cuda", kv_dtype="f16")
    own = dict.fromkeys(["k_cache", "v_cache"])  # of the context
    for kind, result in (("paged_attention", 0), ("prefill", 0), ("prefill", 1)):
        name, value = (("out", None), ("lse", True))[result]
        arguments = {**CALLS[kind](), **own, name: value}
        made = getattr(ctx, kind)(**arguments)[result]
        finish()
        assert (made.shape, made.dtype) == ((2, 4, 32)[: 3 - result], np.float32)
        with pytest.raises(TypeError, match=rf"^{name} is missing: .*torch's current stream"):
            call(ctx, kind, {**arguments, "stream": device.make_stream()})
        with pytest.raises(TypeError, match=rf"^{name} is missing: .*only for a q of torch"):
            call(ctx, kind, {**arguments, "q": Alien(arguments["q"])})


def test_the_workspace(make_ctx, torch):
    ctx = make_ctx(device="cuda", kv_dtype="f16")
    arguments = {
        **CALLS["paged_attention"](), "block_tables": Tensor.of(np.zeros((2, 1024), np.int32)),
        "k_cache": None, "v_cache": None, "max_context_len": 4096,
    }  # fmt: skip
    needed = ctx.attention_workspace(**arguments)
    assert needed > 64
    del arguments["workspace"]
    ctx.paged_attention(**arguments)  # torch's
    finish()
    enough = Tensor.of(np.zeros(needed, np.uint8))
    ctx.paged_attention(**arguments, workspace=enough, stream=device.make_stream())
    finish()
    too_small = Tensor.of(np.zeros(64, np.uint8))
    for given in ({"stream": device.make_stream()}, {"workspace": too_small}):
        with pytest.raises(rx.BufferTooSmallError, match=r"workspace_size is .*needs") as caught:
            ctx.paged_attention(**arguments, **given)
        assert caught.value.needed == needed
    short = {**arguments, "max_context_len": 4, "stream": device.make_stream()}
    ctx.paged_attention(**short)  # it needs none
    finish()


def test_padded_rows_of_new_outputs(make_ctx, torch):
    arguments = prefill_arguments()
    for name in ("tree_mask", "out", "k_cache", "v_cache"):
        del arguments[name]
    arguments["cu_q_lens"] = Tensor.of(np.array([0, 1, 1], np.int32))
    ctx = make_ctx(device="cuda")
    ctx.swap_in(np.arange(32), zeros := np.zeros(ctx.swap_bytes(32), np.uint8))
    out, lse = ctx.prefill(**{**arguments, "lse": True})
    finish()
    del zeros  # it was read only now
    assert (out.numpy()[1:] == 0).all()
    assert (lse.numpy()[1:] == -np.inf).all()
    assert (lse.numpy()[:1] != -np.inf).all()


class Alien:
    """The same tensor of another library than torch."""

    def __init__(self, tensor):
        self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__


def test_scales_come_in_pairs(cuda):
    for kind in ("rope_append", "paged_attention"):
        three = Tensor.of(np.ones(3, np.float32))
        with pytest.raises(
            ValueError, match="v_scale has 3 entries: expected 1 or 2, one a KV head"
        ):
            call(cuda, kind, {**CALLS[kind](), "v_scale": three})
        unlike = {
            "k_scale": Tensor.of(np.ones(1, np.float32)),
            "v_scale": Tensor.of(np.ones(2, np.float32)),
        }
        with pytest.raises(ValueError, match="k_scale has 1 entries, v_scale 2: expected as many"):
            call(cuda, kind, {**CALLS[kind](), **unlike})


def test_scales_are_for_cuda(ctx):
    k = np.zeros((1, 2, 32), np.float32)
    with pytest.raises(rx.UnsupportedError, match="k_scale is given: expected NULL on the CPU"):
        ctx.rope_append(k, k, [0], k_scale=[2.0])


def test_the_control_plane_reads_host_memory(cuda):
    tokens = Tensor.of(np.arange(3, dtype=np.int32))
    with pytest.raises(ValueError, match="tokens is on cuda:0: expected host memory"):
        cuda.begin(tokens)
    with pytest.raises(ValueError, match="pairs is on cuda:0: expected host memory"):
        cuda.copy_blocks(Tensor.of(np.zeros((1, 2), np.int32)))
    with pytest.raises(ValueError, match="blocks is on cuda:0: expected host memory"):
        cuda.swap_out(tokens)


def test_a_device_that_fails(cuda):
    device.fail_launch(701)  # cudaErrorLaunchOutOfResources
    with pytest.raises(rx.DeviceError, match="copy_blocks") as caught:
        cuda.copy_blocks([[0, 1]])
    assert caught.value.detail == 701
    cuda.copy_blocks([[0, 1]])
    finish()
    device.fail_launch(700)  # cudaErrorIllegalAddress
    with pytest.raises(rx.DeviceLostError):
        cuda.copy_blocks([[0, 1]])
    with pytest.raises(rx.DeviceLostError, match="lost by an earlier kernel"):
        call(cuda, "rope_append", rope_arguments())
    assert cuda.stats().requests_live == 0
