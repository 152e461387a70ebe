"""The LSTM ops on Triton, by every kernel, against the float64 reference: on a GPU where there is
one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from helpers_lstm import GRADS, NAMES, Case, make_inputs, reference_results
from helpers_triton import DEVICE, VARIANTS, compare, on_device

import fast_s2s
from fast_s2s import backends, ops, reference

pytestmark = pytest.mark.skipif(
    backends.unsupported("triton", DEVICE, torch.float32) is not None,
    reason=f"no Triton: {backends.unsupported('triton', DEVICE, torch.float32)}",
)

configs = pytest.importorskip("fast_s2s.kernels.configs")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EVERYTHING = Case(5, 17, 17, lengths=True, reset=True, reverse=True)
CASES = [
    Case(1, 1, 1),
    Case(3, 3, 20, inputs=1, bias=False),
    Case(3, 3, 17, reset=True),
    Case(3, 3, 17, reverse=True),
    Case(6, 5, 17, lengths=True),
    Case(6, 5, 17, lengths=True, reset=True),
    EVERYTHING,
]


@pytest.fixture(autouse=True)
def _triton():
    with fast_s2s.backend("triton"):
        yield


@pytest.fixture(params=VARIANTS)
def variant(request):
    """The kernels that run, whatever the sizes."""
    with configs.forced(*VARIANTS[request.param]):
        yield request.param


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, variant, assert_close):
    compare(make_inputs(case), assert_close)


@pytest.mark.parametrize("case", [Case(3, 3, 17), EVERYTHING], ids=str)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_values_and_gradients_of_half_types(case, dtype, variant, assert_close):
    compare(make_inputs(case, dtype), assert_close)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_gradients_with_the_gates_computed_again(dtype, variant, assert_close):
    compare(make_inputs(EVERYTHING, dtype), assert_close, save=reference.SAVE_CELLS)


@pytest.mark.parametrize("dtype", (*DTYPES, torch.float64), ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(3, 9, 40, projection=17),
        Case(5, 4, 12, projection=1, lengths=True, reset=True),
        Case(5, 4, 12, projection=5, lengths=True, reset=True, reverse=True),
    ],
    ids=str,
)
def test_projections(case, dtype, assert_close):
    compare(make_inputs(case, dtype), assert_close)
    compare(make_inputs(case, dtype), assert_close, save=reference.SAVE_CELLS)


@pytest.mark.parametrize("case", [Case(4, 3, 17), EVERYTHING], ids=str)
def test_float64(case, assert_close):
    compare(make_inputs(case, torch.float64), assert_close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [Case(1, 1, 500), Case(2, 3, 500, lengths=True)], ids=str)
@pytest.mark.parametrize("kernel", ["step", "grid"])
def test_many_units(case, dtype, kernel, assert_close):
    units, terms = (128 if kernel == "step" else 512, 128) if DEVICE == "cpu" else (64, 32)
    config = configs.Config(kernel, 16, units, terms)
    with configs.forced(config, config):
        compare(make_inputs(case, dtype), assert_close)


@pytest.mark.parametrize("case", [Case(63, 1, 33), Case(63, 3, 5, lengths=True)], ids=str)
def test_long_sequences(case, assert_close):
    for kernel in ("step", "single", "grid") if case.lengths else ("single",):
        config = VARIANTS[kernel][0]._replace(block_u=64)
        with configs.forced(config, config):
            compare(make_inputs(case), assert_close)


@pytest.mark.parametrize("case", [Case(3, 5, 40), Case(3, 40, 7, reverse=True)], ids=str)
def test_the_table_chooses_by_itself(case, assert_close):
    compare(make_inputs(case), assert_close)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_saved_tensors(dtype, variant, assert_close):
    inputs = make_inputs(Case(4, 3, 17, lengths=True, reset=True), dtype)
    double = inputs.to(torch.float64)
    moved = on_device(inputs).arguments()
    for save in (reference.SAVE_GATES, reference.SAVE_CELLS):
        actual = ops.lstm_forward(*moved, save)[3:]
        expected = reference.lstm_forward(*double.arguments(), save)[3:]
        for name, ours, theirs in zip(("gates", "cells"), actual, expected, strict=True):
            assert_close(ours.cpu(), theirs, name, dtype)
    assert [t.numel() for t in ops.lstm_forward(*moved, reference.SAVE_NONE)[3:]] == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_gates(dtype, variant, assert_close):
    inputs = make_inputs(Case(4, 3, 17), dtype, scale=30.0)
    expected = reference_results(inputs)
    # where gates are saturated the gradients of float16 and bfloat16 differ by their rounding
    wanted = len(expected) if dtype == torch.float32 else 3
    actual = on_device(inputs).run()
    assert all(t.isfinite().all() for t in actual)
    for ours, theirs in list(zip(actual, expected, strict=True))[:wanted]:
        assert_close(ours.cpu(), theirs, "saturated")


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_activations_within_a_few_ulp(activation):
    values = torch.cat((torch.linspace(-20, 20, 4001), torch.logspace(-30, 1, 401)))
    values = torch.cat((values, -values, torch.tensor([0.25, -0.25, 0.2499999, 1e4, -1e4])))
    gate = {"sigmoid": 0, "tanh": 2}[activation]
    # one unit, one row for each value, which reaches the gate unchanged
    w_ih = torch.zeros(4, 1)
    w_ih[gate] = 1
    zeros = torch.zeros(len(values), 1)
    arguments = (values.reshape(1, -1, 1), zeros, zeros, w_ih, torch.zeros(4, 1))
    with configs.forced(configs.Config("step", 1024, 16, 16)):
        gates = ops.lstm_forward(*(t.to(DEVICE) for t in arguments), save=1)[3]
    ours = gates[0, :, gate].cpu()
    exact = getattr(torch, activation)(values.double())
    single = exact.float().abs()
    ulp = torch.nextafter(single, torch.tensor(torch.inf)).double() - single.double()
    # a GPU takes exp by a product with log2(e), whose rounding grows with x, and an instruction
    # that is 4 units off at most
    allowed = 4 if DEVICE == "cpu" else 10 + 1.25 * values.double().abs()
    assert ((ours.double() - exact).abs() / ulp <= allowed).all()


def test_nan_and_infinite_inputs_stay_in_their_row(variant):
    inputs = on_device(make_inputs(Case(4, 5, 17)))
    with torch.no_grad():
        clean = ops.lstm_forward(*inputs.arguments())[0]
        inputs.tensors[0][1, 2, 3] = float("nan")
        inputs.tensors[0][0, 4, 0] = float("inf")
        y = ops.lstm_forward(*inputs.arguments())[0]
    assert y[1, 2].isnan().any() and y[2, 2].isnan().all()
    assert torch.equal(y[:, [0, 1, 3]], clean[:, [0, 1, 3]])


def test_what_lies_past_a_rows_length_does_not_matter(variant, assert_close):
    past_the_end_is_nan(Case(5, 4, 17, lengths=True), assert_close)


def test_what_lies_past_a_rows_length_does_not_matter_to_a_projection(assert_close):
    past_the_end_is_nan(Case(5, 4, 17, projection=3, lengths=True), assert_close)


@pytest.mark.parametrize("projection", [0, 3])
def test_nor_to_gates_that_are_computed_again(projection, assert_close):
    case = Case(5, 4, 17, projection=projection, lengths=True)
    past_the_end_is_nan(case, assert_close, save=reference.SAVE_CELLS)


def test_autocast_rounds_no_gradient():
    """Where backward is called inside it, for a forward outside."""
    inputs = on_device(make_inputs(Case(3, 4, 17, projection=5, lengths=True)))
    outputs = ops.lstm_forward(*inputs.arguments(), reference.SAVE_CELLS)[:3]
    arguments = outputs, inputs.tensors, inputs.cotangents
    expected = torch.autograd.grad(*arguments, retain_graph=True)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = torch.autograd.grad(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def past_the_end_is_nan(case, assert_close, **options):
    inputs = make_inputs(case)
    expected = reference_results(inputs)
    inputs = on_device(inputs)
    with torch.no_grad():
        for row, length in enumerate(inputs.lengths.tolist()):
            inputs.tensors[0][length:, row] = float("nan")
            inputs.cotangents[0][length:, row] = float("nan")
    names = (*NAMES, *inputs.names)
    for name, ours, theirs in zip(names, inputs.run(**options), expected, strict=True):
        assert_close(ours.cpu(), theirs, name)


def test_runs_repeat_to_the_bit_and_rows_do_not_meet(variant):
    case = Case(3, 7, 17, lengths=True, reset=True)
    inputs = on_device(make_inputs(case))
    everything, again = inputs.run(), inputs.run()
    assert all(torch.equal(a, b) for a, b in zip(everything, again, strict=True))
    # in one tile another row's content changes nothing
    x = inputs.tensors[0].detach().clone()
    x[:, 2] = 100
    inputs.tensors[0] = x.requires_grad_()
    y = inputs.run()[0]
    others = [row for row in range(case.batch) if row != 2]
    assert torch.equal(y[:, others], everything[0][:, others])


def test_strided_inputs(variant, assert_close):
    inputs = make_inputs(Case(5, 4, 17))
    inputs.tensors = [
        t.detach().unsqueeze(-1).repeat_interleave(2, -1)[..., 0].requires_grad_()
        for t in inputs.tensors
    ]
    inputs.cotangents = [t.unsqueeze(-1).expand(*t.shape, 2)[..., 1] for t in inputs.cotangents]
    expected = reference_results(inputs)
    if DEVICE == "cpu":
        assert not any(t.is_contiguous() for t in inputs.tensors)
        actual = inputs.run()
    else:
        actual = on_device(inputs).run()
    for name, ours, theirs in zip((*NAMES, *inputs.names), actual, expected, strict=True):
        assert_close(ours.cpu(), theirs, name)


@pytest.mark.parametrize("wanted", range(8), ids=GRADS)
def test_gradient_of_one_input_alone(wanted, assert_close):
    inputs = make_inputs(Case(3, 3, 17, projection=6, lengths=True))
    expected = reference_results(inputs)[3 + wanted]
    inputs = on_device(inputs)
    inputs.tensors = [t.detach() for t in inputs.tensors]
    inputs.tensors[wanted].requires_grad_()
    outputs = ops.lstm_forward(*inputs.arguments(), reference.SAVE_GATES)[:3]
    (actual,) = torch.autograd.grad(outputs, inputs.tensors[wanted], inputs.cotangents)
    assert_close(actual.cpu(), expected, GRADS[wanted])


@pytest.mark.parametrize("wanted", NAMES)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_one_output_alone(wanted, reverse, variant, assert_close):
    inputs = make_inputs(Case(4, 3, 17, lengths=True, reverse=reverse))
    index = NAMES.index(wanted)

    def gradients(inputs, forward):
        outputs = forward(*inputs.arguments(), reference.SAVE_GATES)
        return torch.autograd.grad(outputs[index], inputs.tensors, inputs.cotangents[index])

    expected = gradients(inputs.to(torch.float64), reference.lstm_forward)
    actual = gradients(on_device(inputs), ops.lstm_forward)
    for name, ours, theirs in zip(inputs.names, actual, expected, strict=True):
        assert_close(ours.cpu(), theirs, f"d {name}")


@pytest.mark.parametrize("sizes", [(3, 0, 5), (0, 3, 5)], ids=["no-rows", "no-steps"])
def test_empty(sizes):
    inputs = on_device(make_inputs(Case(*sizes)))
    y, h_n, c_n, *gradients = inputs.run()
    steps, batch, hidden = sizes
    assert (y.shape, h_n.shape) == ((steps, batch, hidden), (batch, hidden))
    if steps == 0:
        h0, c0 = inputs.tensors[1:3]
        assert torch.equal(h_n, h0) and torch.equal(c_n, c0)
        assert torch.equal(gradients[1], inputs.cotangents[1])
        assert torch.equal(gradients[2], inputs.cotangents[2])


def test_lengths_past_the_end_count_as_the_end_on_a_gpu():
    inputs = on_device(make_inputs(Case(3, 2, 5, lengths=True)))
    inputs.lengths = torch.tensor([9, -1], device=DEVICE)
    if DEVICE == "cpu":
        with pytest.raises(RuntimeError, match=r"lengths: expected values in 0\.\.3, got"):
            ops.lstm_forward(*inputs.arguments())
        return
    y, h_n, _, *_ = ops.lstm_forward(*inputs.arguments())
    assert y[:, 0].isfinite().all() and not y[:, 1].any()
    assert torch.equal(h_n[1], inputs.tensors[1][1])
