"""Layer norm, zoneout and dropout of the state on Triton against the float64 reference: on a GPU
where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from helpers_lstm import Case
from helpers_triton import DEVICE, call_on_device
from helpers_variant_call import ALL, KINDS, Call

import fast_s2s
from fast_s2s import backends, ops_variant, reference
from fast_s2s.reference import SAVE_CELLS, SAVE_GATES, SAVE_NONE

pytestmark = pytest.mark.skipif(
    backends.unsupported("triton", DEVICE, torch.float32) is not None,
    reason=f"no Triton: {backends.unsupported('triton', DEVICE, torch.float32)}",
)

SAVES = pytest.mark.parametrize("save", [SAVE_GATES, SAVE_CELLS])
EVERYTHING = Case(5, 7, 17, lengths=True, reset=True, reverse=True)
CASES = [
    Case(1, 1, 1),
    Case(3, 3, 17, bias=False),
    Case(6, 5, 17, lengths=True, reset=True),
    EVERYTHING,
    Case(4, 5, 12, projection=5, lengths=True, reset=True),
    Case(4, 5, 12, projection=1, lengths=True, reset=True, reverse=True),
    Case(3, 2, 9, projection=8),
    # several programs of several rows
    Case(3, 37, 17, lengths=True, reset=True),
]


@pytest.fixture(autouse=True)
def _triton():
    with fast_s2s.backend("triton"):
        yield


def compare(call: Call, assert_close, save: int = SAVE_GATES) -> None:
    call.compare([each.cpu() for each in call_on_device(call).run(save=save)], assert_close)


@SAVES
@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, kinds, save, assert_close):
    compare(Call(case, torch.float32, kinds), assert_close, save)


@SAVES
@pytest.mark.parametrize("kinds", [("norm",), ("expected",), ALL], ids="+".join)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("case", [EVERYTHING, CASES[4]], ids=str)
def test_other_types(case, dtype, kinds, save, assert_close):
    compare(Call(case, dtype, kinds), assert_close, save)


@pytest.mark.parametrize("case", [Case(63, 1, 5), Case(1, 3, 500), Case(2, 1, 1030)], ids=str)
def test_long_and_wide(case, assert_close):
    compare(Call(case, torch.float32), assert_close)


@pytest.mark.parametrize("kinds", [("zones",), ALL], ids="+".join)
def test_saturated_gates(kinds, assert_close):
    call = Call(Case(4, 3, 17), torch.float32, kinds)
    with torch.no_grad():
        call.inputs.tensors[0].mul_(30)
    compare(call, assert_close)


@SAVES
@pytest.mark.parametrize("projection", [0, 3])
def test_what_is_past_an_end_is_not_read(projection, save):
    case = Case(5, 4, 17, projection=projection, lengths=True, reset=True)
    call = call_on_device(Call(case, torch.float32))
    clean = call.run(save=save)
    ended = torch.arange(5, device=DEVICE).unsqueeze(1) >= call.inputs.lengths
    with torch.no_grad():
        call.inputs.tensors[0][ended] = float("nan")
        call.inputs.cotangents[0][ended] = float("nan")
    for name, ours, theirs in zip(call.names, call.run(save=save), clean, strict=True):
        assert torch.equal(ours, theirs), name
    assert not clean[0][ended].any() and not clean[3][ended].any()


def test_runs_repeat_to_the_bit_and_rows_do_not_meet():
    call = call_on_device(Call(Case(3, 7, 17, lengths=True, reset=True), torch.float32))
    everything, again = call.run(), call.run()
    assert all(map(torch.equal, everything, again))
    # the others are in its tile
    with torch.no_grad():
        call.inputs.tensors[0][:, 2] = float("nan")
    y = call.run()[0]
    others = [row for row in range(7) if row != 2]
    assert torch.equal(y[:, others], everything[0][:, others])


def test_a_state_before_a_reset_is_not_read():
    call = call_on_device(Call(Case(3, 2, 5), torch.float32))
    call.inputs.reset = torch.zeros(3, 2, dtype=torch.bool, device=DEVICE)
    call.inputs.reset[0, 0] = True
    clean = call.run()
    with torch.no_grad():
        for state in call.inputs.tensors[1:3]:
            state[0] = float("nan")
    assert all(map(torch.equal, call.run(), clean))


def test_gradients_of_some_and_strides(assert_close):
    call = Call(Case(3, 3, 17, projection=6, lengths=True), torch.float32)
    expected = call.in_double().run(reference.lstm_variant)
    call = call_on_device(call)
    call.inputs.tensors = [
        t.detach().unsqueeze(-1).repeat_interleave(2, -1)[..., 0].requires_grad_()
        for t in call.inputs.tensors
    ]
    for index, name in enumerate(call.names[3:]):
        for tensor in call.tensors():
            tensor.requires_grad_(False)
        call.tensors()[index].requires_grad_()
        outputs = ops_variant.lstm_variant(*call.inputs.arguments(), call.variant, SAVE_GATES)
        (alone,) = torch.autograd.grad(outputs, call.tensors()[index], call.inputs.cotangents)
        assert_close(alone.cpu(), expected[3 + index], name)


@pytest.mark.parametrize("wanted", range(3))
def test_gradients_of_one_output_alone(wanted, assert_close):
    call = Call(EVERYTHING, torch.float32)

    def gradients(call, *extra):
        forward = ops_variant.lstm_variant if extra else reference.lstm_variant
        outputs = forward(*call.inputs.arguments(), call.variant, *extra)
        cotangent = call.inputs.cotangents[wanted]
        return torch.autograd.grad(outputs[wanted], call.tensors(), cotangent)

    expected = gradients(call.in_double())
    for name, ours, theirs in zip(
        call.names[3:], gradients(call_on_device(call), SAVE_GATES), expected, strict=True
    ):
        assert_close(ours.cpu(), theirs, name)


@pytest.mark.parametrize("sizes", [(3, 0, 5), (0, 3, 5)], ids=["no-rows", "no-steps"])
@pytest.mark.parametrize("save", [SAVE_NONE, SAVE_GATES, SAVE_CELLS])
def test_empty(sizes, save):
    call = call_on_device(Call(Case(*sizes), torch.float32))
    if save == SAVE_NONE:
        y, h_n, c_n = ops_variant.lstm_variant(*call.inputs.arguments(), call.variant)
    else:
        y, h_n, c_n, *gradients = call.run(save=save)
        assert [tuple(d.shape) for d in gradients] == [tuple(t.shape) for t in call.tensors()]
    steps, batch, hidden = sizes
    assert (y.shape, h_n.shape) == ((steps, batch, hidden), (batch, hidden))
    if not steps:
        h0, c0 = call.inputs.tensors[1:3]
        assert torch.equal(h_n, h0) and torch.equal(c_n, c0)


def test_gradgradcheck():
    call = call_on_device(Call(Case(3, 2, 3, 2, inputs=2, lengths=True, reset=True), torch.float64))
    count = len(call.inputs.tensors)

    def forward(*tensors):
        variant = call.variant._replace(**dict(zip(call.norms, tensors[count:], strict=True)))
        arguments = call.inputs.arguments(tensors[:count])
        return ops_variant.lstm_variant(*arguments, variant, SAVE_GATES)

    assert torch.autograd.gradcheck(forward, call.tensors(), fast_mode=True)
    assert torch.autograd.gradgradcheck(forward, call.tensors(), fast_mode=True)


@pytest.mark.parametrize("kinds", [("expected",), ALL], ids="+".join)
def test_opcheck(kinds):
    case = Case(2, 2, 3, projection=2, lengths=True, reset=True, reverse=True)
    call = call_on_device(Call(case, torch.float32, kinds))
    forward = torch.ops.fast_s2s.lstm_variant_forward_triton.default
    backward = torch.ops.fast_s2s.lstm_variant_backward_triton.default

    def frozen(save):
        return [t.detach() if isinstance(t, torch.Tensor) else t for t in call.arguments(save)]

    torch.library.opcheck(forward, tuple(frozen(SAVE_NONE)))
    for save in (SAVE_GATES, SAVE_CELLS):
        torch.library.opcheck(forward, tuple(call.arguments(save)))
        y, _, _, *saved = forward(*frozen(save))
        *layer, _ = frozen(save)
        cotangents = call.inputs.cotangents
        torch.library.opcheck(backward, (*cotangents, *layer, y, *saved, True, True))
        some = (None, None, cotangents[2])
        torch.library.opcheck(backward, (*some, *layer, y, *saved, False, False))


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (11, None, "norm_ih, norm_hh, norm_c, norm_c_bias: expected all of them or none, got 3"),
        (11, torch.zeros(19), r"norm_ih: expected shape \(20,\), got \(19,\)"),
        (13, torch.zeros(5).double(), "norm_c: expected dtype torch.float32, got torch.float64"),
        (15, torch.zeros(5, 2), r"recurrent_mask: expected shape \(2, 5\)"),
        (16, torch.zeros(3, 2, 5), "kept_hidden: expected dtype torch.bool, got torch.float32"),
        (17, torch.zeros(2, 2, 5, dtype=torch.bool), r"kept_cell: expected shape \(3, 2, 5\)"),
        (18, 1.5, "zoneout_hidden: expected a number in 0..1, got 1.5"),
        (19, float("nan"), "zoneout_cell: expected a number in 0..1, got nan"),
        (20, 3, "save: expected 0, 1 or 2, got 3"),
        (1, torch.zeros(2, 4), "h0: expected shape"),
    ],
)
def test_bad_arguments(index, value, message):
    arguments = call_on_device(Call(Case(3, 2, 5), torch.float32)).arguments()
    arguments[index] = value.to(DEVICE) if isinstance(value, torch.Tensor) else value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.lstm_variant_forward_triton(*arguments)


def test_backward_takes_what_forward_kept():
    call = call_on_device(Call(Case(3, 2, 5), torch.float32))
    *layer, _ = arguments = call.arguments()
    y, _, _, products, cells = torch.ops.fast_s2s.lstm_variant_forward_triton(*arguments)
    backward = torch.ops.fast_s2s.lstm_variant_backward_triton
    expected = backward(y, None, None, *layer, y, products, cells, True, True)
    spread = products.unsqueeze(-1).repeat_interleave(2, -1)[..., 0]
    found = backward(y, None, None, *layer, y, spread, cells, True, True)
    assert not spread.is_contiguous() and all(map(torch.equal, found, expected))
    for index, name in enumerate(("y", "products", "cells")):
        saved = [y, products, cells]
        saved[index] = saved[index][..., 1:]
        with pytest.raises(RuntimeError, match=rf"{name}: expected shape \(3, 2, "):
            backward(y, None, None, *layer, *saved, True, True)


def module(**options):
    torch.manual_seed(3)
    return fast_s2s.LSTM(5, 9, 2, norm="layer", zoneout_cell=0.1, **options).to(DEVICE)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_the_module(memory, compiled, assert_close):
    # what tests before this one compiled counts towards a limit
    torch.compiler.reset()
    lstm = module(memory=memory, bidirectional=True).eval()
    call = torch.compile(lstm, backend="aot_eager", fullgraph=True) if compiled else lstm
    x = torch.randn(6, 3, 5, device=DEVICE, requires_grad=True)
    lengths = torch.tensor([6, 2, 4], device=DEVICE)

    def results(run):
        y, (h, c) = run(x, lengths=lengths)
        inputs = [x, *lstm.parameters()]
        return [y, h, c, *torch.autograd.grad((y * y).sum() + h.sum() + c.sum(), inputs)]

    actual = results(call)
    with fast_s2s.backend("reference"):
        expected = results(lstm)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours.cpu(), theirs.cpu(), "module")


def test_autocast():
    lstm = module().eval()
    x = torch.randn(6, 3, 5, device=DEVICE)

    def gradients(enabled):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=enabled):
            y, _ = lstm(x)
        return [y, *torch.autograd.grad(y.float().square().sum(), lstm.parameters())]

    actual = gradients(enabled=True)
    assert actual[0].dtype == torch.bfloat16 and actual[1].dtype == torch.float32
    with fast_s2s.backend("reference"):
        exact = gradients(enabled=False)
    for ours, theirs in zip(actual, exact, strict=True):
        assert (ours - theirs).norm() <= 0.06 * theirs.norm()


def test_what_serves_it_on_a_gpu():
    choice = backends.select("cuda", torch.float32, variant="layer norm")
    assert choice.backend == "triton"
    assert "native: no native kernel with layer norm for device 'cuda'" in choice.reason
