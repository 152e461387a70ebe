"""Small random decoders, and a decode so plain that it can be read at a glance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fast_s2s.decoding import (
    DecodeOptions,
    DecodeResult,
    DecoderWeights,
    LayerWeights,
    PackedDecoder,
    decode,
    initial_state,
    pack_decoder,
    reference,
)

BOS, EOS = 1, 2


@dataclass(frozen=True)
class Size:
    """Of a decoder; `projection` 0 means none."""

    layers: int = 1
    hidden: int = 8
    vocab: int = 11
    embedding: int = 5
    projection: int = 0
    bias: bool = True
    tied: bool = False

    @property
    def output(self) -> int:
        return self.projection or self.hidden


def random_weights(size: Size, sharpness: float = 1.5) -> DecoderWeights:
    """Float64 weights; a larger `sharpness` makes tokens less alike."""
    gates, output = 4 * size.hidden, size.output
    layers = []
    for index in range(size.layers):
        inputs = output if index else (output if size.tied else size.embedding)
        layers.append(
            LayerWeights(
                torch.randn(gates, inputs, dtype=torch.float64) / inputs**0.5,
                torch.randn(gates, output, dtype=torch.float64) / output**0.5,
                torch.randn(gates, dtype=torch.float64) if size.bias else None,
                torch.randn(gates, dtype=torch.float64) if size.bias else None,
                torch.randn(output, size.hidden, dtype=torch.float64) if size.projection else None,
            )
        )
    scale = sharpness * (8 / output) ** 0.5
    weight = scale * torch.randn(size.vocab, output, dtype=torch.float64)
    embedding = (
        weight if size.tied else torch.randn(size.vocab, size.embedding, dtype=torch.float64)
    )
    bias = torch.randn(size.vocab, dtype=torch.float64) if size.bias else None
    return DecoderWeights(embedding, tuple(layers), weight, bias)


def random_context(size: Size, batch: int) -> tuple[Tensor, Tensor]:
    h = torch.randn(size.layers, batch, size.output, dtype=torch.float64).tanh()
    return h, torch.randn(size.layers, batch, size.hidden, dtype=torch.float64)


def make(
    size: Size, batch: int, dtype: torch.dtype = torch.float64, table: str = "auto", **kind: float
) -> tuple[PackedDecoder, Tensor, Tensor]:
    return pack_decoder(random_weights(size, **kind), dtype, table), *random_context(size, batch)


def run(
    made: tuple[PackedDecoder, Tensor, Tensor], options: DecodeOptions, chunk: int | None = None
) -> DecodeResult:
    """The whole generation, in chunks of steps if told to; counts are summed."""
    decoder, h, c = made
    state, steps, slot_steps = initial_state(decoder, h, c, BOS, options), 0, 0
    while True:
        result = decode(decoder, state, options, chunk)
        state, steps = result.state, steps + result.steps
        slot_steps += result.slot_steps
        if result.done or chunk is None:
            return result._replace(steps=steps, slot_steps=slot_steps)


def log_probabilities(
    made: tuple[PackedDecoder, Tensor, Tensor], row: int, tokens: list[int]
) -> Tensor:
    """(len(tokens) + 1, V): of each next token, given those before it."""
    decoder, h, c = made
    h, c = h[:, row : row + 1].to(decoder.acc), c[:, row : row + 1].to(decoder.acc)
    rows = []
    for token in [BOS, *tokens]:
        logits, h, c = reference.step(decoder.dense, torch.tensor([token]), h, c)
        rows.append(logits[0].double().log_softmax(0))
    return torch.stack(rows)
