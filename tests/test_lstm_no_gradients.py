"""The ops where nothing wants gradients: their autograd is not asked, everything else is."""

from __future__ import annotations

import pytest
import torch
from helpers_native import needs_native
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from fast_s2s import functional, ops, ops_both, reference

pytestmark = needs_native


def layer(requires_grad=True):
    x, h, c = torch.randn(3, 2, 5), torch.randn(2, 4), torch.randn(2, 4)
    weights = [torch.randn(16, 5, requires_grad=requires_grad), torch.randn(16, 4)]
    return x, h, c, weights


def one(x, h, c, weights, save=reference.SAVE_NONE):
    return ops.lstm_forward(x, h, c, *weights, save=save)[0]


def both(x, h, c, weights, save=reference.SAVE_NONE):
    pairs = torch.stack((h, h)), torch.stack((c, c))
    optional = (False, None, None, None)
    return ops_both.lstm_forward_both(x, *pairs, weights, weights, *optional, save)[0]


def cell(x, h, c, weights):
    return functional.lstm_cell(x[0], (h, c), *weights)[0]


CALLS = pytest.mark.parametrize("call", [one, both, cell])


@pytest.fixture
def below(monkeypatch):
    """The ops whose autograd was not asked."""
    seen, real = [], ops.below_autograd
    monkeypatch.setattr(ops, "below_autograd", lambda op, *args: seen.append(op) or real(op, *args))
    return seen


@CALLS
def test_autograd_is_not_asked(call, below):
    made = layer()
    with torch.no_grad():
        frozen = call(*made)
    assert len(below) == 1 and frozen.grad_fn is None
    assert torch.equal(call(*made[:3], [weight.detach() for weight in made[3]]), frozen)
    assert len(below) == 2
    with torch.inference_mode():
        assert call(*made).is_inference()
    assert len(below) == 3


@pytest.mark.parametrize("call", [one, both])
def test_gradients_without_what_they_need_are_still_an_error(call, below):
    y = call(*layer())
    assert not below
    with pytest.raises(RuntimeError, match="gradients need save=SAVE_GATES or SAVE_CELLS"):
        y.sum().backward()


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@CALLS
def test_modes_fakes_and_tracers_see_the_op(call):
    made = layer()
    with torch.no_grad():
        expected = call(*made)
        with Seen() as seen:
            assert torch.equal(call(*made), expected)
        assert any(name.startswith("fast_s2s::lstm_") for name in seen.names)
        with FakeTensorMode() as mode:
            fakes = [mode.from_tensor(t) for t in made[:3]], [*map(mode.from_tensor, made[3])]
            fake = call(*fakes[0], fakes[1])
        assert isinstance(fake, FakeTensor) and fake.shape == expected.shape
        traced = make_fx(lambda x: call(x, *made[1:]))(made[0])
    assert any("fast_s2s.lstm_" in str(node.target) for node in traced.graph.nodes)
    assert torch.equal(traced(made[0]), expected)


@CALLS
def test_compiled_code_has_the_op_whole(call):
    made = layer()
    with torch.no_grad():
        found = torch.compile(call, fullgraph=True, backend="aot_eager")(*made)
        assert torch.equal(found, call(*made))
