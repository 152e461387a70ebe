"""`lengths=` and `reset=` of `fast_s2s.LSTM`: packed sequences, documents, loops of cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers_lstm_module import SPACE, option_id, random_state, twins
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fast_s2s


@pytest.mark.parametrize("options", SPACE, ids=option_id)
def test_lengths_equal_a_packed_sequence(options, backend, assert_close):
    theirs, ours = twins(4, 5, **options)
    lengths = torch.tensor([3, 6, 1])
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    state = random_state(ours, 3)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, expected_state = theirs(packed, state)
    expected, _ = pad_packed_sequence(expected, ours.batch_first)
    y, actual_state = ours(x if ours.batch_first else x.transpose(0, 1), state, lengths=lengths)
    assert_close(y, expected, "output")
    for name, a, b in zip(("h_n", "c_n"), actual_state, expected_state, strict=True):
        assert_close(a, b, name)


def test_nothing_past_a_length_comes_back(backend):
    ours = fast_s2s.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    x[1, 0] = math.nan
    y, (h, c) = ours(x, lengths=[3, 5])
    assert (y[3:, 0] == 0).all() and y[1:3, 0].isnan().all()
    assert h[0, 0].isnan().all() and y[:, 1].isfinite().all() and c[0, 1].isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"proj_size": 3, "memory": "recompute"},
        {"bidirectional": True, "num_layers": 2, "memory": "recompute"},
    ],
    ids=option_id,
)
def test_gradients_do_not_see_what_is_past_a_length(options, backend, assert_close):
    check_that_gradients_do_not_see_what_is_past_a_length(options, assert_close)


def test_nor_do_those_of_other_formulas(assert_close):
    options = {"norm": "layer", "zoneout_cell": 0.1}
    check_that_gradients_do_not_see_what_is_past_a_length(options, assert_close)


def check_that_gradients_do_not_see_what_is_past_a_length(options, assert_close):
    """It may be no number at all."""
    ours = fast_s2s.LSTM(4, 6, **options).eval()
    lengths = torch.tensor([5, 2, 0, 4])
    past = (torch.arange(5).unsqueeze(1) >= lengths).unsqueeze(2)
    x = torch.randn(5, 4, 4)
    cotangent = torch.randn_like(ours(x)[0])

    def results(inputs):
        inputs = inputs.clone().requires_grad_()
        y, (h, c) = ours(inputs, lengths=lengths)
        loss = (y * cotangent).sum() + h.sum() + c.square().sum()
        return [y, h, c, *torch.autograd.grad(loss, [inputs, *ours.parameters()])]

    expected = results(x.masked_fill(past, 0))
    for index, (a, b) in enumerate(
        zip(results(x.masked_fill(past, math.nan)), expected, strict=True)
    ):
        assert_close(a, b, f"result {index}")


def test_a_reset_forgets_even_what_is_no_number(backend):
    check_that_a_reset_forgets(None)


def test_so_does_one_of_another_formula():
    check_that_a_reset_forgets("layer")


def check_that_a_reset_forgets(norm):
    ours = fast_s2s.LSTM(3, 4, norm=norm)
    x = torch.randn(4, 2, 3)
    reset = torch.zeros(4, 2, dtype=torch.bool)
    reset[2, 0] = True
    fresh, _ = ours(x[2:])
    x[1, 0] = math.nan
    y, (h, _) = ours(x, reset=reset)
    assert y[1, 0].isnan().all()
    torch.testing.assert_close(y[2:, 0], fresh[:, 0])
    assert h.isfinite().all()


def test_lengths_as_a_list_and_of_zero(backend):
    ours = fast_s2s.LSTM(4, 5)
    x, state = torch.randn(6, 3, 4), (torch.randn(1, 3, 5), torch.randn(1, 3, 5))
    y, (h_n, c_n) = ours(x, state, lengths=[6, 0, 2])
    assert torch.equal(h_n[0, 1], state[0][0, 1]) and torch.equal(c_n[0, 1], state[1][0, 1])
    assert not y[:, 1].any() and not y[2:, 2].any() and y[5, 0].all()
    assert torch.equal(h_n[0, 2], y[1, 2])


@pytest.mark.parametrize("kind", [np.array, lambda values: list(np.array(values)), tuple])
def test_lengths_from_numpy(kind):
    # what `pack_padded_sequence` takes, `lengths` takes
    ours, x = fast_s2s.LSTM(4, 5), torch.randn(6, 3, 4)
    expected = ours(x, lengths=torch.tensor([6, 1, 2]))[0]
    assert torch.equal(ours(x, lengths=kind([6, 1, 2]))[0], expected)
    with pytest.raises(TypeError, match="lengths: expected a tensor or a sequence of integers"):
        ours(x, lengths=kind([6.0, 1.0, 2.0]))


def test_lengths_are_not_put_on_the_default_device():
    ours, x = fast_s2s.LSTM(4, 5), torch.randn(6, 3, 4)
    with torch.device("meta"):
        y = ours(x, lengths=[6, 1, 2])[0]
    assert torch.equal(y, ours(x, lengths=[6, 1, 2])[0])


def test_reset_splits_a_row_into_documents(backend, assert_close):
    """Both directions of a packed row equal the documents run one by one."""
    ours = fast_s2s.LSTM(4, 5, num_layers=2, bidirectional=True, dtype=torch.float64)
    documents = [torch.randn(n, 4, dtype=torch.float64) for n in (3, 1, 4)]
    reset = torch.zeros(8, dtype=torch.bool)
    reset[[0, 3, 4]] = True
    state = random_state(ours)
    y, (h_n, _) = ours(torch.cat(documents), state, reset=reset)
    zero = [torch.zeros_like(s) for s in state]
    # the reverse direction of the last document starts from the state given, as it precedes no
    # boundary
    last = [
        torch.stack([z if k % 2 == 0 else s for k, (z, s) in enumerate(zip(*pair, strict=True))])
        for pair in zip(zero, state, strict=True)
    ]
    expected = [ours(documents[0], zero), ours(documents[1], zero), ours(documents[2], last)]
    assert_close(y, torch.cat([out for out, _ in expected]), "output")
    assert_close(h_n[0], expected[2][1][0][0], "h_n forward")
    assert_close(h_n[1], expected[0][1][0][1], "h_n reverse")


@pytest.mark.parametrize("batch_first", [False, True])
def test_reset_equals_a_loop_of_cells(batch_first, backend, assert_close):
    """As a reinforcement learner would step it: state times (1 - done) before each step."""
    ours = fast_s2s.LSTM(4, 5, batch_first=batch_first, dtype=torch.float64)
    cell = nn.LSTMCell(4, 5, dtype=torch.float64)
    cell.load_state_dict(
        {key.removesuffix("_l0"): value for key, value in ours.state_dict().items()}
    )
    x = torch.randn(9, 3, 4, dtype=torch.float64)
    done = torch.rand(9, 3) < 0.3
    h, c = torch.randn(2, 3, 5, dtype=torch.float64).requires_grad_().unbind(0)
    steps, state = [], (h, c)
    for t in range(9):
        state = cell(x[t], tuple(s * ~done[t].unsqueeze(1) for s in state))
        steps.append(state[0])
    hx = (h.unsqueeze(0), c.unsqueeze(0))
    if batch_first:
        y = ours(x.transpose(0, 1), hx, reset=done.t())[0].transpose(0, 1)
    else:
        y = ours(x, hx, reset=done)[0]
    assert_close(y, torch.stack(steps), "output")
    cotangent = torch.randn_like(y)
    expected = torch.autograd.grad(torch.stack(steps), [h, c, *cell.parameters()], cotangent)
    actual = torch.autograd.grad(y, [h, c, *ours.parameters()], cotangent)
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a, b, f"gradient {index}")
