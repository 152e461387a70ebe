"""The sides of an LSTM call: ours, and whatever else a PyTorch user can run one with.

Each function takes a `Problem` and returns a `Side`, or raises `Unavailable`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import fast_s2s
from benchmarks import jax_peer, onnx_peers
from fast_s2s import backends
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import (
    OURS,
    SIDES,
    CellLoop,
    Prepare,
    cells_only,
    ours,
    side,
)
from fast_s2s.benchmarking.workloads import Problem, State


def prepare(name: str, problem: Problem) -> Prepared:
    """A side by its name in `PEERS`, and what it shall give."""
    return PEERS[name](problem), problem.expected


def ours_float32(problem: Problem) -> Side:
    """Ours with the same, rounded, weights and inputs in float32."""
    return ours(problem, torch.float32, f"{OURS} float32")


def ours_cuda(problem: Problem) -> Side:
    if problem.device.type != "cuda" or not backends.cuda_loaded:
        raise Unavailable(f"no CUDA kernels: {backends.cuda_reason}")
    return ours_within(problem, f"{OURS} cuda", lambda: fast_s2s.backend("native"))


def ours_triton(problem: Problem) -> Side:
    return ours_within(problem, f"{OURS} triton", lambda: fast_s2s.backend("triton"))


def ours_within(
    problem: Problem, name: str, around: Callable[[], AbstractContextManager[Any]]
) -> Side:
    """Ours, called within a context."""
    module = fast_s2s.from_torch(problem.module())
    forward = functools.partial(module, lengths=problem.device_lengths)
    return side(name, problem, module, forward, around=around)


def ours_recompute(problem: Problem) -> Side:
    workload = problem.workload
    if "memory" not in inspect.signature(fast_s2s.LSTM.__init__).parameters:
        raise Unavailable("fast_s2s.LSTM of this build has no memory=")
    if not workload.plain:
        raise Unavailable("only one direction, as wide in as out")
    module = fast_s2s.LSTM(
        workload.hidden, workload.hidden, workload.layers, memory="recompute"
    ).to(workload.torch_dtype)
    module.load_state_dict(problem.module().state_dict())
    forward = functools.partial(module, lengths=problem.lengths)
    return side(f"{OURS} recompute", problem, module, forward)


def nn_lstm_native(problem: Problem) -> Side:
    """With oneDNN switched off: ATen's own loop over steps."""
    module = problem.module()
    return side("nn.LSTM native", problem, module, module, around=_without_onednn)


def nn_lstm_stack(problem: Problem) -> Side:
    """A module for each layer: some libraries are faster on one than on several."""
    module = cells_only(problem).module()
    return side("nn.LSTM per layer", problem, module, _Stack(module))


def compiled_nn_lstm(problem: Problem) -> Side:
    module = problem.module()
    torch.compiler.reset()
    # inductor is asked not to give up on recurrent layers, as it does of its own
    compiled = torch.compile(module, dynamic=False)
    return side("nn.LSTM, torch.compile", problem, module, compiled, around=_allow_rnn)


def compiled_cell_loop(problem: Problem) -> Side:
    module = cells_only(problem).module()
    # recompiles for each problem, and must not meet the limit on how often one function may be
    torch.compiler.reset()
    loop = torch.compile(CellLoop(module), dynamic=False)
    return side("LSTMCell loop, torch.compile", problem, module, loop)


def ours_cell(problem: Problem) -> Side:
    return _cell(f"{OURS} LSTMCell", problem, fast_s2s.from_torch)


def nn_lstm_cell(problem: Problem) -> Side:
    return _cell("nn.LSTMCell", problem, lambda cell: cell)


# by the name shown. Slow ones run only when asked for
PEERS: dict[str, Prepare] = {
    **SIDES,
    f"{OURS} float32": ours_float32,
    f"{OURS} cuda": ours_cuda,
    f"{OURS} triton": ours_triton,
    f"{OURS} recompute": ours_recompute,
    f"{OURS} LSTMCell": ours_cell,
    "nn.LSTM native": nn_lstm_native,
    "nn.LSTM per layer": nn_lstm_stack,
    "nn.LSTM, torch.compile": compiled_nn_lstm,
    "nn.LSTMCell": nn_lstm_cell,
    "LSTMCell loop, torch.compile": compiled_cell_loop,
    "ONNX Runtime": onnx_peers.onnx_runtime,
    "OpenVINO": onnx_peers.openvino,
    "JAX lax.scan": jax_peer.lax_scan,
}
SLOW = frozenset({"LSTMCell loop, torch.compile", "nn.LSTM, torch.compile"})


class _Stack(nn.Module):
    """One `nn.LSTM` for each layer, sharing the weights of a whole one."""

    def __init__(self, module: nn.LSTM) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in range(module.num_layers):
            width = module.hidden_size if layer else module.input_size
            single = nn.LSTM(width, module.hidden_size)
            for name, _ in list(single.named_parameters()):
                setattr(single, name, getattr(module, name.replace("_l0", f"_l{layer}")))
            self.layers.append(single)

    def forward(self, x: Tensor, hx: State) -> tuple[Tensor, State]:
        states = []
        for layer, single in enumerate(self.layers):
            x, state = single(x, (hx[0][layer : layer + 1], hx[1][layer : layer + 1]))
            states.append(state)
        h, c = (torch.cat(parts) for parts in zip(*states, strict=True))
        return x, (h, c)


def _cell(name: str, problem: Problem, convert: Callable[[Any], nn.Module]) -> Side:
    """A cell called once, in the shapes of an LSTM of one step."""
    workload = problem.workload
    if workload.steps > 1 or workload.layers > 1:
        raise Unavailable("only one step of one layer")
    module = cells_only(problem).module()
    (cell,) = CellLoop(module).cells
    cell = convert(cell)

    def forward(x: Tensor, hx: State) -> tuple[Tensor, State]:
        h, c = cell(x[0], (hx[0][0], hx[1][0]))
        return h.unsqueeze(0), (h.unsqueeze(0), c.unsqueeze(0))

    return side(name, problem, module, forward)


@contextmanager
def _allow_rnn() -> Iterator[None]:
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


@contextmanager
def _without_onednn() -> Iterator[None]:
    # `mkldnn.flags` sets more than this, with a warning
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
