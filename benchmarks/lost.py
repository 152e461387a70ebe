"""Rows that a process did not outlive: a kernel that hangs is ended with its process alone."""

from __future__ import annotations

import contextlib
import faulthandler
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fast_s2s.benchmarking.cases import Case
from fast_s2s.benchmarking.rows import failed, head
from fast_s2s.serialization import atomic_write_json


@contextlib.contextmanager
def watched(name: str, begins_case: bool, output: Path, hung_s: float | None) -> Iterator[None]:
    """While the row is measured its name lies beside the output, in what `running` says.

    begins_case: nothing of the row's case has been prepared in this process
    hung_s:      the process shows where it is and ends, if the row takes longer; nothing in Python
                 could interrupt a wait for the GPU
    """
    running(output).write_text(json.dumps({"row": name, "begins_case": begins_case}) + "\n")
    if hung_s is not None:
        faulthandler.dump_traceback_later(hung_s, exit=True)
    try:
        yield
    finally:
        if hung_s is not None:
            faulthandler.cancel_dump_traceback_later()
        running(output).unlink(missing_ok=True)


def running(output: Path) -> Path:
    """Where the row being measured is named: `gpu.running` beside `gpu.json`."""
    return output.with_suffix(".running")


def skip(cases: list[Case], document: dict[str, Any], output: Path) -> None:
    """Rows of failures for the row in which an earlier process ended, if it did. For the others of
    its case, too, where it began the case: what hung may be our side, which all share.
    """
    if not running(output).exists():
        return
    lost = json.loads(running(output).read_text())
    done = {row["name"] for row in document["rows"]}
    error = RuntimeError(f"a process was killed, hung or crashed in {lost['row']}")
    for case in cases:
        names = {case.row_name(versus): versus for versus in case.peers}
        if lost["row"] not in names:
            continue
        skipped = names if lost["begins_case"] else [lost["row"]]
        side = "ours" if lost["begins_case"] else "peer"
        for name in skipped:
            if name not in done:
                document["rows"].append({**head(case, names[name]), **failed(error, side)})
    atomic_write_json(output, document)
    running(output).unlink()
