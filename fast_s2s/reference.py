"""The LSTM ops in plain torch: the definition of correctness and the fallback on any device.

Same signatures as the ops of `fast_s2s.ops`. The forward is differentiable by autograd, any number
of times.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAVE_NONE = 0
SAVE_GATES = 1


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the cell state and of all sums: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def lstm_forward(
    gates_x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    save: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One layer, one direction, the whole sequence. Gates in torch's order i, f, g, o.

    gates_x: (T, B, 4H)  x·W_ihᵀ + b_ih + b_hh
    h0:      (B, R)      R = H, or P with a projection
    c0:      (B, H)
    w_hh:    (4H, R)
    w_hr:    (R, H) or None
    lengths: (B,) int64 in 0..T or None; a row past its length keeps its state and outputs zeros
    reset:   (T, B) bool or None; the state is zero before the steps where it is true
    reverse: steps run from T-1 (or lengths-1) down to 0
    save:    `SAVE_GATES` to return what `lstm_backward` needs, `SAVE_NONE` for empty tensors there

    Returns y (T, B, R), h_n (B, R), c_n (B, H) in the type of `gates_x`, then the activated gates
    (T, B, 4H) in the same type and the cell states (T, B, H) in `accumulate_dtype`.

    Formula: `torch.nn.LSTM`; projection: https://arxiv.org/abs/1402.1128.
    """
    dtype, acc = gates_x.dtype, accumulate_dtype(gates_x.dtype)
    steps = gates_x.size(0)
    w_hh_t = w_hh.to(acc).t()
    h, c = h0, c0.to(acc)
    ys: list[Tensor] = [h] * steps
    gates: list[Tensor] = []
    cells: list[Tensor] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        h_prev, c_prev = h, c
        if reset is not None:
            keep = ~reset[t].unsqueeze(1)
            h_prev, c_prev = h_prev * keep, c_prev * keep
        i, f, g, o = (gates_x[t].to(acc) + h_prev.to(acc) @ w_hh_t).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c_new = f * c_prev + i * g
        h_new = o * c_new.tanh()
        if w_hr is not None:
            # rounded like every operand of a matrix product
            h_new = h_new.to(dtype).to(acc) @ w_hr.to(acc).t()
        h_new = h_new.to(dtype)
        if lengths is None:
            h, c, ys[t] = h_new, c_new, h_new
        else:
            live = (lengths > t).unsqueeze(1)
            h, c = torch.where(live, h_new, h), torch.where(live, c_new, c)
            ys[t] = torch.where(live, h_new, torch.zeros_like(h_new))
        if save == SAVE_GATES:
            gates.append(torch.cat((i, f, g, o), dim=1).to(dtype))
            cells.append(c_new)
    if reverse:
        gates.reverse()
        cells.reverse()
    empty = gates_x.new_empty(0)
    return (
        torch.stack(ys) if steps else gates_x.new_empty(0, *h0.shape),
        h.clone(),
        c.to(dtype, copy=True),
        torch.stack(gates) if gates else empty,
        torch.stack(cells) if cells else empty.to(acc, copy=True),
    )


def previous_hidden(
    y: Tensor, h0: Tensor, lengths: Tensor | None, reset: Tensor | None, reverse: bool
) -> Tensor:
    """The hidden state each step started from, (T, B, R), given y (T, B, R) and h0 (B, R)."""
    if not reverse:
        h_prev = torch.cat((h0.unsqueeze(0), y[:-1]))
    elif lengths is None:
        h_prev = torch.cat((y[1:], h0.unsqueeze(0)))
    else:
        # y is zero past a row's length, which is just where that row started from h0
        steps = torch.arange(y.size(0), device=y.device).unsqueeze(1)
        first = (steps == lengths - 1).unsqueeze(2)
        h_prev = torch.where(first, h0, torch.cat((y[1:], torch.zeros_like(h0).unsqueeze(0))))
    if reset is not None:
        h_prev = h_prev.masked_fill(reset.unsqueeze(2), 0)
    return h_prev
