"""Forecasts beside loops so plain that they can be read at a glance."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from helpers_decode import DTYPES
from helpers_native import AVAILABLE, instruction_set, needs_native
from torch import Tensor, nn

import fast_s2s
from fast_s2s import backends
from fast_s2s.decoding import ForecasterWeights, forecast, pack_forecaster
from fast_s2s.decoding.distributions import FAMILIES, draw, make_positive


class Case(NamedTuple):
    distribution: str = "point"
    hidden: int = 17
    layers: int = 2
    projection: int = 0
    series: int = 1
    known: int = 3
    lags: tuple[int, ...] = (1,)
    positive: str = "softplus"
    bias: bool = True

    @property
    def inputs(self) -> int:
        return len(self.lags) * self.series + self.known


CASES = [
    Case(),
    Case("normal", hidden=1, layers=1, known=0),
    Case("normal", series=3, lags=(1, 2, 7), positive="squareplus"),
    Case("student_t", hidden=40, series=2, lags=(3,), positive="exp"),
    Case("student_t", hidden=33, projection=9, lags=(2, 1), known=0),
    Case("point", hidden=70, layers=1, series=5, projection=20, bias=False),
]


def modules(case: Case) -> tuple[nn.LSTM, nn.Linear]:
    lstm = nn.LSTM(
        case.inputs, case.hidden, case.layers, proj_size=case.projection, bias=case.bias
    ).double()
    parameters = (1 + FAMILIES.index(case.distribution)) * case.series
    return lstm, nn.Linear(case.projection or case.hidden, parameters, bias=case.bias).double()


def given(case: Case, batch: int = 3, steps: int = 6, past: int = 7):
    """state, history, known"""
    made = {"dtype": torch.float64}
    h = torch.randn(case.layers, batch, case.projection or case.hidden, **made)
    c = torch.randn(case.layers, batch, case.hidden, **made)
    history = torch.randn(batch, past, case.series, **made)
    return (h, c), history, torch.randn(batch, steps, case.known, **made)


def packed_as(case: Case, lstm, output, dtype=torch.float64, **more):
    how = {"distribution": case.distribution, "positive": case.positive, "lags": case.lags}
    return pack_forecaster(ForecasterWeights.of(lstm, output), dtype=dtype, **how, **more)


def plain_path(case, lstm, output, state, history, known, noise) -> tuple[Tensor, Tensor, Tensor]:
    """One path of one row by torch's modules; `noise(parameters, step)` gives its values."""
    values = list(history)
    h, c = state
    for step, at in enumerate(known):
        x = torch.cat([values[len(history) + step - lag] for lag in case.lags] + [at])
        y, (h, c) = lstm(x.view(1, 1, -1), (h, c))
        values.append(noise(output(y[0, 0]), step))
    return torch.stack(values[len(history) :]), h, c


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_locations_are_those_of_torchs_modules(backend, case, assert_close):
    lstm, output = modules(case)
    state, history, known = given(case)
    found = forecast(packed_as(case, lstm, output), state, history, known)
    assert found.values.shape == (3, 6, case.series)
    for row in range(3):
        own = tuple(value[:, row : row + 1].contiguous() for value in state)
        location = lambda parameters, _: parameters[: case.series]  # noqa: E731
        values, h, c = plain_path(case, lstm, output, own, history[row], known[row], location)
        assert_close(found.values[row], values, "values")
        assert_close(found.h[:, row], h[:, 0], "h")
        assert_close(found.c[:, row], c[:, 0], "c")


@pytest.mark.parametrize("case", [case for case in CASES if case.distribution != "point"], ids=str)
@torch.no_grad()
def test_paths_by_chance(backend, case, assert_close):
    """Each path reads the values that it drew itself."""
    lstm, output = modules(case)
    state, history, known = given(case, batch=2)
    seeds = torch.tensor([5, 2**62 + 3])
    forecaster = packed_as(case, lstm, output)
    found = forecast(forecaster, state, history, known, num_samples=4, seed=seeds)
    assert found.values.shape == (2, 4, 6, case.series)
    for row in range(2):
        for path in range(4):

            def noise(parameters, step, row=row, path=path):
                alike = parameters.expand(1, 4, -1)
                own = seeds[row : row + 1]
                return draw(alike, case.distribution, case.positive, own, step)[0, path]

            own = tuple(value[:, row : row + 1].contiguous() for value in state)
            values, h, c = plain_path(case, lstm, output, own, history[row], known[row], noise)
            assert_close(found.values[row, path], values, "values")
            assert_close(found.h[:, row * 4 + path], h[:, 0], "h")
            assert_close(found.c[:, row * 4 + path], c[:, 0], "c")


@needs_native
@pytest.mark.parametrize("variant", [{"norm": "layer"}, {"zoneout_hidden": 0.2}], ids=str)
def test_layer_norm_and_zoneout(variant, assert_close):
    """Against `fast_s2s.LSTM`, step by step."""
    case = Case("point", hidden=17, layers=2, series=2, known=3, projection=5)
    _, output = modules(case)
    lstm = fast_s2s.LSTM(case.inputs, 17, 2, proj_size=5, **variant).double().eval()
    for parameter in lstm.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    (h, c), history, known = given(case)
    found = forecast(packed_as(case, lstm, output), (h, c), history, known)
    for row in range(3):
        state = h[:, row : row + 1], c[:, row : row + 1]
        values = list(history[row])
        for step, at in enumerate(known[row]):
            x = torch.cat([values[history.size(1) + step - lag] for lag in case.lags] + [at])
            with torch.no_grad():
                y, state = lstm(x.view(1, 1, -1), state)
                values.append(output(y[0, 0]))
        assert_close(found.values[row], torch.stack(values[history.size(1) :]), "values")


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_equals_reference(case, dtype, assert_close):
    lstm, output = modules(case)
    state, history, known = given(case, batch=5, steps=9)
    samples = {} if case.distribution == "point" else {"num_samples": 3, "seed": 7}
    with backends.backend("reference"):
        expected = forecast(packed_as(case, lstm, output, dtype), state, history, known, **samples)
    for isa in AVAILABLE:
        with instruction_set(isa):
            forecaster = packed_as(case, lstm, output, dtype)
            found = forecast(forecaster, state, history, known, **samples)
        for name, ours, theirs in zip(found._fields, found, expected, strict=True):
            assert ours.dtype == theirs.dtype == forecaster.acc
            assert_close(ours, theirs, f"{name} on {isa}")


def test_noise_has_the_distributions_that_it_is_named_for():
    """Moments and quantiles of 200,000 values, which the tolerances are 5 standard errors of."""
    count = 100_000
    seeds = torch.tensor([1, 2])
    flat = torch.zeros(2, count, 2, dtype=torch.float64)
    scale = math.log(math.e - 1)  # softplus of it is 1
    flat[..., 1] = scale
    normal = draw(flat, "normal", "softplus", seeds, 3).flatten()
    error = 5 / (2 * count) ** 0.5
    assert abs(normal.mean()) < error and abs(normal.square().mean() - 1) < 1.5 * error
    assert abs((normal < 1).double().mean() - 0.8413447) < error / 2
    assert abs(normal.pow(4).mean() - 3) < 10 * error
    heavy = torch.cat([flat, torch.full_like(flat[..., :1], scale)], 2)  # 3 degrees of freedom
    student = draw(heavy, "student_t", "softplus", seeds, 3).flatten()
    # quantiles of Student's t with 3 degrees of freedom, from tables
    for quantile, below in ((0.0, 0.5), (0.7649, 0.75), (2.3534, 0.95), (4.5407, 0.99)):
        spread = (below * (1 - below)) ** 0.5
        assert abs((student < quantile).double().mean() - below) < spread * error + 1e-5
        assert abs((student < -quantile).double().mean() - 1 + below) < spread * error + 1e-5
    # paths, rows, series and steps have noise of their own
    other = draw(flat, "normal", "softplus", seeds, 4).flatten()
    two = torch.zeros(2, count, 4, dtype=torch.float64)
    first, second = draw(two, "normal", "exp", seeds, 3).flatten(0, 1).unbind(1)
    assert torch.equal(first, normal)
    alike = [normal, other, normal.roll(1), normal.roll(count), second]
    assert (torch.stack(alike).corrcoef() - torch.eye(5)).abs().max() < error


def test_many_degrees_of_freedom_are_the_normal_distribution(backend, assert_close):
    lstm, output = modules(Case("student_t", known=0, positive="exp"))
    with torch.no_grad():
        output.weight[2], output.bias[2] = 0, 800.0
    state, history, _ = given(Case(known=0))
    heavy, normal = (
        forecast(
            pack_forecaster(ForecasterWeights.of(lstm, part), distribution=name, positive="exp"),
            *(state, history),
            steps=4,
            num_samples=3,
            seed=1,
        )
        for name, part in (("student_t", output), ("normal", first_two(output)))
    )
    assert_close(heavy.values, normal.values, "values")


def first_two(output: nn.Linear) -> nn.Linear:
    part = nn.Linear(output.in_features, 2).double()
    part.load_state_dict({name: value[:2] for name, value in output.state_dict().items()})
    return part


@pytest.mark.parametrize("how", ["softplus", "squareplus", "exp"])
def test_what_makes_positive(how):
    x = torch.tensor([-40.0, -1.0, 0.0, 2.0, 50.0], dtype=torch.float64)
    by_hand = {
        "softplus": lambda v: math.log1p(math.exp(v)),
        "squareplus": lambda v: (v + math.sqrt(v * v + 4)) / 2,
        "exp": math.exp,
    }[how]
    expected = torch.tensor([by_hand(v) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(make_positive(x, how), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_paths_do_not_depend_on_each_other(backend, dtype):
    """Bit by bit on the native backend, also of the number of threads."""
    case = Case("student_t", hidden=40, series=2, lags=(1, 3))
    lstm, output = modules(case)
    state, history, known = given(case, batch=9, steps=5)
    forecaster = packed_as(case, lstm, output, dtype)
    seeds = torch.arange(9)
    whole = forecast(forecaster, state, history, known, num_samples=12, seed=seeds)
    few = forecast(forecaster, state, history, known, num_samples=2, seed=seeds)
    exact = {"rtol": 0, "atol": 0} if backend == "native" else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(few.values, whole.values[:, :2], **exact)
    rows = torch.tensor([4, 0])
    own = tuple(value[:, rows] for value in state)
    some = forecast(forecaster, own, history[rows], known[rows], num_samples=12, seed=seeds[rows])
    torch.testing.assert_close(some.values, whole.values[rows], **exact)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        again = forecast(forecaster, state, history, known, num_samples=12, seed=seeds)
    finally:
        torch.set_num_threads(threads)
    for ours, theirs in zip(again, whole, strict=True):
        torch.testing.assert_close(ours, theirs, **exact)


@needs_native
@pytest.mark.parametrize("projection", [0, 130])
def test_threads_that_share_each_step(projection):
    """Of too few paths for one each; the bits are those of one thread."""
    case = Case("normal", hidden=500, projection=projection, series=2)
    lstm, output = modules(case)
    state, history, known = given(case, batch=2, steps=5)
    forecaster = packed_as(case, lstm, output, torch.float32)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3, 4):
            torch.set_num_threads(threads)
            found.append(forecast(forecaster, state, history, known, num_samples=3, seed=2))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("batch", "steps"), [(0, 4), (2, 0), (1, 1), (2, 63)])
def test_few_rows_and_steps(backend, batch, steps, assert_close):
    case = Case("normal", hidden=500 if steps == 1 else 17)
    lstm, output = modules(case)
    state, history, known = given(case, batch, steps)
    forecaster = packed_as(case, lstm, output)
    found = forecast(forecaster, state, history, known, num_samples=3, seed=1)
    assert found.values.shape == (batch, 3, steps, 1)
    assert found.h.shape == found.c.shape == (2, 3 * batch, case.hidden)
    with backends.backend("reference"):
        expected = forecast(forecaster, state, history, known, num_samples=3, seed=1)
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        assert_close(ours, theirs, name)
    if steps == 0:
        assert torch.equal(found.h, state[0].repeat_interleave(3, 1))


def test_a_forecast_goes_on_from_its_states(backend, assert_close):
    case = Case(series=2, lags=(1, 2))
    lstm, output = modules(case)
    state, history, known = given(case)
    forecaster = packed_as(case, lstm, output)
    whole = forecast(forecaster, state, history, known)
    first = forecast(forecaster, state, history, known[:, :4])
    before = torch.cat([history, first.values], 1)
    rest = forecast(forecaster, (first.h, first.c), before, known[:, 4:])
    assert_close(torch.cat([first.values, rest.values], 1), whole.values, "values")
    assert_close(rest.h, whole.h, "h")


def test_values_in_other_places_of_the_input(assert_close):
    case = Case(series=2, lags=(1, 2), known=3)
    lstm, output = modules(case)
    state, history, known = given(case)
    expected = forecast(packed_as(case, lstm, output), state, history, known)
    places = [6, 0, 3, 2]
    order = torch.tensor([*places, 1, 4, 5])
    with torch.no_grad():
        moved = torch.empty_like(lstm.weight_ih_l0)
        moved[:, order] = lstm.weight_ih_l0
        lstm.weight_ih_l0.copy_(moved)
    found = forecast(packed_as(case, lstm, output, value_inputs=places), state, history, known)
    assert_close(found.values, expected.values, "values")


def test_modules_of_several_kinds(assert_close):
    """Layers of their own, one projection for each parameter, ours and torch's."""
    case = Case("normal", series=2)
    lstm, output = modules(case)
    ours = fast_s2s.from_torch(lstm)
    apart = nn.ModuleList([nn.Linear(17, 2), nn.Linear(17, 2, bias=False)]).double()
    with torch.no_grad():
        output.bias[2:] = 0
        for part, weight in zip(apart, output.weight.split(2), strict=True):
            part.weight.copy_(weight)
        apart[0].bias.copy_(output.bias[:2])
    first, second = nn.LSTM(5, 17).double(), nn.LSTM(17, 17).double()
    for index, layer in enumerate((first, second)):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer, f"{name}_l0").data.copy_(getattr(lstm, f"{name}_l{index}"))
    state, history, known = given(case)
    options = {"num_samples": 2, "seed": 3}
    expected = forecast(packed_as(case, lstm, output), state, history, known, **options)
    for other in ((ours, apart), ([first, second], list(apart))):
        found = forecast(packed_as(case, *other), state, history, known, **options)
        assert_close(found.values, expected.values, "values")


def test_seeds(backend):
    case = Case("normal")
    lstm, output = modules(case)
    forecaster, (state, history, known) = packed_as(case, lstm, output), given(case)
    again = [forecast(forecaster, state, history, known, num_samples=2, seed=4) for _ in "ab"]
    assert torch.equal(again[0].values, again[1].values)
    # rows alike have streams of their own
    alike = [value[:, :1].repeat(1, 3, 1) for value in state]
    same = forecast(
        forecaster, alike, history[:1].repeat(3, 1, 1), known[:1].repeat(3, 1, 1), num_samples=2
    ).values.flatten(0, 1)
    assert len({tuple(path.flatten().tolist()) for path in same}) == 6
    torch.manual_seed(0)
    first = forecast(forecaster, state, history, known, num_samples=2)
    second = forecast(forecaster, state, history, known, num_samples=2)
    torch.manual_seed(0)
    third = forecast(forecaster, state, history, known, num_samples=2)
    assert torch.equal(first.values, third.values)
    assert not torch.equal(first.values, second.values)


def test_weights_are_those_of_the_time_of_packing(backend):
    lstm, output = modules(Case())
    forecaster, (state, history, known) = packed_as(Case(), lstm, output), given(Case())
    before = forecast(forecaster, state, history, known).values
    for module in (lstm, output):
        for parameter in module.parameters():
            parameter.data.zero_()
    assert torch.equal(forecast(forecaster, state, history, known).values, before)


@needs_native
def test_the_op(assert_close):
    case = Case("normal", series=2)
    lstm, output = modules(case)
    (h, c), history, known = given(case)
    forecaster = packed_as(case, lstm, output)
    arguments = (*forecaster._arguments, h, c, history, known, torch.arange(3), [1], 2, 1, 0)
    torch.library.opcheck(torch.ops.fast_s2s.forecast.default, arguments)
    graph = torch.compile(
        lambda known: forecast(forecaster, (h, c), history, known, num_samples=2, seed=3).values,
        fullgraph=True,
        backend="aot_eager",
    )
    expected = forecast(forecaster, (h, c), history, known, num_samples=2, seed=3).values
    assert_close(graph(known), expected, "values")


def test_not_a_number_stays_in_its_row(backend):
    case = Case("student_t", series=2)
    lstm, output = modules(case)
    state, history, known = given(case)
    known[1, 2, 0] = torch.nan
    found = forecast(packed_as(case, lstm, output), state, history, known, num_samples=2, seed=1)
    assert found.values[1, :, 2:].isnan().all() and found.values[1, :, :2].isfinite().all()
    assert found.values[[0, 2]].isfinite().all()


@needs_native
def test_another_default_device_is_not_asked(assert_close):
    case = Case("normal")
    lstm, output = modules(case)
    forecaster, (state, history, known) = packed_as(case, lstm, output), given(case)
    for options in ({}, {"num_samples": 2, "seed": 3}):
        expected = forecast(forecaster, state, history, known, **options).values
        with torch.device("meta"):
            found = forecast(forecaster, state, history, known, **options).values
        assert_close(found, expected, "values")


def test_half_precision_modules_are_packed_as_the_cpu_multiplies_them():
    lstm, output = nn.LSTM(2, 8).half(), nn.Linear(8, 1).half()
    forecaster = pack_forecaster(ForecasterWeights.of(lstm, output))
    assert forecaster.network.dtype == torch.float32
