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
        self,
        embedding: Tensor,
        lstm: LSTM,
        src: Tensor,
        lengths: Tensor,
        dtype: torch.dtype,
        *,
        outputs: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h_n, c_n (D, B, H) of rows of `src` (B, S), and the outputs (B, S, D·H), as `LSTM` gives
        them; none of the latter unless asked for.

        dtype: of the packed matrices
        """
        packs = [
            cache.get_encoder(embedding, layer, dtype)
            for cache, layer in zip(self._caches, layer_weights(lstm), strict=False)
        ]
        zeros = embedding.new_zeros(len(packs), src.size(0), lstm.hidden_size)
        return read_packed(packs, zeros, zeros, src, lengths, outputs=outputs)

    def clear(self) -> None:
        """Pack anew at the next call."""
        for cache in self._caches:
            cache.clear()
