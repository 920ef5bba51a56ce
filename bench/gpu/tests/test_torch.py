"""The measuring part by PyTorch on the CPU, where PyTorch is installed: real data, launches,
references and peers at toy sizes; and the CUDA clock with a stand-in for CUDA."""

from __future__ import annotations

import math
import sys
import time
import types

import pytest

torch = pytest.importorskip("torch")

from gpubench import cases, torch_backend  # noqa: E402
from gpubench.flow import Run  # noqa: E402
from gpubench.report import OK, Report  # noqa: E402
from gpubench.stats import Budget  # noqa: E402
from gpubench.torch_backend import CudaSampler, TorchBackend  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


@pytest.fixture
def backend(lib):
    return TorchBackend(lib, "cpu")


def test_every_kind_of_case_runs_and_is_right(backend):
    lines = []
    budget = Budget(300.0, time.monotonic)
    todo = cases.small_grid("cpu")
    out = Run(backend, budget, time.monotonic, lines.append, Report({})).all(todo)
    assert [line for line in lines if "ERROR" in line or "WRONG" in line] == []
    assert not out.failed
    assert {case.name for case in todo} <= {row.name for row in out.rows}
    assert all(row.status == OK for row in out.rows)


@pytest.mark.parametrize("index", range(len(cases.small_grid("cpu"))))
def test_a_launch_that_does_nothing_is_found(backend, index):
    case = cases.small_grid("cpu")[index]
    work = backend.prepare(case)
    contender = work.ours()
    assert contender.check().ok
    work.launch = lambda i: None  # what the contender calls is bound already
    idle = work.ours()
    assert not idle.check().ok
    work.close()


def test_one_token_too_few_is_found(backend):
    case = cases.Decode(batch=2, context=80, rank=0)
    work = backend.prepare(case)
    work.lens -= 1
    assert not work.ours().check().ok


def test_a_captured_graph_replays_each_layer(backend, monkeypatch):
    class Graph:
        def replay(self):
            for layer in range(work.layers):
                work.launch(layer)

    class Capture:
        def __init__(self, graph):
            pass

        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

    case = cases.Decode(batch=2, context=80, graph=True)
    work = backend.prepare(case)
    with pytest.raises(RuntimeError, match="needs a GPU"):
        work.ours()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch_backend, "CudaSampler", torch_backend.HostSampler)
    monkeypatch.setattr(torch_backend.TorchBackend, "stream", lambda self: None)
    monkeypatch.setattr(torch_backend.TorchBackend, "wait", lambda self: None)
    backend.cuda = True
    contender = work.ours()
    assert contender.check().ok  # of the last layer
    assert contender.sample(2) > 0


class FakeWrapper:
    """FlashInfer's paged wrappers, their arguments in their order, by plain means."""

    def __init__(self, workspace, layout, use_tensor_cores=False):
        assert (workspace.dtype, layout) == (torch.uint8, "NHD")

    def _plan(self, rows, indptr, indices, last, q_heads, kv_heads, dim, page, types):
        self.rows, self.pages = rows, indices.long()
        self.starts, self.last = indptr.tolist(), last.tolist()
        self.shape, self.page, self.types = (q_heads, kv_heads, dim), page, types

    def run(self, q, kv):
        q_heads, kv_heads, dim = self.shape
        assert (q.dtype, kv[0].dtype) == self.types
        assert q.shape[1:] == (q_heads, dim)
        out = torch.empty_like(q)
        for s, last in enumerate(self.last):
            pages = self.pages[self.starts[s] : self.starts[s + 1]]
            length = (len(pages) - 1) * self.page + last
            k, v = (x[pages].reshape(-1, kv_heads, dim)[:length].double() for x in kv)
            begin, end = self.rows[s], self.rows[s + 1]
            mask = torch.ones(end - begin, length).tril(length - (end - begin)).bool()
            one = torch.nn.functional.scaled_dot_product_attention(
                q[begin:end].double().transpose(0, 1),
                k.transpose(0, 1),
                v.transpose(0, 1),
                attn_mask=mask,
                enable_gqa=True,
            )
            out[begin:end] = one.transpose(0, 1).to(q.dtype)
        return out


class FakeDecodeWrapper(FakeWrapper):
    def plan(self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
             *, q_data_type, kv_data_type):  # fmt: skip
        rows = list(range(len(indptr)))
        types = (q_data_type, kv_data_type)
        self._plan(rows, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim,
                   page_size, types)  # fmt: skip


class FakePrefillWrapper(FakeWrapper):
    def plan(self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len,
             num_qo_heads, num_kv_heads, head_dim_qk, page_size, *, causal, q_data_type,
             kv_data_type):  # fmt: skip
        assert causal
        types = (q_data_type, kv_data_type)
        self._plan(qo_indptr.tolist(), paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len,
                   num_qo_heads, num_kv_heads, head_dim_qk, page_size, types)  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        cases.Decode(batch=3, context=90),
        cases.Decode(batch=3, context=90, ragged=True),
        cases.Prefill(batch=2, context=80, q_len=16),
    ],
    ids=lambda case: case.name,
)
def test_flashinfer_gets_the_same_blocks(backend, monkeypatch, case):
    module = types.ModuleType("flashinfer")
    module.BatchDecodeWithPagedKVCacheWrapper = FakeDecodeWrapper
    module.BatchPrefillWithPagedKVCacheWrapper = FakePrefillWrapper
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    work = backend.prepare(case)
    peer = work.peer("flashinfer")
    assert peer.check().ok
    assert peer.sample(2) > 0
    work.close()


def test_torch_s_attention_is_not_asked_for_ragged_lengths(backend):
    work = backend.prepare(cases.Decode(batch=3, context=90, ragged=True))
    with pytest.raises(ValueError, match="different lengths"):
        work.peer("sdpa_flash")
    with pytest.raises(ValueError, match="no peer is named 'nobody'"):
        work.peer("nobody")


class FakeCuda:
    """One stream with a clock: launches take time to queue and to run."""

    def __init__(self, monkeypatch, queue_seconds, run_seconds):
        self.host = self.device = 0.0
        self.queue_seconds, self.run_seconds = queue_seconds, run_seconds
        self.holds = []
        fake = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = max(fake.device, fake.host)

            def query(self):
                return self.at <= fake.host

            def synchronize(self):
                fake.host = max(fake.host, self.at)

            def elapsed_time(self, end):
                return (end.at - self.at) * 1e3

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch_backend, "_sleep", self.sleep)

    def sleep(self, cycles):
        self.holds.append(cycles / torch_backend._HERTZ)
        self.device = max(self.device, self.host) + self.holds[-1]

    def launch(self, i):
        self.host += self.queue_seconds
        self.device = max(self.device, self.host) + self.run_seconds


def test_a_slow_host_does_not_show_in_the_device_s_time(monkeypatch):
    cuda = FakeCuda(monkeypatch, queue_seconds=100e-6, run_seconds=7e-6)
    sampler = CudaSampler(cuda.launch)
    assert sampler(20) == pytest.approx(7e-6)  # 2 ms to queue: held for longer than that
    assert cuda.holds[-1] > 2e-3
    assert cuda.holds == sorted(cuda.holds)
    tries = len(cuda.holds)
    assert sampler(20) == pytest.approx(7e-6)
    assert len(cuda.holds) == tries + 1  # the wait is remembered


def test_a_host_that_cannot_be_waited_for_is_measured_as_it_is(monkeypatch):
    cuda = FakeCuda(monkeypatch, queue_seconds=10e-3, run_seconds=1e-3)
    seconds = CudaSampler(cuda.launch)(20)
    assert seconds > 5e-3
    assert max(cuda.holds) <= torch_backend._MAX_HOLD


def test_a_sample_of_a_graph_is_divided_by_its_launches(monkeypatch):
    cuda = FakeCuda(monkeypatch, queue_seconds=1e-6, run_seconds=80e-6)
    assert CudaSampler(cuda.launch, launches=8)(4) == pytest.approx(10e-6)


def test_comparing_finds_nan_and_scales_by_each_row_s_norm():
    ones = torch.ones(4, 5, 6)
    assert torch_backend.compare(ones, ones, 0.0).ok
    assert not torch_backend.compare(ones * math.nan, ones, 1.0).ok
    check = torch_backend.compare(ones * 1.01, ones, 0.02)
    assert check.relative_error == pytest.approx(0.01, rel=1e-4)
    assert check.ok
    rows = torch.tensor([[1000.0, 0.0], [0.0, 1.0]])
    wrong = rows + torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    assert torch_backend.compare(wrong, rows, 0.1).relative_error == pytest.approx(0.5)
    one_nan = ones.clone()
    one_nan[2, 1, 3] = math.nan
    assert not torch_backend.compare(one_nan, ones, 1.0).ok
