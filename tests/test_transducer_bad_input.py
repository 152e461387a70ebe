"""What the transducer's search, its op and what leads to them refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers_decode import Size
from helpers_native import needs_native
from helpers_transducer import Case, random_frames, random_transducer
from torch import nn

import fast_s2s
from fast_s2s.decoding import (
    LinearWeights,
    TransducerWeights,
    pack_transducer,
    transducer_greedy,
)

CASE = Case(durations=(0, 1))
EMBEDDING, OUTPUT = nn.Embedding(11, 5), nn.Linear(8, 11)


def packed(case: Case = CASE, dtype: torch.dtype = torch.float32):
    return pack_transducer(random_transducer(case), blank=0, durations=case.durations, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (3, nn.LSTM(5, 8), OUTPUT),
            TypeError,
            "embedding: expected a module with a weight, got i",
        ),
        (
            (EMBEDDING, nn.LSTM(5, 8), 3),
            TypeError,
            "output: expected a module with a weight, got i",
        ),
        (
            (EMBEDDING, nn.LSTM(5, 8), OUTPUT, 3),
            TypeError,
            "projection: expected a module with a w",
        ),
        ((EMBEDDING, [nn.LSTM(5, 8), 3], OUTPUT), TypeError, "lstm: expected an LSTM, got int"),
        ((EMBEDDING, 3, OUTPUT), TypeError, "lstm: expected an LSTM, got int"),
        ((EMBEDDING, [], OUTPUT), ValueError, "lstm: expected at least one, got none"),
        (
            (EMBEDDING, nn.LSTM(5, 8, bidirectional=True), OUTPUT),
            ValueError,
            "lstm: expected one direction, got a bidirectional LSTM",
        ),
        ((EMBEDDING, nn.GRU(5, 8), OUTPUT), TypeError, "lstm: expected an LSTM, got GRU"),
        (
            (EMBEDDING, fast_s2s.pack_lstm(nn.LSTM(5, 8), torch.float32), OUTPUT),
            TypeError,
            "lstm: expected one that is not packed yet, got a PackedLSTM",
        ),
    ],
)
def test_modules(arguments, error, message):
    with pytest.raises(error, match=message):
        TransducerWeights.of(*arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": 3}, TypeError, "weights: expected TransducerWeights, got int"),
        ({"blank": 11}, ValueError, "blank: expected an integer <= 10, got 11"),
        ({"blank": "a"}, TypeError, "blank: expected an integer"),
        ({"activation": "gelu"}, ValueError, "activation: expected one of tanh, relu, got 'gelu'"),
        ({"activation": []}, ValueError, "activation: expected one of tanh, relu"),
        ({"durations": 3}, TypeError, "durations: expected a sequence of integers, got int"),
        ({"durations": [0, -1]}, ValueError, r"durations\[1\]: expected an integer >= 0, got -1"),
        ({"durations": [0, 1.0]}, TypeError, r"durations\[1\]: expected an integer, got 1.0"),
        ({"durations": [0]}, ValueError, r"embedding: expected shape \(V, E\), got \(11, 5\)"),
        ({"dtype": torch.int32}, ValueError, "dtype: expected one of torch.float32"),
        ({"table": "maybe"}, ValueError, "table: expected one of auto, on, off"),
    ],
)
def test_packing(changes, error, message):
    arguments = {"weights": random_transducer(CASE), "blank": 0, "durations": [0, 1], **changes}
    with pytest.raises(error, match=message):
        pack_transducer(arguments.pop("weights"), **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embedding": 3}, TypeError, "embedding: expected a tensor, got 3"),
        ({"embedding": torch.zeros(11, 4)}, ValueError, r"layers\[0\].w_ih: expected shape"),
        ({"layers": ()}, ValueError, "layers: expected at least one, got none"),
        ({"layers": 3}, TypeError, "layers: expected a sequence of LayerWeights, got int"),
        ({"layers": (3,)}, TypeError, r"layers\[0\]: expected LayerWeights, got int"),
        ({"output": 3}, TypeError, "output: expected LinearWeights, got int"),
        ({"output": LinearWeights(3, None)}, TypeError, "output.weight: expected a tensor, got 3"),
        (
            {"output": LinearWeights(torch.zeros(13, 12, dtype=torch.int64), None)},
            ValueError,
            "output.weight: expected a floating-point dtype, got torch.int64",
        ),
        (
            {"output": LinearWeights(torch.zeros(13, 12), torch.zeros(12))},
            ValueError,
            "output.bias: expected shape",
        ),
        (
            {"projection": None},
            ValueError,
            "projection: expected one from the predictor's 8 values",
        ),
        ({"projection": 3}, TypeError, "projection: expected LinearWeights, got int"),
        (
            {"projection": LinearWeights(torch.zeros(12, 9), None)},
            ValueError,
            r"projection.weight: expected shape \(J, R\) = \(12, 8\), got \(12, 9\)",
        ),
    ],
)
def test_weights(changes, error, message):
    with pytest.raises(error, match=message):
        pack_transducer(random_transducer(CASE)._replace(**changes), blank=0, durations=[0, 1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"transducer": 3}, TypeError, "transducer: expected a PackedTransducer, got int"),
        ({"encoded": [1.0]}, TypeError, "encoded: expected a tensor"),
        ({"encoded": torch.zeros(5, 14, 11)}, ValueError, r"encoded: expected shape \(B, T, J\)"),
        (
            {"encoded": torch.zeros(5, 14, 12, device="meta")},
            ValueError,
            "encoded: expected a tensor on cpu, got one on meta",
        ),
        (
            {"encoded": torch.zeros(5, 14, 12, dtype=torch.int64)},
            ValueError,
            "encoded: expected a floating-point dtype, got torch.int64",
        ),
        ({"lengths": [15] * 5}, ValueError, r"lengths: expected values in 0\.\.14, got 15\.\.15"),
        ({"lengths": [1, 2]}, ValueError, r"lengths: expected shape \(5,\), one per row"),
        ({"lengths": "abc"}, TypeError, "lengths: expected a tensor or a sequence of integers"),
        ({"max_symbols": 0}, ValueError, "max_symbols: expected an integer >= 1, got 0"),
        ({"max_symbols": True}, TypeError, "max_symbols: expected an integer"),
        ({"state": 3}, TypeError, "state: expected a TransducerState, got int"),
        ({"h": torch.zeros(1, 4, 8)}, ValueError, r"state.h: expected shape \(L, B, R\)"),
        ({"c": torch.zeros(2, 5, 8)}, ValueError, r"state.c: expected shape \(L, B, H\)"),
        ({"token": torch.full((5,), 11)}, ValueError, r"state.token: expected token ids in 0\.\.1"),
        ({"token": torch.zeros(5)}, ValueError, "state.token: expected dtype torch.int64"),
        ({"skip": torch.full((5,), -1)}, ValueError, r"state.skip: expected numbers of frames in"),
        ({"skip": 3}, TypeError, "state.skip: expected a tensor, got 3"),
    ],
)
def test_searching(backend, changes, error, message):
    transducer = packed()
    arguments = {"transducer": transducer, "encoded": random_frames(CASE)[0], **changes}
    parts = {name: arguments.pop(name) for name in ("h", "c", "token", "skip") if name in changes}
    if parts:
        arguments["state"] = transducer.initial_state(5)._replace(**parts)
    with pytest.raises(error, match=message):
        transducer_greedy(**arguments)


def test_beginning():
    for arguments, error, message in (
        ((-1,), ValueError, "batch: expected an integer >= 0, got -1"),
        ((3, 11), ValueError, r"token: expected token ids in 0\.\.10, got 11"),
        ((3, "a"), TypeError, "token: expected an integer"),
    ):
        with pytest.raises(error, match=message):
            packed().initial_state(*arguments)
    state = packed().initial_state(3, token=4)
    assert state.token.tolist() == [4, 4, 4] and not state.h.any()


@needs_native
def test_the_op_looks_at_everything_too():
    transducer, other = packed(), packed(dtype=torch.float64)
    packs, headers = transducer.arguments
    others, other_headers = other.arguments
    third = len(headers) // 3
    encoded, lengths = random_frames(CASE)
    state = list(transducer.initial_state(5))
    good = [packs, headers, state, encoded.float(), lengths, [0, 1], 0, 10, False]
    torch.ops.fast_s2s.transducer_greedy.default(*good)

    def with_state(at, value):
        return [*state[:at], value, *state[at + 1 :]]

    for at, value, message in (
        (0, packs[:1], "packed: expected predictor, projection if there is one, and joiner, got 1"),
        (0, packs[:2], "headers: expected 28 numbers, got 42"),
        (0, [packs[1], *packs[1:]], "packed: expected weights of at least one layer"),
        (0, [packs[0], packs[0], packs[2]], "packed: expected weights of a linear layer"),
        (0, [packs[0], packs[2], packs[1]], "header: expected that of the packed weights"),
        (1, headers[:-1], "headers: expected 42 numbers, got 41"),
        (1, [*headers[third:], *headers[:third]], "header: expected that of the packed weights"),
        (2, state[:3], "state: expected 4 tensors, got 3"),
        (2, with_state(0, state[0].double()), "h: expected dtype Float, got Double"),
        (2, with_state(1, state[1][:, 1:]), "c: expected shape"),
        (2, with_state(2, state[2] - 1), r"token: expected values in 0\.\.10, got -1"),
        (2, with_state(3, state[3] - 1), r"skip: expected values in 0\.\.\d+, got -1"),
        (3, encoded, "encoded: expected dtype Float, got Double"),
        (3, encoded.float()[..., 1:], "encoded: expected shape"),
        (4, lengths + 1, r"lengths: expected values in 0\.\.14, got 15"),
        (4, lengths[1:], "lengths: expected shape"),
        (5, [0], "packed: expected a joiner of 11 tokens and 1 durations, got one of 13"),
        (5, [0, -1], r"durations: expected values in 0\.\.\d+, got -1"),
        (6, 11, r"blank: expected a token id in 0\.\.10, got 11"),
        (6, -1, r"blank: expected a token id in 0\.\.10, got -1"),
        (7, 0, "max_symbols: expected at least 1, got 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fast_s2s.transducer_greedy.default(*good[:at], value, *good[at + 1 :])
    mixed = [packs[0], *others[1:]], [*headers[:third], *other_headers[third:]]
    with pytest.raises(RuntimeError, match="packed: expected weights of one type"):
        torch.ops.fast_s2s.transducer_greedy.default(*mixed, *good[2:])
    wide = packed(Case(Size(hidden=9), durations=(0, 1)))
    packs[0], headers[:third] = wide.arguments[0][0], wide.arguments[1][:third]
    with pytest.raises(RuntimeError, match="packed: expected a linear layer of 9 inputs, got one"):
        torch.ops.fast_s2s.transducer_greedy.default(*good)


def test_results_are_not_inputs():
    """Nothing that comes back shares memory with what was given."""
    transducer = packed()
    encoded, _ = random_frames(CASE)
    state = transducer.initial_state(5)
    found = transducer_greedy(transducer, encoded.float(), [0] * 5, state=state)
    for ours, given in zip(found.state, state, strict=True):
        assert torch.equal(ours, given) and ours.data_ptr() != given.data_ptr()


def test_a_pack_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed().blank = 3
