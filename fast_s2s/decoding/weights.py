"""The weights of a decoder as they are given, what they have to be, and may be stored as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast_s2s.checks import (
    check_bool,
    check_integer,
    check_number,
    check_sequence,
    check_tensor,
)

# numbered as `WeightType` of csrc/decode/decode.h
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8)
# of those, what the kernels multiply
CPU_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int8)
CUDA_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)
_NORMS = ("norm_ih", "norm_hh", "norm_c", "norm_c_bias")


class LayerWeights(NamedTuple):
    """One layer, as in `torch.nn.LSTM`: w_ih (4H, I), w_hh (4H, R), biases (4H,), w_hr (R, H).

    norm_ih, norm_hh, norm_c, norm_c_bias: layer norm, as in `fast_s2s.reference.Variant`; all or
                                           none
    zoneout_hidden, zoneout_cell:          the part of h and c that stays as it was, in 0..1
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None
    norm_ih: Tensor | None = None
    norm_hh: Tensor | None = None
    norm_c: Tensor | None = None
    norm_c_bias: Tensor | None = None
    zoneout_hidden: float = 0.0
    zoneout_cell: float = 0.0

    @property
    def norms(self) -> tuple[Tensor | None, ...]:
        """The four parameters of layer norm."""
        return self.norm_ih, self.norm_hh, self.norm_c, self.norm_c_bias

    @property
    def zoneout(self) -> tuple[float, float]:
        """Of h and of c."""
        return self.zoneout_hidden, self.zoneout_cell


class AttentionWeights(NamedTuple):
    """Attention after the last layer, as in `fast_s2s.attention`.

    output:  (R, M + R), of [context; h]
    heads:   a divisor of A and M
    feeding: the first layer reads [embedding; h~ of the step before], E + R values
    query:   (A, R), additive attention only
    score:   (A,), likewise
    """

    output: Tensor
    heads: int = 1
    feeding: bool = False
    query: Tensor | None = None
    score: Tensor | None = None


class DecoderWeights(NamedTuple):
    """An LSTM decoder: embedding (V, E), layers, output projection (V, R) and its bias (V,).

    Tied embeddings are the same tensor twice.
    """

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    output_weight: Tensor
    output_bias: Tensor | None = None
    attention: AttentionWeights | None = None


def check_layers(layers: Any) -> None:
    """Raises TypeError or ValueError unless these are the weights of at least one layer."""
    check_sequence("layers", layers, "LayerWeights")
    if not layers:
        raise ValueError("layers: expected at least one, got none")
    for index, layer in enumerate(layers):
        if not isinstance(layer, LayerWeights):
            got = type(layer).__name__
            raise TypeError(f"layers[{index}]: expected LayerWeights, got {got}")
        if not (isinstance(layer.w_hh, Tensor) and layer.w_hh.dim() == 2):
            raise TypeError(f"layers[{index}].w_hh: expected a tensor (4H, R)")


def check_weights(weights: DecoderWeights) -> None:
    if not isinstance(weights, DecoderWeights):
        raise TypeError(f"weights: expected DecoderWeights, got {type(weights).__name__}")
    output, embedding = weights.output_weight, weights.embedding
    if not isinstance(output, Tensor):
        raise TypeError(f"output_weight: expected a tensor, got {type(output).__name__}")
    device = output.device

    def check(name: str, value: Tensor, axes: str, *sizes: int | None) -> None:
        check_tensor(name, value, axes, sizes, None, device)
        if not value.dtype.is_floating_point:
            raise ValueError(f"{name}: expected a floating-point dtype, got {value.dtype}")

    check("output_weight", output, "(V, R)", None, None)
    check("embedding", embedding, "(V, E)", output.size(0), None)
    if weights.output_bias is not None:
        check("output_bias", weights.output_bias, "(V,)", output.size(0))
    check_layers(weights.layers)
    size, outputs = embedding.size(1), output.size(1)
    if weights.attention is not None:
        _check_attention(weights.attention, outputs, check)
        size += outputs if weights.attention.feeding else 0
    projected = weights.layers[0].w_hr is not None
    hidden = weights.layers[0].w_hh.size(0) // 4
    for index, layer in enumerate(weights.layers):
        name = f"layers[{index}]"
        check(f"{name}.w_ih", layer.w_ih, "(4H, I)", 4 * hidden, size)
        check(f"{name}.w_hh", layer.w_hh, "(4H, R)", 4 * hidden, outputs)
        for part in ("b_ih", "b_hh"):
            bias = getattr(layer, part)
            if bias is not None:
                check(f"{name}.{part}", bias, "(4H,)", 4 * hidden)
        if projected != (layer.w_hr is not None):
            raise ValueError(f"{name}.w_hr: expected one in every layer or in none")
        if layer.w_hr is not None:
            check(f"{name}.w_hr", layer.w_hr, "(R, H)", outputs, hidden)
        elif outputs != hidden:
            raise ValueError(
                f"output_weight: expected (V, H) with H = {hidden}, got {tuple(output.shape)}"
            )
        _check_variant(name, layer, weights.layers[0], hidden, check)
        size = outputs


def _check_variant(
    name: str, layer: LayerWeights, first: LayerWeights, hidden: int, check: Callable[..., None]
) -> None:
    """Layer norm and zoneout, which are the same kinds in every layer."""
    normed = first.norm_ih is not None
    for part in _NORMS:
        norm = getattr(layer, part)
        if (norm is not None) != normed:
            raise ValueError(
                f"{name}.{part}: expected all parameters of layer norm in every layer, or none"
            )
        if norm is not None:
            axes, size = ("(4H,)", 4 * hidden) if part in _NORMS[:2] else ("(H,)", hidden)
            check(f"{name}.{part}", norm, axes, size)
    for part in ("zoneout_hidden", "zoneout_cell"):
        given = getattr(layer, part)
        check_number(f"{name}.{part}", given, 0.0, 1.0)
        if given != getattr(first, part):
            expected = getattr(first, part)
            raise ValueError(f"{name}.{part}: expected that of layer 0, {expected}, got {given}")


def _check_attention(attention: AttentionWeights, outputs: int, check: Callable[..., None]) -> None:
    if not isinstance(attention, AttentionWeights):
        got = type(attention).__name__
        raise TypeError(f"attention: expected AttentionWeights, got {got}")
    check("attention.output", attention.output, "(R, M + R)", outputs, None)
    values, keys = attention.output.size(1) - outputs, outputs
    if values < 1:
        raise ValueError(
            f"attention.output: expected (R, M + R) with R = {outputs}, "
            f"got {tuple(attention.output.shape)}"
        )
    if (attention.query is None) != (attention.score is None):
        raise ValueError("attention.query: expected one beside attention.score, or neither")
    if attention.query is not None:
        check("attention.query", attention.query, "(A, R)", None, outputs)
        keys = attention.query.size(0)
        check("attention.score", attention.score, "(A,)", keys)
    check_integer("attention.heads", attention.heads, 1)
    if values % attention.heads or keys % attention.heads:
        raise ValueError(
            f"attention.heads: expected a divisor of M = {values} and A = {keys}, "
            f"got {attention.heads}"
        )
    check_bool("attention.feeding", attention.feeding)
