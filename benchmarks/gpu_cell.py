"""Triton's cell kernel alone against memory bandwidth: `python -m benchmarks.gpu_cell FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_gpu import DEVICE
from fast_s2s.benchmarking.harness import QUICK, Plan, Side, compare
from fast_s2s.kernels import cell, configs


def cell_bandwidth(elements: int) -> dict[str, Any]:
    """Bytes per second of the cell kernel alone, and of a copy of as many bytes."""
    batch, hidden = max(elements // 1024, 1), min(elements, 1024)
    gates = [torch.randn(batch, 4 * hidden, device=DEVICE) for _ in range(2)]
    c = torch.randn(batch, hidden, device=DEVICE)
    h = torch.empty_like(c)
    block_b, block_u = configs.cell_tile(hidden)
    grid = (configs.cdiv(batch, block_b), configs.cdiv(hidden, block_u))

    def run() -> None:
        cell.cell_forward[grid](
            gates[0], *gates[0].stride(), gates[1], *gates[1].stride(), None,
            c, *c.stride(), None, None, h, None, None, 0, 1, batch, hidden,
            BLOCK_B=block_b, BLOCK_U=block_u,
        )  # fmt: skip

    # two gates' products and c in, c and h out
    moved = (2 * 4 + 1 + 2) * c.numel() * 4
    source = torch.randn(moved // 8, device=DEVICE)
    target = torch.empty_like(source)
    cuda = DEVICE.type == "cuda"
    sides = (
        Side("cell", run, lambda raw: {}, cuda=cuda),
        Side("copy", lambda: target.copy_(source), lambda raw: {}, cuda=cuda),
    )
    found = compare(*sides, Plan(budget_s=1.0) if cuda else QUICK)
    best = {"cell": moved / min(found.ours), "copy": moved / min(found.peer)}
    return {
        "elements": elements,
        "bytes": moved,
        "bytes_per_s": best,
        "of_copy": best["cell"] / best["copy"],
    }


def main() -> int:
    """Write the figures; returns 0."""
    sizes = (4 << 20, 16 << 20) if DEVICE.type == "cuda" else (1 << 12,)
    found = [cell_bandwidth(elements) for elements in sizes]
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
