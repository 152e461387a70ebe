"""The variants of the LSTM written out unit by unit, in float64: what the tests compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fast_s2s.reference import Variant

NORMS = ("norm_ih", "norm_hh", "norm_c", "norm_c_bias")


def layer_norm(x: Tensor, gain: Tensor | None, bias: Tensor | None = None) -> Tensor:
    """Of one vector: Ba et al. 2016, equations 15 and 16 of the supplement."""
    if gain is None:
        return x
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    normed = gain * (x - mean) / torch.sqrt(variance + 1e-5)
    return normed if bias is None else normed + bias


def one_step(x, h, c, weights, variant: Variant, mask, zone_h, zone_c):
    """The next h and c of one row. zone_*: the part of the old that stays, a number or a vector."""
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    size = len(c)
    from_x = layer_norm(torch.stack([(row * x).sum() for row in w_ih]), variant.norm_ih)
    fed = h if mask is None else h * mask
    from_h = layer_norm(torch.stack([(row * fed).sum() for row in w_hh]), variant.norm_hh)
    gates = from_x + from_h
    if b_ih is not None:
        gates = gates + b_ih + b_hh
    i, f, g, o = (gates[k * size : (k + 1) * size] for k in range(4))
    i, f, o = (1 / (1 + torch.exp(-gate)) for gate in (i, f, o))
    c_new = f * c + i * torch.tanh(g)
    h_new = o * torch.tanh(layer_norm(c_new, variant.norm_c, variant.norm_c_bias))
    if w_hr is not None:
        h_new = w_hr @ h_new
    return zone_h * h + (1 - zone_h) * h_new, zone_c * c + (1 - zone_c) * c_new


def lstm_by_hand(x, h0, c0, *rest):
    """As `reference.lstm_variant`, row by row."""
    *weights, lengths, reset, reverse, variant = rest
    steps, batch = x.shape[:2]
    outputs, states = [], []
    for b in range(batch):
        h, c = h0[b], c0[b]
        length = steps if lengths is None else int(lengths[b])
        ys = [torch.zeros_like(h0[b])] * steps
        for t in reversed(range(length)) if reverse else range(length):
            if reset is not None and reset[t, b]:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            zones = [
                kept[t, b].double() if isinstance(kept, Tensor) else kept
                for kept in (variant.zoneout_hidden, variant.zoneout_cell)
            ]
            mask = None if variant.recurrent_mask is None else variant.recurrent_mask[b]
            h, c = one_step(x[t, b], h, c, weights, variant, mask, *zones)
            ys[t] = h
        outputs.append(torch.stack(ys))
        states.append((h, c))
    h_n, c_n = (torch.stack(part) for part in zip(*states, strict=True))
    return torch.stack(outputs, 1), h_n, c_n


def random_variant(kinds, steps: int, batch: int, hidden: int, size: int) -> Variant:
    """With these of "norm", "recurrent", "zones" (masks) and "expected" (numbers)."""
    parts: dict[str, Tensor | float] = {}
    if "norm" in kinds:
        sizes = (4 * hidden, 4 * hidden, hidden, hidden)
        parts |= {name: torch.randn(n) for name, n in zip(NORMS, sizes, strict=True)}
    if "recurrent" in kinds:
        parts["recurrent_mask"] = (torch.rand(batch, size) < 0.6) / 0.6
    if "zones" in kinds:
        parts["zoneout_hidden"] = torch.rand(steps, batch, size) < 0.3
        parts["zoneout_cell"] = torch.rand(steps, batch, hidden) < 0.6
    if "expected" in kinds:
        parts |= {"zoneout_hidden": 0.1, "zoneout_cell": math.sqrt(0.2)}
    return Variant(**parts)
