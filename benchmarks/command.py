"""The command line of a suite: measure its cases, print a table, write JSON after every row.

Ctrl-C and `--within` lose at most the row they meet; `--resume` goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import base, lost, report
from benchmarks.results import FOLDER, FORMAT
from benchmarks.suite import Settings, case_rows
from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.cases import Case, select
from fast_s2s.benchmarking.harness import QUICK, Plan
from fast_s2s.benchmarking.rows import Row
from fast_s2s.benchmarking.workloads import Workload
from fast_s2s.serialization import atomic_write_json

Rows = Callable[[Case, Settings], Iterator[Row]]

# as sysexits.h has it for what may go well another time
DEVICE_LOST = 75


class DeviceLost(Exception):
    """What is measured on serves this process no more; another may go on with `--resume`."""


@dataclass(frozen=True)
class Suite:
    """A name, what the help says, and the cases in the order of the table.

    rows:     a case's rows
    facts:    the machine, as `machine.describe`
    ceilings: what it can do at best; whether quickly
    slow:     sides that run only with `--compile`
    """

    name: str
    about: str
    cases: Callable[[], list[Case]]
    rows: Rows = case_rows
    facts: Callable[[], dict[str, Any]] = lambda: machine.describe()
    ceilings: Callable[[bool], dict[str, Any]] = lambda quick: machine.ceilings(quick)
    slow: frozenset[str] = frozenset()


def main(suite: Suite, arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 75 if the device was lost,
    130 after Ctrl-C.
    """
    parser = _parser(suite)
    options = parser.parse_args(arguments)
    cases = suite.cases()
    if options.base and suite.rows is not case_rows:
        parser.error("--base: expected only with lstm and decode")
    if options.base:
        cases = base.cases(cases, options.base)
    text = options.filter.casefold()
    cases = select(cases, lambda name: text in name.casefold())
    if not cases:
        parser.error(f"--filter: no row has {options.filter!r} in its name; --list shows them")
    if options.list:
        print("\n".join(case.row_name(versus) for case in cases for versus in case.peers))
        return 0
    torch.set_num_threads(options.threads)
    document, output = _document(suite, options)
    if options.resume:
        lost.skip(cases, document, output)
    done = {row["name"] for row in document["rows"]}
    cases = select(cases, lambda name: name not in done)
    output.parent.mkdir(parents=True, exist_ok=True)
    say(f"{machine.line(document['machine'])}\n{report.ceilings_line(document['ceilings'])}")
    settings = _settings(options, document["ceilings"])
    try:
        with _rows(suite, options, settings) as rows:
            within = options.within, suite.slow, options.hung
            measure(cases, settings, document, output, rows, *within)
    except KeyboardInterrupt:
        say("interrupted; what was measured is kept")
    except DeviceLost as error:
        say(f"{error}: --resume {output} goes on in another process")
        return DEVICE_LOST
    print(report.markdown(document))
    say(f"written: {output}")
    if not document["complete"]:
        return 130
    return int(any(row["status"] in ("refused", "failed") for row in document["rows"]))


def measure(
    cases: list[Case],
    settings: Settings,
    document: dict[str, Any],
    output: Path,
    rows: Rows = case_rows,
    within_s: float | None = None,
    slow: frozenset[str] = frozenset(),
    hung_s: float | None = None,
) -> None:
    """Append a row per peer to the document, and write it to `output` after each.

    within_s: begin no row that is not expected to end by then
    slow:     sides that compile, or only say that they do not
    hung_s:   end the process in a row that takes longer; none for those of fresh processes, which
              have limits of their own
    """
    costs = [cost(c, settings, versus.peer in slow) for c in cases for versus in c.peers]
    progress = _Progress(costs)
    end = time.perf_counter() + (within_s or float("inf"))
    for case in cases:
        # the rows of a case share what was prepared: another generator for each would do it again
        pending = rows(case, settings)
        most_s = hung_s if case.kind == "time" else None
        for index, versus in enumerate(case.peers):
            if time.perf_counter() + progress.next_s > end:
                say(f"{within_s:g} s are over: --resume {output} goes on")
                return
            with lost.watched(case.row_name(versus), index == 0, output, most_s):
                row = next(pending)
            document["rows"].append(row)
            atomic_write_json(output, document)
            progress.step(report.progress(row))
    document["complete"] = True
    atomic_write_json(output, document)


def cost(case: Case, settings: Settings, slow: bool = False) -> float:
    """Seconds that a row is expected to take; `slow` if its peer has to compile."""
    if slow and not settings.slow:
        return 0.01
    if case.kind != "time":
        # two processes that import torch, and one of them may compile
        return settings.processes * (10.0 + _COMPILE_S * slow)
    plan = settings.plan
    call_s = 0.0
    if isinstance(case.workload, Workload):
        # the float64 check counts as some calls
        call_s = case.workload.flops(case.workload.steps * case.workload.batch) / 2e11
        call_s += case.workload.steps * 1e-5
    # at least the budget, and preparing
    found = plan.budget_s + 0.7 + 2 * (plan.min_rounds + 3) * call_s
    return found + _COMPILE_S * slow


_COMPILE_S = 15.0


class _Progress:
    """Rows done, and the time left by the rows' estimated costs and the speed so far."""

    def __init__(self, costs: list[float]) -> None:
        self._costs = costs
        self._total, self._count = sum(costs), len(costs)
        self._done, self._spent = 0, 0.0
        self._begin = time.perf_counter()
        say(f"{self._count} rows, about {_clock(self._total)}")

    @property
    def next_s(self) -> float:
        """Estimated cost of the row that comes."""
        return self._costs[self._done]

    def step(self, text: str) -> None:
        self._spent += self.next_s
        self._done += 1
        elapsed = time.perf_counter() - self._begin
        left = elapsed / self._spent * (self._total - self._spent)
        clock = f"{_clock(elapsed)}, about {_clock(left)} left"
        share = round(20 * self._spent / self._total)
        bar = "#" * share + "." * (20 - share)
        say(f"[{bar}] {self._done}/{self._count} {text} ({clock})")


@contextlib.contextmanager
def _rows(suite: Suite, options: argparse.Namespace, settings: Settings) -> Iterator[Rows]:
    if not options.base:
        yield suite.rows
        return
    with base.Pair(suite.name, options.base, options.threads) as pair:
        yield pair.rows


def _document(suite: Suite, options: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """What is measured into: a new result, or an earlier one to be added to."""
    if options.resume and options.resume.exists():
        return _resumed(suite, options), options.output or options.resume
    facts = suite.facts()
    document = {
        "format": FORMAT,
        "suite": suite.name,
        "machine": facts,
        "ceilings": suite.ceilings(options.quick),
        "options": _recorded(options),
        "complete": False,
        "rows": [],
    }
    return document, options.output or options.resume or _default_output(suite, facts, options)


def _recorded(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "quick": options.quick,
        "filter": options.filter,
        "compile": options.compile,
        "base": options.base,
        "plan": dataclasses.asdict(_plan(options)),
    }


def _resumed(suite: Suite, options: argparse.Namespace) -> dict[str, Any]:
    """The document of an earlier run of the same program on the same machine, to be added to."""
    document = json.loads(options.resume.read_text(encoding="utf-8"))
    now = suite.facts()
    own = {"format": FORMAT, "suite": suite.name}
    before = {**document["machine"], **document["options"]}
    before |= {key: document.get(key) for key in own}
    wanted = {**{key: now.get(key) for key in _SAME}, **_recorded(options), **own}
    for key, value in wanted.items():
        if before.get(key) != value:
            raise SystemExit(f"--resume: {key} was {before.get(key)!r} and is now {value!r}")
    document["complete"] = False
    return document


# facts of the machine that parts of one result must agree in
_SAME = ("gpu", "cpu", "cores", "threads", "isa", "torch", "commit")


def _settings(options: argparse.Namespace, ceilings: dict[str, Any]) -> Settings:
    return Settings(
        plan=_plan(options),
        ceilings=ceilings,
        limit_s=options.limit,
        slow=options.compile,
        processes=1 if options.quick else 3,
    )


def _plan(options: argparse.Namespace) -> Plan:
    return QUICK if options.quick else Plan(budget_s=options.budget)


def _default_output(suite: Suite, facts: dict[str, Any], options: argparse.Namespace) -> Path:
    # a partial run does not replace a full one of the same day
    parts = [suite.name, datetime.now().date().isoformat(), machine.slug(facts)]
    parts += ["quick"] if options.quick else []
    parts += ["partial"] if options.filter else []
    parts += ["base"] if options.base else []
    # a GPU's results have a folder of their own
    folder = FOLDER / machine.slug(facts) if "gpu" in facts else FOLDER
    return folder / f"{'-'.join(parts)}.json"


def _parser(suite: Suite) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {suite.name}",
        description=f"{suite.about}\n\n{__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, no evidence")
    parser.add_argument("--filter", default="", metavar="TEXT", help="rows with TEXT in the name")
    parser.add_argument("--budget", type=float, default=1.2, metavar="SECONDS", help="for each row")
    parser.add_argument("--threads", type=_positive, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="default: benchmarks/results"
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE.json",
        help="measure the rows that this result lacks; all if there is no such file",
    )
    parser.add_argument(
        "--within", type=float, metavar="SECONDS", help="end after so long; --resume goes on"
    )
    parser.add_argument(
        "--hung",
        type=float,
        metavar="SECONDS",
        help="end with a row that takes longer; --resume goes on behind it",
    )
    parser.add_argument("--compile", action="store_true", help="peers under torch.compile too")
    parser.add_argument(
        "--base", metavar="REF", help="beside the same of another commit, not beside peers"
    )
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


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
