"""An LSTM that runs as its input comes: one call for each step, the state handed on.

As a speech front end runs it: nothing can be done for several steps at once.
"""

from __future__ import annotations

import functools
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fast_s2s
from benchmarks import onnx_peers
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS
from fast_s2s.benchmarking.workloads import Problem, Workload
from fast_s2s.stored import store

TORCH_INT8 = "torch.ao int8"


@dataclass(frozen=True)
class Stream:
    """`calls` calls of one step each, of `batch` rows; inputs of size `hidden`."""

    layers: int
    hidden: int
    batch: int = 1
    calls: int = 50

    def __str__(self) -> str:
        return f"stream L={self.layers} H={self.hidden} B={self.batch} {self.calls} calls"


class StreamProblem:
    """Weights and input, drawn from a seed of their own."""

    def __init__(self, workload: Stream) -> None:
        self.workload = workload
        hidden, layers = workload.hidden, workload.layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            self.lstm = nn.LSTM(hidden, hidden, layers).eval().requires_grad_(False)
            self.x = torch.randn(workload.calls, 1, workload.batch, hidden)

    def expected(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """By torch in float64, of the numbers that are stored as `dtype`."""
        exact = nn.LSTM(self.lstm.input_size, self.lstm.hidden_size, self.lstm.num_layers).double()
        with torch.no_grad():
            for name, weight in self.lstm.named_parameters():
                is_stored = weight.dim() == 2 and dtype != torch.float32
                whole = store(weight, dtype).dense(torch.float64) if is_stored else weight.double()
                getattr(exact, name).copy_(whole)
            y, _ = exact(self.x.squeeze(1).double())
        return {"y": y}


def ours_packed(problem: StreamProblem, dtype: torch.dtype, name: str) -> Prepared:
    return _side(name, problem, fast_s2s.PackedLSTM.of(problem.lstm, dtype)), problem.expected(
        dtype
    )


def ours(problem: StreamProblem) -> Prepared:
    return _side(OURS, problem, fast_s2s.from_torch(problem.lstm)), problem.expected()


def nn_lstm(problem: StreamProblem) -> Prepared:
    return _side("nn.LSTM", problem, problem.lstm), problem.expected()


def torch_int8(problem: StreamProblem) -> Prepared:
    """torch's own of int8 weights, which rounds what they are multiplied by too: not checked."""
    with warnings.catch_warnings():
        # that it is deprecated
        warnings.simplefilter("ignore")
        try:
            from torch.ao.quantization import quantize_dynamic

            model = quantize_dynamic(nn.Sequential(problem.lstm), {nn.LSTM}, dtype=torch.qint8)
        except (ImportError, RuntimeError) as error:
            raise Unavailable(f"torch.ao.quantization: {error}") from error
    return _side(TORCH_INT8, problem, model[0]), None


def onnx_runtime(problem: StreamProblem) -> Prepared:
    workload = problem.workload
    shape = Workload(1, workload.batch, workload.hidden, layers=workload.layers)
    as_one_step = Problem(shape)
    as_one_step.module = lambda dtype=None: problem.lstm  # type: ignore[method-assign]
    run = onnx_peers.session(onnx_peers._model(as_one_step)).run
    names = [f"{kind}0_{layer}" for kind in "hc" for layer in range(workload.layers)]
    zeros = torch.zeros(1, workload.batch, workload.hidden).numpy()
    inputs = list(problem.x.numpy())

    def call() -> list[Any]:
        states, found = [zeros] * len(names), []
        for x in inputs:
            y, *states = run(None, {"x": x, **dict(zip(names, states, strict=True))})
            found.append(y)
        return found

    def results(raw: list[Any]) -> dict[str, Tensor]:
        return {"y": torch.cat([torch.from_numpy(y) for y in raw])}

    side = Side("ONNX Runtime", call, results, rest_s=onnx_peers.SPINNING_S)
    return side, problem.expected()


SIDES: dict[str, Callable[[StreamProblem], Prepared]] = {
    OURS: ours,
    f"{OURS} int8": functools.partial(ours_packed, dtype=torch.int8, name=f"{OURS} int8"),
    f"{OURS} bfloat16": functools.partial(
        ours_packed, dtype=torch.bfloat16, name=f"{OURS} bfloat16"
    ),
    "nn.LSTM": nn_lstm,
    TORCH_INT8: torch_int8,
    "ONNX Runtime": onnx_runtime,
}


def _side(name: str, problem: StreamProblem, module: nn.Module) -> Side:
    def call() -> list[Tensor]:
        state, found = None, []
        for x in problem.x:
            y, state = module(x, state)
            found.append(y)
        return found

    return Side(name, call, lambda raw: {"y": torch.cat(raw)}, torch.inference_mode)
