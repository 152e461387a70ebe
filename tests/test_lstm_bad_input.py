"""What `fast_s2s.LSTM` refuses: with torch's own errors where torch has one."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers_lstm_module import option_id
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import fast_s2s

# constructor arguments torch refuses or warns about
BAD_CONSTRUCTORS = [
    {"dropout": 2},
    {"dropout": True},
    {"dropout": -0.1},
    {"dropout": 0.5},
    {"bias": 1},
    {"batch_first": "yes"},
    {"input_size": 4.0},
    {"input_size": 0},
    {"hidden_size": 5.0},
    {"hidden_size": 0},
    {"num_layers": 0},
    {"proj_size": -1},
    {"proj_size": 5},
]


@pytest.mark.parametrize("options", BAD_CONSTRUCTORS, ids=option_id)
def test_constructor_errors_are_torchs(options):
    complaints = []
    for cls in (nn.LSTM, fast_s2s.LSTM):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                cls(**{"input_size": 4, "hidden_size": 5, **options})
            except (TypeError, ValueError) as error:
                caught.append(error)
        complaints.append([(type(c), str(getattr(c, "message", c))) for c in caught])
        if caught and not isinstance(caught[0], Exception):
            complaints[-1] = [(c.category, str(c.message)) for c in caught]
    assert complaints[0] == complaints[1]
    # what torch 2.10 still took without a word
    lenient = ("bias", "batch_first", "input_size")
    assert complaints[0] or next(iter(options)) in lenient


BAD_CALLS = {
    "1-D input": lambda m: m(torch.zeros(4)),
    "4-D input": lambda m: m(torch.zeros(1, 2, 3, 4)),
    "input size": lambda m: m(torch.zeros(6, 3, 5)),
    "input dtype": lambda m: m(torch.zeros(6, 3, 4).double()),
    "no steps": lambda m: m(torch.zeros(0, 3, 4)),
    "2-D state": lambda m: m(torch.zeros(6, 3, 4), (torch.zeros(1, 5), torch.zeros(1, 5))),
    "3-D state, unbatched": lambda m: m(
        torch.zeros(6, 4), (torch.zeros(1, 1, 5), torch.zeros(1, 1, 5))
    ),
    "h_0 size": lambda m: m(torch.zeros(6, 3, 4), (torch.zeros(1, 2, 5), torch.zeros(1, 3, 5))),
    "c_0 size": lambda m: m(torch.zeros(6, 3, 4), (torch.zeros(1, 3, 5), torch.zeros(1, 3, 6))),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_call_errors_are_torchs(case):
    complaints = []
    for module in (nn.LSTM(4, 5), fast_s2s.LSTM(4, 5)):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            BAD_CALLS[case](module)
        complaints.append((caught.type, str(caught.value)))
    assert complaints[0] == complaints[1]


X = torch.zeros(6, 3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(X, lengths=torch.tensor([1, 2])),
            r"lengths: expected shape \(3,\).*got \(2,\)",
        ),
        (lambda m: m(X, lengths=[1, 2, 7]), r"lengths: expected values in 0\.\.6, got 1\.\.7"),
        (lambda m: m(X, lengths=[-1, 2, 3]), r"lengths: expected values in 0\.\.6, got -1\.\.3"),
        (lambda m: m(X, lengths=torch.ones(3)), "lengths: expected integers, got torch.float32"),
        (
            lambda m: m(X, reset=torch.zeros(6, 3)),
            "reset: expected a bool tensor, got torch.float32",
        ),
        (lambda m: m(X, reset=[True]), "reset: expected a bool tensor, got list"),
        (
            lambda m: m(X, reset=torch.zeros(3, 6, dtype=torch.bool)),
            r"reset: expected shape \(6, 3\)",
        ),
        (
            lambda m: m(X, reset=torch.zeros(6, 3, dtype=torch.bool, device="meta")),
            "reset: expected on the CPU or the input's device cpu, got meta",
        ),
        (lambda m: m([1.0]), "input: expected a tensor, got list"),
        (lambda m: m(X, X), "hx: expected a pair of tensors, h and c, got Tensor"),
        (lambda m: m(X, (X,)), "hx: expected a pair of tensors, h and c, got 1 of them"),
        (lambda m: m(X, (X, X, X)), "hx: expected a pair of tensors, h and c, got 3 of them"),
        (
            lambda m: m(X, (None, X)),
            "hx: expected a pair of tensors, h and c, got NoneType and Tensor",
        ),
        (
            lambda m: m(pack_sequence([X[:, 0]]), lengths=[6]),
            "lengths, reset: expected None with a PackedSequence",
        ),
        (
            lambda m: m(pack_sequence([torch.zeros(6, 5)])),
            "input.size.-1. must be equal to input_size",
        ),
        (
            lambda m: m(X, (torch.zeros(1, 3, 5).double(), torch.zeros(1, 3, 5))),
            r"hx\[0\]: expected the input's dtype torch.float32, got torch.float64",
        ),
        (
            lambda m: m(X, (torch.zeros(1, 3, 5), torch.zeros(1, 3, 5, device="meta"))),
            r"hx\[1\]: expected on the input's device cpu, got meta",
        ),
    ],
)
def test_bad_extras(call, message):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        call(fast_s2s.LSTM(4, 5))


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        ((4,), (1, 5), r"hx\[0\]: expected 1D, as the input is, got 2D"),
        ((1, 4), (5,), r"hx\[0\]: expected 2D, as the input is, got 1D"),
        ((2, 4), (3, 5), "Input batch size 2 doesn't match hidden0 batch size 3"),
    ],
)
def test_states_of_a_cell(x, state, message):
    with pytest.raises(RuntimeError, match=message):
        fast_s2s.LSTMCell(4, 5)(torch.zeros(x), (torch.zeros(state), torch.zeros(state)))


def weights_of(*sizes):
    return [[torch.zeros(20, size), torch.zeros(20, 5), *torch.zeros(2, 20)] for size in sizes]


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([], {}, "weights: expected those of each layer in turn, got 0"),
        (weights_of(4), {"bidirectional": True}, "an even number, in turn, got 1"),
        (weights_of(4), {"bias": False}, "expected 2 tensors .* with bias=False, .*, got 4"),
        ([weights_of(4)[0][:3]], {}, "expected 4 tensors .* with bias=True, .*, got 3"),
        (weights_of(4), {"memory": "none"}, "memory: expected one of 'save', 'recompute', got 'no"),
    ],
)
def test_the_function(weights, options, message):
    with pytest.raises(ValueError, match=message):
        fast_s2s.functional.lstm(X, None, weights, **options)


@pytest.mark.parametrize("rows", [2, 5])
@pytest.mark.parametrize("in_order", [True, False])
def test_states_beside_a_packed_sequence_have_its_rows(rows, in_order):
    # torch looks at the states after sorting, which picks the first three of five
    sequences = [torch.zeros(n, 4) for n in ((5, 3, 2) if in_order else (2, 5, 3))]
    packed = pack_sequence(sequences, enforce_sorted=in_order)
    state = (torch.zeros(1, rows, 5), torch.zeros(1, rows, 5))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 3, 5\), got \[1, "):
        fast_s2s.LSTM(4, 5)(packed, state)
