"""Rows in which a process hangs or crashes: they are named, and another process goes on behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_benchmarks import TINY, TRAINING

from benchmarks import lost
from fast_s2s.benchmarking.cases import Case, Versus

ROOT = Path(__file__).parent.parent
CASES = [
    Case("first", TINY, (Versus("nn.LSTM"), Versus("ends"), Versus("LSTMCell loop"))),
    Case("second", TRAINING, (Versus("nn.LSTM"),)),
]
NAMES = [case.row_name(versus) for case in CASES for versus in case.peers]

_MEASURE = """
import os, signal, sys, time
from helpers_benchmarks import PLAN
from test_bench_lost import CASES
from benchmarks import bench_lstm, command, peers
from fast_s2s.benchmarking import machine

hang = lambda problem: time.sleep(60)
crash = lambda problem: os.kill(os.getpid(), signal.SIGKILL)
peers.PEERS["ends"] = {"hang": hang, "crash": crash}[sys.argv[1]]
bench_lstm.lstm_cases = lambda: CASES
found = {"gemm_gflops": 100.0, "stream_gbs": {"4": 50.0}, "other_cores": 0.0}
machine.ceilings = lambda quick: found
command.QUICK = PLAN
sys.exit(bench_lstm.main(["--quick", "--threads", "1", *sys.argv[2:]]))
"""


def measure(*arguments: str) -> subprocess.CompletedProcess:
    code = f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n{_MEASURE}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("how", "arguments", "status"), [("hang", ["--hung", "4"], 1), ("crash", [], -9)]
)
def test_a_row_that_ends_the_process_is_named_and_not_tried_again(how, arguments, status, tmp_path):
    output = tmp_path / "gpu.json"
    done = measure(how, *arguments, "--resume", str(output))
    assert done.returncode == status, done.stderr
    # where it was
    assert ("Timeout" in done.stderr and "in <lambda>" in done.stderr) == (how == "hang")
    marker = tmp_path / "gpu.running"
    assert json.loads(marker.read_text()) == {"row": NAMES[1], "begins_case": False}
    assert [row["name"] for row in json.loads(output.read_text())["rows"]] == NAMES[:1]
    done = measure(how, "--resume", str(output))
    assert done.returncode == 1 and not marker.exists(), done.stderr
    document = json.loads(output.read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert document["complete"] and sorted(rows) == sorted(NAMES)
    assert rows[NAMES[1]]["reason"] == (
        f"RuntimeError: a process was killed, hung or crashed in {NAMES[1]}"
    )
    assert [rows[name]["status"] for name in NAMES] == [
        "measured",
        "failed",
        "measured",
        "measured",
    ]


def test_a_case_that_did_not_begin_is_left(tmp_path):
    output = tmp_path / "gpu.json"
    document = {"rows": [{"name": NAMES[1]}]}
    lost.skip(CASES, document, output)
    assert document["rows"] == [{"name": NAMES[1]}]
    lost.running(output).write_text(json.dumps({"row": NAMES[0], "begins_case": True}))
    lost.skip(CASES, document, output)
    assert [row["name"] for row in document["rows"]] == [NAMES[1], NAMES[0], NAMES[2]]
    assert {row["side"] for row in document["rows"][1:]} == {"ours"}
    assert json.loads(output.read_text()) == document
    # of a run of other rows
    lost.running(output).write_text(json.dumps({"row": "another", "begins_case": True}))
    lost.skip(CASES, document, output)
    assert len(document["rows"]) == 3 and not lost.running(output).exists()
