"""The report's part about GPUs, from the files that `benchmarks/gpu.sh` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NONE = """## GPU

Not yet measured. `benchmarks/gpu.sh` measures on a machine with a GPU; its output, put into
`benchmarks/results/<device>/`, appears here."""


def collect(folder: Path) -> list[dict[str, Any]]:
    """What `gpu_lstm` wrote on GPUs, from the folders below, by name."""
    documents = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/lstm.json"))
    ]
    return [document for document in documents if document["times_mean_something"]]


def sections(documents: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown for each GPU; that nothing is measured where there is none."""
    if not documents:
        yield _NONE
    for document in documents:
        yield (
            f"## GPU: {document['device']}\n\ntorch {document['torch']}, CUDA {document['cuda']}, "
            f"cuDNN {document['cudnn']}. µs per step of one layer, every side that ran; "
            f"{len(document['not_reached'])} cases not reached in the time given."
        )
        names = list(dict.fromkeys(n for entry in document["lstm"] for n in entry["us_per_step"]))
        heads = ("case", *names, "not run")
        lines = [heads, ("---",) * len(heads)]
        for entry in document["lstm"]:
            case, times = entry["case"], entry["us_per_step"]
            shape = "T={steps} B={batch} H={hidden} {dtype}".format(**case)
            shape += " fwd+bwd" if case["train"] else ""
            figures = (f"{times[name]:.3g}" if name in times else "" for name in names)
            failed = "; ".join(f"{name}: {why}" for name, why in entry["errors"].items())
            lines.append((shape, *figures, failed.replace("|", "/")))
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
