"""The GPU suite's parts that can be checked without a GPU."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from types import SimpleNamespace

import pytest
import torch
from helpers_benchmarks import CLOSE, PLAN
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fast_s2s import backends

if not backends.triton_found:
    pytest.skip(f"no Triton: {backends.triton_reason}", allow_module_level=True)

from benchmarks import (
    bench_gpu,
    command,
    decode_sides,
    flashrnn_peer,
    gpu_cases,
    gpu_page,
    gpu_peers,
    launches,
    norm_sides,
    seq2seq_sides,
    variants,
)
from benchmarks.decode_problem import Generation
from benchmarks.norm_sides import NormWorkload
from benchmarks.results import Result
from benchmarks.seq2seq_sides import Step
from benchmarks.suite import Settings
from fast_s2s.benchmarking import rows
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.generation import Greedy
from fast_s2s.benchmarking.harness import Side, Unavailable, gate
from fast_s2s.benchmarking.workloads import Problem, Workload

CEILINGS = {"gemm_gflops": 100.0, "stream_gbs": {"4": 50.0}, "other_cores": 0.0}
SIDES = {
    Workload: gpu_peers.PEERS,
    Greedy: gpu_peers.GREEDY,
    Generation: decode_sides.SIDES,
    Step: seq2seq_sides.SIDES,
    NormWorkload: norm_sides.SIDES,
}

# FlashRNN's own in plain torch: one in the layouts of its CUDA kernels, one in those of Triton's
PLAIN_TORCH = ("vanilla", "vanilla_fwbw")


@pytest.mark.parametrize("backend", PLAIN_TORCH)
@pytest.mark.parametrize(
    "workload",
    [
        Workload(4, 3, 5, layers=2, inputs=7, training=True),
        Workload(63, 1, 17, training=True),
        Workload(1, 2, 1),
    ],
    ids=str,
)
def test_flashrnn_computes_an_lstm(backend, workload):
    pytest.importorskip("flashrnn")
    problem = Problem(workload)
    errors = gate(flashrnn_peer.prepare(backend)(problem), problem.expected, CLOSE)
    gradients = 1 + 4 * workload.layers if workload.training else 0
    assert len(errors) == 3 + gradients


@pytest.mark.parametrize("backend", flashrnn_peer.BACKENDS)
def test_flashrnn_says_what_it_cannot_run(backend):
    peer = gpu_peers.PEERS[f"FlashRNN {backend}"]
    with pytest.raises(Unavailable, match="only on a GPU"):
        peer(Problem(Workload(2, 1, 5)))
    with pytest.raises(Unavailable, match="no projection"):
        peer(Problem(Workload(2, 1, 6, proj=3)))


def test_what_fails_inside_flashrnn_is_unavailable():
    pytest.importorskip("flashrnn")
    with pytest.raises(Unavailable, match="flashrnn: ValueError: Unknown backend none"):
        flashrnn_peer.prepare("none")(Problem(Workload(2, 1, 5)))


# nn.LSTM repaired


def one_chunk(module: torch.nn.LSTM) -> None:
    """As cuDNN lays a layer's weights out, but only if Python's check takes their type."""
    accepted = torch.backends.cudnn.is_acceptable.__globals__["CUDNN_TENSOR_DTYPES"]
    if module.weight_hh_l0.dtype not in accepted:
        return
    parameters = list(module.parameters())
    whole = torch.cat([parameter.detach().flatten() for parameter in parameters])
    parts = whole.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.view_as(parameter)


def repaired(flatten) -> torch.nn.LSTM:
    """The module of that side, for a problem that says it is on a GPU."""
    problem = Problem(Workload(2, 1, 5, dtype="bfloat16"))
    module = problem.module()
    module.flatten_parameters = functools.partial(flatten, module)
    pretending = SimpleNamespace(
        workload=problem.workload,
        device=torch.device("cuda"),
        module=lambda: module,
        **{name: getattr(problem, name) for name in ("x", "hx", "cotangent")},
    )
    gpu_peers.nn_lstm_repaired(pretending)
    return module


def test_the_repaired_nn_lstm_has_its_weights_in_one_chunk():
    weights = list(repaired(one_chunk).parameters())
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    assert torch.bfloat16 not in torch.backends.cudnn.m.CUDNN_TENSOR_DTYPES


def test_an_nn_lstm_that_is_not_repaired_is_not_measured_as_one():
    with pytest.raises(Unavailable, match="leaves the weights where they are"):
        repaired(lambda module: None)


# launches


def event(name: str, device: DeviceType, annotation: bool = False) -> SimpleNamespace:
    return SimpleNamespace(name=name, device_type=device, is_user_annotation=annotation)


# as torch.profiler lists two calls: what the host did, and what ran on the GPU
EVENTS = [
    *[event("aten::lstm", DeviceType.CPU)] * 2,
    *[event("cudaLaunchKernel", DeviceType.CPU)] * 4,
    *[event("cudaLaunchKernelExC", DeviceType.CPU)] * 2,
    *[event("cuLaunchCooperativeKernel", DeviceType.CPU)] * 2,
    *[event("cudaGraphLaunch", DeviceType.CPU)] * 2,
    *[event(name, DeviceType.CPU) for name in ("cudaMemcpyAsync", "cudaDeviceSynchronize")],
    *[event("lstm_forward", DeviceType.CUDA)] * 6,
    *[event("_Z9some_Memcpy_kernelv", DeviceType.CUDA)] * 2,
    *[event("Memcpy DtoD (Device -> Device)", DeviceType.CUDA)] * 2,
    *[event("Memset (Device)", DeviceType.CUDA)] * 3,
    event("Optimizer.step", DeviceType.CUDA, annotation=True),
]


def test_launches_are_counted_from_the_profilers_events():
    counted = {"launches": 5.0, "kernels": 4.0, "copies": 1.0, "fills": 1.5}
    assert launches.count(EVENTS, calls=2) == counted


def test_the_profilers_own_events_can_be_counted():
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        torch.ones(3).add(1)
    names = [event.name for event in profiler.events()]
    assert "aten::add" in names and set(launches.count(profiler.events(), 1).values()) == {0}


def test_a_side_is_observed_once_and_a_profiler_that_fails_costs_no_row(monkeypatch):
    seen = []

    def observe(side: Side) -> dict:
        seen.append(side.name)
        return launches.of(dataclasses.replace(side, cuda=True))

    # no GPU: what the profiler is asked for fails
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: 1 / 0)
    case = Case("x", Workload(2, 1, 5), (Versus("nn.LSTM"), Versus("LSTMCell loop")))
    kind = bench_gpu.kind_of(case, Settings(PLAN, CEILINGS))
    kind = dataclasses.replace(kind, observe=functools.cache(observe))
    found = list(rows.time_rows(case, kind, PLAN))
    assert seen == ["fast_s2s", "nn.LSTM", "LSTMCell loop"]
    for row in found:
        failure = {"failure": "ZeroDivisionError: division by zero"}
        assert row["status"] == "measured" and row["observed"] == {"ours": failure, "peer": failure}


def test_nothing_is_observed_on_a_cpu():
    case = Case("x", Workload(2, 1, 5), (Versus("nn.LSTM"),))
    settings = Settings(PLAN, CEILINGS)
    (row,) = rows.time_rows(case, bench_gpu.kind_of(case, settings), PLAN)
    assert row["status"] == "measured" and "observed" not in row


def test_the_report_shows_launches_and_memory():
    counted = {"launches": 2.0, "kernels": 3.0, "copies": 0.5, "fills": 0, "peak_bytes": 3 * 2**19}
    counted["flushed_seconds"] = 12.3456e-6
    row = {"status": "measured", "kind": "time", "shape": "T=1", "workload": {}}
    row |= {"ours": "fast_s2s", "peer": "nn.LSTM"}
    row["observed"] = {"ours": counted, "peer": {"failure": "RuntimeError: a | b"}}
    (text,) = gpu_page.calls(Result("gpu", (), (row, row)))
    assert text.count("| T=1 | fast_s2s | 2 | 3 | 0.5 | 0 | 1.5 | 12.35 |") == 1
    assert "| T=1 | nn.LSTM | RuntimeError: a / b |" in text
    assert not list(gpu_page.calls(Result("gpu", (), ({**row, "observed": {}},))))
    many = tuple({**row, "shape": f"T={i}"} for i in range(gpu_page.SHAPES + 5))
    (text,) = gpu_page.calls(Result("gpu", (), many))
    assert text.count("| fast_s2s |") == gpu_page.SHAPES and "| T=0 |" in text


def test_calls_after_a_flush_are_timed_one_by_one(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(done)
            done.append("event")

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            assert done[self.at : other.at] == ["event", "call"] and done[self.at - 1] == "flush"
            return float(other.at)

    class Room:
        def fill_(self, value):
            done.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    device = SimpleNamespace(L2_cache_size=50)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(
        torch, "empty", lambda size, dtype, device: Room() if size == 2**29 else None
    )
    side = Side("ours", lambda: done.append("call"), dict, cuda=True)
    # of nine calls of four entries each the fifth
    assert launches._flushed_seconds(side) == 19e-3
    assert done.count("call") == done.count("flush") == 9


# a kernel that fails takes the GPU from its process


@pytest.fixture
def lost_gpu(monkeypatch):
    """A GPU on which every call fails."""

    def synchronize(device):
        raise RuntimeError("CUDA error: unspecified launch failure\nand what to do")

    monkeypatch.setattr(bench_gpu, "DEVICE", SimpleNamespace(type="cuda"))
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


CASE = Case("x", Workload(2, 1, 5), (Versus("nn.LSTM"), Versus("LSTMCell loop")))


def test_no_case_begins_on_a_lost_gpu(lost_gpu):
    with pytest.raises(command.DeviceLost, match="lost .CUDA error: unspecified launch failure.$"):
        next(bench_gpu.rows(CASE, Settings(PLAN, CEILINGS)))


@pytest.mark.parametrize(("side", "kept"), [("peer", 1), ("ours", 2)])
def test_a_failure_is_kept_before_another_process_goes_on(side, kept, monkeypatch, tmp_path):
    def fails(case, *_):
        for versus in case.peers:
            yield {**rows.head(case, versus), **rows.failed(RuntimeError("trap"), side)}

    lost = iter([False, True, True])

    def check():
        if next(lost):
            raise command.DeviceLost("the GPU is lost")

    monkeypatch.setattr(bench_gpu, "time_rows", fails)
    monkeypatch.setattr(bench_gpu, "_check_gpu", check)
    monkeypatch.setattr(bench_gpu, "cases", lambda: [CASE, dataclasses.replace(CASE, group="y")])
    suite = dataclasses.replace(bench_gpu.SUITE, ceilings=lambda quick: CEILINGS)
    output = tmp_path / "gpu.json"
    assert command.main(suite, ["--quick", "--resume", str(output)]) == command.DEVICE_LOST == 75
    document = json.loads(output.read_text())
    assert len(document["rows"]) == kept and not document["complete"]


# variants


def test_every_form_is_asked_for_and_planned(monkeypatch):
    monkeypatch.setenv("FAST_S2S_CUDA_VARIANT", "stream")
    h200 = SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=227 * 1024)
    found = {}
    for form in variants.FORMS:
        with variants.asked_for(form):
            assert os.environ["FAST_S2S_CUDA_VARIANT"] == form.variant
            assert os.environ["FAST_S2S_CUDA_CLUSTER"] == str(form.cluster)
        found[str(form)] = variants.expected(form, 256, 8, False, h200)
    assert os.environ["FAST_S2S_CUDA_VARIANT"] == "stream"
    assert "FAST_S2S_CUDA_CLUSTER" not in os.environ
    assert [found[f"cluster {n}"]["ranks"] for n in (2, 4, 8, 16)] == [2, 4, 8, 16]
    assert found["block"]["ranks"] == 1 and found["grid"]["ranks"] == 32
    assert all(plan["expected_ns"] > 0 for plan in found.values())
    # 2048 units fit no block
    assert variants.expected(variants.Form("block"), 2048, 64, True, h200) == {}


def test_a_form_of_other_bits_is_shown():
    row = {"hidden": 64, "batch": 1, "backward": True, "form": "grid", "expected_ns": 800.0}
    assert variants.line({**row, "ns": 900.4, "same_bits": True}) == (
        "backward H=64 B=1 grid: 900 ns, 800 expected"
    )
    assert variants.line({**row, "ns": 1.0, "same_bits": False}).endswith("OTHER BITS")
    assert variants.line({**row, "failure": "plan: no"}).endswith("grid: plan: no")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_variants_without_a_gpu_say_so(tmp_path, capsys):
    assert variants.main(["--output", str(tmp_path / "x.json")]) == 1
    assert "no GPU with the CUDA library" in capsys.readouterr().out


# the cases


def test_every_case_names_sides_that_exist():
    for case in (*gpu_cases.gpu_cases(), *gpu_cases.tiny_cases()):
        sides = SIDES[type(case.workload)]
        assert {case.ours, *(versus.peer for versus in case.peers)} <= set(sides), case
        assert case.kind == "time" or case.kind == "cold start"
    names = [c.row_name(v) for c in gpu_cases.gpu_cases() for v in c.peers]
    assert len(names) == len(set(names))


def test_the_contract_is_covered():
    cases = gpu_cases.gpu_cases()
    shapes = [case.workload for case in cases if isinstance(case.workload, Workload)]
    assert {650, 1150, 100} <= {w.hidden for w in shapes}
    assert {1, 3, 20, 130} <= {w.batch for w in shapes} and {1, 70_000} <= {w.steps for w in shapes}
    assert all(any(getattr(w, k) for w in shapes) for k in ("ragged", "bidirectional", "proj"))
    assert {4} <= {w.layers for w in shapes}
    groups = {case.group for case in cases}
    assert {"cell", "first call", "training step", "layer norm"} <= groups
    assert {"sampling", "beam search", "generation"} <= groups
    peers = {versus.peer for case in cases for versus in case.peers}
    assert set(gpu_peers.PEERS) - peers <= {"fast_s2s", "fast_s2s LSTMCell"}


def test_what_compiles_waits_to_be_asked(monkeypatch):
    case = Case("x", Workload(2, 1, 5), (Versus("FlashRNN cuda"), Versus("nn.LSTM, torch.compile")))
    settings = Settings(PLAN, CEILINGS)
    found = list(rows.time_rows(case, bench_gpu.kind_of(case, settings), PLAN))
    assert [row["reason"] for row in found] == ["slow to prepare; runs with --compile"] * 2
