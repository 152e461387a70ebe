"""The CPU LSTM beside its peers: `python -m benchmarks.bench_lstm`.

Prints a Markdown table and writes JSON after every row, so that Ctrl-C loses at most one;
`--resume` goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, report
from benchmarks.cases import Case, lstm_cases, select
from benchmarks.harness import QUICK, Plan
from benchmarks.results import FOLDER as RESULTS
from benchmarks.results import FORMAT
from benchmarks.suite import Settings, case_rows
from fast_s2s.serialization import atomic_write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    text = options.filter.casefold()
    cases = select(lstm_cases(), lambda name: text in name.casefold())
    if not cases:
        _parser().error(f"--filter: no row has {options.filter!r} in its name; --list shows them")
    if options.list:
        print("\n".join(case.row_name(versus) for case in cases for versus in case.peers))
        return 0
    torch.set_num_threads(options.threads)
    if options.resume:
        document, output = _resumed(options), options.output or options.resume
        done = {row["name"] for row in document["rows"]}
        cases = select(cases, lambda name: name not in done)
    else:
        document = _new_document(options)
        output = options.output or _default_output(document["machine"], options)
    output.parent.mkdir(parents=True, exist_ok=True)
    _say(f"{machine.line(document['machine'])}\n{report.ceilings_line(document['ceilings'])}")
    settings = _settings(options, document["ceilings"])
    try:
        measure(cases, settings, document, output)
    except KeyboardInterrupt:
        _say("interrupted; what was measured is kept")
    print(report.markdown(document))
    _say(f"written: {output}")
    if not document["complete"]:
        return 130
    return int(any(row["status"] in ("refused", "failed") for row in document["rows"]))


def measure(cases: list[Case], settings: Settings, document: dict[str, Any], output: Path) -> None:
    """Append a row per peer to the document, and write it to `output` after each."""
    progress = _Progress(cases, settings.plan)
    for case in cases:
        for row in case_rows(case, settings):
            document["rows"].append(row)
            atomic_write_json(output, document)
            progress.step(case, report.progress(row))
    document["complete"] = True
    atomic_write_json(output, document)


class _Progress:
    """Rows done, and the time left by the rows' estimated cost and the speed so far."""

    def __init__(self, cases: list[Case], plan: Plan) -> None:
        self._plan = plan
        self._total = sum(self._cost(case) * len(case.peers) for case in cases)
        self._count = sum(len(case.peers) for case in cases)
        self._done, self._spent = 0, 0.0
        self._begin = time.perf_counter()
        _say(f"{self._count} rows, about {_clock(self._total)}")

    def _cost(self, case: Case) -> float:
        call_s = case.workload.flops(case.workload.steps * case.workload.batch) / 5e10
        calls = 2 * (self._plan.min_rounds + 1) * (self._plan.min_calls + 1)
        # at least the budget, and starting processes where memory is measured
        return max(self._plan.budget_s + 0.5, calls * call_s) + 20 * (case.kind == "memory")

    def step(self, case: Case, text: str) -> None:
        self._done += 1
        self._spent += self._cost(case)
        elapsed = time.perf_counter() - self._begin
        left = elapsed / self._spent * (self._total - self._spent)
        clock = f"{_clock(elapsed)}, about {_clock(left)} left"
        _say(f"[{self._done}/{self._count}] {text} ({clock})")


def _new_document(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "suite": "lstm",
        "machine": machine.describe(),
        "ceilings": machine.ceilings(options.quick),
        "options": _recorded(options),
        "complete": False,
        "rows": [],
    }


def _recorded(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "quick": options.quick,
        "filter": options.filter,
        "compile": options.compile,
        "plan": dataclasses.asdict(_plan(options)),
    }


def _resumed(options: argparse.Namespace) -> dict[str, Any]:
    """The document of an earlier run of the same program on the same machine, to be added to."""
    document = json.loads(options.resume.read_text(encoding="utf-8"))
    now = machine.describe()
    before = {**document["machine"], **document["options"], "format": document["format"]}
    wanted = {**{key: now[key] for key in _SAME}, **_recorded(options), "format": FORMAT}
    for key, value in wanted.items():
        if before[key] != value:
            raise SystemExit(f"--resume: {key} was {before[key]!r} and is now {value!r}")
    document["complete"] = False
    return document


# facts of the machine that parts of one result must agree in
_SAME = ("cpu", "cores", "threads", "isa", "torch", "commit")


def _settings(options: argparse.Namespace, ceilings: dict[str, Any]) -> Settings:
    return Settings(
        plan=_plan(options),
        ceilings=ceilings,
        limit_s=options.limit,
        slow=options.compile,
        memory_runs=1 if options.quick else 3,
    )


def _plan(options: argparse.Namespace) -> Plan:
    return QUICK if options.quick else Plan(budget_s=options.budget)


def _default_output(facts: dict[str, Any], options: argparse.Namespace) -> Path:
    # a partial run does not replace a full one of the same day
    parts = [datetime.now().date().isoformat(), machine.slug(facts)]
    parts += ["quick"] if options.quick else []
    parts += ["partial"] if options.filter else []
    return RESULTS / f"{'-'.join(parts)}.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_lstm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, no evidence")
    parser.add_argument("--filter", default="", metavar="TEXT", help="rows with TEXT in the name")
    parser.add_argument("--budget", type=float, default=5.0, metavar="SECONDS", help="for each row")
    parser.add_argument("--threads", type=_positive, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="default: benchmarks/results"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE.json", help="measure the rows this result lacks"
    )
    parser.add_argument("--compile", action="store_true", help="peers under torch.compile too")
    parser.add_argument(
        "--limit", type=float, default=120.0, metavar="SECONDS", help="to prepare and check a side"
    )
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
