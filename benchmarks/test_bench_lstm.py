"""Headline cases for pytest-benchmark: `pytest benchmarks/ --benchmark-only`.

Groups hold one shape, so that `--benchmark-compare` and its tables set the sides beside each other.
For ratios use `python -m benchmarks.bench_lstm`, which lets the sides take turns.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.cases import Case, lstm_cases
from benchmarks.harness import Unavailable, gate, no_garbage_collection
from benchmarks.peers import PEERS, SLOW
from benchmarks.workloads import TOLERANCE, Problem


def headlines() -> list[tuple[Case, str]]:
    """Our side and the peers with a target, of the first timed case of each group."""
    groups: dict[str, Case] = {}
    for case in lstm_cases():
        if case.kind == "time":
            groups.setdefault(case.group, case)
    return [
        (case, side)
        for case in groups.values()
        for side in (case.ours, *(peer.peer for peer in case.peers if peer.target is not None))
        if side not in SLOW
    ]


@pytest.mark.parametrize(
    ("case", "name"), [pytest.param(*pair, id=f"{pair[0].group}-{pair[1]}") for pair in headlines()]
)
def test_speed(benchmark: Any, case: Case, name: str) -> None:
    problem = Problem(case.workload)
    try:
        side = PEERS[name](problem)
    except Unavailable as error:
        pytest.skip(str(error))
    benchmark.group = f"{case.group}: {case.workload}"
    benchmark.extra_info["errors"] = gate(side, problem.expected, TOLERANCE[case.workload.dtype])
    with side.around(), no_garbage_collection():
        benchmark(side.call)
