"""Autocast around the CUDA ops themselves, in the emulator: it has had its say before."""

from __future__ import annotations

import pytest
import torch
from helpers_emulator import Emulator
from helpers_lstm import Case, make_inputs

from fast_s2s import reference

SAVES = (reference.SAVE_GATES, reference.SAVE_CELLS)


def inside_autocast(op, *args):
    with torch.autocast("cpu", torch.bfloat16):
        return op(*args)


def arguments_of(case: Case):
    inputs = make_inputs(case)
    return inputs.cotangents, inputs.arguments([t.detach() for t in inputs.tensors])


def both_arguments(projection: int):
    case = Case(3, 4, 17, lengths=True, projection=projection)
    cotangents, (x, h0, c0, *weights, w_hr, lengths, reset, _) = arguments_of(case)
    weights += [] if w_hr is None else [w_hr]
    pairs = [torch.stack((t, -t)) for t in (h0, c0)]
    reverse = [weight.flip(0) for weight in weights]
    cotangents = [torch.cat([cotangents[0]] * 2, 2), *(torch.stack((t, t)) for t in cotangents[1:])]
    return cotangents, (x, *pairs, weights, reverse, True, lengths, reset, reset)


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def check(forward, backward, cotangents, arguments, save):
    """Inside autocast the bits of outside: no product is rounded, none is read as another type."""
    expected = forward(*arguments, save)
    assert_same(inside_autocast(forward, *arguments, save), expected)
    y, _, _, *saved = expected
    rest = (*cotangents, *arguments, y, *saved, True, True)
    assert_same(inside_autocast(backward, *rest), backward(*rest))


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("projection", [0, 5])
def test_autocast_rounds_nothing(emulator: Emulator, projection, save):
    made = arguments_of(Case(3, 4, 17, lengths=True, projection=projection))
    check(emulator.lstm_forward, emulator.lstm_backward, *made, save)


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("projection", [0, 5])
def test_nor_of_both_directions(emulator: Emulator, projection, save):
    made = both_arguments(projection)
    check(emulator.lstm_forward_both, emulator.lstm_backward_both, *made, save)


def test_nor_of_a_step_of_few_rows(emulator: Emulator):
    check(
        emulator.lstm_forward,
        emulator.lstm_backward,
        *arguments_of(Case(1, 4, 17)),
        reference.SAVE_CELLS,
    )
