"""The results in a folder: which of them count, and the rows they make together.

A run may lie in several files, because it was split or its slow peers came later. Files of one
suite, machine and commit belong together; of several commits the newest counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_s2s.benchmarking import machine

FORMAT = "fast_s2s benchmark 1"
FOLDER = Path(__file__).parent / "results"

# other files that `gpu.sh` writes
NO_RESULTS = frozenset({"latency.json", "cell.json", "variants.json"})

Row = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """One suite on one machine: its documents, newest first, and their rows."""

    suite: str
    documents: tuple[Document, ...]
    rows: tuple[Row, ...]

    @property
    def machine(self) -> dict[str, Any]:
        return self.documents[0]["machine"]

    @property
    def ceilings(self) -> dict[str, Any]:
        return self.documents[0]["ceilings"]

    def measured(self, **wanted: Any) -> Iterator[Row]:
        """Rows with a figure; `wanted` are values of the row or of its workload."""
        for row in self.rows:
            facts = {**row["workload"], **row}
            matches = all(facts.get(key, _DEFAULTS.get(key)) == v for key, v in wanted.items())
            if row["status"] == "measured" and matches:
                yield row


# of workloads written before these were fields of theirs
_DEFAULTS = {"inputs": None, "bidirectional": False, "proj": 0}


def read(path: Path) -> Document:
    """A document of this format. Raises ValueError for anything else."""
    document = json.loads(path.read_text(encoding="utf-8"))
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT!r}, got {found!r}")
    return document


def suite_of(document: Document) -> str:
    """`lstm` or `decode`; early files do not say."""
    if "suite" in document:
        return document["suite"]
    generates = any(
        "hidden" not in r["workload"] or "vocab" in r["workload"] for r in document["rows"]
    )
    return "decode" if generates else "lstm"


def collect(folder: Path = FOLDER) -> list[Result]:
    """Results of whole measurements, by machine and suite. Quick looks and comparisons of two
    commits are left out.
    """
    groups: dict[tuple[str, int, str], list[Document]] = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name in NO_RESULTS:
            continue
        document = read(path)
        if document["options"]["quick"] or document["options"].get("base"):
            continue
        facts = document["machine"]
        key = (machine.slug(facts), facts["threads"], suite_of(document))
        groups.setdefault(key, []).append(document)
    results = []
    for (_, _, suite), documents in sorted(groups.items(), key=_order):
        documents.sort(key=lambda document: document["machine"]["date"], reverse=True)
        commit = documents[0]["machine"]["commit"]
        current = tuple(d for d in documents if d["machine"]["commit"] == commit)
        results.append(Result(suite, current, tuple(_merged(current))))
    return results


def _order(item: tuple[tuple[str, int, str], Any]) -> tuple[Any, ...]:
    (name, threads, suite), _ = item
    return name, threads, suite != "lstm", suite


def _merged(documents: tuple[Document, ...]) -> list[Row]:
    """A row of each name: the newest, but one that was run before one that was not."""
    rows: dict[str, Row] = {}
    for document in documents:
        for row in document["rows"]:
            known = rows.get(row["name"])
            if known is None or (known["status"] == "unavailable" != row["status"]):
                rows[row["name"]] = row
    return list(rows.values())
