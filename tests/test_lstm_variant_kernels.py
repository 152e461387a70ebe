"""The native op of layer norm, zoneout and recurrent dropout against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from helpers_lstm import NAMES, Case
from helpers_native import AVAILABLE, EMULATED_ISAS, ISAS, instruction_set, needs_native
from helpers_variant_call import ALL, KINDS, Call

import fast_s2s
from fast_s2s import ops_variant, reference
from fast_s2s.reference import SAVE_CELLS, SAVE_GATES, SAVE_NONE

pytestmark = needs_native

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
SAVES = pytest.mark.parametrize("save", [SAVE_GATES, SAVE_CELLS])
CASES = [
    Case(1, 3, 17),
    Case(5, 1, 500),
    Case(63, 3, 17, lengths=True, reset=True, reverse=True),
    Case(7, 30, 40, lengths=True, reset=True, bias=False),
    Case(4, 13, 100, reverse=True),
    Case(100, 2, 20, inputs=33, lengths=True, reverse=True),
    Case(3, 9, 150, projection=130, reverse=True),
    Case(6, 9, 40, projection=1, lengths=True, reset=True),
    Case(6, 26, 40, projection=17),
]


@pytest.fixture
def threads(request):
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@SAVES
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, kinds, dtype, threads, save, assert_close):
    call = Call(case, dtype, kinds)
    call.compare(call.run(save=save), assert_close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kinds", [("zones",), ALL], ids="+".join)
def test_saturated_gates(kinds, dtype, assert_close):
    call = Call(Case(6, 3, 17), dtype, kinds)
    with torch.no_grad():
        call.inputs.tensors[0].mul_(30)
    expected = call.in_double().run(reference.lstm_variant)
    for name, ours, theirs in zip(NAMES, call.run()[:3], expected[:3], strict=True):
        assert_close(ours, theirs, name)


@SAVES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(9, 13, 40, lengths=True, reset=True),
        Case(12, 26, 100, projection=70),
        Case(6, 3, 300, inputs=40),
    ],
    ids=str,
)
def test_bits_do_not_depend_on_the_number_of_threads(case, dtype, save):
    call = Call(case, dtype)
    one = call.run(save=save)
    try:
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            for name, ours, theirs in zip(call.names, call.run(save=save), one, strict=True):
                assert torch.equal(ours, theirs), name
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_the_others(dtype):
    call = Call(Case(9, 11, 50, lengths=True, reset=True), dtype)
    everything = call.run()
    x, h0, c0, *weights = (t.detach() for t in call.inputs.tensors)
    for row in range(11):
        pick = slice(row, row + 1)
        variant = call.variant._replace(
            recurrent_mask=call.variant.recurrent_mask[pick],
            zoneout_hidden=call.variant.zoneout_hidden[:, pick],
            zoneout_cell=call.variant.zoneout_cell[:, pick],
        )
        rest = (call.inputs.lengths[pick], call.inputs.reset[:, pick], False)
        layer = (x[:, pick], h0[pick], c0[pick], *weights, None)
        alone = ops_variant.lstm_variant(*layer, *rest, variant)
        assert torch.equal(alone[0], everything[0][:, pick])
        assert torch.equal(alone[1], everything[1][pick])
        assert torch.equal(alone[2], everything[2][pick])


@SAVES
def test_what_is_past_an_end_is_not_read(save, assert_close):
    call = Call(Case(6, 4, 17, lengths=True, reset=True), torch.float32)
    clean = call.run(save=save)
    ended = torch.arange(6).unsqueeze(1) >= call.inputs.lengths
    with torch.no_grad():
        call.inputs.tensors[0][ended] = float("nan")
    for name, ours, theirs in zip(call.names, call.run(save=save), clean, strict=True):
        assert torch.equal(ours, theirs), name
    assert not clean[0][ended].any() and not clean[3][ended].any()


@SAVES
def test_nothing_is_left_over_from_the_call_before(save):
    """Scratch memory is kept from call to call, with whatever the last one left in it."""
    call = Call(Case(6, 7, 40, projection=19, lengths=True, reset=True), torch.float32)
    before = call.run(save=save)
    poisoned = Call(Case(9, 12, 60, projection=50), torch.float32)
    for tensor in poisoned.inputs.tensors:
        tensor.detach().fill_(float("nan"))
    poisoned.run(save=save)
    assert all(map(torch.equal, call.run(save=save), before))


def test_strided_inputs_and_gradients_of_some(assert_close):
    call = Call(Case(5, 4, 17), torch.float32)
    inputs = call.inputs
    inputs.tensors = [
        t.detach().unsqueeze(-1).repeat_interleave(2, -1)[..., 0].requires_grad_()
        for t in inputs.tensors
    ]
    kept = call.variant.zoneout_cell
    call.variant = call.variant._replace(
        zoneout_cell=kept.unsqueeze(-1).repeat_interleave(2, -1)[..., 0]
    )
    assert not any(t.is_contiguous() for t in (*inputs.tensors, call.variant.zoneout_cell))
    results = call.run()
    call.compare(results, assert_close)
    for index, name in enumerate(call.names[3:]):
        for tensor in call.tensors():
            tensor.requires_grad_(False)
        call.tensors()[index].requires_grad_()
        outputs = ops_variant.lstm_variant(*inputs.arguments(), call.variant, SAVE_GATES)
        (alone,) = torch.autograd.grad(outputs, call.tensors()[index], inputs.cotangents)
        assert torch.equal(alone, results[3 + index]), name


def test_empty_batch():
    call = Call(Case(3, 0, 5), torch.float32)
    shapes = [tuple(out.shape) for out in call.run()]
    assert shapes[:3] == [(3, 0, 5), (0, 5), (0, 5)]
    assert shapes[3:] == [tuple(t.shape) for t in call.tensors()]


@pytest.mark.parametrize(
    "case",
    [
        Case(3, 2, 3, inputs=2),
        Case(5, 3, 3, 2, inputs=2, bias=False, lengths=True, reset=True, reverse=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("kinds", [("norm", "expected"), ALL], ids="+".join)
def test_gradcheck_and_gradgradcheck(kinds, case):
    call = Call(case, torch.float64, kinds)
    count = len(call.inputs.tensors)

    def forward(*tensors):
        variant = call.variant._replace(**dict(zip(call.norms, tensors[count:], strict=True)))
        return ops_variant.lstm_variant(
            *call.inputs.arguments(tensors[:count]), variant, SAVE_GATES
        )

    assert torch.autograd.gradcheck(forward, call.tensors())
    assert torch.autograd.gradgradcheck(forward, call.tensors())


def test_derivatives_that_there_are_not():
    call = Call(Case(3, 2, 3), torch.float64)
    forward = torch.ops.fast_s2s.lstm_variant_forward
    y, _, _, *saved = forward(*call.arguments())
    *layer, _ = call.arguments()
    grad_y = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    d_x = torch.ops.fast_s2s.lstm_variant_backward(
        grad_y, None, None, *layer, y, *saved, True, True
    )[0]
    with pytest.raises(RuntimeError, match="lstm_variant_backward has no derivative of its own"):
        d_x.sum().backward()
    with pytest.raises(RuntimeError, match="lstm_variant_forward: gradients need save="):
        forward(*call.arguments(SAVE_NONE))[0].sum().backward()


@pytest.mark.parametrize("kinds", [("norm",), ("expected",), ALL], ids="+".join)
@pytest.mark.parametrize(
    "case",
    [Case(3, 2, 5), Case(4, 3, 5, projection=2, lengths=True, reset=True, reverse=True)],
    ids=str,
)
def test_opcheck(case, kinds):
    call = Call(case, torch.float32, kinds)
    forward = torch.ops.fast_s2s.lstm_variant_forward.default
    backward = torch.ops.fast_s2s.lstm_variant_backward.default

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


@pytest.mark.parametrize("isa", [*ISAS, *EMULATED_ISAS])
def test_every_instruction_set(isa, assert_close):
    if isa not in AVAILABLE:
        pytest.skip(f"this machine has no {isa}")
    with instruction_set(isa):
        for case in (Case(5, 7, 33, lengths=True, reset=True), Case(4, 3, 40, projection=19)):
            for dtype in DTYPES:
                for save in (SAVE_GATES, SAVE_CELLS):
                    call = Call(case, dtype)
                    call.compare(call.run(save=save), assert_close)


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (11, None, "norm_ih, norm_hh, norm_c, norm_c_bias: expected all of them or none"),
        (11, torch.zeros(19), r"norm_ih: expected shape \(20,\), got \(19,\)"),
        (13, torch.zeros(5).double(), "norm_c: expected dtype Float, got Double"),
        (15, torch.zeros(5, 2), r"recurrent_mask: expected shape \(2,5,\)"),
        (16, torch.zeros(3, 2, 5), "kept_hidden: expected dtype Bool, got Float"),
        (17, torch.zeros(2, 2, 5, dtype=torch.bool), r"kept_cell: expected shape \(3,2,5,\)"),
        (18, 1.5, "zoneout_hidden: expected a number in 0..1, got 1.5"),
        (19, float("nan"), "zoneout_cell: expected a number in 0..1, got nan"),
        (20, 3, "save: expected 0, 1 or 2, got 3"),
        (1, torch.zeros(2, 4), "h0: expected shape"),
    ],
)
def test_bad_arguments(index, value, message):
    arguments = Call(Case(3, 2, 5), torch.float32).arguments()
    arguments[index] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.lstm_variant_forward(*arguments)


@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_the_module_keeps_what_memory_says(memory):
    """By the bytes that autograd holds between forward and backward."""
    lstm = fast_s2s.LSTM(3, 16, norm="layer", memory=memory)
    kept: list[int] = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    x = torch.randn(50, 4, 3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        lstm(x)
    products = 50 * 4 * 8 * 16 * 4
    assert (max(kept) == products) == (memory == "save")
    assert max(kept) <= products


@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_in_autocast(memory, assert_close):
    """In bfloat16, with parameters and their gradients in float32."""
    lstm = fast_s2s.LSTM(5, 9, 2, norm="layer", zoneout_cell=0.1, memory=memory).eval()
    x, cotangent = torch.randn(6, 3, 5), torch.randn(6, 3, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = lstm(x)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y, list(lstm.parameters()), cotangent.bfloat16())
    wide = fast_s2s.LSTM(5, 9, 2, norm="layer", zoneout_cell=0.1, dtype=torch.float64).eval()
    wide.load_state_dict(lstm.state_dict())
    with fast_s2s.backend("reference"):
        expected, _ = wide(x.double())
    assert_close(y, expected, "y")
    found = torch.autograd.grad(expected, list(wide.parameters()), cotangent.double())
    for (name, _), actual, theirs in zip(lstm.named_parameters(), gradients, found, strict=True):
        assert actual.dtype == torch.float32
        assert_close(actual, theirs, name, torch.bfloat16)
