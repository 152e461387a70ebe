"""Gradients that have a graph, where the tensors of a call hang together: beside torch's."""

from __future__ import annotations

import pytest
import torch
from helpers_lstm_module import twins
from torch import nn

import fast_s2s


def chunks(module, x, h):
    """Each call's state is made by the one before, so by the weights."""
    state, outputs = (h, h), []
    for chunk in x.split(2):
        y, state = module(chunk, state)
        outputs.append(y)
    return *outputs, *state


def input_from_the_state(module, x, h):
    y, state = module(x + h[0, 0, 0], (h, h.sin()))
    return y, *state


def cells(module, x, h):
    c = h
    for step in x:
        h, c = module(step, (h, c))
    return h, c


def gradients(run, module, *shapes):
    """First and second derivatives by the inputs and the weights."""
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    wanted = [*inputs, *module.parameters()]
    loss = sum(output.sin().sum() for output in run(module, *inputs))
    first = torch.autograd.grad(loss, wanted, create_graph=True)
    return *first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)


def compare(run, theirs, ours, shapes, assert_close):
    expected = gradients(run, theirs, *shapes)
    for found, wanted in zip(gradients(run, ours, *shapes), expected, strict=True):
        assert_close(found, wanted, "gradient")


@pytest.mark.parametrize("run", [chunks, input_from_the_state])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_sequences(run, bidirectional, tied, assert_close, backend):
    theirs, ours = twins(5, 5, bidirectional=bidirectional)
    for module in (theirs, ours) if tied else ():
        module.weight_ih_l0 = module.weight_hh_l0
    shapes = (4, 2, 5), (1 + bidirectional, 2, 5)
    compare(run, theirs, ours, shapes, assert_close)


def test_a_loop_of_cells(assert_close, backend):
    theirs = nn.LSTMCell(4, 5, dtype=torch.float64)
    compare(cells, theirs, fast_s2s.from_torch(theirs), ((4, 2, 4), (2, 5)), assert_close)
