"""Inference in one call: the same bits as layer by layer, and where it is not taken."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers_native import needs_native
from torch.utils._python_dispatch import TorchDispatchMode

import fast_s2s

pytestmark = needs_native
OP = torch.ops.fast_s2s.lstm_infer.default
OPTIONS = [
    dict(
        zip(
            ("num_layers", "bidirectional", "proj_size", "bias", "batch_first"), values, strict=True
        )
    )
    for values in itertools.product((1, 3), (False, True), (0, 5), (True, False), (False, True))
]


class Called(TorchDispatchMode):
    """The names of all ops called inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def one_call(run):
    """What `run` returns, from a single call of the op."""
    with Called() as called:
        result = run()
    assert [name for name in called.names if "lstm" in name] == ["fast_s2s.lstm_infer.default"]
    return result


def flat(result):
    output, (h_n, c_n) = result
    return output, h_n, c_n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("extra", ["", "lengths", "reset", "lengths and reset"])
def test_equals_layer_by_layer(extra, dtype):
    for options, batch, steps, state in itertools.product(OPTIONS, (1, 3), (1, 7), (False, True)):
        lstm = fast_s2s.LSTM(4, 17, **options).to(dtype)
        shape = (batch, steps) if lstm.batch_first else (steps, batch)
        x = torch.randn(*shape, 4, dtype=dtype)
        hx = None
        if state:
            count = lstm.num_layers * (1 + lstm.bidirectional)
            sizes = lstm.proj_size or 17, 17
            hx = tuple(torch.randn(count, batch, size, dtype=dtype) for size in sizes)
        kwargs = {}
        if "lengths" in extra:
            kwargs["lengths"] = torch.randint(0, steps + 1, (batch,))
        if "reset" in extra:
            kwargs["reset"] = torch.rand(shape) < 0.4
        expected = lstm(x, hx, **kwargs)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                actual = one_call(lambda: lstm(x, hx, **kwargs))  # noqa: B023
            for ours, theirs in zip(flat(actual), flat(expected), strict=True):
                assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(70, 3, 17), (40, 1, 80), (3, 20, 130), (40, 14, 130)], ids=str)
def test_directions_side_by_side(sizes, dtype):
    steps, batch, hidden = sizes
    for proj_size, ragged in itertools.product((0, 5), (False, True)):
        lstm = fast_s2s.LSTM(9, hidden, 2, bidirectional=True, proj_size=proj_size).to(dtype)
        x = torch.randn(steps, batch, 9, dtype=dtype)
        kwargs = {}
        if ragged:
            kwargs["lengths"] = torch.randint(0, steps + 1, (batch,))
            kwargs["reset"] = torch.rand(steps, batch) < 0.2
        torch.set_num_threads(1)
        expected = lstm(x, **kwargs)  # one direction after the other
        for threads in (1, 2, 3, 4, 5):
            torch.set_num_threads(threads)
            with torch.no_grad():
                actual = one_call(lambda: lstm(x, **kwargs))  # noqa: B023
            for ours, theirs in zip(flat(actual), flat(expected), strict=True):
                assert torch.equal(ours, theirs), threads


def test_frozen_weights_and_dropout_in_evaluation(assert_close):
    lstm = fast_s2s.LSTM(4, 6, 2, dropout=0.5, recurrent_dropout=0.5).requires_grad_(False).eval()
    x = torch.randn(3, 2, 4)
    y = one_call(lambda: lstm(x))[0]
    x.requires_grad_()
    theirs = lstm(x)[0]
    assert torch.equal(theirs, y)
    cotangent = torch.randn_like(y)
    (ours,) = torch.autograd.grad(theirs, x, cotangent)
    with fast_s2s.backend("reference"):
        (expected,) = torch.autograd.grad(lstm(x)[0], x, cotangent)
    assert_close(ours, expected, "d x")


@pytest.mark.parametrize("options", [{"zoneout_cell": 0.5}, {"norm": "layer"}, {"dropout": 0.5}])
def test_another_formula_is_not_taken_for_the_plain_one(options):
    torch.manual_seed(1)
    lstm = fast_s2s.LSTM(4, 6, 2, **options).train("dropout" in options)
    plain = fast_s2s.LSTM(4, 6, 2)
    plain.load_state_dict(lstm.state_dict(), strict=False)
    x = torch.randn(3, 2, 4)
    with torch.no_grad():
        assert not torch.equal(lstm(x)[0], plain(x)[0])


def test_another_backend_is_honoured():
    lstm = fast_s2s.LSTM(4, 6)
    x = torch.randn(3, 2, 4)
    with torch.no_grad(), fast_s2s.backend("reference"), Called() as called:
        lstm(x)
    assert not any("lstm" in name for name in called.names)


def test_forward_mode_derivatives(backend):
    # the kernels have none: never zero in silence
    lstm = fast_s2s.LSTM(3, 4, 2, bidirectional=True, dtype=torch.float64)
    x, tangent = torch.randn(2, 5, 2, 3, dtype=torch.float64)

    def run(value):
        return lstm(value)[0]

    step = 1e-6
    with torch.no_grad():
        expected = (run(x + step * tangent) - run(x - step * tangent)) / (2 * step)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            y, derivative = torch.func.jvp(run, (x,), (tangent,))
        torch.testing.assert_close(derivative, expected, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(y, run(x))


def arguments(projected=False, bias=True, layers=2, bidirectional=False, **changes):
    t, b, i, h, r = 6, 2, 3, 5, 4 if projected else 5
    count = layers * (1 + bidirectional)
    weights = []
    for index in range(count):
        first = index < 1 + bidirectional
        weights += [torch.randn(4 * h, i if first else r * (1 + bidirectional))]
        weights += [torch.randn(4 * h, r)] + [torch.randn(4 * h) for _ in range(2 * bias)]
        weights += [torch.randn(r, h)] if projected else []
    given = {
        "x": torch.randn(t, b, i),
        "h0": torch.randn(count, b, r),
        "c0": torch.randn(count, b, h),
        "weights": weights,
        "bias": bias,
        "projected": projected,
        "bidirectional": bidirectional,
        "lengths": None,
        "reset": None,
    }
    return tuple({**given, **changes}.values())


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"projected": True, "bidirectional": True, "h0": None, "c0": None},
        {
            "bias": False,
            "lengths": torch.tensor([6, 0]),
            "reset": torch.zeros(6, 2, dtype=torch.bool),
        },
    ],
    ids=str,
)
def test_opcheck(case):
    torch.library.opcheck(OP, arguments(**case))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": []}, "weights: expected 4 tensors for each layer, got 0"),
        (
            {"weights": [torch.randn(20, 3)] * 3},
            "weights: expected 4 tensors for each layer, got 3",
        ),
        ({"x": torch.randn(6, 2, 2)}, "w_ih: expected shape"),
        ({"x": torch.randn(6, 2)}, "x: expected"),
        ({"h0": torch.randn(1, 2, 5)}, "h0: expected shape"),
        ({"c0": torch.randn(2, 2, 5, dtype=torch.float64)}, "c0: expected dtype Float"),
        ({"lengths": torch.tensor([1, 7])}, "lengths: expected values in 0..6, got 7"),
        ({"reset": torch.zeros(6, 2)}, "reset: expected dtype Bool"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments(changes, message):
    with pytest.raises(RuntimeError, match=message):
        OP(*arguments(**changes))
