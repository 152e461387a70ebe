"""The sides of `bench_decode` agree, and its rows come out whole."""

from __future__ import annotations

import json

import pytest
import torch
from helpers_benchmarks import PLAN

from benchmarks import (
    bench_decode,
    ensemble_sides,
    forecast_sides,
    g2p_sides,
    norm_sides,
    packed_sides,
    seq2seq_sides,
    suite,
    transducer_sides,
)
from benchmarks.bench_decode import decode_cases
from benchmarks.bench_forecast import forecast_cases
from benchmarks.bench_norm import norm_cases
from benchmarks.decode_problem import TOLERANCE, DecodeProblem, Generation
from benchmarks.decode_sides import SIDES, SLOW, WITHOUT
from benchmarks.ensemble_sides import Together, TogetherProblem
from benchmarks.forecast_sides import Paths, PathsProblem
from benchmarks.norm_sides import NormProblem, NormWorkload
from benchmarks.packed_sides import Stream, StreamProblem
from benchmarks.seq2seq_sides import Step, StepProblem
from benchmarks.transducer_sides import Speech, SpeechProblem
from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.harness import Unavailable, gate

SAMPLED = Generation(2, 8, 11, 3, steps=6, sample=True)
RAGGED = Generation(1, 8, 11, 4, steps=6, ragged=True)
GREEDY, BEAM = Generation(2, 8, 11, 3, steps=6), Generation(1, 8, 11, 2, beams=3, steps=6)


@pytest.mark.parametrize("name", sorted(set(SIDES) - SLOW - {"streaming the weights"}))
@pytest.mark.parametrize("workload", [GREEDY, BEAM], ids=str)
def test_sides_agree_with_the_reference(name, workload):
    searches = name.startswith("fast_s2s") or name.endswith("beam") == (workload.beams > 1)
    if not searches:
        return
    if name.startswith("transformers"):
        pytest.importorskip("transformers")
    if name.startswith("ONNX"):
        pytest.importorskip("onnxruntime")
    side, expected = SIDES[name](DecodeProblem(workload))
    assert gate(side, expected, TOLERANCE)


@pytest.mark.parametrize("workload", [SAMPLED, RAGGED], ids=str)
def test_samples_and_ends_agree_with_the_reference(workload):
    problem = DecodeProblem(workload)
    side, expected = SIDES["fast_s2s"](problem)
    assert gate(side, expected, TOLERANCE)
    loop, expected = SIDES["LSTMCell loop"](problem)
    with loop.around():
        tokens = loop.results(loop.call())["tokens"]
    assert (tokens.shape, workload.sample) == ((workload.batch, workload.steps), expected is None)
    if workload.ragged:
        assert problem.limits.unique().numel() > 1 and gate(loop, expected, TOLERANCE)


@pytest.mark.parametrize("kind", ["dot", "additive"])
@pytest.mark.parametrize("name", ["fast_s2s", "fast_s2s int8", WITHOUT, f"{WITHOUT} int8"])
def test_attention_agrees_with_the_reference(kind, name):
    problem = DecodeProblem(Generation(1, 8, 11, 3, steps=6, attention=kind, source=5))
    side, expected = SIDES[name](problem)
    assert gate(side, expected, TOLERANCE)
    tokens = SIDES["fast_s2s"](problem)[1]["tokens"]
    assert torch.equal(SIDES[WITHOUT](problem)[1]["tokens"], tokens) is False


def test_every_case_names_sides_that_exist():
    cases = decode_cases() + forecast_cases() + norm_cases()
    assert len({case.row_name(versus) for case in cases for versus in case.peers}) >= 17
    for case in cases:
        sides = _SIDES.get(case.group, SIDES)
        assert {case.ours, *(versus.peer for versus in case.peers)} <= set(sides)


_SIDES = {
    "words": g2p_sides.SIDES,
    "training step": seq2seq_sides.SIDES,
    "ensemble": ensemble_sides.SIDES,
    "speech": transducer_sides.SIDES,
    "step by step": packed_sides.SIDES,
    "forecast": forecast_sides.SIDES,
    "layer norm": norm_sides.SIDES,
}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ensemble_sides.SIDES)
def test_ensembles_agree_with_the_reference(name, beams):
    problem = TogetherProblem(Together(3, 32, 11, 4, steps=6, beams=beams))
    side, expected = ensemble_sides.SIDES[name](problem)
    assert gate(side, expected, TOLERANCE)
    assert expected["tokens"].shape == (4, 7) and expected["tokens"].unique().numel() > 3


@pytest.mark.parametrize("name", transducer_sides.SIDES)
@pytest.mark.parametrize(
    "speech",
    [
        Speech(2, 24, 30, 1),
        Speech(1, 24, 30, 1, durations=3),
        Speech(1, 24, 30, 5),
        Speech(1, 24, 30, 2, beams=3),
    ],
)
def test_transducers_agree_with_the_reference(name, speech):
    problem = SpeechProblem(speech)
    expected = problem.expected()["tokens"]
    assert (0 if speech.beams else 15) < (expected != 29).sum() / speech.batch < 45
    try:
        side, expected = transducer_sides.SIDES[name](problem)
    except Unavailable as reason:
        reasons = {"one row only": speech.batch > 1, "greedy search": speech.beams > 0}
        reasons["beam search only"] = not speech.beams
        assert any(there and why in str(reason) for why, there in reasons.items()), reason
    else:
        assert gate(side, expected, TOLERANCE)


@pytest.mark.parametrize("name", forecast_sides.SIDES)
@pytest.mark.parametrize("paths", [Paths(2, 9, 3, 5, steps=7), Paths(1, 16, 2, 0, steps=4)])
def test_forecasts_agree_with_the_reference(name, paths):
    side, expected = forecast_sides.SIDES[name](PathsProblem(paths))
    assert expected["values"].shape == (paths.batch * (paths.paths or 1), paths.steps)
    assert gate(side, expected, TOLERANCE)


# dynamo's own, of inputs that are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", norm_sides.SIDES)
@pytest.mark.parametrize("training", [False, True])
def test_layer_norm_agrees_with_the_reference(name, training):
    problem = NormProblem(NormWorkload(5, 3, 9, training=training))
    side, expected = norm_sides.prepare(name, problem)
    assert {"d_norm_weight_c_l0", "d_weight_hh_l0"} <= set(expected) or not training
    assert gate(side, expected, problem.tolerance)


@pytest.mark.parametrize("name", packed_sides.SIDES)
@pytest.mark.parametrize("stream", [Stream(2, 9, batch=3, calls=6), Stream(1, 16, calls=3)])
def test_streams_agree_with_torch_in_float64(name, stream):
    problem = StreamProblem(stream)
    side, expected = packed_sides.SIDES[name](problem)
    if expected is None:
        # it rounds more than its weights
        with side.around():
            y = side.results(side.call())["y"]
        assert (y - problem.expected(torch.int8)["y"]).abs().max() < 0.05
    else:
        assert gate(side, expected, TOLERANCE)


def case_rows(case):
    return list(suite.case_rows(case, suite.Settings(PLAN, _CEILINGS, 60)))


@pytest.mark.parametrize("name", seq2seq_sides.SIDES)
def test_training_steps_agree_in_every_gradient(name):
    problem = StepProblem(Step(2, 8, 11, 5, 6, 7))
    assert problem.src_lengths.unique().numel() > 1 and problem.tgt_lengths.unique().numel() > 1
    errors = gate(seq2seq_sides.SIDES[name](problem), problem.expected, problem.tolerance)
    assert len(errors) == 1 + len(list(problem.model.parameters()))
    problem.src_lengths[1:] = 1
    with pytest.raises(Exception, match="error over"):
        gate(seq2seq_sides.SIDES[name](problem), problem.expected, problem.tolerance)


def test_a_row_is_measured():
    case = Case("generation", GREEDY, (Versus("LSTMCell loop", 5), Versus("streaming the weights")))
    rows = case_rows(case)
    assert [row["status"] for row in rows] == ["measured", "measured"]
    assert rows[0]["errors"]["ours"]["tokens"] == 0 and rows[0]["ratio"]["median"] > 0


def test_a_wrong_side_is_refused(monkeypatch):
    def wrong(problem):
        side, expected = SIDES["LSTMCell loop"](problem)
        return side, {name: value + 1 for name, value in expected.items()}

    monkeypatch.setitem(SIDES, "wrong", wrong)
    case = Case("generation", GREEDY, (Versus("wrong"),))
    (row,) = case_rows(case)
    assert row["status"] == "refused" and "tokens" in row["reason"]


def test_the_command_writes_json(tmp_path, monkeypatch, capsys):
    case = Case("generation", BEAM, (Versus("plain torch beam", 1),))
    monkeypatch.setattr(bench_decode, "decode_cases", lambda: [case])
    monkeypatch.setattr(machine, "ceilings", lambda quick: _CEILINGS)
    output = tmp_path / "result.json"
    assert bench_decode.main(["--quick", "--threads", "1", "--output", str(output)]) == 0
    document = json.loads(output.read_text())
    assert document["complete"] and document["rows"][0]["status"] == "measured"
    assert "plain torch beam" in capsys.readouterr().out
    assert torch.get_num_threads() == 1


_CEILINGS = {"gemm_gflops": 1.0, "stream_gbs": {"4": 1.0}, "other_cores": 0.0}
