"""What the report says of GPUs beside the rows: how long exchanges take there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NONE = """## GPU

Not yet measured. `benchmarks/gpu.sh` measures on a machine with a GPU; its `gpu.json` and
`latency.json`, put into `benchmarks/results/<device>/`, appear here."""


def collect(folder: Path) -> list[dict[str, Any]]:
    """What `benchmarks.latency` wrote on GPUs, from the folders below, by name."""
    paths = sorted(folder.glob("*/latency.json"))
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [document for document in documents if document["times_mean_something"]]


def sections(documents: list[dict[str, Any]]) -> Iterator[str]:
    """A table for each GPU."""
    for document in documents:
        yield f"## Exchanges between blocks: {document['device']}"
        heads = ("exchange", "blocks", "cluster", "ns, median (least–most)")
        lines = [heads, ("---",) * len(heads)]
        for probe in document["probes"]:
            found = probe.get("failure", "").replace("|", "/")
            if not found:
                found = "{ns:.0f} ({ns_least:.0f}–{ns_most:.0f})".format(**probe)
            lines.append((probe["name"], str(probe["blocks"]), str(probe["cluster"]), found))
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
