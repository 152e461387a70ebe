"""The op `transducer_greedy` in plain torch: the definition of correctness, and the fallback on any
device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.decoding.choice import finite, first_best, log_softmax
from fast_s2s.decoding.reference import DenseDecoder, step


class Found(NamedTuple):
    """What the op returns: U is the most tokens of a row.

    tokens: (B, U) int64, the blank behind a row's last
    frames: (B, U) int64, at which each was chosen, -1 behind
    scores: (B, U) float64, log-probability of each among the tokens, 0 behind
    counts: (B,) int64, tokens of each row
    h, c:   (L, B, …), before `token` is read
    token:  (B,) int64, the last
    skip:   (B,) int64, frames beyond the last one that its duration passes over
    """

    tokens: Tensor
    frames: Tensor
    scores: Tensor
    counts: Tensor
    h: Tensor
    c: Tensor
    token: Tensor
    skip: Tensor


class DenseTransducer(NamedTuple):
    """Weights as they are multiplied, all of type acc. The predictor's logits are what the joiner
    adds to a frame; joiner (V + D, J), (V + D,).
    """

    predictor: DenseDecoder
    joiner: Tensor
    joiner_bias: Tensor


def greedy(
    weights: DenseTransducer,
    state: Sequence[Tensor],
    encoded: Tensor,
    lengths: Tensor,
    durations: Sequence[int],
    blank: int,
    max_symbols: int,
    relu: bool,
) -> Found:
    """Arguments as of the op. All rows take each step; those at their end change no more."""
    h, c, token, frame = state
    rows = torch.arange(len(lengths), device=lengths.device)
    vocab = weights.joiner.size(0) - len(durations)
    takes = lengths.new_tensor(list(durations) or [0])
    symbols = torch.zeros_like(frame)
    steps: list[tuple[Tensor, ...]] = []
    read = step(weights.predictor, token, h, c)
    while bool((running := frame < lengths).any()):
        x = encoded[rows, frame.clamp(max=encoded.size(1) - 1)] + read.logits
        logits = F.linear(x.relu() if relu else x.tanh(), weights.joiner, weights.joiner_bias)
        scores = finite(logits[:, :vocab])
        best = first_best(scores)
        likely = logits[:, vocab:].nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        duration = takes[first_best(likely) if durations else torch.zeros_like(best)]
        is_blank = (best == blank) | (scores.amax(1) == -torch.inf)
        chose = running & ~is_blank
        steps.append((chose, best, frame, log_softmax(scores)[rows, best]))
        h, c = read.h.where(chose.view(1, -1, 1), h), read.c.where(chose.view(1, -1, 1), c)
        token = best.where(chose, token)
        symbols = torch.where(chose & (duration == 0), symbols + 1, 0)
        full = symbols == max_symbols
        symbols = symbols.masked_fill(full, 0)
        taken = torch.where(is_blank, duration.clamp(min=1), duration + full)
        frame = frame + taken.where(running, 0)
        if bool(chose.any()):
            read = step(weights.predictor, token, h, c)
    found = _gathered(steps, lengths, blank)
    return Found(*found, h.clone(), c.clone(), token.clone(), (frame - lengths).clamp(min=0))


def _gathered(
    steps: list[tuple[Tensor, ...]], lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all steps those in which a row chose a token, side by side."""
    batch = lengths.size(0)
    if not steps:
        none = lengths.new_zeros(batch, 0)
        return none, none.clone(), none.double(), lengths.new_zeros(batch)
    chose, *parts = (torch.stack(part, 1) for part in zip(*steps, strict=True))
    counts = chose.sum(1)
    longest = int(counts.max()) if batch else 0
    # those that chose first, in their order
    order = (~chose).to(torch.int8).argsort(dim=1, stable=True)[:, :longest]
    behind = torch.arange(longest, device=lengths.device) >= counts.unsqueeze(1)
    tokens, frames, scores = (
        part.gather(1, order).masked_fill(behind, fill)
        for part, fill in zip(parts, (blank, -1, 0.0), strict=True)
    )
    return tokens, frames, scores, counts
