"""The ops of a single step on the native CPU backend against the float64 reference."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers_lstm import Case, make_inputs
from helpers_native import needs_native

import fast_s2s
from fast_s2s import functional, ops_cell, reference

pytestmark = needs_native

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
CASES = [
    Case(1, 1, 1, inputs=1),
    Case(1, 1, 33),
    Case(1, 7, 17, inputs=1, bias=False),
    Case(1, 3, 130, inputs=70),
    Case(1, 20, 65),
    Case(1, 0, 5),
]
FORWARD = torch.ops.fast_s2s.lstm_cell.default
BACKWARD = torch.ops.fast_s2s.lstm_cell_backward.default


def cell_arguments(inputs, tensors=None):
    """x, h0, c0, w_ih, w_hh, b_ih, b_hh of one step."""
    x, h0, c0, w_ih, w_hh, *biases = inputs.tensors if tensors is None else tensors
    return (x[0], h0, c0, w_ih, w_hh, *(biases or (None, None)))


def expected_outputs(inputs, tensors):
    x, *rest = cell_arguments(inputs, tensors)
    whole = (x.unsqueeze(0), *rest, None, None, None, False, reference.SAVE_NONE)
    return reference.lstm_forward(*whole)[1:3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, dtype, assert_close):
    inputs = make_inputs(case, dtype)
    cotangents = inputs.cotangents[1:]
    outputs = ops_cell.lstm_cell(*cell_arguments(inputs))
    doubles = [t.detach().double().requires_grad_() for t in inputs.tensors]
    expected = expected_outputs(inputs, doubles)
    for name, ours, theirs in zip("hc", outputs, expected, strict=True):
        assert_close(ours, theirs, name)
    with torch.no_grad():
        for ours, theirs in zip(ops_cell.lstm_cell(*cell_arguments(inputs)), outputs, strict=True):
            assert torch.equal(ours, theirs)
    # of both outputs, and of each alone
    for wanted in ([0, 1], [0], [1]):
        actual = torch.autograd.grad(
            [outputs[i] for i in wanted],
            inputs.tensors,
            [cotangents[i] for i in wanted],
            retain_graph=True,
        )
        theirs = torch.autograd.grad(
            [expected[i] for i in wanted],
            doubles,
            [cotangents[i].double() for i in wanted],
            retain_graph=True,
        )
        for name, d, d_expected in zip(inputs.names, actual, theirs, strict=True):
            assert_close(d, d_expected, f"d {name} of {wanted}")


def test_gradients_of_some_arguments_are_those_of_all():
    inputs = make_inputs(Case(1, 3, 17))
    tensors = [t.detach() for t in inputs.tensors]
    every = torch.autograd.grad(
        ops_cell.lstm_cell(*cell_arguments(inputs)), inputs.tensors, inputs.cotangents[1:]
    )
    for wanted in itertools.chain([()], itertools.combinations(range(len(tensors)), 2), [(6,)]):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        outputs = ops_cell.lstm_cell(*cell_arguments(inputs, leaves))
        assert all(out.requires_grad == bool(wanted) for out in outputs)
        if not wanted:
            continue
        torch.autograd.backward(outputs, inputs.cotangents[1:])
        for index, leaf in enumerate(leaves):
            if index in wanted:
                assert torch.equal(leaf.grad, every[index]), inputs.names[index]
            else:
                assert leaf.grad is None


def test_the_two_biases_share_no_memory():
    inputs = make_inputs(Case(1, 2, 5))
    *_, d_b_ih, d_b_hh = torch.autograd.grad(
        ops_cell.lstm_cell(*cell_arguments(inputs)), inputs.tensors, inputs.cotangents[1:]
    )
    before = d_b_hh.clone()
    d_b_ih.zero_()
    assert before.any() and torch.equal(d_b_hh, before)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_gradcheck_and_gradgradcheck(bias):
    inputs = make_inputs(Case(1, 2, 3, inputs=2, bias=bias), torch.float64)

    def forward(*tensors):
        return ops_cell.lstm_cell(*cell_arguments(inputs, tensors))

    assert torch.autograd.gradcheck(forward, inputs.tensors)
    assert torch.autograd.gradgradcheck(forward, inputs.tensors)


def test_second_derivative_of_the_backward_op_is_refused():
    inputs = make_inputs(Case(1, 2, 3), torch.float64)
    arguments = cell_arguments(inputs)
    _, _, *saved = FORWARD(*arguments, True)
    grad_h = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    d_x = BACKWARD(grad_h, None, *arguments[:5], *saved, True, True, True)[0]
    with pytest.raises(RuntimeError, match="lstm_cell_backward has no derivative of its own"):
        d_x.sum().backward()


def test_gradients_without_what_they_need_are_an_error():
    inputs = make_inputs(Case(1, 2, 3))
    h = FORWARD(*cell_arguments(inputs), False)[0]
    with pytest.raises(RuntimeError, match="lstm_cell: gradients need save=True"):
        h.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype):
    inputs = make_inputs(Case(1, 3, 5), dtype)
    frozen = cell_arguments(inputs, [t.detach() for t in inputs.tensors])
    torch.library.opcheck(FORWARD, (*frozen, False))
    leaves = [t.clone().requires_grad_() for t in frozen]
    torch.library.opcheck(FORWARD, (*leaves, True))
    _, _, *saved = FORWARD(*frozen, True)
    grads = inputs.cotangents[1:]
    torch.library.opcheck(BACKWARD, (*grads, *frozen[:5], *saved, True, True, True))
    torch.library.opcheck(BACKWARD, (None, grads[1], *frozen[:5], *saved, False, False, False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(1, 2, 5)}, "x: expected .B, I., got 3 dimensions"),
        ({"x": torch.zeros(2, 5, dtype=torch.int32)}, "x: expected dtype .*, got Int"),
        ({"h0": torch.zeros(2, 5)}, r"h0: expected shape \(2,4,\), got \(2,5,\)"),
        ({"c0": torch.zeros(1, 4)}, "c0: expected shape"),
        ({"w_ih": torch.zeros(16, 4)}, "w_ih: expected shape"),
        ({"w_hh": torch.zeros(16, 3)}, "w_hh: expected .4H, H."),
        ({"b_hh": torch.zeros(4)}, "b_hh: expected shape"),
        ({"b_ih": torch.zeros(16).double()}, "b_ih: expected dtype Float, got Double"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(changes, message):
    arguments = {
        "x": torch.zeros(2, 5),
        "h0": torch.zeros(2, 4),
        "c0": torch.zeros(2, 4),
        "w_ih": torch.zeros(16, 5),
        "w_hh": torch.zeros(16, 4),
        "b_ih": None,
        "b_hh": None,
    }
    with pytest.raises(RuntimeError, match=message):
        FORWARD(*{**arguments, **changes}.values(), False)


def test_tensors_that_are_not_dense():
    cell = fast_s2s.LSTMCell(6, 9)
    x, h, c = torch.randn(6, 4).t(), torch.randn(9, 4).t(), torch.randn(9, 4).t()
    dense = [t.contiguous() for t in (x, h, c)]
    cotangents = torch.randn(9, 4).t(), torch.randn(9, 4).t()
    results = []
    for tensors in ((x, h, c), dense):
        leaves = [t.detach().requires_grad_() for t in tensors]
        outputs = cell(leaves[0], (leaves[1], leaves[2]))
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, cotangents)])
    assert all(map(torch.equal, *results))


def test_autocast_runs_in_its_type():
    cell = fast_s2s.LSTMCell(6, 9)
    x = torch.randn(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        h, _ = cell(x)
    assert h.dtype == torch.bfloat16
    h.sum().backward()
    assert cell.weight_hh.grad.dtype == torch.float32 and cell.weight_ih.grad.any()


def test_compile_without_graph_break(assert_close):
    cell = fast_s2s.LSTMCell(4, 5)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 4)
    gradients = []
    for module in (cell, compiled):
        outputs = module(x)
        gradients.append(torch.autograd.grad(outputs, list(cell.parameters()), outputs))
    for (name, _), ours, theirs in zip(cell.named_parameters(), *gradients, strict=True):
        assert_close(theirs, ours.double(), name)


def test_transforms_take_the_reference(assert_close):
    cell = fast_s2s.LSTMCell(4, 5, dtype=torch.float64)
    weights = tuple(cell.parameters())
    x, h, c = (torch.randn(3, n, dtype=torch.float64) for n in (4, 5, 5))

    def loss(x):
        return functional.lstm_cell(x, (h, c), *weights)[0].square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert_close(torch.func.grad(loss)(x), expected, "func.grad")
    tangent = torch.randn_like(x)
    _, slope = torch.func.jvp(loss, (x,), (tangent,))
    assert_close(slope, (expected * tangent).sum(), "jvp")


def test_the_module_runs_on_it():
    cell = fast_s2s.LSTMCell(4, 5)
    seen = []
    for backend in ("native", "reference"):
        # torch 2.11 warns where nothing is said of several cycles
        with fast_s2s.backend(backend), torch.profiler.profile(acc_events=True) as profile:
            cell(torch.randn(2, 4))[0].sum().backward()
            with torch.no_grad():
                cell(torch.randn(2, 4))
        seen.append({event.key for event in profile.key_averages() if "lstm" in event.key})
    assert {"fast_s2s::lstm_cell", "fast_s2s::lstm_cell_backward"} <= seen[0]
    assert "fast_s2s::lstm_forward" not in seen[0] and not seen[1]
