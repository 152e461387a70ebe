"""`python -m benchmarks compare old.json new.json`: what became slower or faster.

A change counts if it is larger than both the threshold and the spread of the two measurements, and
if it shows against the other side of the row too: that one ran in turns with ours and did not
change, so what slowed both was the machine.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import OURS
from benchmarks.results import Document, Row, read, suite_of
from fast_s2s.benchmarking import machine

# facts without which two results cannot be compared, and those that may be what changed
_MUST, _MAY = ("cpu", "cores", "threads", "isa"), ("torch", "python", "numpy")


@dataclass(frozen=True)
class Change:
    """A row's ours in the new result over ours in the old; more is slower, or more memory.

    kind:  slower, faster, same, broken (no figure any more), mended, missing, added or
           uncertain (a change, but one of the two was measured on a busy machine)
    limit: relative change that had to be exceeded
    """

    name: str
    kind: str
    factor: float = 1.0
    limit: float = 0.0
    text: str = ""

    def __str__(self) -> str:
        if self.kind in ("slower", "faster", "uncertain"):
            figures = f"{self.factor - 1:+.1%} (counts from {self.limit:.1%})"
            return f"{self.kind}: {self.name}: {figures}{self.text}"
        return f"{self.kind}: {self.name}{self.text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing became slower, 1 if something did, 2 if the results cannot be compared."""
    options = _parser().parse_args(arguments)
    try:
        old, new = read(options.old), read(options.new)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    different = list(obstacles(old, new))
    for text in different:
        print(f"compare: {text}", file=sys.stderr)
    if different and not options.anyway:
        print("compare: not comparable; --anyway compares all the same", file=sys.stderr)
        return 2
    for text in warnings(old, new):
        print(f"warning: {text}", file=sys.stderr)
    print(f"old: {machine.line(old['machine'])}\nnew: {machine.line(new['machine'])}")
    found = list(changes(old, new, options.threshold))
    for change in found:
        if options.all or change.kind != "same":
            print(change)
    counts = {kind: sum(change.kind == kind for change in found) for kind in _KINDS}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no rows")
    return int(bool(counts["slower"] or counts["broken"]))


_KINDS = ("broken", "slower", "uncertain", "faster", "mended", "same", "missing", "added")


def obstacles(old: Document, new: Document) -> Iterator[str]:
    """Why the two cannot be compared."""
    if suite_of(old) != suite_of(new):
        yield f"results of {suite_of(old)} and of {suite_of(new)}"
    yield from _differences(old, new, _MUST)


def warnings(old: Document, new: Document) -> Iterator[str]:
    """What else than the code may have made the change."""
    yield from _differences(old, new, _MAY)
    for name, document in (("old", old), ("new", new)):
        if document["options"]["quick"]:
            yield f"the {name} result is of --quick: a look, no evidence"


def changes(old: Document, new: Document, threshold: float = 0.05) -> Iterator[Change]:
    """One for each row of either: the worst first."""
    before, after = ({row["name"]: row for row in doc["rows"]} for doc in (old, new))
    found = [_change(name, before.get(name), row, threshold) for name, row in after.items()]
    found += [Change(name, "missing") for name in before.keys() - after.keys()]
    yield from sorted(found, key=lambda c: (_KINDS.index(c.kind), -c.factor, c.name))


def _change(name: str, old: Row | None, new: Row, threshold: float) -> Change:
    if old is None:
        return Change(name, "added")
    if "measured" not in (old["status"], new["status"]):
        return Change(name, "same")
    if new["status"] != "measured":
        # a peer that is not installed here is no fault of ours
        kind = "missing" if new["status"] == "unavailable" else "broken"
        return Change(name, kind, text=f": {new['status']} ({new['reason']})")
    if old["status"] != "measured":
        return Change(name, "mended" if old["status"] in ("refused", "failed") else "added")
    factor, limit = _factor(old, new, "ours"), _limit(old, new, threshold)
    kind = _judged(factor, limit)
    if kind != "same" and new["kind"] == "time" and not new["peer"].startswith(OURS):
        # the same change, with the machine's own taken out by the other side of the row
        beside = old["ratio"]["median"] / new["ratio"]["median"]
        limit = max(limit, _spread(old["ratio"]), _spread(new["ratio"]))
        if _judged(beside, limit) != kind:
            kind = "same"
    busy = [r for r in (old, new) if (r["load"]["other_cores"] or 0) > machine.DISTURBED]
    if kind != "same" and busy:
        return Change(name, "uncertain", factor, limit, ", measured on a busy machine")
    return Change(name, kind, factor, limit)


def _judged(factor: float, limit: float) -> str:
    # as far as a division goes down what a multiplication goes up
    if abs(math.log(factor)) <= math.log1p(limit):
        return "same"
    return "slower" if factor > 1 else "faster"


def _factor(old: Row, new: Row, side: str) -> float:
    return _summary(new, side)["median"] / _summary(old, side)["median"]


def _limit(old: Row, new: Row, threshold: float) -> float:
    noise = math.hypot(_spread(_summary(old, "ours")), _spread(_summary(new, "ours")))
    return max(threshold, noise)


def _summary(row: Row, side: str) -> dict[str, float]:
    return row["bytes" if row["kind"] == "memory" else "seconds"][side]


def _spread(summary: dict[str, float]) -> float:
    """From quartile to quartile, relative to the median."""
    return (summary["p75"] - summary["p25"]) / summary["median"]


def _differences(old: Document, new: Document, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        before, after = (document["machine"].get(key) for document in (old, new))
        if before != after:
            yield f"{key} was {before!r} and is {after!r}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, metavar="old.json")
    parser.add_argument("new", type=Path, metavar="new.json")
    parser.add_argument(
        "--threshold", type=float, default=0.05, metavar="X", help="least change; default 0.05"
    )
    parser.add_argument("--all", action="store_true", help="rows without a change too")
    parser.add_argument("--anyway", action="store_true", help="results of different machines too")
    return parser
