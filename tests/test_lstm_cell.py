"""`fast_s2s.LSTMCell` against `torch.nn.LSTMCell`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fast_s2s


def twins(*args, **kwargs):
    torch.manual_seed(7)
    theirs = nn.LSTMCell(*args, dtype=torch.float64, **kwargs)
    torch.manual_seed(7)
    return theirs, fast_s2s.LSTMCell(*args, dtype=torch.float64, **kwargs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("hidden", [0, 1, 17, 500])
@pytest.mark.parametrize("with_state", [True, False])
def test_equals_torch(bias, rows, hidden, with_state, backend, assert_close):
    theirs, ours = twins(4, hidden, bias=bias)
    assert repr(theirs) == repr(ours)
    shapes = [(*rows, 4), (*rows, hidden), (*rows, hidden)]
    tensors = [
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in shapes[: 3 if with_state else 1]
    ]
    cotangents = [torch.randn(s, dtype=torch.float64) for s in shapes[1:]]
    results = []
    for cell in (theirs, ours):
        outputs = cell(tensors[0], tuple(tensors[1:]) or None)
        results.append(
            [*outputs, *torch.autograd.grad(outputs, [*tensors, *cell.parameters()], cotangents)]
        )
    for index, (a, b) in enumerate(zip(*results, strict=True)):
        assert_close(b, a, str(index))


BAD_CALLS = {
    "3-D input": lambda m: m(torch.zeros(1, 2, 4)),
    "3-D state": lambda m: m(torch.zeros(2, 4), (torch.zeros(1, 2, 5), torch.zeros(2, 5))),
    "input size": lambda m: m(torch.zeros(2, 3)),
    "batch size": lambda m: m(torch.zeros(2, 4), (torch.zeros(3, 5), torch.zeros(2, 5))),
    "hidden size": lambda m: m(torch.zeros(2, 4), (torch.zeros(2, 6), torch.zeros(2, 5))),
    "cell size": lambda m: m(torch.zeros(2, 4), (torch.zeros(2, 5), torch.zeros(2, 6))),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_call_errors_are_torchs(case):
    complaints = []
    for cell in (nn.LSTMCell(4, 5), fast_s2s.LSTMCell(4, 5)):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            BAD_CALLS[case](cell)
        complaints.append((caught.type, str(caught.value)))
    assert complaints[0] == complaints[1]


def test_wrong_dtype_names_the_argument():
    with pytest.raises(
        RuntimeError, match="weight_ih: expected the input's dtype torch.float64, got torch.float32"
    ):
        fast_s2s.LSTMCell(4, 5)(torch.zeros(2, 4).double())


@pytest.mark.parametrize("missing", ["bias_ih", "bias_hh"])
def test_one_bias_alone_counts(missing, backend, assert_close):
    theirs, ours = twins(4, 5)
    x, state = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        getattr(theirs, missing).zero_()
    setattr(ours, missing, None)
    results = []
    for cell in (theirs, ours):
        h, c = cell(x, tuple(state))
        bias = cell.bias_ih if missing == "bias_hh" else cell.bias_hh
        results.append([h, c, *torch.autograd.grad((h + c).sum(), [cell.weight_ih, bias])])
    for index, (a, b) in enumerate(zip(*results, strict=True)):
        assert_close(b, a, str(index))


def test_a_parametrisation_runs_once_a_call():
    seen = []

    class Count(nn.Module):
        def forward(self, weight):
            seen.append(1)
            return weight

    _, ours = twins(4, 5)
    nn.utils.parametrize.register_parametrization(ours, "weight_ih", Count())
    seen.clear()
    ours(torch.randn(3, 4, dtype=torch.float64))
    assert len(seen) == 1
