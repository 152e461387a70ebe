"""Small random decoders with attention."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from helpers_decode import BOS, Size, random_context, random_weights, run_from
from torch import Tensor

import fast_s2s
from fast_s2s.attention import Memory
from fast_s2s.decoding import (
    AttentionWeights,
    DecodeOptions,
    DecodeResult,
    PackedDecoder,
    initial_state,
    pack_decoder,
)
from fast_s2s.decoding.contract import join_state
from fast_s2s.decoding.options import op_numbers, op_rules


class Case(NamedTuple):
    """A decoder and where it begins; `memory` None for one without attention."""

    decoder: PackedDecoder
    h: Tensor
    c: Tensor
    memory: Memory | None = None

    def state(self, options: DecodeOptions):
        return initial_state(self.decoder, self.h, self.c, BOS, options, memory=self.memory)

    def run(self, options: DecodeOptions, chunk: int | None = None) -> DecodeResult:
        """As `helpers_decode.run`."""
        return run_from(self.decoder, self.state(options), options, chunk)

    def op_arguments(self, options: DecodeOptions, max_steps: int = 2) -> list:
        """What the op `decode` takes."""
        state = self.state(options)
        rules = op_rules(self.decoder, options, state.slots.position.numel())
        return [
            self.decoder.packed,
            self.decoder.header,
            join_state(state.slots, state.hypotheses),
            list(state.memory or ()),
            list(rules),
            *op_numbers(options),
            max_steps,
        ]

    def on_reference(self, options: DecodeOptions) -> DecodeResult:
        with fast_s2s.backend("reference"):
            return self.run(options)


class Shape(NamedTuple):
    """Of attention: sizes of a head's part of keys and values, and the memory's steps."""

    heads: int = 1
    values: int = 6
    keys: int = 5
    additive: bool = False
    feeding: bool = False
    steps: int = 7


def make_case(
    size: Size, shape: Shape, batch: int, dtype=torch.float64, table="auto", sharpness=1.5
) -> Case:
    weights = random_weights(size, sharpness)
    output, heads = size.output, shape.heads
    values = heads * shape.values
    keys = heads * shape.keys if shape.additive else output
    kind = {"dtype": torch.float64}
    # so sharp that steps differ
    query = 2 * torch.randn(keys, output, **kind) / output**0.5 if shape.additive else None
    score = 2 * torch.randn(keys, **kind) if shape.additive else None
    joined = values + output
    attention = AttentionWeights(
        2 * torch.randn(output, joined, **kind) / joined**0.5, heads, shape.feeding, query, score
    )
    layers = list(weights.layers)
    h, c = random_context(size, batch)
    if shape.feeding:
        fed = torch.randn(layers[0].w_ih.size(0), output, **kind) / output**0.5
        layers[0] = layers[0]._replace(w_ih=torch.cat((layers[0].w_ih, fed), 1))
        h = torch.cat((h, torch.randn(1, batch, output, **kind).tanh()))
    weights = weights._replace(layers=tuple(layers), attention=attention)
    lengths = torch.randint(0, shape.steps + 1, (batch,))
    memory = Memory(
        torch.randn(batch, shape.steps, values, **kind),
        2 * torch.randn(batch, shape.steps, keys, **kind),
        lengths,
    )
    return Case(pack_decoder(weights, dtype, table), h, c, memory)


def random_shape(rng: random.Random, size: Size, most: int = 150) -> Shape:
    """For a decoder of this size; `most`: values of a head."""
    additive = rng.random() < 0.4
    divisors = [n for n in range(1, 9) if additive or size.output % n == 0]
    return Shape(
        heads=rng.choice([1, *divisors]),
        values=rng.choice([1, 16, rng.randint(1, most)]),
        keys=rng.choice([1, 16, rng.randint(1, min(most, 80))]),
        additive=additive,
        feeding=rng.random() < 0.4,
        steps=rng.choice([1, 63, rng.randint(1, 40)]),
    )
