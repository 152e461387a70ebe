"""What forecasts, their op and what leads to them refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers_native import needs_native
from torch import nn

from fast_s2s.decoding import ForecasterWeights, LinearWeights, forecast, pack_forecaster

LSTM, OUTPUT = nn.LSTM(5, 8), nn.Linear(8, 4)
STATE = (torch.zeros(1, 3, 8), torch.zeros(1, 3, 8))
HISTORY, KNOWN = torch.zeros(3, 4, 2), torch.zeros(3, 6, 1)


def packed(**changes):
    """Normal, of 2 series with 2 lags each, 1 value known."""
    options = {"distribution": "normal", "lags": [1, 3], **changes}
    weights = options.pop("weights", None) or ForecasterWeights.of(LSTM, OUTPUT)
    return pack_forecaster(weights, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.GRU(5, 8), OUTPUT), TypeError, "lstm: expected an LSTM, got GRU"),
        (([], OUTPUT), ValueError, "lstm: expected at least one, got none"),
        ((LSTM, 3), TypeError, "output: expected a module with a weight, got int"),
        ((LSTM, []), ValueError, "output: expected at least one, got none"),
        ((LSTM, [OUTPUT, 3]), TypeError, "output: expected a module with a weight, got int"),
    ],
)
def test_modules(arguments, error, message):
    with pytest.raises(error, match=message):
        ForecasterWeights.of(*arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": 3}, TypeError, "weights: expected ForecasterWeights, got int"),
        ({"distribution": "gamma"}, ValueError, "distribution: expected one of point, normal, stu"),
        ({"distribution": None}, ValueError, "distribution: expected one of .*, got None"),
        ({"positive": "relu"}, ValueError, "positive: expected one of softplus, squareplus, exp"),
        ({"lags": 3}, TypeError, "lags: expected a sequence of integers, got int"),
        ({"lags": []}, ValueError, "lags: expected at least one, got none"),
        ({"lags": [1, 0]}, ValueError, r"lags\[1\]: expected an integer >= 1, got 0"),
        ({"lags": [1.0]}, TypeError, r"lags\[0\]: expected an integer, got 1.0"),
        (
            {"lags": [1, 2, 3]},
            ValueError,
            r"layers\[0\].w_ih: expected at least 6 inputs, the values of all lags, got 5",
        ),
        (
            {"distribution": "student_t"},
            ValueError,
            "output: expected 3 parameters of each series, as student_t has, got 4 in all",
        ),
        ({"value_inputs": [0, 1, 2]}, ValueError, "value_inputs: expected 4 different inputs, the"),
        ({"value_inputs": [0, 1, 2, 2]}, ValueError, "value_inputs: expected 4 different inputs"),
        ({"value_inputs": [0, 1, 2, 5]}, ValueError, r"value_inputs\[3\]: expected an integer <="),
        ({"value_inputs": 3}, TypeError, "value_inputs: expected a sequence of integers, got int"),
        ({"dtype": torch.int32}, ValueError, "dtype: expected one of torch.float32"),
    ],
)
def test_packing(changes, error, message):
    with pytest.raises(error, match=message):
        packed(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layers": ()}, ValueError, "layers: expected at least one, got none"),
        ({"layers": (3,)}, TypeError, r"layers\[0\]: expected LayerWeights, got int"),
        ({"output": 3}, TypeError, "output: expected LinearWeights, got int"),
        (
            {"output": LinearWeights(torch.zeros(4, 9), None)},
            ValueError,
            r"output.weight: expected shape \(P·D, R\), got \(4, 9\)",
        ),
        (
            {"output": LinearWeights(torch.zeros(0, 8), None)},
            ValueError,
            "output: expected 2 parameters of each series, as normal has, got 0 in all",
        ),
    ],
)
def test_weights(changes, error, message):
    with pytest.raises(error, match=message):
        packed(weights=ForecasterWeights.of(LSTM, OUTPUT)._replace(**changes))
    layer = ForecasterWeights.of(LSTM, OUTPUT).layers[0]
    with pytest.raises(TypeError, match=r"layers\[0\].w_ih: expected a tensor \(4H, I\)"):
        packed(
            weights=ForecasterWeights((layer._replace(w_ih=3),), LinearWeights(OUTPUT.weight, None))
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"forecaster": 3}, TypeError, "forecaster: expected a PackedForecaster, got int"),
        ({"state": None}, TypeError, "state: expected a pair of tensors, h and c, got None"),
        ({"state": STATE[:1]}, TypeError, "state: expected a pair of tensors"),
        ({"state": (STATE[0], 3)}, TypeError, r"state\[1\]: expected a tensor, got 3"),
        (
            {"state": (STATE[0][:, :2], STATE[1])},
            ValueError,
            r"state\[0\]: expected shape \(L, B, R\) = \(1, 3, 8\), got \(1, 2, 8\)",
        ),
        ({"history": 3}, TypeError, "history: expected a tensor, got 3"),
        ({"history": HISTORY[..., :1]}, ValueError, r"history: expected shape \(B, K, D\)"),
        (
            {"history": HISTORY[:, :2]},
            ValueError,
            "history: expected at least 3 steps, the largest",
        ),
        ({"history": HISTORY.long()}, ValueError, "history: expected a floating-point dtype, got"),
        ({"history": HISTORY.to("meta")}, ValueError, "history: expected a tensor on cpu"),
        ({"known": None}, ValueError, r"known: expected a tensor \(B, T, 1\), got None"),
        ({"known": KNOWN[:2]}, ValueError, r"known: expected shape \(B, T, C\), got \(2, 6, 1\)"),
        ({"known": KNOWN.bool()}, ValueError, "known: expected a floating-point dtype, got"),
        ({"steps": 7}, ValueError, "steps: expected 6, as known has, got 7"),
        ({"num_samples": 0}, ValueError, "num_samples: expected an integer >= 1, got 0"),
        ({"num_samples": True}, TypeError, "num_samples: expected an integer"),
        ({"num_samples": 2**31}, ValueError, "num_samples: expected an integer <= 2147483647"),
        ({"seed": 1}, ValueError, "seed: expected none without num_samples, got 1"),
        ({"num_samples": 2, "seed": -1}, ValueError, "seed: expected an integer >= 0, got -1"),
        ({"num_samples": 2, "seed": "a"}, TypeError, "seed: expected an integer"),
        (
            {"num_samples": 2, "seed": torch.zeros(2, dtype=torch.int64)},
            ValueError,
            r"seed: expected shape \(B,\) = \(3,\), got \(2,\)",
        ),
        (
            {"num_samples": 2, "seed": torch.zeros(3)},
            ValueError,
            "seed: expected dtype torch.int64, got torch.float32",
        ),
    ],
)
def test_forecasting(backend, changes, error, message):
    arguments = {"forecaster": packed(), "state": STATE, "history": HISTORY, "known": KNOWN}
    with pytest.raises(error, match=message):
        forecast(**{**arguments, **changes})


def test_points_and_nothing_known():
    forecaster = pack_forecaster(ForecasterWeights.of(nn.LSTM(4, 8), OUTPUT))
    arguments = forecaster, STATE, torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match="num_samples: expected None of points, which have no dis"):
        forecast(*arguments, steps=2, num_samples=3)
    with pytest.raises(ValueError, match="steps: expected a number, since nothing is known, got N"):
        forecast(*arguments)
    with pytest.raises(ValueError, match="steps: expected an integer >= 0, got -1"):
        forecast(*arguments, steps=-1)
    assert forecast(*arguments, steps=2).values.shape == (3, 2, 4)
    assert forecast(*arguments, torch.zeros(3, 5, 0)).values.shape == (3, 5, 4)


@needs_native
def test_the_op_looks_at_everything_too():
    forecaster, other = packed(), packed(dtype=torch.float64)
    packs, headers = forecaster._arguments
    half = len(headers) // 2
    none = torch.empty(0, dtype=torch.int64)
    good = [packs, headers, *STATE, HISTORY, KNOWN, none, [1, 3], 2, 1, 0]
    torch.ops.fast_s2s.forecast.default(*good)
    mixed = [packs[0], other._arguments[0][1]]
    for at, value, message in (
        (0, packs[:1], "packed: expected a network and its output, got 1 tensors"),
        (0, packs[::-1], "packed: expected weights of at least one layer"),
        (0, [packs[0], packs[0]], "packed: expected weights of a linear layer"),
        (1, headers[:-1], "headers: expected 28 numbers, got 27"),
        (1, headers[half:] + headers[:half], "header: expected that of the packed weights"),
        (2, STATE[0].double(), "h: expected dtype Float, got Double"),
        (3, STATE[1][:, 1:], "c: expected shape"),
        (4, HISTORY.double(), "history: expected dtype Float, got Double"),
        (4, HISTORY[:, :2], r"lags: expected values in 1\.\.2, got 3"),
        (4, torch.zeros(3, 4, 3), "packed: expected a linear layer of 2 parameters of each of 3"),
        (5, KNOWN[1:], "known: expected shape"),
        (5, torch.zeros(3, 6, 2), "packed: expected a network of 4 values and 2 that are known"),
        (6, torch.zeros(2, dtype=torch.int64), "seeds: expected shape"),
        (6, torch.zeros(3), "seeds: expected dtype Long, got Float"),
        (7, [1, 0], r"lags: expected values in 1\.\.4, got 0"),
        (7, [1], "packed: expected a network of 2 values and 1 that are known, got one of 5"),
        (8, 0, "paths: expected at least 1, got 0"),
        (9, 3, r"family: expected a number in 0\.\.2, got 3"),
        (9, 0, "packed: expected a linear layer of 1 parameters of each of 2 series, got one of 4"),
        (10, -1, r"positive: expected a number in 0\.\.2, got -1"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fast_s2s.forecast.default(*good[:at], value, *good[at + 1 :])
    both = headers[:half] + other._arguments[1][half:]
    with pytest.raises(RuntimeError, match="packed: expected weights of one type"):
        torch.ops.fast_s2s.forecast.default(mixed, both, *good[2:])


def test_a_pack_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed().lags = (2,)
