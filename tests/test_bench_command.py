"""`fast-s2s bench`, and what it shares with the suite."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_benchmarks import CLOSE, PLAN

from fast_s2s.benchmarking import generation, headline, machine, rows, sides
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.generation import Greedy, GreedyProblem
from fast_s2s.benchmarking.harness import Side, WrongResult, gate, time_block
from fast_s2s.benchmarking.workloads import Workload
from fast_s2s.cli import main

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
TINY = [
    Case("one step", Workload(1, 1, 5, layers=2), (Versus("nn.LSTM"), Versus("LSTMCell loop"))),
    Case("generation", Greedy(2, 8, 11, 3, 6), (Versus("nn.LSTM loop"),)),
]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(headline, "headline_cases", lambda dtype="float32": TINY)
    monkeypatch.setattr(machine.OthersMeter, "cores", lambda self: 0.0)


@pytest.mark.parametrize("name", generation.SIDES)
@pytest.mark.parametrize("workload", [Greedy(2, 8, 11, 3, 6), Greedy(1, 17, 30, 1, 9)], ids=str)
def test_loops_and_generate_choose_the_tokens_of_float64(name, workload):
    problem = GreedyProblem(workload)
    side, expected = generation.prepare(name, problem)
    assert gate(side, expected, 0.0) == {"tokens": 0.0}
    assert expected["tokens"].shape == (workload.batch, workload.steps)
    # tokens that follow the state: another one gives others
    problem.state = problem.state._replace(h=-problem.state.h)
    with pytest.raises(WrongResult):
        gate(generation.SIDES[name](problem), expected, 0.0)


def test_every_headline_case_names_sides_that_exist():
    for dtype in ("float32", "bfloat16", "float16"):
        for case in headline.headline_cases(dtype):
            names = {case.ours, *(versus.peer for versus in case.peers)}
            known = generation.SIDES if isinstance(case.workload, Greedy) else sides.SIDES
            assert names <= set(known)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_passes_its_tolerance(dtype):
    case = Case("x", Workload(5, 3, 8, dtype=dtype, training=True), (Versus("nn.LSTM"),))
    (row,) = rows.time_rows(case, headline.kind_of(case, CPU), PLAN)
    assert row["status"] == "measured" and max(row["errors"]["ours"].values()) > CLOSE


def test_the_command_prints_a_sentence_for_each_peer(tiny, capsys):
    assert main(["bench", "--device", "cpu", "--seconds", "0.1"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("one step (T=1 B=1 H=5 L=2 inference): fast_s2s is ")
    assert "than nn.LSTM:" in lines[0] or "as nn.LSTM:" in lines[0]
    assert lines[1].strip().startswith("relative error against float64: ")
    assert "3 comparisons" in shown.err and "[3/3] generation" in shown.err
    assert machine.describe()["cpu"] in shown.err


def test_json_is_all_of_stdout_and_compares(tiny, tmp_path, capsys):
    from benchmarks import compare

    paths = []
    for name in ("old", "new"):
        assert main(["bench", "--device", "cpu", "--seconds", "0.1", "--json"]) == 0
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(capsys.readouterr().out)
    document = json.loads(paths[0].read_text())
    assert document["complete"] and len(document["rows"]) == 3
    assert compare.main([*map(str, paths), "--threshold", "1e9"]) == 0
    assert "3 same" in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_measured(tiny, monkeypatch, capsys):
    def interrupt(problem):
        raise KeyboardInterrupt

    monkeypatch.setitem(sides.SIDES, "LSTMCell loop", interrupt)
    assert main(["bench", "--device", "cpu", "--seconds", "0.1", "--json"]) == 130
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert not document["complete"] and [row["peer"] for row in document["rows"]] == ["nn.LSTM"]
    assert "kept" in shown.err


def test_a_wrong_result_is_said_and_fails_the_command(tiny, monkeypatch, capsys):
    right = sides.SIDES["nn.LSTM"]

    def wrong(problem):
        side = right(problem)
        return Side("nn.LSTM", side.call, lambda raw: {**side.results(raw), "y": raw[0] + 1})

    monkeypatch.setitem(sides.SIDES, "nn.LSTM", wrong)
    assert main(["bench", "--device", "cpu", "--seconds", "0.1", "--filter", "one step"]) == 1
    assert "beside nn.LSTM refused: nn.LSTM: error over 3e-05: y" in capsys.readouterr().out


def test_a_busy_machine_is_said(tiny, monkeypatch, capsys):
    monkeypatch.setattr(machine.OthersMeter, "cores", lambda self: 1.23)
    arguments = ["bench", "--device", "cpu", "--seconds", "0.1", "--filter", "generation"]
    assert main(arguments) == 0
    assert "other programs kept 1.2 cores busy meanwhile: no evidence" in capsys.readouterr().out
    monkeypatch.setattr(machine.OthersMeter, "cores", lambda self: None)
    assert main(arguments) == 0
    assert "busy" not in capsys.readouterr().out


def test_sentences():
    row = {"group": "g", "shape": "s", "peer": "nn.LSTM", "status": "measured"}
    row["seconds"] = {"ours": {"median": 2e-3}, "peer": {"median": 1e-3}}
    for ratio, said in (
        ((1.9, 2.0, 2.1), "2.00 x faster than nn.LSTM"),
        ((0.49, 0.5, 0.51), "2.00 x slower than nn.LSTM"),
        ((0.95, 1.01, 1.05), "fast_s2s is as fast as nn.LSTM"),
    ):
        row["ratio"] = dict(zip(("p25", "median", "p75"), ratio, strict=True))
        assert said in headline.said(row)


@pytest.mark.parametrize(
    "arguments", [["--seconds", "0"], ["--dtype", "int8"], ["--device", "tpu"]]
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        sys.exit(main(["bench", *arguments]))
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_no_such_case(capsys):
    assert main(["bench", "--device", "cpu", "--filter", "nothing"]) == 1
    assert "--filter: expected a part of a name, 'one step'" in capsys.readouterr().err


def test_a_gpu_is_timed_by_events(monkeypatch):
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

        def elapsed_time(self, other):
            return 3.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("idle"))
    side = Side("side", lambda: log.append("call"), dict, cuda=True)
    assert time_block(side, 2, 0.0) == 3e-3
    assert log == ["call", "idle", "record", "call", "record", "call", "record", "synchronize"]


def test_the_suite_is_not_needed():
    """As in an installed wheel: the command works where benchmarks/ cannot be imported."""
    code = """
import sys
sys.modules["benchmarks"] = None
from fast_s2s.cli import main
sys.exit(main(["bench", "--device", "cpu", "--seconds", "0.2", "--filter", "front end"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert "speech front end" in done.stdout


def test_a_wheel_has_every_package():
    listed = re.findall(r'^    "(fast_s2s[\w.]*)",$', (ROOT / "pyproject.toml").read_text(), re.M)
    inits = (path.parent for path in (ROOT / "fast_s2s").rglob("__init__.py"))
    found = {".".join(folder.relative_to(ROOT).parts) for folder in inits}
    assert set(listed) == found | {"fast_s2s.kernels"}
