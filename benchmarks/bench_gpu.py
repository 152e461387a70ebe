"""`python -m benchmarks gpu`: the LSTM and generation on the GPU here, most valuable cases first.

Without a GPU the same code runs a few tiny cases in Triton's interpreter, whose times mean nothing.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# before triton is imported
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from benchmarks import (
    command,
    decode_problem,
    decode_sides,
    gpu_cases,
    gpu_peers,
    launches,
    norm_sides,
    seq2seq_sides,
)
from benchmarks.decode_problem import DecodeProblem, Generation
from benchmarks.norm_sides import NormProblem, NormWorkload
from benchmarks.seq2seq_sides import Step, StepProblem
from benchmarks.suite import Settings, made_kind, process_rows
from fast_s2s import backends
from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.cases import Case
from fast_s2s.benchmarking.generation import Greedy, GreedyProblem
from fast_s2s.benchmarking.harness import Plan
from fast_s2s.benchmarking.rows import Kind, Prepared, Row, time_rows
from fast_s2s.benchmarking.workloads import Problem, Workload

SLOW = gpu_peers.SLOW | norm_sides.SLOW
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cases() -> list[Case]:
    """Of the GPU; a few tiny ones where there is none."""
    return gpu_cases.gpu_cases() if DEVICE.type == "cuda" else gpu_cases.tiny_cases()


def rows(case: Case, settings: Settings) -> Iterator[Row]:
    """As `suite.case_rows`, on the GPU. Raises DeviceLost where this process has lost it."""
    _check_gpu()
    if case.kind != "time":
        yield from process_rows(case, settings, DEVICE.type)
        return
    # the interpreter takes seconds for what means nothing
    plan = settings.plan if DEVICE.type == "cuda" else _ONCE
    for row in time_rows(case, kind_of(case, settings), plan, settings.limit_s):
        yield row
        # what is wrong with our side is said in all rows of the case: they ask nothing of the GPU
        if row["status"] == "failed" and row["side"] == "peer":
            _check_gpu()


def _check_gpu() -> None:
    """After an error inside a kernel every call of the process fails, whoever makes it."""
    if DEVICE.type != "cuda":
        return
    try:
        torch.cuda.synchronize(DEVICE)
    except RuntimeError as error:
        raise command.DeviceLost(f"the GPU is lost ({str(error).splitlines()[0]})") from error


def kind_of(case: Case, settings: Settings) -> Kind:
    make, sides, tolerance = _SORTS[type(case.workload)]
    # the rows of a case share our side
    observe = functools.cache(launches.of)
    sort = (lambda work: make(work, DEVICE)), sides, SLOW, tolerance
    return made_kind(sort, settings, observe=observe)


# by the workload's class: problem, (name, problem) -> side and results, tolerance
_SORTS: dict[type, tuple[Callable[..., Any], Callable[..., Prepared], Callable[[Any], float]]] = {
    Workload: (Problem, gpu_peers.prepare, lambda problem: problem.tolerance),
    Greedy: (GreedyProblem, gpu_peers.prepare_greedy, lambda _: 0.0),
    Generation: (
        DecodeProblem,
        lambda name, problem: decode_sides.SIDES[name](problem),
        lambda _: decode_problem.TOLERANCE,
    ),
    Step: (StepProblem, seq2seq_sides.prepare, lambda problem: problem.tolerance),
    NormWorkload: (NormProblem, norm_sides.prepare, lambda problem: problem.tolerance),
}
_ONCE = Plan(0.0, block_s=0.0, settle_s=0.0, warm_up_s=0.0, min_calls=1, long_s=0.0, min_rounds=1)


def facts() -> dict[str, Any]:
    """The machine and its GPU."""
    found = machine.describe() | {"triton": backends.triton_reason, "cuda": backends.cuda_reason}
    if DEVICE.type == "cuda":
        return {**found, "kernels": backends.cuda_reason, **machine.describe_gpu(DEVICE)}
    return found


def ceilings(quick: bool) -> dict[str, Any]:
    """Of the GPU; of the CPU where there is none."""
    return machine.gpu_ceilings(DEVICE) if DEVICE.type == "cuda" else machine.ceilings(quick)


def main(arguments: Sequence[str] | None = None) -> int:
    """As `command.main`."""
    return command.main(SUITE, arguments)


SUITE = command.Suite("gpu", __doc__, lambda: cases(), rows, facts, ceilings, SLOW)


if __name__ == "__main__":
    sys.exit(main())
