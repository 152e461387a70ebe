"""The LSTM ops on the native CPU backend against the float64 reference."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from helpers_lstm import (
    GRADS,
    NAMES,
    Case,
    activation_error,
    arguments_with,
    compare,
    make_inputs,
    reference_results,
)
from helpers_native import AVAILABLE, EMULATED_ISAS, ISAS, instruction_set, needs_native

import fast_s2s
from fast_s2s import ops, reference

pytestmark = needs_native

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
CASES = [
    Case(1, 1, 1),
    Case(1, 3, 17),
    Case(5, 1, 500),
    Case(7, 3, 17, lengths=True),
    Case(7, 3, 17, reset=True),
    Case(7, 3, 17, reverse=True),
    Case(63, 3, 17, lengths=True, reset=True, reverse=True),
    Case(63, 1, 33),
    Case(7, 30, 40, lengths=True, reset=True),
    Case(4, 20, 64),
    Case(4, 13, 100, lengths=True, reset=True),
    Case(2, 7, 500, lengths=True, reset=True),
    Case(3, 9, 150, projection=130, reverse=True),
    Case(2, 5, 40, projection=3),
    Case(5, 4, 20, inputs=1, bias=False),
    Case(3, 4, 20, inputs=70, bias=False),
    Case(100, 2, 20, inputs=33, lengths=True, reverse=True),
    Case(63, 9, 17, inputs=40),
    Case(2, 40, 30, inputs=100, reset=True),
    Case(6, 26, 40, projection=17),
    Case(6, 9, 40, projection=17),
    Case(6, 9, 40, projection=1, lengths=True, reset=True),
    Case(6, 9, 150, projection=130, lengths=True, reset=True, reverse=True),
]


@pytest.fixture
def threads(request):
    torch.set_num_threads(request.param)
    return request.param


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, dtype, threads, assert_close):
    inputs = make_inputs(case, dtype)
    compare(inputs, inputs.run(), assert_close)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_with_the_gates_computed_again(case, dtype, threads, assert_close):
    inputs = make_inputs(case, dtype)
    compare(inputs, inputs.run(save=reference.SAVE_CELLS), assert_close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saved_tensors(dtype, assert_close):
    inputs = make_inputs(Case(5, 3, 17, lengths=True, reset=True), dtype)
    double = inputs.to(torch.float64)
    for save in (reference.SAVE_GATES, reference.SAVE_CELLS):
        actual = ops.lstm_forward(*inputs.arguments(), save)[3:]
        expected = reference.lstm_forward(*double.arguments(), save)[3:]
        for name, ours, theirs in zip(("gates", "cells"), actual, expected, strict=True):
            assert_close(ours, theirs, name, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_gates(dtype, assert_close):
    inputs = make_inputs(Case(6, 3, 17), dtype, scale=30.0)
    outputs = zip(NAMES, inputs.run()[:3], reference_results(inputs)[:3], strict=True)
    for name, ours, theirs in outputs:
        assert_close(ours, theirs, name)


def test_nan_and_infinite_inputs_stay_in_their_row():
    inputs = make_inputs(Case(4, 5, 17))
    with torch.no_grad():
        clean = ops.lstm_forward(*inputs.arguments())[0]
        inputs.tensors[0][1, 2, 3] = float("nan")
        inputs.tensors[0][0, 4, 0] = float("inf")
        y = ops.lstm_forward(*inputs.arguments())[0]
    assert y[1, 2, 3].isnan() and y[2, 2].isnan().all()
    assert torch.equal(y[:, [0, 1, 3]], clean[:, [0, 1, 3]])
    assert y[:, 4].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_activations_within_4_ulp(activation, dtype):
    assert activation_error(activation, dtype) <= 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_the_others(dtype):
    case = Case(9, 11, 50, lengths=True, reset=True)
    inputs = make_inputs(case, dtype)
    everything = inputs.run()
    again = inputs.run()
    assert all(torch.equal(a, b) for a, b in zip(everything, again, strict=True))
    x, h0, c0, *weights = (t.detach() for t in inputs.tensors)
    for row in range(case.batch):
        pick = slice(row, row + 1)
        alone = ops.lstm_forward(
            x[:, pick],
            h0[pick],
            c0[pick],
            *weights,
            None,
            inputs.lengths[pick],
            inputs.reset[:, pick],
        )
        assert torch.equal(alone[0], everything[0][:, pick])
        assert torch.equal(alone[1], everything[1][pick])
        assert torch.equal(alone[2], everything[2][pick])


# steps on both sides of packing the weights; rows on both sides of two panels at once, of one and
# two tiles of rows, of more threads, and of more than one step in a chunk
@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("steps", [4, 5, 40])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_batch_size_does_not_change_a_row(dtype, steps, threads):
    x, h0, c0, *weights = (t.detach() for t in make_inputs(Case(steps, 97, 57), dtype).tensors)

    def first(rows):
        return ops.lstm_forward(x[:, :rows], h0[:rows], c0[:rows], *weights)[:3]

    # in few steps, few rows read the weights where they lie: other sums
    few = 7 if steps == 4 else 0
    for rows in (1, 2, 3, 4, 6, 7, 8, 12, 13, 48, 49, 96):
        part, whole = first(rows), first(few if rows <= few else 97)
        assert torch.equal(part[0], whole[0][:, :rows]), rows
        assert torch.equal(part[1], whole[1][:rows]) and torch.equal(part[2], whole[2][:rows])


@pytest.mark.parametrize("save", [reference.SAVE_GATES, reference.SAVE_CELLS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_batch_size_does_not_change_a_rows_gradients(dtype, save):
    inputs = make_inputs(Case(6, 13, 57), dtype)
    x, h0, c0, *weights = inputs.tensors
    whole = inputs.run(save=save)[4:6]
    for rows in (1, 2, 3, 6, 7, 12):
        outputs = ops.lstm_forward(x[:, :rows], h0[:rows], c0[:rows], *weights, save=save)[:3]
        cotangents = [t[:, :rows] if i == 0 else t[:rows] for i, t in enumerate(inputs.cotangents)]
        part = torch.autograd.grad(outputs, [h0, c0], cotangents)
        for ours, theirs in zip(part, whole, strict=True):
            assert torch.equal(ours[:rows], theirs[:rows]), rows


@pytest.mark.parametrize("save", [reference.SAVE_GATES, reference.SAVE_CELLS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_left_over_from_the_call_before(dtype, save):
    """Scratch memory is kept from call to call, with whatever the last one left in it."""
    inputs = make_inputs(Case(6, 7, 40, projection=19, lengths=True, reset=True), dtype)
    before = inputs.run(save=save)
    poisoned = make_inputs(Case(9, 12, 60, projection=50), dtype)
    for tensor in poisoned.tensors:
        tensor.detach().fill_(float("nan"))
    poisoned.run(save=save)
    after = inputs.run(save=save)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 7], indirect=True)
def test_any_number_of_threads_gives_the_same_bits(threads):
    inputs = make_inputs(Case(5, 4, 130, projection=70))
    actual = inputs.run()
    torch.set_num_threads(1)
    expected = inputs.run()
    # the gradients of the weights are torch's own products, whose order may follow the threads
    assert all(torch.equal(a, b) for a, b in zip(actual[:3], expected[:3], strict=True))
    gradients = zip(inputs.names, actual[3:], expected[3:], strict=True)
    own = ("h0", "c0", "b_ih")
    assert all(torch.equal(a, b) for name, a, b in gradients if name in own)


def test_empty_batch():
    inputs = make_inputs(Case(3, 0, 5))
    y, h_n, c_n = inputs.run()[:3]
    assert (y.shape, h_n.shape, c_n.shape) == ((3, 0, 5), (0, 5), (0, 5))


def test_strided_inputs(assert_close):
    inputs = make_inputs(Case(5, 4, 17))
    inputs.tensors = [
        t.detach().unsqueeze(-1).repeat_interleave(2, -1)[..., 0].requires_grad_()
        for t in inputs.tensors
    ]
    assert not any(t.is_contiguous() for t in inputs.tensors)
    inputs.cotangents = [t.unsqueeze(-1).expand(*t.shape, 2)[..., 1] for t in inputs.cotangents]
    compare(inputs, inputs.run(), assert_close)


@pytest.mark.parametrize("wanted", range(8), ids=GRADS)
def test_gradient_of_one_input_alone(wanted, assert_close):
    inputs = make_inputs(Case(5, 3, 17, projection=6, lengths=True))
    expected = reference_results(inputs)[3 + wanted]
    inputs.tensors = [t.detach() for t in inputs.tensors]
    inputs.tensors[wanted].requires_grad_()
    outputs = ops.lstm_forward(*inputs.arguments(), reference.SAVE_GATES)[:3]
    (actual,) = torch.autograd.grad(outputs, inputs.tensors[wanted], inputs.cotangents)
    assert_close(actual, expected, GRADS[wanted])


def test_inputs_from_the_middle_of_a_larger_tensor():
    inputs = make_inputs(Case(4, 3, 17))
    x, h0, c0 = (torch.cat((t, t, t)).detach() for t in inputs.tensors[:3])
    parts = [x[4:8].requires_grad_(), h0[3:6].requires_grad_(), c0[3:6].requires_grad_()]
    assert all(part.storage_offset() for part in parts)
    whole = inputs.run()
    inputs.tensors[:3] = parts
    assert all(map(torch.equal, inputs.run(), whole))


@pytest.mark.parametrize("wanted", ["y", "h_n", "c_n"])
def test_gradients_of_one_output_alone(wanted, assert_close):
    inputs = make_inputs(Case(5, 3, 17, lengths=True))
    index = NAMES.index(wanted)

    def gradients(inputs, forward):
        outputs = forward(*inputs.arguments(), reference.SAVE_GATES)
        return torch.autograd.grad(outputs[index], inputs.tensors, inputs.cotangents[index])

    actual = gradients(inputs, ops.lstm_forward)
    expected = gradients(inputs.to(torch.float64), reference.lstm_forward)
    for name, ours, theirs in zip(inputs.names, actual, expected, strict=True):
        assert_close(ours, theirs, f"d {name}")


@pytest.mark.parametrize(
    "case",
    [
        Case(3, 2, 3, inputs=2),
        Case(5, 3, 3, 2, inputs=2, bias=False, lengths=True, reset=True, reverse=True),
    ],
    ids=str,
)
def test_gradcheck_and_gradgradcheck(case):
    inputs = make_inputs(case, torch.float64)

    for save in (reference.SAVE_GATES, reference.SAVE_CELLS):

        def forward(*tensors, save=save):
            return ops.lstm_forward(*inputs.arguments(tensors), save)[:3]

        assert torch.autograd.gradcheck(forward, inputs.tensors)
    assert torch.autograd.gradgradcheck(forward, inputs.tensors)


def test_second_derivative_of_the_backward_op_is_refused():
    inputs = make_inputs(Case(3, 2, 3), torch.float64)
    y, _, _, *saved = ops.lstm_forward(*inputs.arguments(), reference.SAVE_GATES)
    grad_y = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    d_x = torch.ops.fast_s2s.lstm_backward(
        grad_y, None, None, *inputs.arguments(), y, *saved, True, True
    )[0]
    with pytest.raises(RuntimeError, match="lstm_backward has no derivative of its own"):
        d_x.sum().backward()


@pytest.mark.parametrize(
    "case",
    [Case(3, 2, 5), Case(4, 3, 5, projection=2, lengths=True, reset=True, reverse=True)],
    ids=str,
)
def test_opcheck(case):
    inputs = make_inputs(case)
    frozen = inputs.arguments([t.detach() for t in inputs.tensors])
    torch.library.opcheck(torch.ops.fast_s2s.lstm_forward.default, (*frozen, reference.SAVE_NONE))
    backward = torch.ops.fast_s2s.lstm_backward.default
    for save in (reference.SAVE_GATES, reference.SAVE_CELLS):
        forward = torch.ops.fast_s2s.lstm_forward.default
        torch.library.opcheck(forward, (*inputs.arguments(), save))
        y, _, _, *saved = forward(*frozen, save)
        torch.library.opcheck(backward, (*inputs.cotangents, *frozen, y, *saved, True, True))
        grads = (None, None, inputs.cotangents[2])
        torch.library.opcheck(backward, (*grads, *frozen, y, *saved, False, False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 2)}, "x: expected .T, B, I., got 2 dimensions"),
        ({"x": torch.zeros(3, 2, 5, dtype=torch.int32)}, "x: expected dtype .*, got Int"),
        ({"h0": torch.zeros(2, 5)}, r"h0: expected shape \(2,4,\), got \(2,5,\)"),
        ({"h0": torch.zeros(2, 4).double()}, "h0: expected dtype Float, got Double"),
        ({"c0": torch.zeros(1, 4)}, "c0: expected shape"),
        ({"w_ih": torch.zeros(16, 4)}, "w_ih: expected shape"),
        ({"w_hh": torch.zeros(16)}, "w_hh: expected .4H, R., got 1 dimensions"),
        ({"w_hh": torch.zeros(15, 4)}, "w_hh: expected a first dimension 4H, got 15"),
        ({"w_hh": torch.zeros(16, 3)}, "w_hh: expected .4H, H."),
        ({"b_ih": torch.zeros(4)}, "b_ih: expected shape"),
        ({"b_hh": torch.zeros(16, 1)}, "b_hh: expected shape"),
        ({"w_hr": torch.zeros(4, 5)}, "w_hr: expected shape"),
        ({"lengths": torch.tensor([1, 4])}, r"lengths: expected values in 0\.\.3, got 4"),
        ({"lengths": torch.tensor([1, -1])}, r"lengths: expected values in 0\.\.3, got -1"),
        ({"lengths": torch.tensor([1])}, "lengths: expected shape"),
        ({"lengths": torch.tensor([1.0, 2.0])}, "lengths: expected dtype Long, got Float"),
        ({"reset": torch.zeros(2, 3, dtype=torch.bool)}, "reset: expected shape"),
        ({"reset": torch.zeros(3, 2)}, "reset: expected dtype Bool, got Float"),
        ({"save": 7}, "save: expected 0, 1 or 2, got 7"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(changes, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.lstm_forward(*arguments_with(**changes))


@pytest.mark.parametrize("isa", [*ISAS, *EMULATED_ISAS])
def test_every_instruction_set(isa, assert_close):
    if isa not in AVAILABLE:
        pytest.skip(f"this machine has no {isa}")
    cases = [Case(5, 7, 33, lengths=True, reset=True), Case(4, 3, 40, projection=19, reverse=True)]
    with instruction_set(isa):
        for case in (*cases, Case(5, 13, 129)):
            for dtype in DTYPES:
                inputs = make_inputs(case, dtype)
                compare(inputs, inputs.run(), assert_close)
        for activation in ("sigmoid", "tanh"):
            for dtype in (torch.float32, torch.float64):
                assert activation_error(activation, dtype) <= 4, (activation, dtype)


def test_unknown_instruction_set_is_an_error():
    environment = {**os.environ, "FAST_S2S_ISA": "mmx"}
    done = subprocess.run(
        [sys.executable, "-c", "import fast_s2s"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert re.search("FAST_S2S_ISA: expected one of .*generic.*, got mmx", done.stderr)


def test_backend_override_reaches_the_op():
    inputs = make_inputs(Case(2, 2, 3))
    # torch 2.11 warns where nothing is said of several cycles
    with torch.profiler.profile(acc_events=True) as native:
        inputs.run()
    with fast_s2s.backend("reference"), torch.profiler.profile(acc_events=True) as plain:
        inputs.run()
    assert any(event.name == "fast_s2s::lstm_forward" for event in native.events())
    assert not any(event.name == "fast_s2s::lstm_forward" for event in plain.events())
