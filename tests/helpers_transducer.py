"""Small random transducers, and a greedy search so plain that it can be read at a glance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from helpers_decode import Size, random_weights
from torch import Tensor

from fast_s2s.decoding import LinearWeights, TransducerWeights
from fast_s2s.decoding.reference import DenseDecoder, DenseLayer, step
from fast_s2s.reference import Variant


class Case(NamedTuple):
    size: Size = Size()
    joined: int = 12
    durations: tuple[int, ...] = ()
    activation: str = "tanh"
    blank: int = 0
    projected: bool = True


def random_transducer(case: Case, blank_bias: float = 1.0) -> TransducerWeights:
    """Float64 weights; a larger `blank_bias` makes tokens rarer."""
    decoder, joined = random_weights(case.size), case.joined
    outputs = case.size.vocab + len(case.durations)
    weight = 4 * torch.randn(outputs, joined, dtype=torch.float64) / joined**0.5
    bias = torch.randn(outputs, dtype=torch.float64) if case.size.bias else None
    if bias is not None:
        bias[case.blank] += blank_bias
    projection = None
    if case.projected:
        size = case.size.output
        matrix = 2 * torch.randn(joined, size, dtype=torch.float64) / size**0.5
        own = torch.randn(joined, dtype=torch.float64) if case.size.bias else None
        projection = LinearWeights(matrix, own)
    return TransducerWeights(
        decoder.embedding, decoder.layers, LinearWeights(weight, bias), projection
    )


def random_frames(case: Case, batch: int = 5, frames: int = 14) -> tuple[Tensor, Tensor]:
    """encoded, lengths: the first row has all frames, the second none."""
    lengths = torch.randint(0, frames + 1, (batch,))
    lengths[:2] = torch.tensor([frames, 0])[:batch]
    return 1.5 * torch.randn(batch, frames, case.joined, dtype=torch.float64), lengths


class Plain(NamedTuple):
    """Of one row; h, c (L, …) before the last token is read."""

    tokens: list[int]
    frames: list[int]
    scores: list[float]
    h: Tensor
    c: Tensor
    skip: int


def plain_search(
    weights: TransducerWeights,
    case: Case,
    frames: Tensor,
    max_symbols: int,
    begin: tuple[Tensor, Tensor, int, int] | None = None,
) -> Plain:
    """The row `frames` (T, J), frame by frame and token by token, in float64.

    begin: h, c, token, skip
    """
    layers = []
    for layer in weights.layers:
        biases = [bias for bias in (layer.b_ih, layer.b_hh) if bias is not None]
        bias = sum(biases) if biases else torch.zeros(len(layer.w_hh), dtype=torch.float64)
        variant = Variant(*layer.norms, None, *layer.zoneout)
        layers.append(DenseLayer(layer.w_ih, layer.w_hh, bias, layer.w_hr, variant))
    nothing = torch.zeros(1, weights.layers[0].w_hh.size(1), dtype=torch.float64)
    lstm = DenseDecoder(weights.embedding, tuple(layers), nothing, nothing[0, :1])
    if begin is None:
        hidden = weights.layers[0].w_hh.size(0) // 4
        h, c = (
            torch.zeros(len(layers), size, dtype=torch.float64)
            for size in (case.size.output, hidden)
        )
        token, at = case.blank, 0
    else:
        h, c, token, at = begin
    found, where, scores = [], [], []
    while at < len(frames):
        symbols, stays = 0, True
        while stays and symbols < max_symbols:
            read = step(lstm, torch.tensor([token]), h.unsqueeze(1), c.unsqueeze(1))
            prediction = read.h[-1, 0]
            if weights.projection is not None:
                matrix, bias = weights.projection
                prediction = matrix @ prediction + (0 if bias is None else bias)
            total = frames[at] + prediction
            joined = total.tanh() if case.activation == "tanh" else total.relu()
            matrix, bias = weights.output
            logits = matrix @ joined + (0 if bias is None else bias)
            tokens, lasts = logits[: case.size.vocab], logits[case.size.vocab :]
            best = int(tokens.argmax())
            takes = case.durations[int(lasts.argmax())] if case.durations else None
            if best == case.blank:
                at += max(1, takes or 0)
                break
            found.append(best)
            where.append(at)
            scores.append(float(tokens.log_softmax(0)[best]))
            h, c, token = read.h[:, 0], read.c[:, 0], best
            symbols += 1
            stays = not takes
            at += takes or 0
        else:
            if stays:
                at += 1
    return Plain(found, where, scores, h, c, max(0, at - len(frames)))
