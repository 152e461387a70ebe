"""What the report says of GPUs beside the rows: how long exchanges take there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import Result

NONE = """## GPU

Not yet measured. `benchmarks/gpu.sh` measures on a machine with a GPU; its `gpu.json` and
`latency.json`, put into `benchmarks/results/<device>/`, appear here."""


def collect(folder: Path) -> list[dict[str, Any]]:
    """What `benchmarks.latency` wrote on GPUs, from the folders below, by name."""
    paths = sorted(folder.glob("*/latency.json"))
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [document for document in documents if document["times_mean_something"]]


# as many as one looks at
SHAPES = 40


def calls(result: Result) -> Iterator[str]:
    """A table of what one call of each side asks of the GPU, where the profiler counted it: of the
    first shapes, which are the most valuable; the files have all.
    """
    shapes: dict[str, dict[str, tuple[str, ...]]] = {}
    for row in result.measured(kind="time"):
        for side, found in row.get("observed", {}).items():
            if found:
                shapes.setdefault(row["shape"], {}).setdefault(row[side], _cells(found))
    first = list(shapes.items())[:SHAPES]
    lines = [(shape, side, *cells) for shape, sides in first for side, cells in sides.items()]
    if lines:
        counted = ("launches", "kernels", "copies", "fills", "MiB at most")
        heads = ("shape", "side", *counted, "µs after a flush of L2")
        table = [heads, ("---",) * len(heads), *lines]
        text = "\n".join(f"| {' | '.join(line)} |" for line in table)
        yield f"### Launches, memory and first reads of one call\n\n{_CALLS}\n\n{text}"


_CALLS = (
    "By torch.profiler, outside the timing. Launches are made by the host, where a CUDA graph is "
    "one; kernels, copies and fills run on the GPU. Memory is what torch's allocator gave out at "
    "most during the call, weights and inputs not counted; a CUDA graph holds its own from before. "
    "The time is the median of calls by themselves, each after so much was written that nothing "
    "they read lies in L2; the other tables' calls follow each other."
)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    if "failure" in found:
        return (found["failure"].replace("|", "/"), *[""] * 5)
    numbers = (f"{found[kind]:g}" for kind in ("launches", "kernels", "copies", "fills"))
    flushed = f"{1e6 * found['flushed_seconds']:.4g}" if "flushed_seconds" in found else "–"
    return (*numbers, f"{found['peak_bytes'] / 2**20:.1f}", flushed)


def sections(documents: list[dict[str, Any]]) -> Iterator[str]:
    """A table for each GPU."""
    for document in documents:
        yield f"## Exchanges between blocks: {document['device']}"
        heads = ("exchange", "blocks", "cluster", "ns, median (least–most)")
        lines = [heads, ("---",) * len(heads)]
        for probe in document["probes"]:
            found = probe.get("failure", "").replace("|", "/")
            if "clusters" in probe:
                found = f"{probe['clusters']} clusters"
            elif not found:
                found = "{ns:.0f} ({ns_least:.0f}–{ns_most:.0f})".format(**probe)
            lines.append((probe["name"], str(probe["blocks"]), str(probe["cluster"]), found))
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
