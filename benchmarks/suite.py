"""From cases to rows: prepare, check, measure, judge. A row is a JSON object; none is dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import machine, memory, peers
from benchmarks.cases import Case, Versus
from benchmarks.harness import (
    Comparison,
    Plan,
    Side,
    Summary,
    Unavailable,
    WrongResult,
    compare,
    gate,
    time_limit,
)
from benchmarks.workloads import TOLERANCE, Problem

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to run the cases.

    ceilings:    of `machine.ceilings`
    limit_s:     for preparing and checking one side, such as compiling it
    slow:        run the peers of `peers.SLOW` too
    memory_runs: processes per side where memory is compared
    """

    plan: Plan
    ceilings: dict[str, Any]
    limit_s: float = 120.0
    slow: bool = False
    memory_runs: int = 3


def case_rows(case: Case, settings: Settings) -> Iterator[Row]:
    """One row per peer: "status" is measured, unavailable, refused (a wrong result) or failed."""
    problem = Problem(case.workload)
    ours: Side | None = None
    errors: dict[str, float] = {}
    failure: Row | None = None
    if case.kind == "time":
        try:
            ours, errors = _prepared(case.ours, problem, settings)
        except Exception as error:
            failure = _failure(error, "ours")
    for versus in case.peers:
        before, meter = machine.load(), machine.OthersMeter()
        if failure:
            outcome = failure
        elif ours:
            outcome = _time_outcome(case, versus, problem, ours, errors, settings)
        else:
            outcome = _memory_outcome(case, versus, settings)
        load = {"before": before, "after": machine.load(), "other_cores": meter.cores()}
        yield {**_head(case, versus), **outcome, "load": load}


def judge(case: Case, versus: Versus, ratio: Summary) -> Row:
    """Whether the median reaches the target and keeps to the floor, and whether the quartile on
    the bad side does too. None without a target.
    """
    if versus.target is None:
        return {"reached": None, "reached_by_quartile": None, "above_floor": None}
    sign, quartile = (1, ratio.p25) if case.kind == "time" else (-1, ratio.p75)
    return {
        "reached": sign * ratio.median >= sign * versus.target,
        "reached_by_quartile": sign * quartile >= sign * versus.target,
        "above_floor": None if versus.floor is None else ratio.median >= versus.floor,
    }


def _head(case: Case, versus: Versus) -> Row:
    return {
        "name": case.row_name(versus),
        "group": case.group,
        "shape": str(case.workload),
        "workload": dataclasses.asdict(case.workload),
        "kind": case.kind,
        "ours": case.ours,
        "peer": versus.peer,
        "target": versus.target,
        "floor": versus.floor,
    }


def _prepared(name: str, problem: Problem, settings: Settings) -> tuple[Side, dict[str, float]]:
    if name in peers.SLOW and not settings.slow:
        raise Unavailable("slow to prepare; runs with --compile")
    # computed before the limit starts
    expected = problem.expected
    with time_limit(settings.limit_s, f"{name}: the first call"):
        side = peers.PEERS[name](problem)
        return side, gate(side, expected, TOLERANCE[problem.workload.dtype])


def _time_outcome(
    case: Case,
    versus: Versus,
    problem: Problem,
    ours: Side,
    errors: dict[str, float],
    settings: Settings,
) -> Row:
    try:
        peer, peer_errors = _prepared(versus.peer, problem, settings)
        comparison = compare(ours, peer, settings.plan)
    except Exception as error:
        failure = _failure(error, "peer")
        return {**failure, "errors": {"ours": errors, **failure.get("errors", {})}}
    ratio = Summary.of(comparison.ratios)
    seconds = Summary.of(comparison.ours)
    return {
        "status": "measured",
        "errors": {"ours": errors, "peer": peer_errors},
        "seconds": {
            "ours": dataclasses.asdict(seconds),
            "peer": dataclasses.asdict(Summary.of(comparison.peer)),
        },
        "ratio": dataclasses.asdict(ratio),
        **judge(case, versus, ratio),
        "achieved": _achieved(problem, seconds.median, settings.ceilings),
        "rounds": _rounds(comparison),
    }


def _rounds(comparison: Comparison) -> Row:
    """What was timed, block by block, for whoever doubts the medians."""
    return {**dataclasses.asdict(comparison), "ratio": comparison.ratios}


def _memory_outcome(case: Case, versus: Versus, settings: Settings) -> Row:
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    names, side = {"ours": case.ours, "peer": versus.peer}, "ours"
    try:
        for _ in range(settings.memory_runs):
            for side, name in names.items():
                runs[side].append(memory.peak_bytes(name, case.workload, settings.limit_s))
    except Exception as error:
        return _failure(error, side)
    peaks = {side: [run["bytes"] for run in found] for side, found in runs.items()}
    medians = {side: Summary.of(found) for side, found in peaks.items()}
    ratio = Summary.of([a / b for a, b in zip(*peaks.values(), strict=True)])
    cells = case.workload.steps * case.workload.batch * case.workload.hidden
    return {
        "status": "measured",
        "errors": {side: found[0]["errors"] for side, found in runs.items()},
        "bytes": {side: dataclasses.asdict(summary) for side, summary in medians.items()},
        # of steps x rows x hidden units
        "bytes_per_cell": {side: summary.median / cells for side, summary in medians.items()},
        "ratio": dataclasses.asdict(ratio),
        **judge(case, versus, ratio),
        "rounds": peaks,
    }


def _achieved(problem: Problem, seconds: float, ceilings: dict[str, Any]) -> Row:
    """Our rate of arithmetic and, in inference, of reading weights, beside the ceilings."""
    workload = problem.workload
    gflops = workload.flops(problem.tokens) / seconds / 1e9
    achieved: Row = {"gflops": gflops, "of_gemm": gflops / ceilings["gemm_gflops"]}
    if not workload.training:
        size = workload.layers * 8 * workload.hidden**2 * workload.torch_dtype.itemsize
        key, ceiling = machine.stream_ceiling(ceilings, size)
        gbs = workload.weight_bytes() / seconds / 1e9
        achieved |= {"gbs": gbs, "stream_megabytes": int(key), "of_stream": gbs / ceiling}
    return achieved


def _failure(error: Exception, side: str) -> Row:
    """The row of a side that did not get as far as being timed."""
    if isinstance(error, Unavailable):
        return {"status": "unavailable", "side": side, "reason": str(error)}
    if isinstance(error, WrongResult):
        return {
            "status": "refused",
            "side": side,
            "reason": str(error),
            "errors": {side: error.errors},
        }
    first = (str(error).strip() or "no message").splitlines()[0]
    return {"status": "failed", "side": side, "reason": f"{type(error).__name__}: {first}"}
