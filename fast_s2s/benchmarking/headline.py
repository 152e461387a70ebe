"""A few cases that say in a minute what fast_s2s is worth on a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from fast_s2s.benchmarking import generation, machine, sides
from fast_s2s.benchmarking.cases import Case, Versus, select
from fast_s2s.benchmarking.generation import Greedy, GreedyProblem
from fast_s2s.benchmarking.harness import Plan
from fast_s2s.benchmarking.rows import Kind, Prepared, Row, time_rows
from fast_s2s.benchmarking.workloads import Problem, Workload

FORMAT = "fast_s2s benchmark 1"
# of a row's time, what is left for rounds when both sides are prepared and checked
_TIMED = 0.6


def headline_cases(dtype: str = "float32") -> list[Case]:
    """The cases, the LSTM's in `dtype`; generation is in float32, which chooses the same tokens."""
    loop = Versus("LSTMCell loop")
    nn_lstm = (Versus("nn.LSTM"),)
    ragged = Workload(100, 32, 256, dtype=dtype, training=True, ragged=True)
    return [
        Case("one step", Workload(1, 1, 512, layers=2, dtype=dtype), (*nn_lstm, loop)),
        Case("speech front end", Workload(16, 1, 64, dtype=dtype), nn_lstm),
        Case("64 steps", Workload(64, 1, 512, dtype=dtype), nn_lstm),
        Case(
            "training, ragged",
            ragged,
            (Versus("nn.LSTM PackedSequence"), Versus("nn.LSTM padded")),
        ),
        Case("generation", Greedy(2, 512, 1000, 1, 50), (Versus("nn.LSTM loop"), loop)),
    ]


def new_document(device: torch.device, dtype: str) -> dict[str, Any]:
    """A result without rows."""
    facts = machine.describe()
    if device.type == "cuda":
        facts |= machine.describe_gpu(device)
    return {
        "format": FORMAT,
        "suite": "headline",
        "machine": facts,
        "ceilings": None,
        "options": {"quick": True, "device": str(device), "dtype": dtype},
        "complete": False,
        "rows": [],
    }


def measure(cases: list[Case], device: torch.device, seconds: float) -> Iterator[Row]:
    """A row for each case and peer; `seconds` for all of them, roughly."""
    count = sum(len(case.peers) for case in cases)
    plan = Plan(budget_s=seconds * _TIMED / count, warm_up_s=0.05, min_rounds=3)
    for case in cases:
        yield from time_rows(case, kind_of(case, device), plan)


def kind_of(case: Case, device: torch.device) -> Kind:
    """How the case's workload is prepared on a device."""
    problem: Callable[[Any], Any]
    if isinstance(case.workload, Greedy):
        problem = _on(GreedyProblem, device)
        return Kind(problem, generation.prepare, lambda _: 0.0)
    problem = _on(Problem, device)
    return Kind(problem, _prepare_lstm, lambda found: found.tolerance)


def _on(make: Callable[..., Any], device: torch.device) -> Callable[[Any], Any]:
    return lambda workload: make(workload, device)


def _prepare_lstm(name: str, problem: Problem) -> Prepared:
    return sides.SIDES[name](problem), problem.expected


def said(row: Row) -> str:
    """A row as a sentence."""
    case = f"{row['group']} ({row['shape']})"
    if row["status"] != "measured":
        return f"{case}: beside {row['peer']} {row['status']}: {row['reason']}"
    ratio, times = row["ratio"], row["seconds"]
    ours, peer = (_milliseconds(times[side]["median"]) for side in ("ours", "peer"))
    word = "as fast as" if ratio["p25"] <= 1 <= ratio["p75"] else "faster than"
    factor = ratio["median"]
    if word == "faster than" and factor < 1:
        word, factor = "slower than", 1 / factor
    amount = "" if word == "as fast as" else f"{factor:.2f} x "
    return f"{case}: fast_s2s is {amount}{word} {row['peer']}: {ours} and {peer}"


def disturbance(row: Row) -> str:
    """What else ran meanwhile, if it was enough to make the figures doubtful; else empty."""
    cores = row["load"]["other_cores"] or 0.0
    if cores <= machine.DISTURBED:
        return ""
    return f"other programs kept {cores:.1f} cores busy meanwhile: no evidence"


def error_line(row: Row) -> str:
    """Largest errors of both sides against float64."""
    found = row["errors"]
    worst = (max(found[side].values()) for side in ("ours", "peer") if found.get(side))
    return " and ".join(f"{value:.0e}" for value in worst)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


__all__ = [
    "FORMAT",
    "disturbance",
    "error_line",
    "headline_cases",
    "measure",
    "new_document",
    "said",
    "select",
]
