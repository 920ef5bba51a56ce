"""Contexts on CUDA, on a simulated device: options and arrays arrive, and answers are the CPU's."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import simulated
from conftest import GEOMETRY
from simulated import Side, Tensor, device, finish, from_dlpack

import radixattn as rx

simulated.require()
pytestmark = pytest.mark.usefixtures("clean_device")

TOLERANCE = {"f32": 5e-6, "f16": 4e-3, "bf16": 3e-2}


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
    assert theirs.index == theirs_v.index == 1
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
    stored = [rng.choice(numbers, (11, 2, 32)) for _ in "kv"]
    k, v = stored[0] * scales[:, None], stored[1] * 2 * scales[:, None]
    q = rng.standard_normal((1, 4, 32), np.float32) * 0.3
    results = []
    for side in both(make_ctx, "f16"):
        ctx, scaled = side.ctx, {}
        if side.on_cuda:
            ctx = make_ctx(device="cuda", kv_dtype=dtype)
            scaled = {
                "k_scale": side.put(scales, np.float32),
                "v_scale": side.put(2 * scales, np.float32),
            }
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
    one = {"f8_e4m3": 0x38, "f8_e5m2": 0x3C}[dtype]
    for numbers, tensor in zip(stored, ctx.kv_tensors(0), strict=True):
        bits = from_dlpack(tensor.bits).numpy()[request.block_table()].reshape(-1, 2, 32)[:11]
        assert (numbers == 1).any()
        assert np.array_equal(bits == one, numbers == 1)


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


# ---- the layer


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_new_y_is_0_before_it_is_added_to(make_ctx, torch, rng, dtype):
    (_, side) = both(make_ctx, dtype)
    request = side.ctx.begin([], no_match=True)
    slots = request.append(count=3).slots

    def layer(**options):
        added = []
        y = side.ctx.layer(
            side.floats(rng.standard_normal((3, 48), np.float32)), num_q_heads=4,
            prefill=rx.LayerRows(
                side.put([3]), side.put(slots, np.int64), cu_q_lens=side.put([0, 3]),
                max_query_len=3, max_context_len=3, block_tables=side.put([request.block_table()]),
            ),
            w_qkv=side.floats(np.ones((8 * 32, 48), np.float32)),
            w_o=side.floats(np.ones((48, 4 * 32), np.float32)),
            gemm=lambda product: added.append(product.add),  # it leaves everything as it was
            **options,
        )  # fmt: skip
        finish()
        return side.get(y), added[-1]

    y, added = layer(add=True)
    assert added
    assert (y == 0).all()
    y, added = layer()  # the product writes all of it: nothing fills it before
    assert not added
    assert (y != 0).all()


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
        return rx.dlpack.labelled_capsule(self.array, device=(3, 0))

    def __dlpack_device__(self):
        return (3, 0)


def test_contexts_of_two_devices(make_ctx):
    for index in (1, 0):
        ctx = make_ctx(device="cuda", device_index=index)
        ctx.copy_blocks([[0, 1]])
        assert device.launched_on() == index
    finish()


# ---- plans and lookups


def test_plans(make_ctx):
    results = []
    for side in both(make_ctx, "f16"):
        ctx = side.ctx
        rng = np.random.default_rng(8)
        requests = [ctx.begin([], no_match=True) for _ in range(2)]
        with ctx.plan(3, num_q_heads=4, max_query_tokens=12, bounds=True) as plan:
            for request, n in zip(requests, (7, 5), strict=True):
                request.append(count=n)
            plan.update(requests, [7, 5])
            k = side.floats(rng.standard_normal((12, 2, 32), np.float32))
            v = side.floats(rng.standard_normal((12, 2, 32), np.float32))
            plan.rope_append(k, v, rotary_dim=32)
            plan.update(requests)
            q = side.floats(rng.standard_normal((3, 4, 32), np.float32))
            out = side.floats(np.zeros((3, 4, 32), np.float32))
            plan.paged_attention(q, out=out)
            if side.on_cuda:
                assert device.has_work(), "nothing waits"
                finish()
                assert plan.info().upload_bytes > 0
            results.append(side.get(out))
    np.testing.assert_allclose(results[1], results[0], atol=TOLERANCE["f16"])
    assert (results[1][2] == 0).all()


def test_lookups_in_an_exported_tree(make_ctx):
    (cpu, cuda) = both(make_ctx, "f16")
    for side in (cpu, cuda):
        with side.ctx.begin(range(10), match_all=True) as request:
            request.append(list(range(10)))
            request.commit()
    tree = cuda.ctx.export_tree()
    there = rx.TreeView(**{
        name: cuda.put(getattr(tree, name), np.int32)
        for name in ("parent", "depth_blocks", "child_begin", "block_begin", "block_ids", "tokens")
    })  # fmt: skip
    flat = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9, 0, 1, 2, 3, 5], np.int32)
    begin = np.array([0, 9, 14], np.int64)
    nodes, tokens = (cuda.put(np.zeros(2), np.int32) for _ in range(2))
    tables = cuda.put(np.zeros((2, 3)), np.int32)
    cuda.ctx.match_batch(
        there, cuda.put(flat, np.int32), cuda.put(begin, np.int64), nodes=nodes, tokens=tokens,
        tables=tables,
    )  # fmt: skip
    finish()
    expected = cpu.ctx.match_batch(cpu.ctx.export_tree(), flat, begin, tables=True)
    assert cuda.get(tokens).tolist() == expected.tokens.tolist() == [8, 4]
    assert cuda.get(nodes).tolist() == expected.nodes.tolist()
    assert cuda.get(tables)[:, :2].tolist() == expected.tables[:, :2].tolist()
    with pytest.raises(ValueError, match=r"tree.child_begin is on cpu: the context is on cuda:0"):
        cuda.ctx.match_batch(tree, cuda.put(flat, np.int32), cuda.put(begin, np.int64))
    with pytest.raises(TypeError, match="prompt_begin is missing"):
        cuda.ctx.match_batch(there, [[1]])
    with pytest.raises(TypeError, match="nodes is missing"):
        cuda.ctx.match_batch(there, cuda.put(flat, np.int32), cuda.put(begin, np.int64))
