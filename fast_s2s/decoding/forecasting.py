"""Forecasts by an LSTM that reads its own values (DeepAR, Salinas et al. 2017,
https://arxiv.org/abs/1704.04110): all steps and all paths in one call.

Rules and examples: docs/forecasting.md.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fast_s2s import backends
from fast_s2s.attention import values_in
from fast_s2s.checks import check_integer, check_sequence, check_tensor, shown
from fast_s2s.decoding import forecast_reference
from fast_s2s.decoding import ops as ops
from fast_s2s.decoding.distributions import FAMILIES, POSITIVE
from fast_s2s.decoding.linear import LinearWeights, PackedLinear, pack_linear
from fast_s2s.decoding.modules import check_linear, check_module, lstm_layers
from fast_s2s.decoding.pack import pack_decoder
from fast_s2s.decoding.packed import PackedDecoder, choose_cpu_backend
from fast_s2s.decoding.philox import row_seeds
from fast_s2s.decoding.weights import DecoderWeights, LayerWeights, check_layers

# of steps and paths, which random numbers count in 32 bits
_MOST = 2**31 - 1


class ForecasterWeights(NamedTuple):
    """An LSTM and what makes a distribution's parameters of its output.

    layers: of the LSTM, of I inputs and R outputs
    output: (P·D, R) and its bias: of D series the locations, then the scales, then the degrees of
            freedom, as far as the distribution has them
    """

    layers: tuple[LayerWeights, ...]
    output: LinearWeights

    @classmethod
    def of(
        cls, lstm: nn.Module | Sequence[nn.Module], output: nn.Linear | Sequence[nn.Linear]
    ) -> ForecasterWeights:
        """Those of modules; `lstm` is a `torch.nn.LSTM` or `fast_s2s.LSTM` of one direction, or
        several, one after the other; `output` one layer, or one for each parameter.

        Raises TypeError or ValueError naming the module that does not fit.
        """
        layers = lstm_layers(lstm)
        parts = list(output) if isinstance(output, (Sequence, nn.ModuleList)) else [output]
        if not parts:
            raise ValueError("output: expected at least one, got none")
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for part in parts:
            check_module("output", part)
            bias = part.bias
            weights.append(part.weight)
            biases.append(part.weight.new_zeros(len(part.weight)) if bias is None else bias)
        return cls(layers, LinearWeights(torch.cat(weights), torch.cat(biases)))


class Forecast(NamedTuple):
    """What was found for B rows.

    values: (B, S, T, D), S paths of T steps; without `num_samples` (B, T, D)
    h, c:   (L, B·S, R) and (L, B·S, H), the states after the last step, a row's paths side by side
    """

    values: Tensor
    h: Tensor
    c: Tensor


@dataclass(frozen=True, eq=False)
class PackedForecaster:
    """Made by `pack_forecaster`; later changes of a model do not reach it.

    num_series: D
    num_known:  C, values that are known at each step
    """

    network: PackedDecoder
    output: PackedLinear
    distribution: str
    positive: str
    lags: tuple[int, ...]
    num_series: int
    num_known: int

    @property
    def choice(self) -> backends.Choice:
        """What runs the forecast, and why."""
        return choose_cpu_backend(self.device.type, self.network.dtype, "forecasts are there")

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def acc(self) -> torch.dtype:
        """Of values, states and sums: float64 for float64 weights, else float32."""
        return self.network.acc

    def run(
        self,
        h: Tensor,
        c: Tensor,
        history: Tensor,
        known: Tensor,
        seeds: Tensor | None,
        paths: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The op `forecast`, or its reference."""
        how = self.distribution, self.positive
        if self.choice.backend == "reference":
            given = h, c, history, known, seeds
            return forecast_reference.forecast(self._dense, *given, self.lags, paths, *how)
        none = torch.empty(0, dtype=torch.int64, device="cpu")
        values, h_n, c_n = torch.ops.fast_s2s.forecast.default(
            *self._arguments,
            *(h, c, history, known, none if seeds is None else seeds),
            *(self.lags, paths, FAMILIES.index(how[0]), POSITIVE.index(how[1])),
        )
        return values, h_n, c_n

    @functools.cached_property
    def _arguments(self) -> tuple[list[Tensor], list[int]]:
        headers = [*self.network.header, *self.output.header(self.network.dtype)]
        packed = [self.network.packed, self.output.packed()]
        return packed, [int(number) for number in headers]

    @property
    def _dense(self) -> forecast_reference.DenseDecoder:
        weight, bias = self.output.weight.dense(self.acc), self.output.bias
        return self.network.dense._replace(output_weight=weight, output_bias=bias)


@torch.no_grad()
def pack_forecaster(
    weights: ForecasterWeights,
    *,
    distribution: str = "point",
    positive: str = "softplus",
    lags: Sequence[int] = (1,),
    value_inputs: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> PackedForecaster:
    """Weights for `forecast`; `dtype` as for `pack_decoder`.

    distribution: what the output layer's parameters are of: "point", locations alone; "normal";
                  "student_t", which has 2 + what is made positive degrees of freedom
    positive:     what makes scales, and degrees of freedom, positive: "softplus", "squareplus" or
                  "exp"
    lags:         from how many steps before the values are that a step reads; 1: the last one
    value_inputs: which of the LSTM's inputs these are: for each lag in turn its D; default the
                  first. The others, in their order, are what is known at each step

    Raises TypeError or ValueError naming what does not fit.
    """
    if not isinstance(weights, ForecasterWeights):
        raise TypeError(f"weights: expected ForecasterWeights, got {type(weights).__name__}")
    for name, value, choices in (
        ("distribution", distribution, FAMILIES),
        ("positive", positive, POSITIVE),
    ):
        if value not in choices:
            raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {shown(value)}")
    check_sequence("lags", lags, "integers")
    if not lags:
        raise ValueError("lags: expected at least one, got none")
    for index, lag in enumerate(lags):
        check_integer(f"lags[{index}]", lag, 1)
    layers, output = weights
    check_layers(layers)
    first = layers[0].w_ih
    if not isinstance(first, Tensor) or first.dim() != 2:
        raise TypeError("layers[0].w_ih: expected a tensor (4H, I)")
    check_linear("output", output, "(P·D, R)", None, layers[0].w_hh.size(1), first)
    count = 1 + FAMILIES.index(distribution)
    series, left = divmod(output.weight.size(0), count)
    if left or not series:
        raise ValueError(
            f"output: expected {count} parameters of each series, as {distribution} has, got "
            f"{output.weight.size(0)} in all"
        )
    order = _order(value_inputs, len(lags) * series, first.size(1))
    layers = (layers[0]._replace(w_ih=first[:, order]), *layers[1:])
    # values are read, and none is written: a vocabulary of one stands for none
    none = first.new_zeros(1, first.size(1)), output.weight.new_zeros(1, output.weight.size(1))
    network = pack_decoder(DecoderWeights(none[0], layers, none[1]), dtype, "off")
    packed = PackedForecaster(
        network,
        pack_linear(output, network.dtype),
        *(distribution, positive, tuple(lags), series, first.size(1) - len(lags) * series),
    )
    if packed.choice.backend == "native":
        # now, rather than in the first call
        _ = packed._arguments
    return packed


@torch.no_grad()
def forecast(
    forecaster: PackedForecaster,
    state: tuple[Tensor, Tensor],
    history: Tensor,
    known: Tensor | None = None,
    *,
    steps: int | None = None,
    num_samples: int | None = None,
    seed: int | Tensor | None = None,
) -> Forecast:
    """What comes next in B rows of D series, each step from the values of those before it.

    state:       h (L, B, R) and c (L, B, H) of the LSTM after what it has read so far
    history:     (B, K, D), the last values before the first step, the newest last; K at least the
                 largest lag
    known:       (B, T, C), what is known of each step: its date, say
    steps:       T, where nothing is known
    num_samples: S paths by chance for each row, from the distribution; None: one path of locations
    seed:        of these: an integer, from which each row gets a stream of its own, or (B,) int64,
                 a stream for each; None: from torch's generator

    Rows and paths do not depend on each other: path s of a row has the same values however many
    there are.

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    if not isinstance(forecaster, PackedForecaster):
        got = type(forecaster).__name__
        raise TypeError(f"forecaster: expected a PackedForecaster, got {got}")
    device, acc = forecaster.device, forecaster.acc
    if not (isinstance(state, (tuple, list)) and len(state) == 2):
        raise TypeError(f"state: expected a pair of tensors, h and c, got {shown(state)}")
    _check_values("history", history, "(B, K, D)", (None, None, forecaster.num_series), device)
    batch, past = history.shape[:2]
    if past < max(forecaster.lags):
        raise ValueError(
            f"history: expected at least {max(forecaster.lags)} steps, the largest lag, got {past}"
        )
    network = forecaster.network
    h, c = state
    sizes = network.num_layers, batch
    _check_values("state[0]", h, "(L, B, R)", (*sizes, network.output_size), device)
    _check_values("state[1]", c, "(L, B, H)", (*sizes, network.hidden_size), device)
    known = _known(forecaster, known, steps, batch, history)
    seeds = _seeds(forecaster, num_samples, seed, batch, device)
    h, c, history, known = (values_in(value, acc) for value in (h, c, history, known))
    # it is for a model's own products, not for those of packed weights
    with torch.autocast(device.type, enabled=False):
        values, h_n, c_n = forecaster.run(h, c, history, known, seeds, num_samples or 1)
    if num_samples is not None:
        values = values.unflatten(0, (batch, num_samples))
    return Forecast(values, h_n, c_n)


def _known(
    forecaster: PackedForecaster,
    known: Tensor | None,
    steps: int | None,
    batch: int,
    history: Tensor,
) -> Tensor:
    """(B, T, C) of either."""
    count = forecaster.num_known
    if known is None:
        if count:
            raise ValueError(f"known: expected a tensor (B, T, {count}), got None")
        if steps is None:
            raise ValueError("steps: expected a number, since nothing is known, got None")
        check_integer("steps", steps, 0, _MOST)
        return history.new_empty(batch, steps, 0)
    _check_values("known", known, "(B, T, C)", (batch, None, count), history.device)
    if steps is not None and steps != known.size(1):
        raise ValueError(f"steps: expected {known.size(1)}, as known has, got {shown(steps)}")
    return known


def _seeds(
    forecaster: PackedForecaster,
    num_samples: int | None,
    seed: int | Tensor | None,
    batch: int,
    device: torch.device,
) -> Tensor | None:
    if num_samples is None:
        if seed is not None:
            raise ValueError(f"seed: expected none without num_samples, got {shown(seed)}")
        return None
    check_integer("num_samples", num_samples, 1, _MOST)
    if forecaster.distribution == "point":
        raise ValueError("num_samples: expected None of points, which have no distribution")
    if seed is None:
        return torch.randint(2**62, (batch,), device="cpu").to(device)
    if isinstance(seed, Tensor):
        check_tensor("seed", seed, "(B,)", (batch,), torch.int64, device)
        return seed
    check_integer("seed", seed, 0, 2**63 - 1)
    return row_seeds(seed, batch).to(device)


def _check_values(
    name: str, value: Tensor, axes: str, sizes: tuple[int | None, ...], device: torch.device
) -> None:
    check_tensor(name, value, axes, sizes, None, device)
    if not value.dtype.is_floating_point:
        raise ValueError(f"{name}: expected a floating-point dtype, got {value.dtype}")


def _order(value_inputs: Sequence[int] | None, values: int, inputs: int) -> list[int]:
    """The LSTM's inputs, those that are values first."""
    if values > inputs:
        raise ValueError(
            f"layers[0].w_ih: expected at least {values} inputs, the values of all lags, got "
            f"{inputs}"
        )
    if value_inputs is None:
        return list(range(inputs))
    check_sequence("value_inputs", value_inputs, "integers")
    for index, place in enumerate(value_inputs):
        check_integer(f"value_inputs[{index}]", place, 0, inputs - 1)
    if len(value_inputs) != values or len(set(value_inputs)) != values:
        raise ValueError(
            f"value_inputs: expected {values} different inputs, the values of all lags, got "
            f"{shown(list(value_inputs))}"
        )
    return [*value_inputs, *(place for place in range(inputs) if place not in set(value_inputs))]
