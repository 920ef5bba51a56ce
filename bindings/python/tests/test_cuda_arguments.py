"""Calls on CUDA, on a simulated device: streams arrive, and what cannot work is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import simulated
from simulated import Side, Tensor, device, fake_torch, finish

import radixattn as rx

simulated.require()
pytestmark = pytest.mark.usefixtures("clean_device")

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


def test_scales_by_head_know_the_layout(cuda):
    """With 2 heads and blocks of 4 tokens a scale a head is 2 numbers, in either layout."""
    for layout, inner in (("nhd", (4, 2)), ("hnd", (2, 4))):
        cache = Tensor.of(np.zeros((32, *inner, 32), np.float32))
        arguments = {**rope_arguments(), "k_cache": cache, "v_cache": cache, "kv_layout": layout}
        call(cuda, "rope_append", arguments)
        finish()
        with pytest.raises(ValueError, match="k_scale has 4 entries: expected 1 or 2"):
            call(cuda, "rope_append", {**arguments, "k_scale": Tensor.of(np.ones(4, np.float32))})


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


def test_a_mask_of_sample_is_words(cuda):
    """On a device nothing is packed: bools are refused, not read as words."""
    x = Tensor.of(np.zeros((2, 40), np.float32))
    mask = Tensor.of(np.ones((2, 40), bool), code=6)  # kDLBool
    outputs = {name: Tensor.of(np.zeros(2, np.int32)) for name in ("tokens", "status")}
    space = Tensor.of(np.zeros(1 << 16, np.uint8))
    with pytest.raises(rx.UnsupportedError, match="allowed: dl_tensor->dtype"):
        cuda.sample(x, allowed=mask, workspace=space, **outputs)
    with pytest.raises(TypeError, match="allowed has dtype u8: expected i32"):
        cuda.sample(x, allowed=Tensor.of(np.ones((2, 40), np.uint8)), workspace=space, **outputs)
    words = np.array([[1 << 5, 0], [0, 1 << 2]], np.int32)
    cuda.sample(x, allowed=Tensor.of(words), workspace=space, **outputs)
    finish()
    assert outputs["tokens"].numpy().tolist() == [5, 34]
