"""Arrays and DLPack tensors in and out: no copies, what is refused, and how long memory lives."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from support import Foreign, address

import radixattn as rx
from radixattn import tensors
from radixattn.callbacks import Allocator


def view_address(view):
    return int(rx.ffi.cast("uintptr_t", view.t.data))


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_kv_views_are_the_kv_memory(make_ctx, layout, dtype):
    ctx = make_ctx(kv_layout=layout, kv_dtype=dtype, head_dim_v=64)
    inner = (4, 2) if layout == "nhd" else (2, 4)
    k, v = ctx.kv_views(1)
    assert k.shape == (32, *inner, 32)
    assert v.shape == (32, *inner, 64)
    assert k.dtype == v.dtype == rx.numpy_dtype(rx.DType[dtype.upper()])
    assert k.flags.writeable
    assert k.flags.c_contiguous
    again, _ = ctx.kv_views(1)
    assert address(again) == address(k)
    assert address(k) % 64 == address(v) % 64 == 0
    assert address(v) >= address(k) + k.nbytes
    other, _ = ctx.kv_views(0)
    assert not np.shares_memory(other, k)
    k[3] = 1
    assert again[3].astype(np.float32).min() == 1 or again.dtype == np.uint16


def test_kv_views_need_memory_and_a_layer(meta, ctx):
    with pytest.raises(rx.StateError):
        meta.kv_views(0)
    with pytest.raises(rx.InvalidArgumentError):
        ctx.kv_views(2)


def test_views_outlive_the_context():
    """close() ends the calls at once; what a view shows stays until the last view is gone."""
    live = {}

    def alloc(size, align):
        memory = rx.aligned_memory(size, align)
        live[address(memory)] = memory
        return address(memory)

    def free(where, _size, _align):
        del live[where]

    ctx = rx.Context(num_blocks=8, num_layers=1, num_kv_heads=1, head_dim=32, kv_dtype="f32",
                     allocator=Allocator(alloc, free))  # fmt: skip
    k, _ = ctx.kv_views(0)
    k[:] = 7
    part = k[2:4, 0]
    del k, _
    ctx.close()
    with pytest.raises(rx.ClosedError):
        ctx.kv_views(0)
    gc.collect()
    assert live
    assert (part == 7).all()
    del part
    gc.collect()
    assert not live


def test_a_dropped_context_is_destroyed_when_its_views_are():
    ctx = rx.Context(num_blocks=8, num_layers=1, num_kv_heads=1, head_dim=32)
    handle = weakref.ref(ctx.handle)
    view = ctx.kv_views(0)[1]
    del ctx
    gc.collect()
    assert handle() is not None
    del view
    gc.collect()
    assert handle() is None


def test_the_process_may_end_with_everything_open():
    code = (
        "import radixattn as rx, numpy as np\n"
        "ctx = rx.Context(num_blocks=8, num_layers=1, num_kv_heads=1, head_dim=32, num_threads=2,\n"
        "                 log=print, log_level='debug')\n"
        "k, v = ctx.kv_views(0); r = ctx.begin([1, 2]); r.append([1, 2])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""


def test_a_numpy_tensor_passes_by_address():
    array = np.zeros((3, 4, 32), np.float16)
    view = tensors.view(array, "q", writable=True)
    assert view_address(view) == address(array)
    assert view.shape == (3, 4, 32)
    assert view.dtype == rx.DType.F16
    assert list(view.t.stride) == [0] * 5


def test_strided_views_pass_by_address():
    array = np.zeros((6, 4, 64), np.float32)
    part = array[::2, 1:3, :32]
    view = tensors.view(part, "q")
    assert view_address(view) == address(array) + 64 * 4
    assert view.shape == (3, 2, 32)
    assert list(view.t.stride)[:3] == [512, 64, 1]


@pytest.mark.parametrize("old", [False, True])
def test_a_dlpack_tensor_passes_by_address(old):
    foreign = Foreign(np.zeros((3, 8, 32), np.float32)[:, :5], old=old)
    view = tensors.view(foreign, "q", writable=True)
    assert foreign.lent == 1
    assert view_address(view) == address(foreign.array)
    assert view.shape == (3, 5, 32)
    assert list(view.t.stride)[:3] == [256, 32, 1]


def test_a_borrowed_tensor_lives_as_long_as_its_view():
    array = np.zeros(8, np.float32)
    alive = weakref.ref(array)
    view = tensors.view(Foreign(array), "x")
    del array
    gc.collect()
    assert alive() is not None
    del view
    gc.collect()
    assert alive() is None


def test_tensors_that_cannot_pass():
    good = np.zeros((2, 4), np.float32)
    with pytest.raises(TypeError, match="q has dtype float64"):
        tensors.view(good.astype(np.float64), "q")
    with pytest.raises(TypeError, match=r"wrap bits of bfloat16 in radixattn\.bf16"):
        tensors.view(good.astype(np.uint16), "q")
    with pytest.raises(TypeError, match="q has dtype >f4"):
        tensors.view(good.astype(">f4"), "q")
    with pytest.raises(TypeError, match="q is a list: expected a numpy array or a tensor"):
        tensors.view([1.0], "q")
    with pytest.raises(ValueError, match="q is on cuda:0: the context is on cpu"):
        tensors.view(Foreign(good, device=2), "q")
    with pytest.raises(ValueError, match="q is on DLPack device 8: the context is on cpu"):
        tensors.view(Foreign(good, device=8), "q")
    with pytest.raises(ValueError, match="tokens is on rocm:0: expected host memory"):
        tensors.int_input(Foreign(np.zeros(4, np.int32), device=10), np.int32, "tokens")
    with pytest.raises(rx.UnsupportedError, match=r"^UNSUPPORTED: q: dl_tensor->dtype"):
        tensors.view(Foreign(good.astype(np.complex64)), "q")
    with pytest.raises(rx.InvalidArgumentError):
        tensors.view(Foreign(np.zeros((1,) * 6, np.float32)), "q")
    with pytest.raises(ValueError, match="6 dimensions"):
        tensors.view(np.zeros((1,) * 6, np.float32), "q")
    with pytest.raises(ValueError, match="broadcast"):
        tensors.view(np.broadcast_to(np.float32(1), (2, 3)), "q")
    with pytest.raises(ValueError, match="whole elements"):
        tensors.view(np.zeros(8, "f4,u1")["f0"], "q")


def test_outputs_must_be_writable():
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        tensors.view(array, "out", writable=True)
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        with pytest.raises(ValueError, match="out is read-only"):
            tensors.view(Foreign(array), "out", writable=True)
        assert view_address(tensors.view(Foreign(array), "x")) == address(array)


def test_bfloat16_bits():
    bits = np.array([0x3F80, 0x4000], np.uint16)
    view = tensors.view(rx.bf16(bits), "x")
    assert view.dtype == rx.DType.BF16
    assert view_address(view) == address(bits)
    through_dlpack = tensors.view(Foreign(rx.bf16(bits)), "x")
    assert through_dlpack.dtype == rx.DType.BF16
    assert view_address(through_dlpack) == address(bits)
    with pytest.raises(TypeError, match="uint16"):
        rx.bf16(bits.astype(np.float16))


def test_bfloat16_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1, 2], ml_dtypes.bfloat16)
    assert tensors.view(array, "x").dtype == rx.DType.BF16
    assert rx.numpy_dtype(rx.DType.BF16) == array.dtype
    assert rx.bf16(array).bits.tolist() == [0x3F80, 0x4000]


def test_kv_tensors_go_out_through_dlpack(make_ctx):
    ctx = make_ctx(kv_dtype="f16")
    k, v = ctx.kv_tensors(0)
    theirs = np.from_dlpack(Foreign(v))
    assert address(theirs) == address(ctx.kv_views(0)[1])
    assert address(k) == address(ctx.kv_views(0)[0])
    bfloat = make_ctx(kv_dtype="bf16")
    k, v = bfloat.kv_tensors(1)
    view = tensors.view(Foreign(v), "v")
    assert (view.dtype, view.shape) == (rx.DType.BF16, (32, 4, 2, 32))
    assert view_address(view) == address(bfloat.kv_views(1)[1])


def test_integer_inputs_pass_by_address_when_they_fit():
    array = np.arange(6, dtype=np.int32)
    assert address(tensors.int_input(array, np.int32, "x")) == address(array)
    assert address(tensors.int_input(Foreign(array), np.int32, "x")) == address(array)
    table = array.reshape(2, 3)[:, :2]
    assert address(tensors.int_input(table, np.int32, "x", ndim=2)) == address(array)
    assert tensors.int_input(array[::2], np.int32, "x").tolist() == [0, 2, 4]
    assert tensors.int_input(array.astype(np.uint64), np.int32, "x").tolist() == array.tolist()
    assert tensors.int_input([], np.int32, "x").dtype == np.int32


def test_integer_inputs_are_exact():
    wide = tensors.int_input([[1, 2**63 + 1], [2**64 - 1, 0]], np.uint64, "x", ndim=2)
    assert wide.dtype == np.uint64
    assert wide.tolist() == [[1, 2**63 + 1], [2**64 - 1, 0]]
    for values in ([1, 2**63 + 1], [2**64], [-(2**70)], np.array([2**63], np.uint64)):
        with pytest.raises(OverflowError, match="x has values beyond int64"):
            tensors.int_input(values, np.int64, "x")
    for values in ([1.5], [1, 2.5], [2**64, 2.5], np.ones(2, np.float32), np.array([1, 2], object)):
        with pytest.raises(TypeError, match=r"x has dtype (float|obj).*: expected integers"):
            tensors.int_input(values, np.int32, "x")


def test_bools_are_no_integers(ctx):
    mask = np.ones(2, bool)
    for values in (mask, mask.tolist()):
        with pytest.raises(TypeError, match="x has dtype bool: expected integers"):
            tensors.int_input(values, np.int32, "x")
    q = np.ones((2, 4, 32), np.float32)
    with pytest.raises(TypeError, match="tree_mask has dtype bool: expected integers"):
        ctx.prefill(q, [2], [0, 2], block_tables=[[0]], tree_mask=np.tri(2, dtype=bool))


def test_integer_outputs():
    array = np.zeros((2, 4), np.int64)
    assert tensors.output(array, np.int64, "x", ndim=2) is array
    with pytest.raises(ValueError, match="contiguous rows"):
        tensors.output(array[:, ::2], np.int64, "x", ndim=2)
    with pytest.raises(ValueError, match="expected an array of int64, 1-D"):
        tensors.output(array, np.int64, "x")
    for old in (False, True):
        through = tensors.output(Foreign(array[:, 1:], old=old), np.int64, "x", ndim=2)
        assert through.shape == (2, 3)
        through[:] = 1 + old
        assert array.tolist() == [[0, 1 + old, 1 + old, 1 + old]] * 2
    with pytest.raises(ValueError, match="x is on cuda:0: expected host memory"):
        tensors.output(Foreign(array, device=2), np.int64, "x", ndim=2)


def test_aligned_memory():
    for size in (1, 64, 1000):
        memory = rx.aligned_memory(size, 256)
        assert memory.nbytes == size
        assert address(memory) % 256 == 0
