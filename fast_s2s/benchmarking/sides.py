"""LSTM sides: ours, and `nn.LSTM` and `nn.LSTMCell` as a PyTorch user runs them.

Each function takes a `Problem` and returns a `Side`, or raises `Unavailable`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.workloads import Problem, State, gradient_names
from fast_s2s.convert import from_torch

Prepare = Callable[[Problem], Side]
Forward = Callable[[Tensor, State], Any]

OURS = "fast_s2s"


def ours(problem: Problem, dtype: torch.dtype | None = None, name: str = OURS) -> Side:
    module = from_torch(problem.module(dtype))
    forward = functools.partial(module, lengths=problem.device_lengths)
    return side(name, problem, module, forward, dtype)


def nn_lstm(problem: Problem) -> Side:
    """As shipped: on the CPU, oneDNN."""
    module = problem.module()
    return side("nn.LSTM", problem, module, module)


def nn_lstm_packed(problem: Problem) -> Side:
    """As users with padded rows call it: pack, run, pad."""
    module, lengths = problem.module(), problem.lengths
    if lengths is None:
        raise Unavailable("only for rows of several lengths")

    def forward(x: Tensor, hx: State) -> tuple[Tensor, State]:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        packed, state = module(packed, hx)
        y, _ = pad_packed_sequence(packed, total_length=x.size(0))
        return y, state

    return side("nn.LSTM PackedSequence", problem, module, forward)


def nn_lstm_padded(problem: Problem) -> Side:
    """Running through the padding: only the outputs inside the lengths mean anything."""
    module = problem.module()
    found = side("nn.LSTM padded", problem, module, module)

    def results(raw: Any) -> dict[str, Tensor]:
        values = found.results(raw)
        values["y"] = values["y"] * problem.valid
        return {name: values[name] for name in values if name not in omits}

    omits = frozenset({"h_n", "c_n"})
    return dataclasses.replace(found, results=results, omits=omits)


def lstm_cell_loop(problem: Problem) -> Side:
    module = cells_only(problem).module()
    return side("LSTMCell loop", problem, module, CellLoop(module))


def cells_only(problem: Problem) -> Problem:
    """The problem, if a loop over cells can do it."""
    workload = problem.workload
    if workload.bidirectional or workload.proj or workload.ragged:
        raise Unavailable("only one direction, rows of one length and no projection")
    return problem


class CellLoop(nn.Module):
    """A stack of `nn.LSTMCell` called step by step, sharing the weights of an `nn.LSTM`."""

    def __init__(self, module: nn.LSTM) -> None:
        super().__init__()
        self.cells = nn.ModuleList()
        for layer in range(module.num_layers):
            width = module.hidden_size if layer else module.input_size
            cell = nn.LSTMCell(width, module.hidden_size)
            for name, _ in list(cell.named_parameters()):
                setattr(cell, name, getattr(module, f"{name}_l{layer}"))
            self.cells.append(cell)

    def forward(self, x: Tensor, hx: State) -> tuple[Tensor, State]:
        h, c = list(hx[0].unbind()), list(hx[1].unbind())
        outputs = []
        for value in x.unbind():
            for layer, cell in enumerate(self.cells):
                h[layer], c[layer] = cell(value, (h[layer], c[layer]))
                value = h[layer]
            outputs.append(value)
        return torch.stack(outputs), (torch.stack(h), torch.stack(c))


def side(
    name: str,
    problem: Problem,
    module: nn.Module,
    forward: Forward,
    dtype: torch.dtype | None = None,
    around: Callable[[], AbstractContextManager[Any]] | None = None,
) -> Side:
    """The side that calls `forward`, and in training its backward."""
    x, hx, cotangent = problem.x(dtype), problem.hx(dtype), problem.cotangent(dtype)
    leaves = {"x": x, **dict(module.named_parameters())}
    inputs, parameters = list(leaves.values()), list(module.parameters())
    contexts = [around] if around else []

    def infer() -> Any:
        return forward(x, hx)

    def train() -> Any:
        # an optimiser changes the weights between calls: what a side derived from them must not
        # outlive the call
        torch.autograd.graph.increment_version(parameters)
        y, state = forward(x, hx)
        return y, state, torch.autograd.grad(y, inputs, cotangent)

    def results(raw: Any) -> dict[str, Tensor]:
        y, (h_n, c_n), *gradients = raw
        found = {"y": y, "h_n": h_n, "c_n": c_n}
        return found | gradient_names(leaves, gradients[0]) if gradients else found

    call = train if problem.workload.training else infer
    if not problem.workload.training:
        contexts.insert(0, torch.inference_mode)
    cuda = problem.device.type == "cuda"
    return Side(name, call, results, functools.partial(_entered, contexts), cuda=cuda)


# by the name shown
SIDES: dict[str, Prepare] = {
    OURS: ours,
    "nn.LSTM": nn_lstm,
    "nn.LSTM PackedSequence": nn_lstm_packed,
    "nn.LSTM padded": nn_lstm_padded,
    "LSTMCell loop": lstm_cell_loop,
}


@contextmanager
def _entered(contexts: list[Callable[[], AbstractContextManager[Any]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield
