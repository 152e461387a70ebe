"""The LSTM ops in plain torch: the definition of correctness and the fallback on any device.

Same signatures as the ops of `fast_s2s.ops`. The forward is differentiable by autograd, any number
of times.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
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
    gates_x = _running(x, lengths).to(acc) @ w_ih.to(acc).t()
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
            # not multiplied: the state before may be no number
            forgets = reset[t].unsqueeze(1)
            h_prev, c_prev = h_prev.masked_fill(forgets, 0), c_prev.masked_fill(forgets, 0)
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
            # not multiplied: what is past an end may be no number
            ended = ~live
            ys[t], gates[t], cells[t] = (v.masked_fill(ended, 0) for v in (h_new, saved, c_new))
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


class Variant(NamedTuple):
    """What makes a layer's formula another than `torch.nn.LSTM`'s. R is the size of h.

    norm_ih, norm_hh:           (4H,) gains, or None: no layer norm
    norm_c, norm_c_bias:        (H,) gain and bias of the cell state's, or None likewise
    recurrent_mask:             (B, R): h_{t-1} times it goes into the gates, at every step
    zoneout_hidden, _cell:      (T, B, R) and (T, B, H), or a number for all: the part of the
                                state that stays what it was before the step

    Layer norm, of the whole of each vector, is equations 20 to 22 in the supplement of Ba et al.
    2016, https://arxiv.org/abs/1607.06450, the biases of the first two being b_ih and b_hh:

        gates = LN(W_ih x; norm_ih) + b_ih + LN(W_hh h; norm_hh) + b_hh
        h = o * tanh(LN(c; norm_c, norm_c_bias)),  the c that is carried on being as it was

    Zoneout: Krueger et al. 2017, https://arxiv.org/abs/1606.01305; the new h is made of the new c
    before zoneout. The recurrent mask: Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287,
    one mask for all four gates.
    """

    norm_ih: Tensor | None = None
    norm_hh: Tensor | None = None
    norm_c: Tensor | None = None
    norm_c_bias: Tensor | None = None
    recurrent_mask: Tensor | None = None
    zoneout_hidden: Tensor | float = 0.0
    zoneout_cell: Tensor | float = 0.0

    @property
    def norms(self) -> tuple[Tensor, ...]:
        """The parameters of layer norm, if it has any."""
        given = (self.norm_ih, self.norm_hh, self.norm_c, self.norm_c_bias)
        return tuple(norm for norm in given if norm is not None)

    @property
    def names(self) -> str:
        """What it has, in words."""
        parts = {
            "layer norm": self.norm_ih is not None,
            "recurrent dropout": self.recurrent_mask is not None,
            "zoneout": isinstance(self.zoneout_hidden, Tensor)
            or isinstance(self.zoneout_cell, Tensor)
            or self.zoneout_hidden + self.zoneout_cell > 0,
        }
        return ", ".join(name for name, there in parts.items() if there)


def lstm_variant(
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
    variant: Variant,
) -> tuple[Tensor, Tensor, Tensor]:
    """`lstm_forward` with another formula: the same arguments, and y, h_n, c_n as there."""
    dtype, acc = x.dtype, accumulate_dtype(x.dtype)
    steps = x.size(0)
    gates_x = _normed(_running(x, lengths).to(acc) @ w_ih.to(acc).t(), variant.norm_ih)
    for bias in (b_ih, b_hh):
        gates_x = gates_x if bias is None else gates_x + bias.to(acc)
    w_hh_t = w_hh.to(acc).t()
    h, c = h0, c0.to(acc)
    # in the order they are made: some versions of dynamo cannot assign to an item
    ys: list[Tensor] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        h_prev, c_prev = h, c
        if reset is not None:
            # not multiplied: the state before may be no number
            forgets = reset[t].unsqueeze(1)
            h_prev, c_prev = h_prev.masked_fill(forgets, 0), c_prev.masked_fill(forgets, 0)
        fed = h_prev if variant.recurrent_mask is None else h_prev * variant.recurrent_mask
        gates = gates_x[t] + _normed(fed.to(acc) @ w_hh_t, variant.norm_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        c_new = f.sigmoid() * c_prev + i.sigmoid() * g.tanh()
        h_new = o.sigmoid() * _normed(c_new, variant.norm_c, variant.norm_c_bias).tanh()
        if w_hr is not None:
            h_new = h_new.to(dtype).to(acc) @ w_hr.to(acc).t()
        h_new = _zoned(h_prev, h_new.to(dtype), variant.zoneout_hidden, t)
        c_new = _zoned(c_prev, c_new, variant.zoneout_cell, t)
        if lengths is None:
            h, c = h_new, c_new
            ys.append(h_new)
        else:
            live = (lengths > t).unsqueeze(1)
            h, c = torch.where(live, h_new, h), torch.where(live, c_new, c)
            ys.append(h_new.masked_fill(~live, 0))
    y = torch.stack(ys[::-1] if reverse else ys) if steps else x.new_empty(0, *h0.shape)
    return y, h.clone(), c.to(dtype, copy=True)


def _running(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero past each row's length, where values may be no numbers, and gradients then were not."""
    if lengths is None:
        return x
    steps = torch.arange(x.size(0), device=x.device).unsqueeze(1)
    return x.masked_fill((steps >= lengths).unsqueeze(2), 0)


def _normed(x: Tensor, gain: Tensor | None, bias: Tensor | None = None) -> Tensor:
    if gain is None:
        return x
    return F.layer_norm(x, gain.shape, gain.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _zoned(before: Tensor, after: Tensor, kept: Tensor | float, t: int) -> Tensor:
    if isinstance(kept, Tensor):
        return torch.where(kept[t], before, after)
    return after if kept == 0 else kept * before + (1 - kept) * after
