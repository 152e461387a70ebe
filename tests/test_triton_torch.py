"""The Triton ops as torch sees them: opcheck, torch.compile, autocast, fakes, bad arguments."""

from __future__ import annotations

import pytest
import torch
from helpers_lstm import Case, arguments_with, make_inputs
from helpers_triton import DEVICE, on_device
from torch import nn
from torch.utils._pytree import tree_map_only

import fast_s2s
from fast_s2s import backends, ops, reference

pytestmark = pytest.mark.skipif(
    backends.unsupported("triton", DEVICE, torch.float32) is not None,
    reason=f"no Triton: {backends.unsupported('triton', DEVICE, torch.float32)}",
)
FORWARD = torch.ops.fast_s2s.lstm_forward_triton.default
BACKWARD = torch.ops.fast_s2s.lstm_backward_triton.default


@pytest.fixture(autouse=True)
def _triton():
    with fast_s2s.backend("triton"):
        yield


@pytest.mark.parametrize(
    "case",
    [Case(2, 2, 5), Case(3, 3, 5, projection=2, lengths=True, reset=True, reverse=True)],
    ids=str,
)
def test_opcheck(case):
    inputs = on_device(make_inputs(case))
    frozen = inputs.arguments([t.detach() for t in inputs.tensors])
    torch.library.opcheck(FORWARD, (*frozen, reference.SAVE_NONE))
    for save in (reference.SAVE_GATES, reference.SAVE_CELLS):
        torch.library.opcheck(FORWARD, (*inputs.arguments(), save))
        y, _, _, *saved = FORWARD(*frozen, save)
        torch.library.opcheck(BACKWARD, (*inputs.cotangents, *frozen, y, *saved, True, True))
        grads = (None, None, inputs.cotangents[2])
        torch.library.opcheck(BACKWARD, (*grads, *frozen, y, *saved, False, False))


@pytest.mark.parametrize(
    "case", [Case(2, 2, 2, inputs=2), Case(3, 2, 2, 1, 2, reverse=True)], ids=str
)
def test_gradcheck_and_gradgradcheck(case):
    inputs = on_device(make_inputs(case, torch.float64))

    def forward(*tensors):
        return ops.lstm_forward(*inputs.arguments(tensors), reference.SAVE_GATES)[:3]

    assert torch.autograd.gradcheck(forward, inputs.tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(forward, inputs.tensors, fast_mode=True)


def test_second_derivative_of_the_backward_op_is_refused():
    inputs = on_device(make_inputs(Case(2, 2, 3)))
    y, _, _, *saved = FORWARD(*inputs.arguments(), reference.SAVE_GATES)
    grad_y = torch.randn(2, 2, 3, device=DEVICE, requires_grad=True)
    grads = BACKWARD(grad_y, None, None, *inputs.arguments(), y, *saved, True, True)
    with pytest.raises(RuntimeError, match="lstm_backward_triton has no derivative of its own"):
        grads[0].sum().backward()


def test_compile_without_graph_break(assert_close):
    """Another length needs no new graph, and the gradients are those of the eager call."""
    model = fast_s2s.LSTM(4, 6, num_layers=2, bidirectional=True).to(DEVICE)
    graphs = []

    def counting(graph, inputs):
        graphs.append([node.target for node in graph.graph.nodes])
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.compile(model, fullgraph=True, dynamic=True, backend=counting)(
        torch.randn(3, 2, 4, device=DEVICE)
    )
    assert len(graphs) == 1 and graphs[0].count(FORWARD) == 4
    for steps in (3, 5):
        results = []
        x = torch.randn(steps, 2, 4, device=DEVICE, requires_grad=True)
        cotangent = torch.randn(steps, 2, 12, device=DEVICE)
        for module in (model, compiled):
            y = module(x)[0]
            results.append((y, *torch.autograd.grad(y, [x, *model.parameters()], cotangent)))
        for index, (a, b) in enumerate(zip(*results, strict=True)):
            assert_close(b, a, str(index))


def test_autocast():
    model = fast_s2s.LSTM(4, 6).to(DEVICE)
    x = torch.randn(3, 2, 4, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y, (h, c) = model(x)
    assert {t.dtype for t in (y, h, c)} == {torch.bfloat16}
    torch.testing.assert_close(y.float(), model(x)[0], rtol=5e-2, atol=5e-2)


def test_fake_tensors_have_the_shapes_and_types_of_real_ones():
    inputs = on_device(make_inputs(Case(3, 2, 5, projection=2), torch.bfloat16))
    for save in (reference.SAVE_NONE, reference.SAVE_GATES, reference.SAVE_CELLS):
        real = FORWARD(*(inputs.arguments([t.detach() for t in inputs.tensors])), save)
        meta = FORWARD(*inputs.arguments([t.detach().to("meta") for t in inputs.tensors]), save)
        assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in meta]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cell_equals_torchs(dtype, assert_close):
    theirs = nn.LSTMCell(4, 17, dtype=torch.float64)
    ours = fast_s2s.LSTMCell(4, 17)
    ours.load_state_dict(theirs.state_dict())
    ours = ours.to(DEVICE, dtype)
    theirs.load_state_dict(ours.state_dict())
    x, h, c = torch.randn(3, 4), torch.randn(3, 17), torch.randn(3, 17)
    actual = ours(*(x.to(DEVICE, dtype), (h.to(DEVICE, dtype), c.to(DEVICE, dtype))))
    rounded = [t.to(dtype).double() for t in (x, h, c)]
    for a, b in zip(actual, theirs(rounded[0], tuple(rounded[1:])), strict=True):
        assert_close(a.cpu(), b, "cell")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 2)}, "x: expected .T, B, I., got 2 dimensions"),
        ({"h0": torch.zeros(2, 5)}, r"h0: expected shape \(2, 4\), got \(2, 5\)"),
        ({"h0": torch.zeros(2, 4).double()}, "h0: expected dtype torch.float32, got torch.float64"),
        ({"c0": torch.zeros(1, 4)}, "c0: expected shape"),
        ({"w_ih": torch.zeros(16, 4)}, "w_ih: expected shape"),
        ({"w_hh": torch.zeros(16)}, "w_hh: expected .4H, R., got 1 dimensions"),
        ({"w_hh": torch.zeros(15, 4)}, "w_hh: expected a first dimension 4H, got 15"),
        ({"w_hh": torch.zeros(16, 3)}, r"w_hh: expected \(4H, H\) = \(16, 4\) without w_hr"),
        ({"b_ih": torch.zeros(4)}, "b_ih: expected shape"),
        ({"b_hh": torch.zeros(16, 1)}, "b_hh: expected shape"),
        ({"w_hr": torch.zeros(4, 5)}, "w_hr: expected shape"),
        ({"lengths": torch.tensor([1])}, "lengths: expected shape"),
        ({"lengths": torch.tensor([1.0, 2.0])}, "lengths: expected dtype torch.int64"),
        ({"reset": torch.zeros(2, 3, dtype=torch.bool)}, "reset: expected shape"),
        ({"reset": torch.zeros(3, 2)}, "reset: expected dtype torch.bool, got torch.float32"),
        ({"save": 7}, "save: expected 0, 1 or 2, got 7"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(changes, message):
    with pytest.raises(RuntimeError, match=message):
        FORWARD(*tree_map_only(torch.Tensor, lambda t: t.to(DEVICE), arguments_with(**changes)))


def test_override_reaches_the_op():
    model, x = fast_s2s.LSTM(2, 3).to(DEVICE), torch.zeros(2, 2, 2, device=DEVICE)
    with torch.profiler.profile(acc_events=True) as profile:
        model(x)
    names = {event.name for event in profile.events()}
    assert "fast_s2s::lstm_forward_triton" in names and "fast_s2s::lstm_forward" not in names
