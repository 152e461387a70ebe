"""Whole generations on the CPU beside their peers: `python -m benchmarks.bench_decode`.

Prints a Markdown table and writes JSON after every row, so that Ctrl-C loses at most one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import g2p_sides, machine, report
from benchmarks.bench_lstm import _positive, _say
from benchmarks.cases import Case, Versus, select
from benchmarks.decode_sides import OURS, SIDES, DecodeProblem, Generation, unavailable_unless
from benchmarks.harness import QUICK, Plan, Side, Summary, compare, gate, time_limit
from benchmarks.results import FOLDER as RESULTS
from benchmarks.results import FORMAT
from benchmarks.suite import _failure, _rounds, judge
from fast_s2s.serialization import atomic_write_json

# largest error over largest value: one other token is more than that
TOLERANCE = 3e-5


def decode_cases() -> list[Case]:
    """Every case, in the order of its table."""
    greedy = Generation(2, 512, 1000, 1)
    loop = "LSTMCell loop"
    cases = [
        Case(
            "generation",
            greedy,
            (
                Versus("nn.LSTM loop", 25),
                Versus(loop, 5),
                Versus(f"{loop}, torch.compile", 5),
                Versus("ONNX Runtime step loop", 5),
                # within 1.5 times of it
                Versus("streaming the weights", 1 / 1.5),
            ),
        ),
        Case("generation", Generation(1, 128, 100, 1), (Versus(loop, 5), Versus("nn.LSTM loop"))),
        Case("generation", Generation(1, 128, 100, 32), (Versus(loop, 5), Versus("nn.LSTM loop"))),
        Case("generation", Generation(2, 512, 1000, 32), (Versus(loop, 1.5),)),
    ]
    for sizes, target in (((1, 128, 100, 1), 5), ((2, 512, 1000, 1), 3), ((1, 128, 100, 32), 2)):
        peers = (Versus("plain torch beam", target),)
        cases.append(Case("beam search", Generation(*sizes, beams=5), peers))
    for dtype, target in (("int8", 2.5), ("bfloat16", 1.6)):
        cases.append(Case("stored as", greedy, (Versus(OURS, target),), f"{OURS} {dtype}"))
    for batch, target in ((1, 8), (64, 20)):
        workload = g2p_sides.Words(batch)
        for name in (OURS, f"{OURS} int8"):
            cases.append(Case("words", workload, (Versus("g2p-en 2.1.0", target),), name))
    return cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    text = options.filter.casefold()
    cases = select(decode_cases(), lambda name: text in name.casefold())
    if not cases:
        _parser().error(f"--filter: no row has {options.filter!r} in its name; --list shows them")
    if options.list:
        print("\n".join(case.row_name(versus) for case in cases for versus in case.peers))
        return 0
    torch.set_num_threads(options.threads)
    plan = QUICK if options.quick else Plan(budget_s=options.budget)
    document: dict[str, Any] = {
        "format": FORMAT,
        "suite": "decode",
        "machine": machine.describe(),
        "ceilings": machine.ceilings(options.quick),
        "options": {"quick": options.quick, "filter": options.filter, "compile": options.compile},
        "complete": False,
        "rows": [],
    }
    name = "-".join([datetime.now().date().isoformat(), machine.slug(document["machine"])])
    output = options.output or RESULTS / f"decode-{name}{'-quick' * options.quick}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        for case in cases:
            for row in case_rows(case, plan, options.limit, options.compile):
                document["rows"].append(row)
                atomic_write_json(output, document)
                _say(report.progress(row))
        document["complete"] = True
        atomic_write_json(output, document)
    except KeyboardInterrupt:
        _say("interrupted; what was measured is kept")
    print(report.markdown(document))
    _say(f"written: {output}")
    if not document["complete"]:
        return 130
    return int(any(row["status"] in ("refused", "failed") for row in document["rows"]))


def case_rows(case: Case, plan: Plan, limit_s: float, slow: bool) -> Iterator[dict[str, Any]]:
    """One row per peer, as `suite.case_rows` gives them."""
    words = isinstance(case.workload, g2p_sides.Words)
    problem: Any = case.workload if words else DecodeProblem(case.workload)
    for versus in case.peers:
        before, meter = machine.load(), machine.OthersMeter()
        head = {
            "name": case.row_name(versus),
            "group": case.group,
            "shape": str(case.workload),
            "workload": dataclasses.asdict(case.workload),
            "kind": "time",
            "ours": case.ours,
            "peer": versus.peer,
            "target": versus.target,
            "floor": versus.floor,
        }
        errors: dict[str, dict[str, float]] = {}
        which = "ours"
        try:
            sides = []
            for which, side_name in (("ours", case.ours), ("peer", versus.peer)):
                side, errors[which] = _prepared(side_name, problem, limit_s, slow)
                sides.append(side)
            outcome = _measured(case, versus, sides, plan)
        except Exception as error:
            outcome = _failure(error, which)
        load = {"before": before, "after": machine.load(), "other_cores": meter.cores()}
        yield {**head, "errors": errors, **outcome, "load": load}


def _prepared(name: str, problem: Any, limit_s: float, slow: bool) -> tuple[Side, dict[str, float]]:
    unavailable_unless(name, slow)
    makers: Any = g2p_sides.SIDES if isinstance(problem, g2p_sides.Words) else SIDES
    with time_limit(limit_s, f"{name}: the first call"):
        side, expected = makers[name](problem)
        return side, {} if expected is None else gate(side, expected, TOLERANCE)


def _measured(case: Case, versus: Versus, sides: list[Side], plan: Plan) -> dict[str, Any]:
    comparison = compare(sides[0], sides[1], plan)
    ratio, seconds = Summary.of(comparison.ratios), Summary.of(comparison.ours)
    return {
        "status": "measured",
        "seconds": {
            "ours": dataclasses.asdict(seconds),
            "peer": dataclasses.asdict(Summary.of(comparison.peer)),
        },
        "ratio": dataclasses.asdict(ratio),
        **judge(case, versus, ratio),
        "rounds": _rounds(comparison),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_decode", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, no evidence")
    parser.add_argument("--filter", default="", metavar="TEXT", help="rows with TEXT in the name")
    parser.add_argument("--threads", type=_positive, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="default: benchmarks/results"
    )
    parser.add_argument("--compile", action="store_true", help="peers under torch.compile too")
    parser.add_argument("--budget", type=float, default=5.0, metavar="SECONDS", help="for each row")
    parser.add_argument(
        "--limit", type=float, default=120.0, metavar="SECONDS", help="to prepare and check a side"
    )
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
