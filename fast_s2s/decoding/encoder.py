"""An encoder's weights, and of what lies between it and a decoder, packed once for many calls."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fast_s2s.decoding import reference
from fast_s2s.decoding.linear import LinearWeights as LinearWeights
from fast_s2s.decoding.linear import PackedLinear, pack_linear
from fast_s2s.decoding.pack import pack_encoder
from fast_s2s.decoding.packed import PackedDecoder
from fast_s2s.decoding.weights import LayerWeights


class EncoderWeights(NamedTuple):
    """Of an encoder over an embedding (V, E), on the CPU.

    layers:     of each layer, and of each direction of it; without projections
    directions: 1 or 2
    bridges:    from D·H values of a layer's h to what a decoder layer starts from, for each decoder
                layer; then from its c. Empty: a decoder layer starts from h and c as they are
    key:        from D·H values of an output to what attention compares it by; None: to itself
    """

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    directions: int
    bridges: tuple[LinearWeights, ...]
    key: LinearWeights | None


class Encoded(NamedTuple):
    """What the decoder starts from, h (L, B, H) and c; and with outputs what it attends to.

    values: (B, S, D·H)
    keys:   (B, S, A), or `values` again; both zeros past a row's length
    """

    h: Tensor
    c: Tensor
    values: Tensor
    keys: Tensor


@dataclass(frozen=True, eq=False)
class PackedEncoder:
    """Made by `pack_whole_encoder`; later changes of a model do not reach it. Fields as in
    `EncoderWeights`.

    dtype: of the matrices
    """

    dtype: torch.dtype
    layers: tuple[PackedDecoder, ...]
    directions: int
    bridges: tuple[PackedLinear, ...]
    key: PackedLinear | None

    def run(
        self,
        tokens: Tensor,
        lengths: Tensor,
        pairs: Sequence[int],
        *,
        outputs: bool,
        feeding: bool = False,
    ) -> Encoded:
        """tokens (B, S) int64, lengths (B,) int64 in 0..S.

        pairs:   the encoder layer from which each decoder layer starts
        outputs: whether values and keys are wanted, as they must be of weights that have a key;
                 else they have no rows
        feeding: whether zeros come behind h, for input feeding
        """
        if self.layers[0].backend == "reference":
            return self._by_reference(tokens, lengths, pairs, outputs, feeding)
        packed, headers = self._arguments
        count = len(self.layers) // self.directions
        h, c, values, keys = torch.ops.fast_s2s.decode_encode.default(
            packed,
            headers,
            tokens,
            lengths,
            count,
            self.directions,
            pairs,
            bool(self.bridges),
            outputs,
            feeding,
        )
        return Encoded(h, c, values, values if self.key is None else keys)

    @functools.cached_property
    def _arguments(self) -> tuple[list[Tensor], list[int]]:
        linears = self.bridges if self.key is None else (*self.bridges, self.key)
        packed = [layer.packed for layer in self.layers] + [linear.packed() for linear in linears]
        headers = [layer.header for layer in self.layers]
        headers += [list(linear.header(self.dtype)) for linear in linears]
        return packed, [number for header in headers for number in header]

    def _by_reference(
        self, tokens: Tensor, lengths: Tensor, pairs: Sequence[int], outputs: bool, feeding: bool
    ) -> Encoded:
        values, ends = tokens, []
        for first in range(0, len(self.layers), self.directions):
            dense = [layer.dense for layer in self.layers[first : first + self.directions]]
            size = self.directions, len(tokens), self.layers[0].hidden_size
            zeros = torch.zeros(size, dtype=self.layers[0].acc, device=tokens.device)
            h, c, values = reference.read(dense, zeros, zeros, values, lengths, outputs=True)
            ends.append([part.transpose(0, 1).flatten(1) for part in (h, c)])

        def start(which: int, bridges: Sequence[PackedLinear]) -> Tensor:
            found = [ends[layer][which] for layer in pairs]
            if bridges:
                found = [bridge(end) for bridge, end in zip(bridges, found, strict=True)]
            return torch.stack(found)

        h, c = start(0, self.bridges[: len(pairs)]), start(1, self.bridges[len(pairs) :])
        h = h.tanh() if self.bridges else h
        if feeding:
            h = torch.cat((h, torch.zeros_like(h[:1])))
        if not outputs:
            return Encoded(h, c, values[:0], values[:0])
        keys = values
        if self.key is not None:
            steps = torch.arange(tokens.size(1), device=tokens.device)
            past = (steps >= lengths.unsqueeze(1)).unsqueeze(2)
            keys = self.key(values).masked_fill(past, 0.0)
        return Encoded(h, c, values, keys)


@torch.no_grad()
def pack_whole_encoder(weights: EncoderWeights, dtype: torch.dtype) -> PackedEncoder:
    """Matrices stored as `dtype`, which as well as states and sums is as for `pack_decoder`.

    The first layer looks its products up in a table.
    """
    # what the others read are values: an embedding of one row has their size
    none = weights.embedding.new_zeros(1, weights.layers[-1].w_ih.size(1))
    layers = []
    for index, layer in enumerate(weights.layers):
        looked_up = index < weights.directions
        embedding = weights.embedding if looked_up else none
        layers.append(pack_encoder(embedding, [layer], dtype, "on" if looked_up else "off"))

    return PackedEncoder(
        dtype,
        tuple(layers),
        weights.directions,
        tuple(pack_linear(bridge, dtype) for bridge in weights.bridges),
        None if weights.key is None else pack_linear(weights.key, dtype),
    )
