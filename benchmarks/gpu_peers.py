"""The sides on a GPU: our backends and kernels, and every fair form of what torch has there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import fast_s2s
from benchmarks import flashrnn_peer, peers
from fast_s2s.benchmarking import generation
from fast_s2s.benchmarking.generation import GreedyProblem
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS, SIDES, Prepare, side
from fast_s2s.benchmarking.workloads import Problem
from fast_s2s.kernels import configs
from fast_s2s.kernels.configs import Config
from fast_s2s.kernels.layer import multiprocessors

# Triton's kernels beside its table's own choice
KERNELS: dict[str, Callable[[int], Config]] = {
    "single": lambda h: Config("single", 16, configs.power_of_2(h, 16), warps=8, ahead=h <= 64),
    "grid": lambda _: Config("grid", 16, 32, 64),
    "step": lambda _: Config("step", 16, 32, 64, stages=3),
}


def prepare(name: str, problem: Problem) -> Prepared:
    """A side of an LSTM call by its name in `PEERS`."""
    return PEERS[name](problem), problem.expected


def prepare_greedy(name: str, problem: GreedyProblem) -> Prepared:
    """A side of a generation by its name in `GREEDY`."""
    return GREEDY[name](problem), problem.expected


def _kernel(name: str, make: Callable[[int], Config]) -> Prepare:
    @contextmanager
    def forced(config: Config) -> Iterator[None]:
        with fast_s2s.backend("triton"), configs.forced(config, config):
            yield

    def prepared(problem: Problem) -> Side:
        workload = problem.workload
        config = make(workload.hidden)
        sizes = configs.Sizes(
            *(workload.dtype, workload.steps, workload.batch, workload.hidden),
            bool(workload.proj),
            multiprocessors(problem.device),
        )
        reason = configs.why_not(config, sizes)
        if reason is not None:
            raise Unavailable(reason)
        return peers.ours_within(problem, name, lambda: forced(config))

    return prepared


def nn_lstm_repaired(problem: Problem) -> Side:
    """bfloat16 weights in one chunk, as cuDNN wants them: `flatten_parameters` leaves that type out
    and so cuDNN's copy of them is made at every call.
    """
    if problem.workload.dtype != "bfloat16" or problem.device.type != "cuda":
        raise Unavailable("only bfloat16 on a GPU needs it")
    module = problem.module()
    with accepted_by_cudnn(torch.bfloat16):
        module.flatten_parameters()
    if not in_one_chunk(module):
        raise Unavailable("flatten_parameters leaves the weights where they are")
    return side("nn.LSTM repaired", problem, module, module)


@contextmanager
def accepted_by_cudnn(dtype: torch.dtype) -> Iterator[None]:
    """Python's check of a type for cuDNN, of which cuDNN itself knows more, takes this one too."""
    # the check reads this module's own; `torch.backends.cudnn` itself only stands before it
    cudnn: Any = torch.backends.cudnn.m
    before = cudnn.CUDNN_TENSOR_DTYPES
    cudnn.CUDNN_TENSOR_DTYPES = {*before, dtype}
    try:
        yield
    finally:
        cudnn.CUDNN_TENSOR_DTYPES = before


def in_one_chunk(module: torch.nn.Module) -> bool:
    """Whether all its weights lie in one piece of memory."""
    return len({weight.untyped_storage().data_ptr() for weight in module.parameters()}) == 1


def nn_lstm_float16(problem: Problem) -> Side:
    """cuDNN's fastest type, whatever the workload's."""
    module = problem.module(torch.float16)
    return side("nn.LSTM float16", problem, module, module, torch.float16)


def graphed(name: str, make: Prepare) -> Prepare:
    """A call captured in a CUDA graph and replayed: no cost of launches from the host."""

    def prepared(problem: Problem) -> Side:
        if problem.device.type != "cuda" or problem.workload.training:
            raise Unavailable("only inference on a GPU")
        found = make(problem)
        with found.around():
            graph, raw = _captured(found.call)

        def replay() -> Any:
            graph.replay()
            return raw

        return Side(name, replay, found.results, found.around, found.omits, cuda=True)

    return prepared


# by the name shown
PEERS: dict[str, Prepare] = {
    **SIDES,
    f"{OURS} LSTMCell": peers.ours_cell,
    f"{OURS} cuda": peers.ours_cuda,
    f"{OURS} triton": peers.ours_triton,
    **{f"{OURS} triton {k}": _kernel(f"{OURS} triton {k}", make) for k, make in KERNELS.items()},
    f"{OURS} CUDA graph": graphed(f"{OURS} CUDA graph", SIDES[OURS]),
    "nn.LSTMCell": peers.nn_lstm_cell,
    "nn.LSTM repaired": nn_lstm_repaired,
    "nn.LSTM float16": nn_lstm_float16,
    "nn.LSTM per layer": peers.nn_lstm_stack,
    "nn.LSTM, torch.compile": peers.compiled_nn_lstm,
    "LSTMCell loop, torch.compile": peers.compiled_cell_loop,
    "nn.LSTM CUDA graph": graphed("nn.LSTM CUDA graph", SIDES["nn.LSTM"]),
    "LSTMCell loop CUDA graph": graphed("LSTMCell loop CUDA graph", SIDES["LSTMCell loop"]),
    **{f"FlashRNN {b}": flashrnn_peer.prepare(b) for b in flashrnn_peer.BACKENDS},
}
# compile something for each shape
SLOW = peers.SLOW | {f"FlashRNN {backend}" for backend in flashrnn_peer.BACKENDS}


def graphed_loop(name: str, make: Callable[[GreedyProblem], generation.Step]) -> Any:
    """Greedy search by a step that is a CUDA graph: embedding, layers, output, choice."""

    def prepared(problem: GreedyProblem) -> Side:
        if problem.device.type != "cuda":
            raise Unavailable("only on a GPU")
        with torch.inference_mode():
            return _graphed_loop(name, problem, *make(problem))

    return prepared


def _graphed_loop(name: str, problem: GreedyProblem, step: Any, state: Any) -> Side:
    model, start = problem.model, problem.state.token
    token = start.clone()
    now = [[part.clone() for part in parts] for parts in state]
    whole = isinstance(state[0], Tensor)

    def once() -> None:
        given = [torch.stack(parts) for parts in now] if whole else now
        output, new = step(model.tgt_embedding(token), given)
        token.copy_(model.output_projection(output).argmax(1))
        for parts, found in zip(now, new, strict=True):
            for part, value in zip(parts, found, strict=True):
                part.copy_(value)

    graph, _ = _captured(once)

    def call() -> Tensor:
        token.copy_(start)
        for parts, first in zip(now, state, strict=True):
            for part, value in zip(parts, first, strict=True):
                part.copy_(value)
        tokens = []
        for _ in range(problem.workload.steps):
            graph.replay()
            tokens.append(token.clone())
        return torch.stack(tokens, dim=1)

    return Side(name, call, lambda raw: {"tokens": raw}, torch.inference_mode, cuda=True)


GREEDY: dict[str, Callable[[GreedyProblem], Side]] = {
    **generation.SIDES,
    "nn.LSTM step CUDA graph": graphed_loop("nn.LSTM step CUDA graph", generation.nn_lstm_step),
    "LSTMCell step CUDA graph": graphed_loop("LSTMCell step CUDA graph", generation.cell_step),
}


def _captured(call: Callable[[], Any]) -> tuple[Any, Any]:
    """The graph of a call, and what it writes to at each replay."""
    # what is made at the first call may not be made while capturing
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        raw = call()
    return graph, raw
