"""What an encoder tells the decoder, by packed weights: for `generate`."""

from __future__ import annotations

import torch
from torch import Tensor

from fast_s2s.decoding.packed import read_packed
from fast_s2s.generation.packing import PackedCache, layer_weights
from fast_s2s.lstm import LSTM

# beyond it the product with each step's embedding, which a table replaces, is better done by `LSTM`
# for all steps at once; as for the table of `pack_decoder`
_TABLE_BYTES = 64 * 2**20


class PackedEncoder:
    """Keeps what was packed for each layer and direction of an encoder."""

    def __init__(self) -> None:
        self._caches: tuple[PackedCache, ...] = ()

    @staticmethod
    def serves(embedding: Tensor, lstm: LSTM) -> bool:
        """Whether the kernels can read for this encoder, and better than layer by layer."""
        size = embedding.size(0) * 4 * lstm.hidden_size * embedding.itemsize
        return (
            lstm.is_plain
            and embedding.device.type == "cpu"
            and embedding.dtype in (torch.float32, torch.float64)
            and size <= _TABLE_BYTES
        )

    def read(
        self,
        embedding: Tensor,
        lstm: LSTM,
        src: Tensor,
        lengths: Tensor,
        dtype: torch.dtype,
        *,
        outputs: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h_n, c_n (layers·D, B, H) of rows of `src` (B, S), and the outputs (B, S, D·H), as `LSTM`
        gives them; none of the latter unless asked for.

        dtype: of the packed matrices
        """
        layers = layer_weights(lstm)
        if len(self._caches) != len(layers):
            self._caches = tuple(PackedCache() for _ in layers)
        caches, directions = self._caches, 2 if lstm.bidirectional else 1
        zeros = embedding.new_zeros(directions, src.size(0), lstm.hidden_size)
        inputs, states = src, []
        for first in range(0, len(layers), directions):
            # those after the first read what the one before gave
            looked_up = embedding if first == 0 else None
            here = range(first, first + directions)
            packs = [caches[k].get_encoder(looked_up, layers[k], dtype) for k in here]
            wanted = outputs or here.stop < len(layers)
            h, c, inputs = read_packed(packs, zeros, zeros, inputs, lengths, outputs=wanted)
            states.append((h, c))
        if len(states) == 1:
            return *states[0], inputs
        h_n, c_n = (torch.cat(parts) for parts in zip(*states, strict=True))
        return h_n, c_n, inputs

    def clear(self) -> None:
        """Pack anew at the next call."""
        for cache in self._caches:
            cache.clear()
