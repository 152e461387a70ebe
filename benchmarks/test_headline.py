"""Headline cases for pytest-benchmark: `pytest benchmarks/ --benchmark-only`.

Groups hold one shape, so that `--benchmark-compare` and its tables set the sides beside each other.
For ratios use `fast-s2s bench` or `python -m benchmarks lstm`, which let the sides take turns.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fast_s2s.benchmarking.cases import Case
from fast_s2s.benchmarking.harness import Unavailable, gate, no_garbage_collection
from fast_s2s.benchmarking.headline import headline_cases, kind_of

PAIRS = [
    (case, side)
    for case in headline_cases()
    for side in (case.ours, *(versus.peer for versus in case.peers))
]


@pytest.mark.parametrize(
    ("case", "name"), [pytest.param(*pair, id=f"{pair[0].group}-{pair[1]}") for pair in PAIRS]
)
def test_speed(benchmark: Any, case: Case, name: str) -> None:
    kind = kind_of(case, torch.device("cpu"))
    problem = kind.problem(case.workload)
    try:
        side, expected = kind.prepare(name, problem)
    except Unavailable as error:
        pytest.skip(str(error))
    benchmark.group = f"{case.group}: {case.workload}"
    benchmark.extra_info["errors"] = gate(side, expected, kind.tolerance(problem))
    with side.around(), no_garbage_collection():
        benchmark(side.call)
