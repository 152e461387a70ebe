"""Tiny workloads and sides for the tests of the benchmarks."""

from __future__ import annotations

import torch

from fast_s2s.benchmarking.harness import Plan, Side
from fast_s2s.benchmarking.workloads import TOLERANCE, Workload

TINY = Workload(3, 2, 5)
TRAINING = Workload(3, 2, 5, training=True)
RAGGED = Workload(6, 4, 5, training=True, ragged=True)
PLAN = Plan(budget_s=0.0, block_s=0.0, settle_s=0.0, warm_up_s=0.0, min_calls=2, min_rounds=4)
CLOSE = TOLERANCE["float32"]


def value_side(name: str = "side", log: list[str] | None = None, **results: torch.Tensor) -> Side:
    def call() -> dict[str, torch.Tensor]:
        if log is not None:
            log.append(name)
        return results

    return Side(name, call, lambda raw: raw)
