"""The LSTM ops on the native CPU backend against the float64 reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_lstm import GRADS, NAMES, Case, make_inputs, reference_results

import fast_s2s
from fast_s2s import backends, ops, reference

pytestmark = pytest.mark.skipif(
    backends.extension is None, reason=f"no native ops: {backends.extension_reason}"
)

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
    Case(4, 20, 64),
    Case(4, 13, 100, lengths=True, reset=True),
    Case(2, 7, 500, lengths=True, reset=True),
    Case(3, 9, 150, projection=130, reverse=True),
    Case(2, 5, 40, projection=3),
    Case(6, 9, 40, projection=17),
    Case(6, 9, 40, projection=1, lengths=True, reset=True),
    Case(6, 9, 150, projection=130, lengths=True, reset=True, reverse=True),
]


@pytest.fixture
def threads(request):
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, dtype, threads, assert_close):
    inputs = make_inputs(case, dtype)
    actual, expected = inputs.run(), reference_results(inputs)
    for name, ours, theirs in zip(
        (*NAMES, *(f"d {n}" for n in GRADS)), actual, expected, strict=False
    ):
        assert_close(ours, theirs, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saved_tensors(dtype, assert_close):
    inputs = make_inputs(Case(5, 3, 17, lengths=True, reset=True), dtype)
    actual = ops.lstm_forward(*inputs.arguments(), reference.SAVE_GATES)[3:]
    expected = reference.lstm_forward(*inputs.to(torch.float64).arguments(), reference.SAVE_GATES)[
        3:
    ]
    live = (torch.arange(5).unsqueeze(1) < inputs.lengths).unsqueeze(2)
    for name, ours, theirs in zip(("gates", "cells"), actual, expected, strict=True):
        assert_close(ours, theirs * live, name, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_gates(dtype, assert_close):
    inputs = make_inputs(Case(6, 3, 17), dtype, scale=30.0)
    for name, ours, theirs in zip(NAMES, inputs.run(), reference_results(inputs), strict=False):
        assert_close(ours, theirs, name)


def test_nan_and_infinite_inputs_stay_in_their_row():
    inputs = make_inputs(Case(4, 5, 17))
    with torch.no_grad():
        clean = ops.lstm_forward(*inputs.arguments())[0]
        inputs.tensors[0][1, 2, 3] = float("nan")
        inputs.tensors[0][0, 4] = float("inf")
        y = ops.lstm_forward(*inputs.arguments())[0]
    assert y[1, 2, 3].isnan() and y[2, 2].isnan().all()
    assert torch.equal(y[:, [0, 1, 3]], clean[:, [0, 1, 3]])
    assert y[:, 4].isfinite().all()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_activations_within_4_ulp(activation):
    x = torch.cat(
        (
            torch.linspace(-20, 20, 40001),
            torch.logspace(-30, 1, 4001),
            -torch.logspace(-30, 1, 4001),
        )
    )
    hidden = x.numel()
    gates_x = x.repeat(4).reshape(1, 1, 4 * hidden)
    zeros = torch.zeros(1, hidden)
    one = torch.zeros(1, 1)
    # w_hh (4H, R) with R = 1 through a projection keeps the weights small
    gates = torch.ops.fast_s2s.lstm_forward(
        gates_x,
        one,
        zeros,
        torch.zeros(4 * hidden, 1),
        torch.zeros(1, hidden),
        None,
        None,
        False,
        1,
    )[3]
    ours = gates.reshape(4, hidden)[0 if activation == "sigmoid" else 2]
    exact = getattr(torch, activation)(x.double())
    ulp = (
        torch.nextafter(exact.float().abs(), torch.tensor(float("inf"))).double()
        - exact.float().abs().double()
    )
    assert ((ours.double() - exact).abs() / ulp).max() <= 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_the_others(dtype):
    case = Case(9, 11, 50, lengths=True, reset=True)
    inputs = make_inputs(case, dtype)
    everything = inputs.run()
    again = inputs.run()
    assert all(torch.equal(a, b) for a, b in zip(everything, again, strict=True))
    gates_x, h0, c0, w_hh = (t.detach() for t in inputs.tensors)
    for row in range(case.batch):
        pick = slice(row, row + 1)
        alone = ops.lstm_forward(
            gates_x[:, pick],
            h0[pick],
            c0[pick],
            w_hh,
            None,
            inputs.lengths[pick],
            inputs.reset[:, pick],
        )
        assert torch.equal(alone[0], everything[0][:, pick])
        assert torch.equal(alone[1], everything[1][pick])
        assert torch.equal(alone[2], everything[2][pick])


@pytest.mark.parametrize("threads", [2, 3, 7], indirect=True)
def test_any_number_of_threads_gives_the_same_bits(threads):
    inputs = make_inputs(Case(5, 4, 130, projection=70))
    actual = inputs.run()
    torch.set_num_threads(1)
    expected = inputs.run()
    # the gradients of the weights are torch's own products, whose order may follow the threads
    assert all(torch.equal(a, b) for a, b in zip(actual[:6], expected[:6], strict=True))


def test_empty_batch():
    inputs = make_inputs(Case(3, 0, 5))
    y, h_n, c_n = inputs.run()[:3]
    assert (y.shape, h_n.shape, c_n.shape) == ((3, 0, 5), (0, 5), (0, 5))


def test_strided_inputs(assert_close):
    inputs = make_inputs(Case(5, 4, 17))
    expected = reference_results(inputs)
    inputs.tensors = [
        t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        for t in inputs.tensors
    ]
    assert not any(t.is_contiguous() for t in inputs.tensors)
    inputs.cotangents = [t.unsqueeze(0).expand(2, *t.shape)[1] for t in inputs.cotangents]
    for name, ours, theirs in zip(NAMES + GRADS, inputs.run(), expected, strict=False):
        assert_close(ours, theirs, name)


@pytest.mark.parametrize("wanted", ["y", "h_n", "c_n"])
def test_gradients_of_one_output_alone(wanted, assert_close):
    inputs = make_inputs(Case(5, 3, 17, lengths=True))
    index = NAMES.index(wanted)

    def gradients(inputs, forward):
        outputs = forward(*inputs.arguments(), reference.SAVE_GATES)
        return torch.autograd.grad(outputs[index], inputs.tensors, inputs.cotangents[index])

    actual = gradients(inputs, ops.lstm_forward)
    expected = gradients(inputs.to(torch.float64), reference.lstm_forward)
    for name, ours, theirs in zip(GRADS, actual, expected, strict=False):
        assert_close(ours, theirs, f"d {name}")


@pytest.mark.parametrize(
    "case",
    [Case(3, 2, 3), Case(4, 3, 3, projection=2, lengths=True, reset=True, reverse=True)],
    ids=str,
)
def test_gradcheck_and_gradgradcheck(case):
    inputs = make_inputs(case, torch.float64)

    def forward(*tensors):
        w_hr = tensors[4] if case.projection else None
        return ops.lstm_forward(*tensors[:4], w_hr, *inputs.arguments()[5:], reference.SAVE_GATES)[
            :3
        ]

    assert torch.autograd.gradcheck(forward, inputs.tensors)
    assert torch.autograd.gradgradcheck(forward, inputs.tensors)


def test_second_derivative_of_the_backward_op_is_refused():
    inputs = make_inputs(Case(3, 2, 3), torch.float64)
    saved = ops.lstm_forward(*inputs.arguments(), reference.SAVE_GATES)[3:]
    grad_y = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    d_gates = torch.ops.fast_s2s.lstm_backward(
        grad_y, None, None, *saved, *inputs.tensors[2:4], None, None, None, False
    )[0]
    with pytest.raises(RuntimeError, match="lstm_backward has no derivative of its own"):
        d_gates.sum().backward()


@pytest.mark.parametrize(
    "case",
    [Case(3, 2, 5), Case(4, 3, 5, projection=2, lengths=True, reset=True, reverse=True)],
    ids=str,
)
def test_opcheck(case):
    inputs = make_inputs(case)
    for save in (reference.SAVE_NONE, reference.SAVE_GATES):
        arguments = inputs.arguments()
        if save == reference.SAVE_NONE:
            arguments = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
        torch.library.opcheck(torch.ops.fast_s2s.lstm_forward.default, (*arguments, save))
    _, _, c0, w_hh, w_hr, lengths, reset, reverse = (
        a.detach() if isinstance(a, torch.Tensor) else a for a in inputs.arguments()
    )
    saved = ops.lstm_forward(*inputs.arguments(), reference.SAVE_GATES)[3:]
    for grads in (inputs.cotangents, [None, None, inputs.cotangents[2]]):
        arguments = (*grads, *saved, c0, w_hh, w_hr, lengths, reset, reverse)
        torch.library.opcheck(torch.ops.fast_s2s.lstm_backward.default, arguments)


def _bad(**changes):
    t, b, h = 3, 2, 4
    arguments = {
        "gates_x": torch.zeros(t, b, 4 * h),
        "h0": torch.zeros(b, h),
        "c0": torch.zeros(b, h),
        "w_hh": torch.zeros(4 * h, h),
        "w_hr": None,
        "lengths": None,
        "reset": None,
        "reverse": False,
        "save": 0,
    }
    arguments.update(changes)
    return list(arguments.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates_x": torch.zeros(3, 2)}, "gates: expected .T, B, 4H"),
        ({"gates_x": torch.zeros(3, 2, 15)}, "gates: expected a last dimension 4H, got 15"),
        ({"gates_x": torch.zeros(3, 2, 16, dtype=torch.int32)}, "gates: expected float32"),
        ({"h0": torch.zeros(2, 5)}, r"h0: expected shape \(2,4,\), got \(2,5,\)"),
        ({"h0": torch.zeros(2, 4).double()}, "h0: expected dtype Float, got Double"),
        ({"c0": torch.zeros(1, 4)}, "c0: expected shape"),
        ({"w_hh": torch.zeros(16, 3)}, "w_hh: expected .4H, H."),
        ({"w_hh": torch.zeros(12, 4)}, "w_hh: expected shape"),
        ({"w_hr": torch.zeros(4, 5)}, "w_hr: expected shape"),
        ({"lengths": torch.tensor([1, 4])}, r"lengths: expected values in 0\.\.3, got 4"),
        ({"lengths": torch.tensor([1, -1])}, r"lengths: expected values in 0\.\.3, got -1"),
        ({"lengths": torch.tensor([1])}, "lengths: expected shape"),
        ({"lengths": torch.tensor([1.0, 2.0])}, "lengths: expected dtype Long, got Float"),
        ({"reset": torch.zeros(2, 3, dtype=torch.bool)}, "reset: expected shape"),
        ({"reset": torch.zeros(3, 2)}, "reset: expected dtype Bool, got Float"),
        ({"save": 7}, "save: expected 0 or 1, got 7"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(changes, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.lstm_forward(*_bad(**changes))


_RUN_AN_ISA = """
import torch
from helpers_lstm import Case, make_inputs, reference_results
from conftest import assert_close
from fast_s2s import backends
assert backends.extension.build_info()["cpu isa"] == "{isa}"
torch.manual_seed(0)
for case in (Case(5, 7, 33, lengths=True, reset=True), Case(4, 3, 40, projection=19, reverse=True)):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        inputs = make_inputs(case, dtype)
        for index, pair in enumerate(zip(inputs.run(), reference_results(inputs))):
            assert_close(*pair, str(index))
"""


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_every_instruction_set(isa):
    available = backends.extension.build_info()["cpu isas available"].split()
    if isa not in available:
        pytest.skip(f"this machine has no {isa}")
    environment = {**os.environ, "FAST_S2S_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    code = _RUN_AN_ISA.format(isa=isa)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_unknown_instruction_set_is_an_error():
    environment = {**os.environ, "FAST_S2S_ISA": "mmx"}
    done = subprocess.run(
        [sys.executable, "-c", "import fast_s2s"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "FAST_S2S_ISA: expected one of generic" in done.stderr and "got mmx" in done.stderr


def test_backend_override_reaches_the_op():
    inputs = make_inputs(Case(2, 2, 3))
    with torch.profiler.profile() as native:
        inputs.run()
    with fast_s2s.backend("reference"), torch.profiler.profile() as plain:
        inputs.run()
    assert any(event.name == "fast_s2s::lstm_forward" for event in native.events())
    assert not any(event.name == "fast_s2s::lstm_forward" for event in plain.events())
