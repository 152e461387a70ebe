"""Paths of time series by chance, by us and by loops over torch's modules.

As DeepAR draws them: all paths of all rows side by side, each reading the value that it drew last.
The loops get their noise for nothing: it is drawn before the clock starts, and is ours, so that
both give the same paths or the timing is refused.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast_s2s
from fast_s2s.benchmarking.harness import Side
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS, CellLoop
from fast_s2s.decoding import ForecasterWeights, PackedForecaster, forecast, pack_forecaster
from fast_s2s.decoding.distributions import draw

_SEED = 3


@dataclass(frozen=True)
class Paths:
    """`paths` of `steps` values for each of `batch` series, which know `known` values a step.

    paths: 0: one, of locations
    """

    layers: int
    hidden: int
    batch: int
    paths: int
    steps: int = 24
    known: int = 10

    def __str__(self) -> str:
        sizes = f"L={self.layers} H={self.hidden} B={self.batch}"
        return f"forecast {sizes} {self.paths or 'no'} paths {self.steps} steps"


class PathsProblem:
    """Weights and series, drawn from a seed of their own."""

    def __init__(self, workload: Paths) -> None:
        self.workload = workload
        batch, hidden, layers = workload.batch, workload.hidden, workload.layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            self.lstm = nn.LSTM(1 + workload.known, hidden, layers).eval().requires_grad_(False)
            self.output = nn.Linear(hidden, 2).requires_grad_(False)
            self.state = torch.randn(layers, batch, hidden), torch.randn(layers, batch, hidden)
            self.history = torch.randn(batch, 1, 1)
            self.known = torch.randn(batch, workload.steps, workload.known)
        self.samples = {"num_samples": workload.paths, "seed": torch.arange(batch) + _SEED}
        if not workload.paths:
            self.samples = {}

    def packed(self, dtype: torch.dtype) -> PackedForecaster:
        weights = ForecasterWeights.of(self.lstm, self.output)
        return pack_forecaster(weights, distribution="normal", dtype=dtype)

    def expected(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """By the reference, of the numbers that are stored as `dtype`."""
        with fast_s2s.backend("reference"):
            return self.results(self._forecast(self.packed(dtype)))

    def results(self, values: Tensor) -> dict[str, Tensor]:
        return {"values": values.reshape(-1, self.workload.steps)}

    def noise(self) -> list[Tensor]:
        """Of each step, (N, 1): what a location of 0 and a scale of 1 give."""
        workload = self.workload
        if not workload.paths:
            return [torch.zeros(workload.batch, 1)] * workload.steps
        unit = torch.tensor([0.0, math.log(math.e - 1)])
        parameters = unit.expand(workload.batch, workload.paths, 2)
        seeds = self.samples["seed"]
        return [
            draw(parameters, "normal", "softplus", seeds, step).float().flatten(0, 1)
            for step in range(workload.steps)
        ]

    def _forecast(self, packed: PackedForecaster) -> Tensor:
        return forecast(packed, self.state, self.history, self.known, **self.samples).values


def ours(problem: PathsProblem, dtype: torch.dtype = torch.float32, name: str = OURS) -> Prepared:
    packed = problem.packed(dtype)

    def call() -> Tensor:
        return problem._forecast(packed)

    return Side(name, call, problem.results, torch.inference_mode), problem.expected(dtype)


def loop(problem: PathsProblem, module: nn.Module, name: str) -> Prepared:
    """One step a call, all paths at once."""
    paths, noise = problem.workload.paths or 1, problem.noise()

    def call() -> Tensor:
        h, c = (value.repeat_interleave(paths, 1) for value in problem.state)
        known = problem.known.repeat_interleave(paths, 0)
        value = problem.history[:, -1].repeat_interleave(paths, 0)
        values = []
        for step, drawn in enumerate(noise):
            x = torch.cat([value, known[:, step]], 1).unsqueeze(0)
            y, (h, c) = module(x, (h, c))
            location, scale = problem.output(y[0]).chunk(2, 1)
            value = location + F.softplus(scale) * drawn
            values.append(value)
        return torch.cat(values, 1)

    return Side(name, call, problem.results, torch.inference_mode), problem.expected()


SIDES: dict[str, Callable[[PathsProblem], Prepared]] = {
    OURS: ours,
    f"{OURS} int8": functools.partial(ours, dtype=torch.int8, name=f"{OURS} int8"),
    "nn.LSTM loop": lambda problem: loop(problem, problem.lstm, "nn.LSTM loop"),
    "LSTMCell loop": lambda problem: loop(problem, CellLoop(problem.lstm), "LSTMCell loop"),
}
