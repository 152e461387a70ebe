"""FlashRNN from PyPI as an LSTM layer: what it leaves out, the product with the input, is torch's.

Its `flashrnn` takes Wx of (T, B, gates, heads, D), R of (gates, heads, D, D), new unit before old,
and h and c in one tensor of (2, 1, B, heads, D). Gates are in torch's order; one head is an LSTM.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.onnx_peers import _optional
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.sides import Prepare, side
from fast_s2s.benchmarking.workloads import Problem, State

# its own names; for the GPU, the fastest first
BACKENDS = ("cuda_fused", "cuda", "triton_fused")


def prepare(backend: str) -> Prepare:
    """The side that runs `backend` of FlashRNN. What fails inside it makes the side unavailable."""

    def prepared(problem: Problem) -> Side:
        workload = problem.workload
        if workload.bidirectional or workload.proj or workload.ragged:
            raise Unavailable("only one direction, rows of one length and no projection")
        if backend in BACKENDS and problem.device.type != "cuda":
            raise Unavailable("only on a GPU")
        package, module = _optional("flashrnn"), problem.module()
        layers = [
            functools.partial(_layer, package, backend, *_weights(module, layer))
            for layer in range(workload.layers)
        ]
        found = side(f"FlashRNN {backend}", problem, module, functools.partial(_stack, layers))
        _try(found)
        return found

    return prepared


def _try(found: Side) -> None:
    """One call, in which it compiles: not every size, type and compiler suits it."""
    try:
        with found.around():
            found.call()
    except Unavailable:
        # the time was over
        raise
    # its search for tiles ends in whatever an assertion or nvcc made of it
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        raise Unavailable(f"flashrnn: {type(error).__name__}: {first}") from error


def _weights(module: torch.nn.LSTM, layer: int) -> list[Tensor]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [getattr(module, f"{kind}_l{layer}") for kind in kinds]


def _stack(layers: list[Callable[[Tensor, Tensor], Any]], x: Tensor, hx: State) -> Any:
    states = []
    for layer, start in zip(layers, zip(*hx, strict=True), strict=True):
        x, state = layer(x, torch.stack(start))
        states.append(state)
    # of (layers, 2, B, H)
    h, c = torch.stack(states).unbind(1)
    return x, (h, c)


def _layer(
    package: Any,
    backend: str,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    x: Tensor,
    start: Tensor,
) -> tuple[Tensor, Tensor]:
    """y (T, B, H) and the last state (2, B, H), from x (T, B, I) and the first state."""
    steps, batch, _ = x.shape
    hidden = w_hh.size(1)
    dtype = str(x.dtype).removeprefix("torch.")
    config = package.FlashRNNConfig(
        backend=backend,
        function="lstm",
        num_heads=1,
        head_dim=hidden,
        batch_size=batch,
        dtype=dtype,
        # the layouts that it turns least
        input_shape="TBGHD",
        output_shape="STBHD",
    )
    states, last = package.flashrnn(
        (x @ w_ih.T).view(steps, batch, 4, 1, hidden),
        w_hh.view(4, 1, hidden, hidden),
        (b_ih + b_hh).view(4, 1, hidden),
        start.view(2, 1, batch, 1, hidden),
        config=config,
    )
    return states[0].reshape(steps, batch, hidden), last.reshape(2, batch, hidden)
