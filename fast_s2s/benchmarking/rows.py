"""From cases to rows: prepare, check, measure, judge. A row is a JSON object; none is dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.harness import (
    Comparison,
    Plan,
    Side,
    Summary,
    Timer,
    Unavailable,
    WrongResult,
    compare,
    gate,
    time_block,
    time_limit,
)

Row = dict[str, Any]
# a side and the results it shall have; None where it computes nothing
Prepared = tuple[Side, Mapping[str, Tensor] | None]


@dataclass(frozen=True)
class Kind:
    """What rows need to know of workloads of one sort.

    problem:   workload -> tensors and whatever else the sides share
    prepare:   (name of a side, problem) -> the side and what it shall give, or raises Unavailable
    tolerance: problem -> largest error over largest value
    achieved:  (problem, seconds of ours) -> rates beside the machine's ceilings
    observe:   side -> what a call of it does, found outside the timing
    """

    problem: Callable[[Any], Any]
    prepare: Callable[[str, Any], Prepared]
    tolerance: Callable[[Any], float]
    achieved: Callable[[Any, float], Row] = lambda problem, seconds: {}
    observe: Callable[[Side], Row] = lambda side: {}


def time_rows(
    case: Case, kind: Kind, plan: Plan, limit_s: float = 120.0, timer: Timer = time_block
) -> Iterator[Row]:
    """One row per peer: "status" is measured, unavailable, refused (a wrong result) or failed.

    limit_s: for preparing and checking one side, such as compiling it
    """
    problem: Any = None
    ours: Any = None
    errors: dict[str, float] = {}
    failure: Row | None = None
    try:
        problem = kind.problem(case.workload)
        ours, errors = prepared(case.ours, problem, kind, limit_s)
    except Exception as error:
        failure = failed(error, "ours")
    for versus in case.peers:
        with observed() as load:
            outcome = failure
            if outcome is None:
                outcome = _outcome(
                    case, versus, problem, (ours, errors), kind, plan, limit_s, timer
                )
        yield {**head(case, versus), **outcome, "load": load.facts}


class observed:
    """The machine's load before and after, and how busy others kept it, in `facts`."""

    def __init__(self) -> None:
        self.facts: Row = {}

    def __enter__(self) -> observed:
        self._before, self._meter = machine.load(), machine.OthersMeter()
        return self

    def __exit__(self, *_: object) -> None:
        after, cores = machine.load(), self._meter.cores()
        self.facts = {"before": self._before, "after": after, "other_cores": cores}


def judge(case: Case, versus: Versus, ratio: Summary) -> Row:
    """Whether the median reaches the target and keeps to the floor, and whether the quartile on
    the bad side does too. None without a target.
    """
    if versus.target is None:
        return {"reached": None, "reached_by_quartile": None, "above_floor": None}
    sign, quartile = (-1, ratio.p75) if case.kind == "memory" else (1, ratio.p25)
    return {
        "reached": sign * ratio.median >= sign * versus.target,
        "reached_by_quartile": sign * quartile >= sign * versus.target,
        "above_floor": None if versus.floor is None else ratio.median >= versus.floor,
    }


def head(case: Case, versus: Versus) -> Row:
    """What a row says before anything is measured."""
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


def measured(case: Case, versus: Versus, comparison: Comparison) -> Row:
    """The figures of a timed row; every block's too, for whoever doubts the medians."""
    ratio = Summary.of(comparison.ratios)
    return {
        "status": "measured",
        "seconds": {
            "ours": dataclasses.asdict(Summary.of(comparison.ours)),
            "peer": dataclasses.asdict(Summary.of(comparison.peer)),
        },
        "ratio": dataclasses.asdict(ratio),
        **judge(case, versus, ratio),
        "rounds": {**dataclasses.asdict(comparison), "ratio": comparison.ratios},
    }


def failed(error: Exception, side: str) -> Row:
    """The row of a side that did not get as far as being timed."""
    if isinstance(error, Unavailable):
        return {"status": "unavailable", "side": side, "reason": str(error), "errors": {}}
    if isinstance(error, WrongResult):
        reason, errors = str(error), {side: error.errors}
        return {"status": "refused", "side": side, "reason": reason, "errors": errors}
    first = (str(error).strip() or "no message").splitlines()[0]
    reason = f"{type(error).__name__}: {first}"
    return {"status": "failed", "side": side, "reason": reason, "errors": {}}


def prepared(name: str, problem: Any, kind: Kind, limit_s: float) -> tuple[Side, dict[str, float]]:
    """A side whose results are right, and their errors. Raises what says why there is none."""
    with time_limit(limit_s, f"{name}: the first call"):
        side, expected = kind.prepare(name, problem)
        return side, {} if expected is None else gate(side, expected, kind.tolerance(problem))


def _outcome(
    case: Case,
    versus: Versus,
    problem: Any,
    checked: tuple[Side, dict[str, float]],
    kind: Kind,
    plan: Plan,
    limit_s: float,
    timer: Timer,
) -> Row:
    ours, errors = checked
    try:
        peer, peer_errors = prepared(versus.peer, problem, kind, limit_s)
        comparison = compare(ours, peer, plan, timer)
    except Exception as error:
        failure = failed(error, "peer")
        return {**failure, "errors": {"ours": errors, **failure["errors"]}}
    found = measured(case, versus, comparison)
    achieved = kind.achieved(problem, found["seconds"]["ours"]["median"])
    if achieved:
        found["achieved"] = achieved
    observations = {"ours": kind.observe(ours), "peer": kind.observe(peer)}
    if any(observations.values()):
        found["observed"] = observations
    return {**found, "errors": {"ours": errors, "peer": peer_errors}}
