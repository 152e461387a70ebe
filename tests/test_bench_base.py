"""Two commits in turns: each side is its own package, measured by the harness of this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers_benchmarks import CLOSE, PLAN

from benchmarks import base, bench_lstm, suite

ROOT = Path(__file__).parent.parent

# the other commit refuses stacks, so that one can tell whose package ran
_OTHER = """

_from_torch = from_torch


def from_torch(module):
    if module.num_layers > 1:
        raise RuntimeError("the other commit")
    return _from_torch(module)
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A checkout beside this one."""
    for name in ("fast_s2s", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    # the harness is not taken from there
    shutil.rmtree(tmp_path / "fast_s2s" / "benchmarking")
    with (tmp_path / "fast_s2s" / "convert.py").open("a") as file:
        file.write(_OTHER)
    monkeypatch.setattr(base, "checkout", lambda ref: tmp_path)


def test_both_commits_are_measured_each_by_its_own_package(other):
    cases = base.cases(bench_lstm.lstm_cases(), "v1")
    wanted = [
        next(c for c in cases if c.group == group) for group in ("speech front end", "one step")
    ]
    settings = suite.Settings(PLAN, {})
    with base.Pair("lstm", "v1", 1) as pair:
        (fine,), (broken,) = (list(pair.rows(case, settings)) for case in wanted)
    assert fine["status"] == "measured" and fine["peer"] == "fast_s2s at v1"
    assert len(fine["rounds"]["ratio"]) == PLAN.min_rounds
    assert {0 < max(fine["errors"][side].values()) < CLOSE for side in ("ours", "peer")} == {True}
    assert (broken["status"], broken["side"]) == ("failed", "peer")
    assert "the other commit" in broken["reason"] and broken["errors"]["ours"]


def test_a_process_that_ends_is_said(tmp_path):
    (tmp_path / "fast_s2s").mkdir()
    (tmp_path / "fast_s2s" / "__init__.py").write_text("raise SystemExit(3)\n")
    over = pytest.raises(RuntimeError, match="exit status 3")
    with base.Worker("lstm", tmp_path, 1) as worker, over:
        worker.ask(calls=1, settle_s=0.0)


def test_what_is_no_commit_is_refused():
    with pytest.raises(SystemExit, match="--base: expected a commit, got 'no such ref'"):
        base.checkout("no such ref")


def test_memory_and_cold_starts_have_no_base():
    cases = base.cases(bench_lstm.lstm_cases(), "v1")
    assert {case.kind for case in cases} == {"time"}
    assert {versus.peer for case in cases for versus in case.peers} >= {"fast_s2s at v1"}
