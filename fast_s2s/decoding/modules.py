"""Weights of modules, and what they have to be, for searches over models of elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fast_s2s.checks import check_tensor
from fast_s2s.decoding.linear import LinearWeights
from fast_s2s.decoding.weights import LayerWeights


def lstm_layers(lstm: nn.Module | Sequence[nn.Module]) -> tuple[LayerWeights, ...]:
    """Those of an LSTM of one direction, or of several, one after the other.

    Raises TypeError or ValueError naming what does not fit.
    """
    modules: Any = lstm if isinstance(lstm, (Sequence, nn.ModuleList)) else [lstm]
    layers = tuple(layer for module in modules for layer in _layers(module))
    if not layers:
        raise ValueError("lstm: expected at least one, got none")
    return layers


def _layers(lstm: Any) -> list[LayerWeights]:
    weight = getattr(lstm, "weight_hh_l0", None)
    # a GRU has three gates
    if weight is None or weight.size(0) != 4 * lstm.hidden_size:
        raise TypeError(f"lstm: expected an LSTM, got {type(lstm).__name__}")
    if hasattr(lstm, "weight_dtype"):
        raise TypeError("lstm: expected one that is not packed yet, got a PackedLSTM")
    if lstm.bidirectional:
        raise ValueError("lstm: expected one direction, got a bidirectional LSTM")
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    # those of `fast_s2s.LSTM` alone
    norms = ("norm_weight_ih", "norm_weight_hh", "norm_weight_c", "norm_bias_c")
    found: list[list[Any]] = [
        [getattr(lstm, f"{part}_l{index}", None) for part in (*parts, *norms)]
        for index in range(lstm.num_layers)
    ]
    zoneout = getattr(lstm, "zoneout", (0.0, 0.0))
    return [LayerWeights(*layer, *zoneout) for layer in found]


def check_module(name: str, module: object) -> None:
    if not isinstance(getattr(module, "weight", None), Tensor):
        raise TypeError(f"{name}: expected a module with a weight, got {type(module).__name__}")


def check_linear(
    name: str,
    given: LinearWeights,
    axes: str,
    outputs: int | None,
    inputs: int | None,
    beside: Any,
) -> None:
    if not isinstance(given, LinearWeights):
        raise TypeError(f"{name}: expected LinearWeights, got {type(given).__name__}")
    device = beside.device if isinstance(beside, Tensor) else torch.device("cpu")
    check_tensor(f"{name}.weight", given.weight, axes, (outputs, inputs), None, device)
    if not given.weight.dtype.is_floating_point:
        got = given.weight.dtype
        raise ValueError(f"{name}.weight: expected a floating-point dtype, got {got}")
    if given.bias is not None:
        size = given.weight.size(0)
        check_tensor(f"{name}.bias", given.bias, "(rows,)", (size,), None, device)
