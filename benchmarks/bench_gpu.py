"""`python -m benchmarks gpu`: the LSTM and generation on the GPU here, most valuable cases first.

Without a GPU the same code runs a few tiny cases in Triton's interpreter, whose times mean nothing.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

# before triton is imported
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from benchmarks import command, gpu_peers
from benchmarks.suite import Settings, achieved
from fast_s2s import backends
from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.generation import Greedy, GreedyProblem
from fast_s2s.benchmarking.harness import Plan
from fast_s2s.benchmarking.rows import Kind, Row, time_rows
from fast_s2s.benchmarking.sides import OURS
from fast_s2s.benchmarking.workloads import Problem, Workload

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_KERNELS = tuple(f"{OURS} triton {name}" for name in gpu_peers.KERNELS)


def gpu_cases() -> list[Case]:
    """Every case, in the order in which time is spent on them."""
    if DEVICE.type == "cpu":
        return _tiny()
    found = [*_first(), *_generations(), *_shapes(), *_grid()]
    # what comes early comes again in the grid
    return list({(case.group, str(case.workload)): case for case in found}.values())


def _tiny() -> list[Case]:
    train, half = Workload(2, 3, 17, training=True), Workload(2, 1, 8, dtype="bfloat16")
    return [
        Case("LSTM on the GPU", train, _versus(train, "nn.LSTM CUDA graph")),
        Case("LSTM on the GPU", half, _versus(half, *_KERNELS)),
        Case("generation", Greedy(2, 8, 11, 2, 4), _LOOPS),
    ]


def _first() -> Iterator[Case]:
    """Those of the targets: bfloat16, small B, all forms of both sides."""
    for hidden, batch in itertools.product((512, 128, 1024, 256), (16, 1)):
        for training in (False, True):
            workload = Workload(512, batch, hidden, dtype="bfloat16", training=training)
            names = ("nn.LSTM CUDA graph", f"{OURS} CUDA graph") if not training else ()
            yield _case(workload, *names, *_KERNELS)


_LOOPS = tuple(
    Versus(name)
    for name in (
        "nn.LSTM loop",
        "LSTMCell loop",
        "nn.LSTM step CUDA graph",
        "LSTMCell step CUDA graph",
    )
)


def _generations() -> Iterator[Case]:
    for sizes in ((2, 512, 1000, 1), (1, 256, 100, 1), (2, 512, 1000, 32), (2, 1024, 8000, 1)):
        yield Case("generation", Greedy(*sizes, 50), _LOOPS)


def _shapes() -> Iterator[Case]:
    """Layers, directions, ragged rows, other lengths; the loop over cells where it is short."""
    for workload in (
        Workload(64, 1, 512, dtype="bfloat16"),
        Workload(1, 1, 512, layers=2, dtype="bfloat16"),
        Workload(200, 32, 512, layers=2, dtype="bfloat16", training=True),
        Workload(200, 32, 512, dtype="bfloat16", training=True, bidirectional=True),
        Workload(200, 32, 256, dtype="bfloat16", training=True, ragged=True),
        Workload(1024, 16, 768, dtype="bfloat16"),
        Workload(1024, 16, 768, dtype="bfloat16", training=True),
        Workload(30, 64, 1024, layers=4, dtype="bfloat16", training=True),
        Workload(70_000, 1, 128, dtype="bfloat16"),
    ):
        short = workload.steps <= 64 and not workload.training and workload.layers <= 2
        names = ("LSTMCell loop", "LSTMCell loop CUDA graph") if short else ()
        yield _case(workload, *names)


def _grid() -> Iterator[Case]:
    dtypes = ("bfloat16", "float16", "float32")
    for dtype, training in itertools.product(dtypes, (False, True)):
        for hidden in (128, 512, 64, 256, 1024, 768, 200, 2048):
            for batch in (16, 1, 32, 8, 128, 3, 512):
                yield _case(Workload(512, batch, hidden, dtype=dtype, training=training))


def _case(workload: Workload, *names: str) -> Case:
    return Case("LSTM on the GPU", workload, _versus(workload, *names))


def _versus(workload: Workload, *names: str) -> tuple[Versus, ...]:
    """Peers that have another form for this workload, our backends, and those named."""
    found = ["nn.LSTM PackedSequence", "nn.LSTM padded"] if workload.ragged else ["nn.LSTM"]
    if workload.dtype == "bfloat16" and not workload.ragged:
        found += ["nn.LSTM repaired", "nn.LSTM float16"]
    if workload.layers > 1:
        found.append("nn.LSTM per layer")
    return tuple(Versus(name) for name in (*found, f"{OURS} cuda", f"{OURS} triton", *names))


def rows(case: Case, settings: Settings) -> Iterator[Row]:
    """As `suite.case_rows`, on the GPU."""
    if isinstance(case.workload, Greedy):
        kind = Kind(
            lambda workload: GreedyProblem(workload, DEVICE),
            gpu_peers.prepare_greedy,
            lambda _: 0.0,
        )
    else:
        kind = Kind(
            lambda workload: Problem(workload, DEVICE),
            gpu_peers.prepare,
            lambda problem: problem.tolerance,
            lambda problem, seconds: achieved(problem, seconds, settings.ceilings),
        )
    # the interpreter takes seconds for what means nothing
    plan = settings.plan if DEVICE.type == "cuda" else _ONCE
    yield from time_rows(case, kind, plan, settings.limit_s)


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
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    return command.main(SUITE, arguments)


SUITE = command.Suite("gpu", __doc__, lambda: gpu_cases(), rows, facts, ceilings)


if __name__ == "__main__":
    sys.exit(main())
