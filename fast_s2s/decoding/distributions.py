"""Distributions of what a forecast says next: their parameters, and values by chance.

The same in C++: csrc/decode/distributions.h.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.decoding.philox import philox

# numbered as `Family` and `Positive` of csrc/decode/forecast.h; the parameters of each are one more
# than its number: location, scale, degrees of freedom
FAMILIES = ("point", "normal", "student_t")
POSITIVE = ("softplus", "squareplus", "exp")

_WORD = 0xFFFFFFFF
# the normal distribution, and no infinity
_LARGEST_DF = 1e300


def make_positive(x: Tensor, how: str) -> Tensor:
    """softplus log(1 + exp x), squareplus (x + √(x² + 4)) / 2, or exp x."""
    if how == "softplus":
        return F.softplus(x, threshold=torch.inf) if x.numel() else x
    return (x + (x * x + 4).sqrt()) / 2 if how == "squareplus" else x.exp()


def draw(parameters: Tensor, family: str, positive: str, seeds: Tensor, step: int) -> Tensor:
    """(B, S, D) float64 from parameters (B, S, P·D), locations before scales before degrees of
    freedom, of which there are 2 + what is made positive; seeds (B,) int64.

    Key: the seed; counter: series, step, path, 1. The four words make two numbers u and v above 0
    and at most 1, of 53 bits. Normal: √(-2 ln u) · cos 2πv (Box and Muller 1958). Student's t:
    √(df · (u^(-2/df) - 1)) · cos 2πv (Bailey 1994, https://doi.org/10.2307/2153537).
    """
    each = parameters.double().chunk(1 + FAMILIES.index(family), -1)
    batch, paths, series = each[0].shape
    device = parameters.device
    of_path = torch.arange(paths, device=device).view(1, paths, 1)
    of_series = torch.arange(series, device=device).view(1, 1, series)
    seeds = seeds.view(batch, 1, 1)
    steps, ones = torch.full_like(seeds, step), torch.ones_like(seeds)
    key = (seeds & _WORD, (seeds >> 32) & _WORD)
    words = philox((of_series, steps, of_path, ones), key)
    log_u, v = _uniform(words[..., 0], words[..., 1]).log(), _uniform(words[..., 2], words[..., 3])
    squared = -2 * log_u
    if family == "student_t":
        df = (2 + make_positive(each[2], positive)).clamp(max=_LARGEST_DF)
        squared = df * torch.expm1(-2 / df * log_u)
    return each[0] + make_positive(each[1], positive) * squared.sqrt() * (2 * math.pi * v).cos()


def _uniform(high: Tensor, low: Tensor) -> Tensor:
    return ((high << 21 | low >> 11).double() + 0.5) * 2.0**-53
