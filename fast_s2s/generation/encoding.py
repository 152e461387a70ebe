"""Which encoders the kernels read for in `generate`, and the weights that they pack of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fast_s2s.attention import Attention
from fast_s2s.decoding.encoder import EncoderWeights, LinearWeights
from fast_s2s.generation.packing import layer_weights
from fast_s2s.lstm import LSTM

# beyond it the product with each step's embedding, which a table replaces, is better done by `LSTM`
# for all steps at once; as for the table of `pack_decoder`
_TABLE_BYTES = 64 * 2**20


def is_served(embedding: Tensor, lstm: LSTM) -> bool:
    """Whether the kernels can read for this encoder, and better than layer by layer."""
    size = embedding.size(0) * 4 * lstm.hidden_size * embedding.itemsize
    return (
        embedding.device.type == "cpu"
        and embedding.dtype in (torch.float32, torch.float64)
        and size <= _TABLE_BYTES
    )


def encoder_weights(
    embedding: Tensor, lstm: LSTM, bridges: Iterable[nn.Module], attention: Attention | None
) -> EncoderWeights:
    """The tensors of an encoder made of modules, and of what lies between it and its decoder:
    `bridges`, linear layers in the order of `EncoderWeights`.
    """
    key = None if attention is None else attention.key
    return EncoderWeights(
        embedding,
        layer_weights(lstm),
        2 if lstm.bidirectional else 1,
        tuple(map(_linear_weights, bridges)),
        None if key is None else _linear_weights(key),
    )


def _linear_weights(linear: nn.Module) -> LinearWeights:
    assert isinstance(linear, nn.Linear)
    return LinearWeights(linear.weight, linear.bias)
