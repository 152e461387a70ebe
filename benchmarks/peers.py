"""The sides: ours, and whatever else a PyTorch user can run an LSTM with.

Each function takes a `Problem` and returns a `Side`, or raises `Unavailable`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fast_s2s
from benchmarks import onnx_peers
from benchmarks.harness import Side, Unavailable
from benchmarks.workloads import Problem, State, gradient_names

Prepare = Callable[[Problem], Side]
Forward = Callable[[Tensor, State], tuple[Tensor, State]]

OURS = "fast_s2s"


def ours(problem: Problem, dtype: torch.dtype | None = None, name: str = OURS) -> Side:
    module = fast_s2s.from_torch(problem.module(dtype))
    forward = functools.partial(module, lengths=problem.lengths)
    return _side(name, problem, module, forward, dtype)


def ours_float32(problem: Problem) -> Side:
    """Ours with the same, rounded, weights and inputs in float32."""
    return ours(problem, torch.float32, f"{OURS} float32")


def ours_recompute(problem: Problem) -> Side:
    workload = problem.workload
    if "memory" not in inspect.signature(fast_s2s.LSTM.__init__).parameters:
        raise Unavailable("fast_s2s.LSTM of this build has no memory=")
    module = fast_s2s.LSTM(
        workload.hidden, workload.hidden, workload.layers, memory="recompute"
    ).to(workload.torch_dtype)
    module.load_state_dict(problem.module().state_dict())
    forward = functools.partial(module, lengths=problem.lengths)
    return _side(f"{OURS} recompute", problem, module, forward)


def nn_lstm(problem: Problem) -> Side:
    """As shipped: on the CPU, oneDNN."""
    module = problem.module()
    return _side("nn.LSTM", problem, module, module)


def nn_lstm_native(problem: Problem) -> Side:
    """With oneDNN switched off: ATen's own loop over steps."""
    module = problem.module()
    return _side("nn.LSTM native", problem, module, module, around=_without_onednn)


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

    return _side("nn.LSTM PackedSequence", problem, module, forward)


def nn_lstm_padded(problem: Problem) -> Side:
    """Running through the padding: only the outputs inside the lengths mean anything."""
    module = problem.module()
    side = _side("nn.LSTM padded", problem, module, module)

    def results(raw: Any) -> dict[str, Tensor]:
        found = side.results(raw)
        found["y"] = found["y"] * problem.valid
        return {name: found[name] for name in found if name not in omits}

    omits = frozenset({"h_n", "c_n"})
    return Side(side.name, side.call, results, side.around, omits)


def lstm_cell_loop(problem: Problem) -> Side:
    module = problem.module()
    return _side("LSTMCell loop", problem, module, _CellLoop(module))


def compiled_cell_loop(problem: Problem) -> Side:
    module = problem.module()
    # recompiles for each problem, and must not meet the limit on how often one function may be
    torch.compiler.reset()
    loop = torch.compile(_CellLoop(module), dynamic=False)
    return _side("LSTMCell loop, torch.compile", problem, module, loop)


# by the name shown. Slow ones run only when asked for
PEERS: dict[str, Prepare] = {
    OURS: ours,
    f"{OURS} float32": ours_float32,
    f"{OURS} recompute": ours_recompute,
    "nn.LSTM": nn_lstm,
    "nn.LSTM native": nn_lstm_native,
    "nn.LSTM PackedSequence": nn_lstm_packed,
    "nn.LSTM padded": nn_lstm_padded,
    "LSTMCell loop": lstm_cell_loop,
    "LSTMCell loop, torch.compile": compiled_cell_loop,
    "ONNX Runtime": onnx_peers.onnx_runtime,
    "OpenVINO": onnx_peers.openvino,
}
SLOW = frozenset({"LSTMCell loop, torch.compile"})


class _CellLoop(nn.Module):
    """A stack of `nn.LSTMCell` called step by step, sharing the weights of an `nn.LSTM`."""

    def __init__(self, module: nn.LSTM) -> None:
        super().__init__()
        self.cells = nn.ModuleList()
        for layer in range(module.num_layers):
            cell = nn.LSTMCell(module.input_size, module.hidden_size)
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


def _side(
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
    contexts: list[Callable[[], AbstractContextManager[Any]]] = [around] if around else []

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

    if problem.workload.training:
        return Side(name, train, results, functools.partial(_entered, contexts))
    contexts.insert(0, torch.inference_mode)
    return Side(name, infer, results, functools.partial(_entered, contexts))


@contextmanager
def _without_onednn() -> Iterator[None]:
    # `mkldnn.flags` sets more than this, with a warning
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@contextmanager
def _entered(contexts: list[Callable[[], AbstractContextManager[Any]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield
