"""Layer norm, zoneout, the kinds of dropout and first weights of `LSTM`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers_lstm import Case, make_inputs
from helpers_variants import NORMS, lstm_by_hand, random_variant

import fast_s2s
from fast_s2s import backends, functional, ops, ops_variant, reference
from fast_s2s.functional import Regularization

KINDS = [("norm",), ("recurrent",), ("zones",), ("expected",), ("norm", "recurrent", "zones")]
CASES = [
    Case(1, 1, 1),
    Case(7, 3, 5, reset=True, lengths=True),
    Case(6, 2, 7, reverse=True, lengths=True, reset=True, projection=3),
    Case(3, 3, 17, bias=False),
]


@pytest.mark.parametrize("name", ["native", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids="+".join)
def test_variant_is_the_formula(assert_close, kinds, case, dtype, name):
    """Values and every gradient, those of the norms among them."""
    if name == "native" and backends.extension is None:
        pytest.skip(f"no native ops: {backends.extension_reason}")
    inputs = make_inputs(case, dtype)
    size = case.projection or case.hidden
    variant = random_variant(kinds, case.steps, case.batch, case.hidden, size)
    rounded = {
        part: value.to(dtype)
        for part, value in variant._asdict().items()
        if isinstance(value, torch.Tensor) and value.dtype != torch.bool
    }
    exact = variant._replace(**rounded)
    results = []

    def ours(*arguments):
        with fast_s2s.backend(name):
            return ops_variant.lstm_variant(*arguments, reference.SAVE_GATES)

    for run, kind in ((lstm_by_hand, torch.float64), (ours, dtype)):
        mine = inputs.to(kind)
        parts = {
            part: value.to(kind).requires_grad_(part in NORMS)
            for part, value in exact._asdict().items()
            if isinstance(value, torch.Tensor) and value.dtype != torch.bool
        }
        own = exact._replace(**parts)
        outputs = run(*mine.arguments(), own)
        wanted = [*mine.tensors, *(parts[name] for name in NORMS if name in parts)]
        gradients = torch.autograd.grad(outputs, wanted, mine.cotangents, allow_unused=True)
        results.append([*outputs, *gradients])
    names = ["y", "h_n", "c_n", *inputs.names, *NORMS]
    for name, expected, actual in zip(names, *results, strict=False):
        if expected is None or (actual is None and not expected.any()):
            # of one unit, all normed values are 0, whatever the input
            assert actual is None or not actual.any(), name
            continue
        assert_close(actual, expected, name, dtype)


def test_variant_of_nothing_is_the_lstm():
    case = Case(5, 3, 4, lengths=True, reset=True)
    inputs = make_inputs(case, torch.float64)
    plain = reference.lstm_forward(*inputs.arguments(), reference.SAVE_NONE)[:3]
    variant = reference.lstm_variant(*inputs.arguments(), reference.Variant())
    for one, other in zip(plain, variant, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_module_in_evaluation(assert_close, bidirectional):
    """Layers, directions and names of parameters; zoneout by its expectation, dropouts off."""
    options = {"zoneout_hidden": 0.1, "zoneout_cell": 0.3, "norm": "layer"}
    lstm = fast_s2s.LSTM(
        5, 4, 2, bidirectional=bidirectional, recurrent_dropout=0.5, weight_dropout=0.5, **options
    )
    for parameter in lstm.parameters():
        torch.nn.init.normal_(parameter)
    lstm.eval()
    x, lengths = torch.randn(6, 3, 5), torch.tensor([6, 1, 4])
    y, (h_n, c_n) = lstm(x, lengths=lengths)
    wide = {name: value.double() for name, value in lstm.state_dict().items()}
    layer, expected_h, expected_c = x.double(), [], []
    for number in range(2):
        outputs = []
        for suffix in ("", "_reverse")[: 1 + bidirectional]:
            end = f"_l{number}{suffix}"
            norms = [wide[f"norm_{name}{end}"] for name in ("weight_ih", "weight_hh")]
            norms += [wide[f"norm_{name}{end}"] for name in ("weight_c", "bias_c")]
            variant = reference.Variant(*norms, None, 0.1, 0.3)
            weights = [wide[name + end] for name in ("weight_ih", "weight_hh")]
            weights += [wide[name + end] for name in ("bias_ih", "bias_hh")]
            zeros = torch.zeros(3, 4, dtype=torch.float64)
            rest = (*weights, None, lengths, None, suffix != "", variant)
            out, h, c = lstm_by_hand(layer, zeros, zeros, *rest)
            outputs.append(out)
            expected_h.append(h)
            expected_c.append(c)
        layer = torch.cat(outputs, 2)
    assert_close(y, layer, "y")
    assert_close(h_n, torch.stack(expected_h), "h_n")
    assert_close(c_n, torch.stack(expected_c), "c_n")


def seen_variants(monkeypatch, lstm, *args, **kwargs):
    """The variants that a call of the module draws, and what it returns."""
    seen = []

    def spy(*arguments):
        seen.append(arguments[-2])
        return reference.lstm_variant(*arguments[:-1])

    monkeypatch.setattr(ops_variant, "lstm_variant", spy)
    return seen, lstm(*args, **kwargs)


def test_masks_of_training(monkeypatch):
    lstm = fast_s2s.LSTM(3, 50, 2, recurrent_dropout=0.25, zoneout_hidden=0.1, zoneout_cell=0.4)
    seen, (y, _) = seen_variants(monkeypatch, lstm, torch.randn(40, 6, 3))
    assert len(seen) == 2
    for variant in seen:
        # one mask a row for all steps, scaled so that the mean stays
        assert variant.recurrent_mask.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert (variant.recurrent_mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.1)
        assert variant.zoneout_hidden.float().mean().item() == pytest.approx(0.1, abs=0.02)
        assert variant.zoneout_cell.float().mean().item() == pytest.approx(0.4, abs=0.02)
    assert not torch.equal(seen[0].recurrent_mask, seen[1].recurrent_mask)
    # where a mask says so, h stays the very number it was
    stayed = seen[1].zoneout_hidden[1:]
    assert torch.equal(y[1:][stayed], y[:-1][stayed])
    assert not (y[1:] == y[:-1])[~stayed].any()


def test_evaluation_is_the_mean_of_training(assert_close):
    """Of one step, in which zoneout is linear."""
    lstm = fast_s2s.LSTM(3, 4, zoneout_hidden=0.2, zoneout_cell=0.7)
    x, hx = torch.randn(1, 1, 3), (torch.randn(1, 1, 4), torch.randn(1, 1, 4))
    many = [tensor.expand(-1, 40000, -1) for tensor in (x, *hx)]
    with torch.no_grad():
        y, (_, c) = lstm(many[0], (many[1].contiguous(), many[2].contiguous()))
        expected = lstm.eval()(x, hx)
    torch.testing.assert_close(y.mean(1), expected[0][0], rtol=0, atol=0.02)
    torch.testing.assert_close(c.mean(1), expected[1][1][0], rtol=0, atol=0.02)


def test_weight_dropout_is_the_lstm_with_other_weights(monkeypatch, assert_close):
    """On the kernels, with the gradient of the masked weight."""
    lstm = fast_s2s.LSTM(5, 6, 2, weight_dropout=0.3)
    assert lstm.backend_choice().backend == backends.current("cpu", torch.float32).backend
    masks, calls = [], []
    dropout = torch.nn.functional.dropout

    def spy(weight, p=0.5, *args, **kwargs):
        dropped = dropout(weight, p, *args, **kwargs)
        masks.append((dropped / weight).detach())
        return dropped

    monkeypatch.setattr(functional.F, "dropout", spy)
    monkeypatch.setattr(reference, "lstm_variant", lambda *_: calls.append(1))
    x, cotangent = torch.randn(7, 3, 5), torch.randn(7, 3, 6)
    y, _ = lstm(x)
    gradients = torch.autograd.grad(y, list(lstm.parameters()), cotangent)
    assert not calls
    assert len(masks) == 2
    for mask in masks:
        assert mask.shape == lstm.weight_hh_l0.shape
        levels = mask.round(decimals=4).unique().tolist()
        assert levels == pytest.approx([0.0, 1 / 0.7], abs=1e-4)

    plain = torch.nn.LSTM(5, 6, 2).double()
    plain.load_state_dict({name: w.double() for name, w in lstm.state_dict().items()})
    with torch.no_grad():
        for number, mask in enumerate(masks):
            getattr(plain, f"weight_hh_l{number}").mul_(mask)
    expected, _ = plain(x.double())
    assert_close(y, expected, "y")
    found = torch.autograd.grad(expected, list(plain.parameters()), cotangent.double())
    for (name, _), actual, gradient in zip(plain.named_parameters(), gradients, found, strict=True):
        factor = masks[int(name[-1])] if name.startswith("weight_hh") else 1.0
        assert_close(actual, gradient * factor, name)
    # in evaluation nothing is dropped
    monkeypatch.undo()
    assert_close(lstm.eval()(x)[0], lstm(x)[0].double(), "evaluation")


def test_variational_dropout_has_one_mask_for_all_steps():
    x = torch.ones(50, 4, 3)
    dropped = functional.variational_dropout(x, 0.5, training=True)
    assert torch.equal(dropped, dropped[:1].expand_as(x)) and 0 < dropped.count_nonzero() < 600
    assert functional.variational_dropout(x, 0.5, training=False) is x
    module = fast_s2s.dropout.VariationalDropout(0.5)
    batch_first = module(x.transpose(0, 1))
    assert torch.equal(batch_first, batch_first[:, :1].expand_as(batch_first))
    assert len(module(torch.ones(100, 3)).unique(dim=0)) > 2


def test_variational_dropout_between_layers(monkeypatch):
    """The second layer sees the same units of every step."""
    lstm = fast_s2s.LSTM(3, 30, 2, dropout=0.5, variational_dropout=True)
    seen = []
    forward = ops.lstm_forward

    def spy(x, *rest):
        seen.append(x)
        return forward(x, *rest)

    monkeypatch.setattr(ops, "lstm_forward", spy)
    lstm(torch.randn(6, 4, 3))
    zero = seen[1] == 0
    assert torch.equal(zero, zero[:1].expand_as(zero)) and 0 < zero[0].sum() < zero[0].numel()


def test_backends_say_why():
    lstm = fast_s2s.LSTM(2, 3, norm="layer", zoneout_cell=0.1, recurrent_dropout=0.1)
    x = torch.randn(4, 2, 2)
    assert lstm.backend_choice().backend == backends.current("cpu", torch.float32).backend
    why = "no native kernel with layer norm, recurrent dropout, zoneout for device 'cuda'"
    on_cuda = backends.select("cuda", torch.float32, None, "layer norm, recurrent dropout, zoneout")
    assert on_cuda.backend == ("triton" if backends.triton_found else "reference")
    assert f"native: {why}" in on_cuda.reason
    with fast_s2s.backend("reference"):
        assert lstm.backend_choice().backend == "reference"
        lstm(x)


def test_first_weights():
    lstm = fast_s2s.LSTM(3, 5, 2, bidirectional=True, forget_bias=1.5, recurrent_init="orthogonal")
    for names in lstm._all_weights:
        w_hh, b_ih, b_hh = (getattr(lstm, name) for name in names[1:4])
        for gate in w_hh.split(5):
            torch.testing.assert_close(gate @ gate.t(), torch.eye(5), rtol=0, atol=1e-5)
        assert ((b_ih + b_hh)[5:10] == 1.5).all()
        assert ((b_ih + b_hh)[:5] != 1.5).all() and ((b_ih + b_hh)[10:] != 1.5).all()
    projected = fast_s2s.LSTM(3, 5, proj_size=2, recurrent_init="orthogonal")
    gate = projected.weight_hh_l0[:5]
    torch.testing.assert_close(gate.t() @ gate, torch.eye(2), rtol=0, atol=1e-5)
    low = fast_s2s.LSTM(3, 5, recurrent_init="orthogonal", dtype=torch.bfloat16)
    assert low.weight_hh_l0.dtype == torch.bfloat16 and low.weight_hh_l0.isfinite().all()
    normed = fast_s2s.LSTM(3, 5, norm="layer")
    for name, value in (("weight_ih", 1), ("weight_hh", 1), ("weight_c", 1), ("bias_c", 0)):
        assert (getattr(normed, f"norm_{name}_l0") == value).all()
    # none of it changes the numbers that torch draws
    torch.manual_seed(3)
    ours = fast_s2s.LSTM(3, 5, forget_bias=1.0)
    torch.manual_seed(3)
    assert torch.equal(ours.weight_ih_l0, torch.nn.LSTM(3, 5).weight_ih_l0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": "batch"}, ValueError, "norm: expected None or 'layer', got 'batch'"),
        ({"zoneout_cell": 1.5}, ValueError, r"zoneout_cell: expected a number in \[0.0, 1.0\]"),
        ({"recurrent_dropout": "x"}, TypeError, "recurrent_dropout: expected a number"),
        ({"weight_dropout": -0.1}, ValueError, "weight_dropout: expected a number in"),
        ({"variational_dropout": 1}, TypeError, "variational_dropout: expected a bool"),
        ({"recurrent_init": "zero"}, ValueError, "recurrent_init: expected 'uniform' or"),
        ({"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias: expected None with bias"),
        ({"forget_bias": float("nan")}, ValueError, "forget_bias: expected a finite number, got n"),
        ({"forget_bias": "1"}, TypeError, "forget_bias: expected a number, got '1'"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        fast_s2s.LSTM(2, 3, **options)


def test_options_are_shown_and_do_not_get_lost():
    lstm = fast_s2s.LSTM(2, 3, norm="layer", zoneout_cell=0.5, memory="recompute")
    assert repr(lstm) == "LSTM(2, 3, memory=recompute, norm=layer, zoneout_cell=0.5)"
    with pytest.raises(ValueError, match="without options that torch's lacks.*zoneout_cell"):
        fast_s2s.to_torch(lstm.eval())
    dropped = fast_s2s.LSTM(2, 3, forget_bias=1.0, recurrent_init="orthogonal", weight_dropout=0.1)
    with pytest.raises(ValueError, match="got {'weight_dropout': 0.1}; dropouts do not count in"):
        fast_s2s.to_torch(dropped)
    x = torch.randn(4, 2, 2)
    torch.testing.assert_close(fast_s2s.to_torch(dropped.eval())(x)[0], dropped(x)[0])
    assert fast_s2s.from_torch(torch.nn.LSTM(2, 3)).is_plain
    assert not fast_s2s.LSTM(2, 3, zoneout_hidden=0.1).is_plain
    assert fast_s2s.LSTM(2, 3, weight_dropout=0.1).is_plain
    assert set(dataclasses.asdict(Regularization())) <= set(dir(fast_s2s.Seq2SeqConfig))


def test_compiles_whole():
    """One graph, the same numbers."""
    lstm = fast_s2s.LSTM(3, 4, norm="layer", zoneout_cell=0.3).eval()
    x = torch.randn(3, 2, 3, requires_grad=True)
    compiled = torch.compile(lstm, fullgraph=True, backend="aot_eager")
    results = []
    for module in (lstm, compiled):
        y, _ = module(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *lstm.parameters()])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    training = fast_s2s.LSTM(3, 4, 2, recurrent_dropout=0.3, weight_dropout=0.2, zoneout_hidden=0.1)
    y, _ = torch.compile(training, fullgraph=True, backend="aot_eager")(x)
    assert y.isfinite().all()
