"""The harness of the benchmarks: what it refuses, how the sides take turns, what it counts."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import subprocess
import sys
import time

import pytest
import torch
from helpers_benchmarks import CLOSE, PLAN, value_side

from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.harness import (
    Comparison,
    Plan,
    Side,
    Summary,
    Unavailable,
    WrongResult,
    calls_per_block,
    compare,
    gate,
    time_block,
    time_limit,
)


def test_a_wrong_gradient_alone_is_refused():
    right = {"y": torch.ones(3), "d_x": torch.ones(3)}
    wrong = value_side(y=torch.ones(3), d_x=torch.tensor([1.0, 1.0, 1.001]))
    with pytest.raises(WrongResult, match="d_x 1.0e-03") as caught:
        gate(wrong, right, CLOSE)
    assert caught.value.errors["y"] == 0


@pytest.mark.parametrize(
    "value", [torch.tensor([1.0, math.nan]), torch.ones(3), torch.tensor([1.0, math.inf])]
)
def test_not_a_number_infinity_and_a_wrong_shape_are_refused(value):
    with pytest.raises(WrongResult, match="y"):
        gate(value_side(y=value), {"y": torch.ones(2)}, CLOSE)


def test_a_missing_result_is_refused_unless_announced():
    right = {"y": torch.ones(2), "h_n": torch.ones(2)}
    side = value_side(y=torch.ones(2))
    with pytest.raises(WrongResult, match="no result h_n"):
        gate(side, right, CLOSE)
    announced = Side(side.name, side.call, side.results, omits=frozenset({"h_n"}))
    assert gate(announced, right, CLOSE) == {"y": 0.0}
    nothing = Side("side", dict, lambda raw: raw, omits=frozenset(right))
    with pytest.raises(WrongResult, match="no results"):
        gate(nothing, right, CLOSE)


def test_preparing_has_a_time_limit():
    over = pytest.raises(Unavailable, match=r"sleeping takes more than 0\.05 s")
    with over, time_limit(0.05, "sleeping"):
        time.sleep(5)
    # no alarm is left behind
    with time_limit(0.05, "nothing"):
        pass
    time.sleep(0.1)


def test_sides_take_turns_and_the_first_changes():
    log: list[str] = []
    result = compare(value_side("ours", log), value_side("peer", log), PLAN)
    blocks = [log[0]] + [b for a, b in zip(log, log[1:], strict=False) if a != b]
    # warm-up of both, then four rounds; neighbouring blocks of one side run together here
    assert blocks == ["ours", "peer", "ours", "peer", "ours", "peer", "ours"]
    # each block drops a call and times two; so does the warm-up, after a look at one call
    assert log.count("ours") == log.count("peer") == (4 + 1) * (2 + 1) + 2
    assert len(result.ours) == len(result.peer) == len(result.ratios) == 4


@pytest.fixture
def advance(monkeypatch):
    """A clock that stands still but for advance(seconds)."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_the_ratio_is_peer_over_ours(advance):
    ours, peer = (Side("side", lambda s=s: advance(s), dict) for s in (1.0, 4.0))
    result = compare(ours, peer, PLAN)
    assert (result.ours, result.peer, result.ratios) == ([1.0] * 4, [4.0] * 4, [4.0] * 4)
    assert Comparison(1, 1, ours=[2.0, 4.0], peer=[4.0, 2.0]).ratios == [2.0, 0.5]


@pytest.mark.parametrize(("settle", "median"), [(0.0, 2.0), (9.5, 3.0)])
def test_the_first_calls_of_a_block_do_not_count(advance, settle, median):
    waits = iter([9.0, 1.0, 2.0, 3.0, 4.0])
    side = Side("side", lambda: advance(next(waits)), dict)
    assert time_block(side, 3, settle) == median


def test_blocks_last_long_enough(advance):
    side = Side("side", lambda: advance(0.003), dict)
    assert calls_per_block(side, Plan()) == 7
    assert calls_per_block(side, Plan(min_calls=9)) == 9
    assert calls_per_block(side, Plan(max_calls=5)) == 5
    # a long call is a block of its own
    assert calls_per_block(Side("side", lambda: advance(0.2), dict), Plan()) == 1


def test_rounds_go_on_until_the_budget_is_spent(advance):
    side = Side("side", lambda: advance(0.01), dict)
    # a block settles for one call and times three
    plan = Plan(budget_s=1.0, min_rounds=2, max_rounds=50)
    assert len(compare(side, side, plan).ours) == 13
    assert len(compare(side, side, dataclasses.replace(plan, max_rounds=5)).ours) == 5


def test_blocks_run_in_their_context_without_garbage_collection():
    inside, seen = [], []

    @contextlib.contextmanager
    def around():
        inside.append(True)
        yield
        inside.pop()

    side = Side("side", lambda: seen.append((bool(inside), gc.isenabled())), dict, around)
    compare(side, side, PLAN)
    assert set(seen) == {(True, False)}
    assert gc.isenabled() and not inside


def test_quartiles():
    assert Summary.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Summary(3.0, 2.0, 4.0)
    assert Summary.of([2.0]) == Summary(2.0, 2.0, 2.0)


def test_processes_of_the_benchmark_are_no_load():
    # it ends by itself after a processor second, and says so; it is not yet waited for
    work = "import time\nwhile time.process_time() < 1: pass\nprint(flush=True); input()"
    meter = machine.OthersMeter()
    if meter.cores() is None:
        pytest.skip("this system does not tell what its processors do")
    before = machine.OthersMeter._clocks()
    child = subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        child.stdout.readline()
        after = machine.OthersMeter._clocks()
    assert after[2] - before[2] > 0.9


def test_processors_without_a_name(tmp_path, monkeypatch):
    arm = "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp bf16\nCPU part\t: 0xd40\n\n"
    (tmp_path / "cpuinfo").write_text(2 * arm)
    lscpu = tmp_path / "lscpu"
    lscpu.write_text("#!/bin/sh\necho 'Vendor ID: ARM'; echo 'Model name:    Neoverse-V1'\n")
    lscpu.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    facts = machine._cpu_facts(str(tmp_path / "cpuinfo"))
    assert facts["model name"] == "Neoverse-V1" and facts["CPU part"] == "0xd40"
    assert machine._cpu_flags(facts) == ["asimd", "asimddp", "bf16"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    facts = machine._cpu_facts(str(tmp_path / "cpuinfo"))
    assert "model name" not in facts
    assert machine._cpu_facts(str(tmp_path / "nothing")) == {} and machine._cpu_flags({}) == []
