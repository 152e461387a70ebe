"""The sides of the LSTM's benchmarks: right results pass the gate, wrong ones do not."""

from __future__ import annotations

import pytest
import torch
from helpers_benchmarks import CLOSE, RAGGED, TINY, TRAINING

from benchmarks import cold, peers
from fast_s2s.benchmarking.harness import Unavailable, WrongResult, gate
from fast_s2s.benchmarking.workloads import Problem, Workload


@pytest.mark.parametrize("workload", [TINY, TRAINING, RAGGED, Workload(1, 1, 7, layers=2)], ids=str)
@pytest.mark.parametrize("name", [peers.OURS, "nn.LSTM", "nn.LSTM native"])
def test_right_sides_pass(workload, name):
    if workload.ragged and name != peers.OURS:
        name = {"nn.LSTM": "nn.LSTM padded", "nn.LSTM native": "nn.LSTM PackedSequence"}[name]
    problem = Problem(workload)
    errors = gate(peers.PEERS[name](problem), problem.expected, CLOSE)
    assert "y" in errors
    gradients = {"d_x", "d_weight_ih_l0", "d_weight_hh_l0", "d_bias_ih_l0", "d_bias_hh_l0"}
    assert (gradients <= errors.keys()) == workload.training


@pytest.mark.parametrize(
    "workload",
    [
        Workload(3, 2, 5, inputs=4, layers=2),
        Workload(3, 2, 6, proj=3, training=True),
        Workload(4, 3, 5, layers=2, bidirectional=True, training=True),
        Workload(5, 3, 4, bidirectional=True, ragged=True),
    ],
    ids=str,
)
def test_other_shapes_of_lstm_pass(workload):
    problem = Problem(workload)
    name = "nn.LSTM PackedSequence" if workload.ragged else "nn.LSTM"
    for side in (peers.OURS, name):
        assert gate(peers.PEERS[side](problem), problem.expected, CLOSE)


@pytest.mark.parametrize("training", [False, True])
def test_cells_stacks_and_jax_pass(training):
    one = Problem(Workload(1, 3, 5, training=training))
    for name in (f"{peers.OURS} LSTMCell", "nn.LSTMCell"):
        assert len(gate(peers.PEERS[name](one), one.expected, CLOSE)) == 3 + 5 * training
    deep = Problem(Workload(4, 2, 5, layers=3, inputs=7, training=training))
    for name in ("nn.LSTM per layer", "LSTMCell loop"):
        assert len(gate(peers.PEERS[name](deep), deep.expected, CLOSE)) == 3 + 13 * training
    pytest.importorskip("jax")
    deep = Problem(Workload(4, 2, 5, layers=2, training=training))
    errors = gate(peers.PEERS["JAX lax.scan"](deep), deep.expected, CLOSE)
    assert len(errors) == 3 + 9 * training


def test_flops_count_every_matrix():
    module = torch.nn.LSTM(7, 6, 2, bidirectional=True, proj_size=3)
    weights = sum(p.numel() for name, p in module.named_parameters() if "weight" in name)
    workload = Workload(4, 2, 6, layers=2, inputs=7, bidirectional=True, proj=3)
    assert workload.flops(8) == 2 * 8 * weights and workload.weights_size() == 4 * weights


def test_the_reference_is_the_formula():
    problem = Problem(Workload(2, 1, 3))
    module, x = problem.module(torch.float64), problem.x(torch.float64)
    h, c = (state[0] for state in problem.hx(torch.float64))
    for step in range(2):
        gates = x[step] @ module.weight_ih_l0.T + module.bias_ih_l0
        gates = gates + h @ module.weight_hh_l0.T + module.bias_hh_l0
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    torch.testing.assert_close(problem.expected["h_n"][0], h.detach())
    torch.testing.assert_close(problem.expected["c_n"][0], c.detach())


@pytest.mark.parametrize("workload", [TINY, TRAINING], ids=str)
def test_a_wrong_weight_is_refused(workload):
    problem = Problem(workload)
    side = peers.PEERS["nn.LSTM"](problem)
    with torch.no_grad():
        problem._module.weight_hh_l0[0, 0] += 0.1
    with pytest.raises(WrongResult, match=r"nn\.LSTM: error over 3e-05: y "):
        gate(side, problem.expected, CLOSE)


def test_a_compiled_peer_passes():
    # in a process of its own: this one may hold threads that do not like the compiler's forks
    found = cold.first_call("nn.LSTM, torch.compile", Workload(2, 1, 5), limit_s=300.0)
    assert len(found["errors"]) == 3 and 0 < max(found["errors"].values()) < CLOSE


def test_recompute_is_unavailable_without_the_keyword(monkeypatch):
    monkeypatch.setattr(peers.fast_s2s, "LSTM", torch.nn.LSTM)
    with pytest.raises(Unavailable, match="memory="):
        peers.ours_recompute(Problem(TRAINING))


@pytest.mark.parametrize("name", ["ONNX Runtime", "OpenVINO"])
@pytest.mark.parametrize("workload", [TINY, Workload(4, 3, 6, layers=2)], ids=str)
def test_onnx_engines_agree(name, workload):
    for package in ("onnx", {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}[name]):
        pytest.importorskip(package)
    problem = Problem(workload)
    errors = gate(peers.PEERS[name](problem), problem.expected, CLOSE)
    assert errors.keys() == {"y", "h_n", "c_n"}
    with pytest.raises(Unavailable, match="only inference"):
        peers.PEERS[name](Problem(TRAINING))


def test_training_calls_see_new_weights():
    problem = Problem(TRAINING)
    module = problem.module()
    problem.module = lambda dtype=None: module
    side = peers.PEERS["nn.LSTM"](problem)
    before = module.weight_hh_l0._version
    side.call()
    assert module.weight_hh_l0._version == before + 1
