"""The LSTM ops in plain torch: the definition of correctness and the fallback on any device.

Same signatures as the ops of `fast_s2s.ops`. The forward is differentiable by autograd, any number
of times.
"""

from __future__ import annotations

import torch
from torch import Tensor

# what lstm_forward keeps for lstm_backward: nothing; activated gates and cell states; cell states
# only, the gates then being computed again
SAVE_NONE, SAVE_GATES, SAVE_CELLS = 0, 1, 2


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the cell state and of all sums: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


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
    """One layer, one direction, the whole sequence. Gates in torch's order i, f, g, o.

    x:          (T, B, I)
    h0:         (B, R)   R = H, or P with a projection
    c0:         (B, H)
    w_ih, w_hh: (4H, I), (4H, R)
    b_ih, b_hh: (4H,) or None
    w_hr:       (R, H) or None
    lengths:    (B,) int64 in 0..T or None; a row past its length keeps its state and outputs zeros
    reset:      (T, B) bool or None; the state is zero before the steps where it is true
    reverse:    steps run from T-1 (or lengths-1) down to 0
    save:       `SAVE_GATES` or `SAVE_CELLS` to return what `lstm_backward` needs

    Returns y (T, B, R), h_n (B, R), c_n (B, H) in the type of `x`; then, empty where not saved, the
    activated gates (T, B, 4H) in that type and the cell states (T, B, H) in `accumulate_dtype`,
    both zero past a row's length.

    Formula: `torch.nn.LSTM`; projection: https://arxiv.org/abs/1402.1128.
    """
    dtype, acc = x.dtype, accumulate_dtype(x.dtype)
    steps = x.size(0)
    gates_x = x.to(acc) @ w_ih.to(acc).t()
    for bias in (b_ih, b_hh):
        gates_x = gates_x if bias is None else gates_x + bias.to(acc)
    w_hh_t = w_hh.to(acc).t()
    h, c = h0, c0.to(acc)
    ys: list[Tensor] = [h] * steps
    gates: list[Tensor] = [h] * steps
    cells: list[Tensor] = [c] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        h_prev, c_prev = h, c
        if reset is not None:
            keep = ~reset[t].unsqueeze(1)
            h_prev, c_prev = h_prev * keep, c_prev * keep
        i, f, g, o = (gates_x[t] + h_prev.to(acc) @ w_hh_t).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c_new = f * c_prev + i * g
        h_new = o * c_new.tanh()
        if w_hr is not None:
            # rounded like every operand of a matrix product
            h_new = h_new.to(dtype).to(acc) @ w_hr.to(acc).t()
        h_new = h_new.to(dtype)
        saved = torch.cat((i, f, g, o), dim=1).to(dtype)
        if lengths is None:
            h, c = h_new, c_new
            ys[t], gates[t], cells[t] = h_new, saved, c_new
        else:
            live = (lengths > t).unsqueeze(1)
            h, c = torch.where(live, h_new, h), torch.where(live, c_new, c)
            ys[t], gates[t], cells[t] = h_new * live, saved * live, c_new * live
    y = torch.stack(ys) if steps else x.new_empty(0, *h0.shape)
    empty = torch.empty(0, dtype=acc, device=x.device)
    saves = steps > 0 and save != SAVE_NONE
    return (
        y,
        h.clone(),
        c.to(dtype, copy=True),
        torch.stack(gates) if saves and save == SAVE_GATES else x.new_empty(0),
        torch.stack(cells) if saves else empty,
    )
