"""The benchmarks' rows: what is not timed, how it is judged, what is written and when."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers_benchmarks import CLOSE, PLAN, TINY, TRAINING, value_side

from benchmarks import (
    bench_decode,
    bench_lstm,
    cold,
    command,
    memory,
    onnx_peers,
    peers,
    processes,
    report,
    suite,
)
from benchmarks.cases import lstm_cases
from fast_s2s.benchmarking import machine, rows
from fast_s2s.benchmarking.cases import Case, Versus, select
from fast_s2s.benchmarking.harness import Side, Summary
from fast_s2s.benchmarking.workloads import Problem, Workload

CEILINGS = {
    "gemm_gflops": 100.0,
    "stream_gbs": {"4": 50.0, "16": 40.0, "256": 20.0},
    "other_cores": 0.0,
}
SETTINGS = suite.Settings(PLAN, CEILINGS, processes=1)


def rows_of(*versus: Versus, workload: Workload = TINY, **kwargs) -> list[dict]:
    return list(suite.case_rows(Case("tiny", workload, versus, **kwargs), SETTINGS))


def test_wrong_results_are_not_timed(monkeypatch):
    right = peers.PEERS["nn.LSTM"]

    def wrong(problem: Problem) -> Side:
        side = right(problem)
        return Side("wrong", side.call, lambda raw: {**side.results(raw), "y": raw[0] + 1e-3})

    monkeypatch.setitem(peers.PEERS, "wrong", wrong)
    monkeypatch.setattr(rows, "compare", lambda *_: pytest.fail("timed"))
    (row,) = rows_of(Versus("wrong", 2.0))
    assert (row["status"], row["side"]) == ("refused", "peer")
    assert "seconds" not in row and row["errors"]["peer"]["y"] > CLOSE > row["errors"]["ours"]["y"]
    found = rows_of(Versus("nn.LSTM"), Versus("nn.LSTM native"), ours="wrong")
    assert [(row["status"], row["side"]) for row in found] == [("refused", "ours")] * 2


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "jax"])
def test_a_missing_package_is_unavailable(name, monkeypatch):
    real = onnx_peers.importlib.import_module

    def without(module: str):
        if module == name:
            raise ImportError(f"No module named {module!r}")
        return real(module)

    monkeypatch.setattr(onnx_peers.importlib, "import_module", without)
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "jax": "JAX lax.scan"}
    peer_name = names[name]
    (row,) = rows_of(Versus(peer_name, 1.5))
    assert row["status"] == "unavailable" and name in row["reason"]
    assert "unavailable: " + name in report.table([row])
    assert f"not reached: tiny, {TINY}, fast_s2s beside {peer_name}" in report.summary([row])


def test_a_failing_peer_is_shown_and_the_others_go_on(monkeypatch):
    def broken(problem: Problem) -> Side:
        raise RuntimeError("out | of\norder")

    monkeypatch.setitem(peers.PEERS, "broken", broken)
    first, second = rows_of(Versus("broken"), Versus("nn.LSTM"))
    assert (first["status"], first["reason"]) == ("failed", "RuntimeError: out | of")
    assert second["status"] == "measured"
    assert "failed: RuntimeError: out / of" in report.table([first])


def test_slow_peers_wait_to_be_asked_for():
    (row,) = rows_of(Versus("LSTMCell loop, torch.compile"))
    assert row["status"] == "unavailable" and "--compile" in row["reason"]


def test_what_compiles_is_expected_to_take_longer():
    timed, first = (Case("x", TINY, (), kind=kind) for kind in ("time", "cold start"))
    asked = dataclasses.replace(SETTINGS, slow=True, processes=3)
    for case in (timed, first):
        assert command.cost(case, SETTINGS, slow=True) < 0.1 < command.cost(case, asked)
        assert command.cost(case, asked, slow=True) > 15 + command.cost(case, asked) - 1


def test_a_first_call_finds_no_compilers_cache(monkeypatch):
    folders = []

    def answer(module, name, workload, limit_s, environment, arguments):
        folders.append(environment)
        assert not any(Path(folder).exists() for folder in environment.values())
        return {}

    monkeypatch.setattr(processes, "answer", answer)
    for _ in range(2):
        cold.first_call("nn.LSTM", TINY, 1.0)
    assert folders[0].keys() == {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    assert not set(folders[0].values()) & set(folders[1].values())


@pytest.mark.parametrize(
    ("kind", "ratio", "expected"),
    [
        ("time", Summary(1.2, 1.15, 1.3), (True, True, True)),
        ("time", Summary(1.2, 1.05, 1.3), (True, False, True)),
        ("time", Summary(1.0, 0.9, 1.3), (False, False, True)),
        ("time", Summary(0.9, 0.8, 1.3), (False, False, False)),
        ("memory", Summary(1.0, 0.9, 1.05), (True, True, True)),
        ("memory", Summary(1.0, 0.9, 1.15), (True, False, True)),
        ("memory", Summary(1.2, 1.0, 1.3), (False, False, True)),
    ],
)
def test_targets(kind, ratio, expected):
    case = Case("group", TINY, (), kind=kind)
    assert tuple(rows.judge(case, Versus("peer", 1.1, floor=0.95), ratio).values()) == expected
    assert set(rows.judge(case, Versus("peer"), ratio).values()) == {None}


def test_a_row_has_all_fields_and_is_json():
    measured, unavailable = rows_of(
        Versus("nn.LSTM", 1.5, 0.9), Versus("LSTMCell loop, torch.compile")
    )
    head = {"name", "group", "shape", "workload", "kind", "ours", "peer", "target", "floor"}
    head |= {"status", "errors", "load"}
    figures = {"seconds", "ratio", "reached", "reached_by_quartile", "above_floor"}
    assert measured.keys() == head | figures | {"achieved", "rounds"}
    assert unavailable.keys() == head | {"side", "reason"}
    assert unavailable["errors"].keys() == {"ours"}
    assert json.loads(json.dumps(measured)) == measured
    assert measured["load"].keys() == {"before", "after", "other_cores"}
    assert measured["rounds"]["ours_calls"] == 2
    flops = 2 * 3 * 2 * 4 * 5 * (5 + 5)
    achieved, seconds = measured["achieved"], measured["seconds"]["ours"]["median"]
    assert achieved["gflops"] == pytest.approx(flops / seconds / 1e9)
    assert achieved["of_gemm"] == pytest.approx(achieved["gflops"] / 100)
    # W_hh of 4 x 5 x 5 floats in each of three steps, W_ih once
    assert achieved["gbs"] == pytest.approx(4 * 25 * 4 * 4 / seconds / 1e9)
    assert achieved["of_stream"] == pytest.approx(achieved["gbs"] / 50)


def test_figures_of_a_busy_machine_are_marked():
    (row,) = rows_of(Versus("nn.LSTM", 1.5))
    for cores, marked in ((0.0, False), (0.5, True), (None, False)):
        row["load"]["other_cores"] = cores
        assert (") ! |" in report.table([row])) == marked
        assert ("no evidence" in report.summary([row])) == marked
        assert report.ceilings_line({**CEILINGS, "other_cores": cores}).endswith("!") == marked


def test_memory_rows(monkeypatch):
    peaks = {peers.OURS: 60, "nn.LSTM": 120}

    def peak_bytes(name, workload, limit_s):
        return {"bytes": peaks[name], "errors": {"y": 0.0}}

    monkeypatch.setattr(memory, "peak_bytes", peak_bytes)
    (row,) = rows_of(Versus("nn.LSTM", 0.7), workload=TRAINING, kind="memory")
    assert row["ratio"]["median"] == 0.5 and row["reached"]
    assert row["bytes_per_cell"] == {"ours": 2.0, "peer": 4.0}
    assert "≤ 0.7" in report.table([row])


def test_peak_memory_of_a_process():
    workload = Workload(100, 16, 64, training=True)
    found = memory.peak_bytes("nn.LSTM", workload, 120)
    # at least the gates, the output and its gradient are there at once; no gigabytes
    cells = 100 * 16 * 64 * 4
    assert 4 * cells < found["bytes"] < 100 * cells
    assert max(found["errors"].values()) < CLOSE


def test_cold_starts(monkeypatch):
    (row,) = rows_of(Versus("nn.LSTM"), kind="cold start")
    assert row["status"] == "measured" and row["errors"]["ours"]["y"] < CLOSE
    assert row["imports"]["ours"] > 0.05 and 0 < row["seconds"]["peer"]["median"] < 60
    (row,) = rows_of(Versus("LSTMCell loop, torch.compile"), kind="cold start")
    assert row["status"] == "unavailable" and "--compile" in row["reason"]


def test_the_command_writes_after_each_row_and_keeps_it_after_ctrl_c(tmp_path, monkeypatch, capsys):
    output = tmp_path / "folder" / "result.json"
    written = []

    def interrupt(problem: Problem) -> Side:
        written.append(json.loads(output.read_text()))
        raise KeyboardInterrupt

    monkeypatch.setitem(peers.PEERS, "interrupt", interrupt)
    cases = [Case("tiny", TINY, (Versus("nn.LSTM", 1.5), Versus("interrupt"), Versus("nn.LSTM")))]
    monkeypatch.setattr(bench_lstm, "lstm_cases", lambda: cases)
    monkeypatch.setattr(machine, "ceilings", lambda quick: CEILINGS)
    monkeypatch.setattr(command, "QUICK", PLAN)
    arguments = ["--quick", "--threads", "1", "--output", str(output)]
    assert bench_lstm.main(arguments) == 130
    document = json.loads(output.read_text())
    assert written == [document]
    assert [row["peer"] for row in document["rows"]] == ["nn.LSTM"] and not document["complete"]
    assert document.keys() == {
        "format",
        "suite",
        "machine",
        "ceilings",
        "options",
        "complete",
        "rows",
    }
    facts = {"cpu", "cores", "threads", "isa", "torch", "commit", "date", "load"}
    assert facts <= document["machine"].keys()
    shown = capsys.readouterr()
    assert "Interrupted" in shown.out and f"| {TINY} | nn.LSTM |" in shown.out
    assert "] 1/3 tiny" in shown.err and "left" in shown.err
    monkeypatch.setitem(peers.PEERS, "interrupt", peers.PEERS["nn.LSTM"])
    with pytest.raises(SystemExit, match="--resume: threads was 1 and is now 2"):
        bench_lstm.main(["--quick", "--threads", "2", "--resume", str(output)])
    with pytest.raises(SystemExit, match="--resume: suite was 'lstm' and is now 'decode'"):
        bench_decode.main(["--quick", "--threads", "1", "--resume", str(output)])
    assert bench_lstm.main(["--quick", "--threads", "1", "--resume", str(output)]) == 0
    resumed = json.loads(output.read_text())
    assert resumed["complete"] and resumed["rows"][0] == document["rows"][0]
    assert [row["peer"] for row in resumed["rows"]] == ["nn.LSTM", "interrupt"]
    # a time too short for a row, on a file that is not there yet
    late = tmp_path / "late.json"
    assert bench_lstm.main(["--quick", "--within", "0.01", "--resume", str(late)]) == 130
    assert not late.exists()
    assert bench_lstm.main([*arguments, "--filter", "INTERRUPT"]) == 0
    assert [row["peer"] for row in json.loads(output.read_text())["rows"]] == ["interrupt"]


def test_a_wrong_result_fails_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "wrong", lambda problem: value_side(y=torch.zeros(1)))
    cases = [Case("tiny", TINY, (Versus("wrong"),))]
    monkeypatch.setattr(bench_lstm, "lstm_cases", lambda: cases)
    monkeypatch.setattr(machine, "ceilings", lambda quick: CEILINGS)
    assert bench_lstm.main(["--threads", "1", "--output", str(tmp_path / "result.json")]) == 1


@pytest.mark.parametrize(
    "arguments", [["--filter", "no such row"], ["--threads", "0"], ["--threads", "many"]]
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        bench_lstm.main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_cases_name_known_sides():
    cases = lstm_cases()
    names = [case.row_name(versus) for case in cases for versus in case.peers]
    assert len(names) == len(set(names))
    sides = {versus.peer for case in cases for versus in case.peers} | {c.ours for c in cases}
    assert sides <= peers.PEERS.keys()
    chosen = select(cases, lambda name: "ragged" in name and "padded" in name)
    assert [[v.peer for v in case.peers] for case in chosen] == [["nn.LSTM padded"]] * 3


def test_the_machine():
    facts = machine.describe()
    assert facts["threads"] == torch.get_num_threads() and facts["cores"] >= 1
    assert json.loads(json.dumps(facts)) == facts
    assert machine.slug({"cpu": "AMD EPYC (TM) 9-B"}) == "amd-epyc-tm-9-b"
    assert machine.stream_ceiling(CEILINGS, 5 * 2**20) == ("16", 40.0)
    assert machine.stream_ceiling(CEILINGS, 2**40) == ("256", 20.0)
