"""An encoder's final state by packed weights: what `generate` needs of it without attention."""

from __future__ import annotations

import torch
from torch import Tensor

from fast_s2s.decoding import read
from fast_s2s.generation.packing import PackedCache, layer_weights
from fast_s2s.lstm import LSTM

# beyond it the product with each step's embedding, which a table replaces, is better done by `LSTM`
# for all steps at once; as for the table of `pack_decoder`
_TABLE_BYTES = 64 * 2**20


class PackedEncoder:
    """Keeps what was packed for an encoder of one layer, of one direction or two."""

    def __init__(self) -> None:
        self._caches = (PackedCache(), PackedCache())

    @staticmethod
    def serves(embedding: Tensor, lstm: LSTM) -> bool:
        """Whether the kernels can read for this encoder, and better than layer by layer."""
        size = embedding.size(0) * 4 * lstm.hidden_size * embedding.itemsize
        return (
            lstm.num_layers == 1
            and lstm.is_plain
            and embedding.device.type == "cpu"
            and embedding.dtype in (torch.float32, torch.float64)
            and size <= _TABLE_BYTES
        )

    def read(
        self, embedding: Tensor, lstm: LSTM, src: Tensor, lengths: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """h_n, c_n (D, B, H) of rows of `src` (B, S), as `LSTM` gives them.

        dtype: of the packed matrices
        """
        zeros = embedding.new_zeros(1, src.size(0), lstm.hidden_size)
        ends = []
        for direction, layer in enumerate(layer_weights(lstm)):
            if direction:
                steps = torch.arange(src.size(1), device=src.device)
                src = src.gather(1, (lengths.unsqueeze(1) - 1 - steps).clamp(min=0))
            packed = self._caches[direction].get_encoder(embedding, layer, dtype)
            ends.append(read(packed, zeros, zeros, src, lengths))
        if len(ends) == 1:
            return ends[0]
        h, c = (torch.cat(parts) for parts in zip(*ends, strict=True))
        return h, c

    def clear(self) -> None:
        """Pack anew at the next call."""
        for cache in self._caches:
            cache.clear()
