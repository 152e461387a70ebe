"""float32 and bfloat16 products on the matrix unit: as exact as float32, infinities, odd tiles.

On the processor's where it has one, and on one in C++ wherever there is AVX-512.
"""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from helpers_lstm import NAMES, Case, compare, make_inputs
from helpers_native import AVAILABLE, instruction_set, needs_native
from test_lstm_stress import check_random_case, random_case

import fast_s2s
from fast_s2s import ops, reference

_UNITS = [name for name in ("amx", "amx_emulated") if name in AVAILABLE]
pytestmark = [
    needs_native,
    pytest.mark.skipif(not _UNITS, reason="no matrix unit (AMX), nor AVX-512 to emulate one"),
]

# sizes from which float32 takes it, with and without a part of a tile; 8 rows: for x alone
HIDDEN = 131
CASES = [
    Case(6, 8, HIDDEN, inputs=33),
    Case(5, 12, HIDDEN, inputs=1, reverse=True, lengths=True),
    Case(7, 17, 128, inputs=64, reset=True, lengths=True),
    Case(9, 33, HIDDEN, inputs=40, bias=False, reverse=True, reset=True),
    Case(6, 20, 150, inputs=9, projection=37, lengths=True),
    Case(5, 97, 130, inputs=31),
]
# rows in batches that take the same kernels in float32, and batches of as many rows or more
BATCHES = [(7, (1, 2, 6)), (11, (8, 9)), (97, (12, 13, 16, 17, 32, 33, 48, 49, 96))]


@pytest.fixture(autouse=True, params=_UNITS)
def unit(request):
    with instruction_set(request.param):
        yield request.param


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


@pytest.mark.parametrize("save", [reference.SAVE_GATES, reference.SAVE_CELLS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, dtype, save, assert_close):
    inputs = make_inputs(case, dtype)
    compare(inputs, inputs.run(save=save), assert_close)


@pytest.mark.parametrize("seed", range(20))
def test_random_case(seed, assert_close):
    rng = random.Random(seed)
    dtype, case = rng.choice([torch.float32, torch.bfloat16]), random_case(rng)
    # of the smaller ones float32 is not multiplied there
    larger = {"hidden": case.hidden + 128, "batch": case.batch + 7} if dtype.itemsize == 4 else {}
    case = dataclasses.replace(case, steps=case.steps + 4, **larger)
    check_random_case(case, rng, [dtype], assert_close)


def _reference(arguments, dtype=torch.float64):
    """y, h_n and c_n of the reference; `arguments` are the first ones of the op."""
    everything = [*arguments, *[None] * (10 - len(arguments))]
    reverse = everything[10] if len(everything) > 10 else False
    cast = [t.to(dtype) if t is not None else None for t in everything[:8]]
    return reference.lstm_forward(*cast, *everything[8:10], reverse, reference.SAVE_NONE)[:3]


def _products(inputs, size):
    """Inputs and weights whose products are of one size, whatever their own."""
    exponents = {
        "plain": torch.zeros(inputs),
        "1e-15 to 1e15": torch.linspace(-15, 15, inputs),
        "1e-30 to 1e30": torch.linspace(-30, 30, inputs),
    }[size]
    scale = 10.0 ** exponents[torch.randperm(inputs)]
    return scale, 1 / scale


def _error(y, expected):
    return (y.double() - expected).abs().max().item()


# the tolerances of float32 would not show that one of the six products is missing
@pytest.mark.parametrize("cancelling", [False, True], ids=["", "cancelling"])
@pytest.mark.parametrize("size", ["plain", "1e-15 to 1e15", "1e-30 to 1e30"])
@pytest.mark.parametrize("inputs", [33, 512])
def test_products_of_inputs_are_as_exact_as_in_float32(inputs, size, cancelling):
    x_scale, w_scale = _products(inputs, size)
    x = torch.randn(5, 16, inputs)
    w_ih = torch.randn(4 * HIDDEN, inputs) / inputs**0.5
    if cancelling:
        # each product but the last is taken away again by the one beside it, all but a few bits
        half = inputs // 2
        x_scale[half : 2 * half], w_scale[half : 2 * half] = x_scale[:half], w_scale[:half]
        x[..., half : 2 * half] = x[..., :half] * (1 + 2**-12 * torch.randn(half))
        w_ih[:, half : 2 * half] = -w_ih[:, :half]
    x, w_ih = x * x_scale, w_ih * w_scale
    zeros = torch.zeros(16, HIDDEN)
    w_hh = torch.zeros(4 * HIDDEN, HIDDEN)
    arguments = (x, zeros, zeros, w_ih, w_hh)
    y = ops.lstm_forward(*arguments)[0]
    double = _reference(arguments)[0]
    plain = _error(_reference(arguments, torch.float32)[0], double)
    # one more rounding of the sums and of the gates
    assert _error(y, double) <= 2 * plain + 2**-24, plain


def test_products_of_states_are_as_exact_as_in_float32():
    case = Case(5, 33, 512, inputs=1)
    arguments = [t.detach() for t in make_inputs(case).tensors]
    # states of one sign and weights of one sign: cut off bits would add up
    arguments[1], arguments[4] = arguments[1].abs(), arguments[4].abs() / 16
    y = ops.lstm_forward(*arguments)[0]
    double = _reference(arguments)[0]
    plain = _error(_reference(arguments, torch.float32)[0], double)
    assert _error(y, double) <= 2 * plain + 2**-24, plain


@pytest.mark.parametrize("steps", [5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_does_not_depend_on_how_many_take_the_same_kernels(dtype, steps, threads):
    x, h0, c0, *weights = (t.detach() for t in make_inputs(Case(steps, 97, HIDDEN), dtype).tensors)
    for batch, parts in BATCHES:
        whole = ops.lstm_forward(x[:, :batch], h0[:batch], c0[:batch], *weights)[:3]
        for rows in parts:
            part = ops.lstm_forward(x[:, :rows], h0[:rows], c0[:rows], *weights)[:3]
            assert torch.equal(part[0], whole[0][:, :rows]), rows
            assert torch.equal(part[1], whole[1][:rows]) and torch.equal(part[2], whole[2][:rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
def test_a_ragged_batch_has_the_bits_of_a_padded_one(dtype, reverse, threads):
    inputs = make_inputs(Case(9, 29, HIDDEN, inputs=40), dtype)
    x, h0, c0, *weights = (t.detach() for t in inputs.tensors)
    lengths = torch.randint(0, 10, (29,))
    ragged = ops.lstm_forward(x, h0, c0, *weights, None, lengths, reverse=reverse)[0]
    again = ops.lstm_forward(x, h0, c0, *weights, None, lengths, reverse=reverse)[0]
    assert torch.equal(ragged, again)
    for row, length in enumerate(lengths.tolist()):
        if not length or (reverse and length <= 4):
            continue
        steps = length if reverse else 9
        whole = ops.lstm_forward(x[:steps], h0, c0, *weights, reverse=reverse)[0]
        assert torch.equal(ragged[:length, row], whole[:length, row]), row


def test_training_has_the_bits_of_inference():
    lstm = fast_s2s.LSTM(40, HIDDEN, num_layers=2, bidirectional=True)
    x = torch.randn(7, 20, 40)
    trained, _ = lstm(x)
    with torch.no_grad():
        assert torch.equal(lstm(x)[0], trained)


def _compare_special(arguments, clean=None, spoilt_rows=()):
    y, h, c = ops.lstm_forward(*arguments)[:3]
    expected = _reference(arguments, torch.float32)
    if len(arguments) > 8:
        # the reference has NaN past the length of a row with NaN
        past = torch.arange(len(y)).unsqueeze(1) >= arguments[8]
        expected[0][past] = 0
    for ours, theirs in zip((y, h, c), expected, strict=True):
        # where the reference has NaN, and infinities, and nowhere else
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-5, equal_nan=True)
    others = [row for row in range(y.shape[1]) if row not in spoilt_rows]
    if clean is not None:
        assert torch.equal(y[:, others], clean[:, others])


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")], ids=str)
@pytest.mark.parametrize("where", ["x", "h0", "h0 of a late row"])
def test_values_that_are_not_finite_act_as_in_float32(where, value):
    inputs = make_inputs(Case(8, 19, HIDDEN, inputs=40, lengths=True, reverse=True))
    x, h0, c0, *weights = (t.detach() for t in inputs.tensors)
    # weights that a bfloat16 holds have parts that are zero
    weights[:2] = [w.bfloat16().float() for w in weights[:2]]
    lengths = inputs.lengths.clone()
    lengths[:3] = torch.tensor([8, 8, 5])
    rest = (*weights, *[None] * (5 - len(weights)), lengths, None, True)
    with torch.no_grad():
        clean = ops.lstm_forward(x, h0, c0, *rest)[0]
        row = 2 if "late" in where else 1
        if where == "x":
            x[3, row, 7] = value
        else:
            h0[row, 7] = value
        _compare_special((x, h0, c0, *rest), clean, [row])


@pytest.mark.parametrize("name", ["w_ih", "w_hh"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")], ids=str)
def test_weights_that_are_not_finite_act_as_in_float32(name, value):
    inputs = make_inputs(Case(6, 17, HIDDEN, inputs=40))
    tensors = [t.detach() for t in inputs.tensors]
    # bfloat16 values, so that x and h0 have parts that are zero
    tensors[0], tensors[1] = tensors[0].bfloat16().float(), tensors[1].bfloat16().float()
    tensors[inputs.names.index(name)][HIDDEN + 5, 3] = value
    with torch.no_grad():
        _compare_special(tensors)
        # kept from call to call with the packed weights
        _compare_special(tensors)


def test_values_below_the_smallest_normal_number(assert_close):
    """Parts so small count as zero: less than 2^-126 of each factor."""
    inputs = make_inputs(Case(5, 16, HIDDEN, inputs=40))
    tensors = [t.detach() for t in inputs.tensors]
    tensors[0] = tensors[0] * 1e-36
    tensors[3] = tensors[3] * 1e30
    ours = ops.lstm_forward(*tensors)[:3]
    for name, y, expected in zip(NAMES, ours, _reference(tensors), strict=True):
        assert_close(y, expected, name)


def test_subnormal_factors_and_products_are_zero():
    """As Intel's manual has it, whatever the mode of the thread."""
    zeros = torch.zeros(1, 3, dtype=torch.bfloat16)
    w_hh = torch.zeros(12, 3, dtype=torch.bfloat16)

    def run(x, w_ih):
        x = torch.full((5, 1, 3), x, dtype=torch.bfloat16)
        w_ih = torch.full((12, 3), w_ih, dtype=torch.bfloat16)
        return ops.lstm_forward(x, zeros, zeros, w_ih, w_hh)[:3]

    for x, w_ih in ((2.0**-130, 2.0**125), (2.0**125, 2.0**-130), (2.0**-70, 2.0**-65)):
        assert not any(result.any() for result in run(x, w_ih))
    # of the size of the first product, but of normal factors
    assert (run(2.0**-125, 2.0**120)[0] > 1e-3).all()


@pytest.mark.skipif(len(_UNITS) < 2, reason="no matrix unit (AMX) to compare with")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_emulated_unit_has_the_bits_of_the_real_one(dtype):
    # sizes at which nothing runs on other kernels, which differ
    tensors = [t.detach() for t in make_inputs(Case(6, 33, HIDDEN, inputs=40), dtype).tensors]
    real, emulated = [], []
    for unit, results in (("amx", real), ("amx_emulated", emulated)):
        with instruction_set(unit):
            results += ops.lstm_forward(*tensors)[:3]
    assert all(map(torch.equal, real, emulated))


def test_without_it_a_row_does_not_depend_on_the_batch_size_at_all():
    x, h0, c0, *weights = (t.detach() for t in make_inputs(Case(6, 40, HIDDEN)).tensors)
    with instruction_set("avx512_bf16" if "avx512_bf16" in AVAILABLE else "avx512"):
        whole = ops.lstm_forward(x, h0, c0, *weights)[0]
        for rows in (1, 8, 12, 13, 33):
            y = ops.lstm_forward(x[:, :rows], h0[:rows], c0[:rows], *weights)[0]
            assert torch.equal(y, whole[:, :rows]), rows
