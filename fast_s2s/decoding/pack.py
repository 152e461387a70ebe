"""Packing a decoder's or an encoder's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fast_s2s.decoding.packed import PackedDecoder, StoredAttention
from fast_s2s.decoding.weights import (
    DTYPES,
    AttentionWeights,
    DecoderWeights,
    LayerWeights,
    check_weights,
)
from fast_s2s.reference import accumulate_dtype
from fast_s2s.stored import store

TABLE_MODES = ("auto", "on", "off")

# a larger embedding table is not worth its memory, by default
_TABLE_BYTES = 64 * 2**20


@torch.no_grad()
def pack_decoder(
    weights: DecoderWeights, dtype: torch.dtype | None = None, table: str = "auto"
) -> PackedDecoder:
    """Weights for `decode`, stored as `dtype`.

    dtype: float32, float64, bfloat16, float16 (fast on a GPU alone), or int8 with a scale for each
           row; default: that of the output projection's weight, on the CPU float32 for float16.
           States and sums are float64 for float64, else float32
    table: whether layer 0 looks up embedding · W_ihᵀ + bias, (V, 4H) numbers, instead of
           multiplying: "auto" does up to 64 MiB; "on" or "off"

    Raises TypeError or ValueError naming what does not fit.
    """
    check_weights(weights)
    if dtype is None:
        own = weights.output_weight.dtype
        on_cpu = weights.output_weight.device.type == "cpu"
        dtype = torch.float32 if own == torch.float16 and on_cpu else own
    if dtype not in DTYPES:
        names = ", ".join(str(known) for known in DTYPES)
        raise ValueError(f"dtype: expected one of {names}, got {dtype!r}")
    if table not in TABLE_MODES:
        raise ValueError(f"table: expected one of {', '.join(TABLE_MODES)}, got {table!r}")
    acc = accumulate_dtype(dtype)
    vocab_size = weights.output_weight.size(0)
    gates = weights.layers[0].w_hh.size(0)
    small = vocab_size * gates * acc.itemsize <= _TABLE_BYTES
    biases = [_bias(layer, acc) for layer in weights.layers]
    output_bias = weights.output_bias
    if output_bias is None:
        output_bias = torch.zeros(vocab_size, device=weights.output_weight.device)
    layers = tuple(
        (
            store(layer.w_ih, dtype),
            store(layer.w_hh, dtype),
            None if layer.w_hr is None else store(layer.w_hr, dtype),
        )
        for layer in weights.layers
    )
    return PackedDecoder(
        dtype=dtype,
        table=table == "on" or (table == "auto" and small),
        # a copy, as all here: a pack stays what it is when weights change
        embedding=weights.embedding.detach().to(acc, copy=True),
        layers=layers,
        biases=(*biases, output_bias.detach().to(acc, copy=True)),
        output=store(weights.output_weight, dtype),
        attending=_stored_attention(weights.attention, dtype, acc),
        norms=_norms(weights.layers, acc),
        zoneout=weights.layers[0].zoneout,
    ).ready()


def pack_encoder(
    embedding: Tensor,
    layers: Sequence[LayerWeights],
    dtype: torch.dtype | None = None,
    table: str = "auto",
) -> PackedDecoder:
    """Layers over an embedding (V, E), for `read`. As `pack_decoder`, without an output."""
    if not isinstance(embedding, Tensor):
        raise TypeError(f"embedding: expected a tensor, got {type(embedding).__name__}")
    if not layers:
        raise ValueError("layers: expected at least one, got none")
    output = embedding.new_zeros(embedding.size(0), layers[0].w_hh.size(1))
    return pack_decoder(DecoderWeights(embedding, tuple(layers), output), dtype, table)


def _stored_attention(
    weights: AttentionWeights | None, dtype: torch.dtype, acc: torch.dtype
) -> StoredAttention | None:
    if weights is None:
        return None
    return StoredAttention(
        store(weights.output, dtype),
        weights.heads,
        weights.feeding,
        None if weights.query is None else store(weights.query, dtype),
        None if weights.score is None else weights.score.detach().to(acc, copy=True),
    )


def _norms(layers: Sequence[LayerWeights], acc: torch.dtype) -> tuple[tuple[Tensor, ...], ...]:
    if layers[0].norm_ih is None:
        return ()
    return tuple(
        tuple(norm.detach().to(acc, copy=True) for norm in layer.norms if norm is not None)
        for layer in layers
    )


def _bias(layer: LayerWeights, acc: torch.dtype) -> Tensor:
    total = torch.zeros(layer.w_hh.size(0), dtype=acc, device=layer.w_hh.device)
    for bias in (layer.b_ih, layer.b_hh):
        if bias is not None:
            total = total + bias.detach().to(acc)
    return total
