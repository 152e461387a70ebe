"""An LSTM as JAX users write it: `lax.scan` over steps, the input product before it, jitted.

XLA takes as many threads as the process may use cores; nothing narrower can be asked of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.onnx_peers import _optional
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.workloads import Problem, gradient_names

_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def lax_scan(problem: Problem) -> Side:
    """Inference, or the output with the gradients of input and weights."""
    workload = problem.workload
    if not workload.plain or workload.ragged or workload.dtype != "float32":
        raise Unavailable("only float32, one direction, rows of one length")
    jax = _optional("jax")
    numpy = jax.numpy
    module = problem.module()
    names = [name for name, _ in module.named_parameters()]
    weights = [numpy.asarray(p.detach().numpy()) for p in module.parameters()]
    x, *hx = (numpy.asarray(v.detach().numpy()) for v in (problem.x(), *problem.hx()))

    def forward(x: Any, weights: Any) -> Any:
        return _layers(jax, x, hx, weights)

    if not workload.training:
        run = jax.jit(forward)

        def call() -> Any:
            return jax.block_until_ready(run(x, weights))

        return Side("JAX lax.scan", call, _named)
    cotangent = numpy.asarray(problem.cotangent().numpy())

    def both(x: Any, weights: Any) -> Any:
        outputs, pull = jax.vjp(forward, x, weights)
        y, h, c = outputs
        zeros = (numpy.zeros_like(h), numpy.zeros_like(c))
        return outputs, pull((cotangent, *zeros))

    step = jax.jit(both)

    def results(raw: Any) -> dict[str, Tensor]:
        outputs, (d_x, d_weights) = raw
        leaves = dict.fromkeys(["x", *names])
        return _named(outputs) | gradient_names(leaves, [_tensor(g) for g in (d_x, *d_weights)])

    return Side("JAX lax.scan", lambda: jax.block_until_ready(step(x, weights)), results)


def _layers(jax: Any, x: Any, hx: list[Any], weights: list[Any]) -> Any:
    numpy = jax.numpy
    states = []
    for layer in range(len(weights) // len(_KINDS)):
        w_ih, w_hh, b_ih, b_hh = weights[len(_KINDS) * layer : len(_KINDS) * (layer + 1)]

        def step(state: Any, gates_x: Any, w_hh: Any = w_hh) -> Any:
            h, c = state
            i, f, g, o = numpy.split(gates_x + h @ w_hh.T, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * numpy.tanh(g)
            h = jax.nn.sigmoid(o) * numpy.tanh(c)
            return (h, c), h

        state, x = jax.lax.scan(step, (hx[0][layer], hx[1][layer]), x @ w_ih.T + (b_ih + b_hh))
        states.append(state)
    h, c = (numpy.stack(parts) for parts in zip(*states, strict=True))
    return x, h, c


def _named(raw: Any) -> dict[str, Tensor]:
    return dict(zip(("y", "h_n", "c_n"), map(_tensor, raw), strict=True))


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))
