"""The LSTM ops on Triton: checks, products over the whole sequence, launches.

Same signatures and meaning as `fast_s2s.reference`. x·W_ihᵀ and the gradients of the weights and of
x are products over all steps at once, best made by torch's own; a kernel of this package does the
recurrence. No value is read back from the device, so a call can be captured in a CUDA graph.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from fast_s2s.kernels import launch
from fast_s2s.kernels.layer import Layer, check, dense, previous, product, row_of, running
from fast_s2s.reference import SAVE_GATES, SAVE_NONE


def lstm_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    save: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reference.lstm_forward` on Triton kernels."""
    if save not in (0, 1, 2):
        raise RuntimeError(f"save: expected 0, 1 or 2, got {save}")
    layer = check(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse)
    hidden = layer.c0.size(1)
    y = layer.padded(layer.h0.size(1))
    gates = layer.padded(4 * hidden) if save == SAVE_GATES else x.new_empty(0)
    acc = layer.acc
    cells = layer.padded(hidden, dtype=acc) if save != SAVE_NONE else x.new_empty(0, dtype=acc)
    c = layer.c0.to(acc, copy=True)
    if y.numel():
        kept = gates if save == SAVE_GATES else None, cells if save != SAVE_NONE else None
        with on_device(x):
            launch.forward(layer, _inputs(layer), c, y, *kept)
    return y, _last(layer, y), c.to(x.dtype), gates, cells


def lstm_backward(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    needs_x: bool,
    needs_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, h0, c0, w_ih, w_hh, the biases and w_hr; empty where not needed."""
    layer = check(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse)
    steps, batch, _ = layer.x.shape
    hidden, output, dtype = layer.c0.size(1), layer.h0.size(1), x.dtype
    grad_y = dense("grad_y", grad_y, x, (steps, batch, output))
    grad_h_n = dense("grad_h_n", grad_h_n, x, (batch, output))
    grad_c_n = dense("grad_c_n", grad_c_n, x, (batch, hidden))
    y, cells = y.contiguous(), cells.contiguous()
    acc = layer.acc
    zeros = x.new_zeros(batch, hidden, dtype=acc)
    dc = zeros if grad_c_n is None else grad_c_n.to(acc, copy=True)
    d_gates = layer.padded(4 * hidden)
    h_prev = previous(layer, y, layer.h0)
    # gradient of each h_t and h_t before the projection, where there is one
    d_h = layer.padded(output) if w_hr is not None else None
    unprojected = layer.padded(hidden) if w_hr is not None else None
    if y.numel():
        with on_device(x):
            if gates.numel() == 0:
                gates = launch.activate(layer, _inputs(layer), product(h_prev, layer.w_hh))
            launch.backward(
                layer, grad_y, grad_h_n, gates.contiguous(), cells, dc, d_gates, d_h, unprojected
            )
    rows = d_gates.reshape(-1, 4 * hidden)
    # outputs of an op may not be one tensor
    d_x, d_w_ih, d_w_hh, d_w_hr = (x.new_empty(0) for _ in range(4))
    if needs_x:
        d_x = (rows @ layer.w_ih).reshape(x.shape)
    if needs_weights:
        d_w_ih = rows.t() @ running(layer, layer.x).reshape(-1, x.size(2))
        d_w_hh = rows.t() @ h_prev.reshape(-1, output)
        if d_h is not None and unprojected is not None:
            # of gates that were computed again from what lies past a row's length
            unprojected = running(layer, unprojected)
            d_w_hr = d_h.reshape(-1, output).t() @ unprojected.reshape(-1, hidden)
    d_bias = rows.sum(0, dtype=acc).to(dtype)
    d_h0 = _initial_gradient(layer, d_gates, grad_h_n)
    return d_x, d_h0, dc.to(dtype), d_w_ih, d_w_hh, d_bias, d_w_hr


def _last(layer: Layer, y: Tensor) -> Tensor:
    """h_n: the last step of every row, h0 of rows without any."""
    last = row_of(layer, y, first=False)
    if last is None:
        return layer.h0.clone()
    if layer.lengths is None:
        return last.clone()
    return torch.where((layer.lengths <= 0).unsqueeze(1), layer.h0, last)


def _initial_gradient(layer: Layer, d_gates: Tensor, grad_h_n: Tensor | None) -> Tensor:
    """d h0: what the first step of every row sends back, grad_h_n of rows without any."""
    d_first = row_of(layer, d_gates, first=True)
    idle = torch.zeros_like(layer.h0) if grad_h_n is None else grad_h_n
    if d_first is None:
        return idle.clone()
    d_h0 = d_first @ layer.w_hh
    if layer.reset is not None:
        forgotten = row_of(layer, layer.reset.unsqueeze(-1), first=True)
        assert forgotten is not None
        d_h0 = d_h0.masked_fill(forgotten, 0)
    if layer.lengths is None:
        return d_h0
    return torch.where((layer.lengths <= 0).unsqueeze(1), idle, d_h0)


def _inputs(layer: Layer) -> Tensor:
    """x·W_ihᵀ, without bias, in the type of sums: (T, B, 4H)."""
    return product(layer.x, layer.w_ih)


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    # a launch goes to the current device, which need not be that of the tensors
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
