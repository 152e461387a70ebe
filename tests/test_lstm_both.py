"""Both directions of a layer at once: the op, its gradients, and the module on it."""

from __future__ import annotations

import pytest
import torch
from helpers_emulator import VARIANTS
from helpers_native import needs_native
from torch import nn

import fast_s2s
from fast_s2s import backends, ops_both, reference

NAMES = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


@pytest.fixture
def emulated(emulator, monkeypatch):
    """The ops on CPU tensors, by the emulator of the CUDA kernels."""
    monkeypatch.setattr(ops_both, "_forward_op", emulator.lstm_forward_both)
    monkeypatch.setattr(ops_both, "_backward_op", emulator.lstm_backward_both)
    return emulator


@pytest.fixture(params=["native", "emulated"])
def both(request):
    """Where the ops are: on the CPU, or in the emulator of the CUDA kernels."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    if backends.extension is None:
        pytest.skip(backends.extension_reason)
    return torch.ops.fast_s2s


def make(dtype=torch.float32, sizes=(5, 11, 70), projection=0, bias=True, **flags):
    """The arguments of the op but `save`, and cotangents of its results."""
    steps, batch, hidden = sizes
    r = projection or hidden

    def random(*shape, scale=1.0):
        return (scale * torch.randn(*shape)).to(dtype).requires_grad_()

    def weights():
        found = [random(4 * hidden, 6), random(4 * hidden, r, scale=r**-0.5)]
        found += [random(4 * hidden), random(4 * hidden)] if bias else []
        return found + ([random(r, hidden, scale=hidden**-0.5)] if projection else [])

    arguments = [random(steps, batch, 6), random(2, batch, r), random(2, batch, hidden)]
    arguments += [weights(), weights(), bias]
    arguments.append(torch.randint(0, steps + 1, (batch,)) if flags.get("lengths") else None)
    arguments += [torch.rand(steps, batch) < 0.3 if flags.get("reset") else None for _ in range(2)]
    shapes = (steps, batch, 2 * r), (2, batch, r), (2, batch, hidden)
    return arguments, [torch.randn(*shape).to(dtype) for shape in shapes]


def tensors_of(arguments):
    x, h0, c0, weights, weights_reverse, *_ = arguments
    return [x, h0, c0, *weights, *weights_reverse]


def run(arguments, cotangents, save=reference.SAVE_GATES):
    outputs = ops_both.lstm_forward_both(*arguments, save)[:3]
    return [*outputs, *torch.autograd.grad(outputs, tensors_of(arguments), cotangents)]


def doubled(value):
    if isinstance(value, list):
        return [doubled(v) for v in value]
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return value.detach().double().requires_grad_()


def expected_of(arguments, cotangents):
    """The same in float64, by two calls of the reference."""
    x, h0, c0, *both_weights, bias, lengths, reset, reset_reverse = arguments = doubled(arguments)
    found = []
    for i, (weights, resets) in enumerate(zip(both_weights, (reset, reset_reverse), strict=True)):
        named = dict(zip(NAMES[3:7] if bias else NAMES[3:5], weights, strict=False))
        count = 4 if bias else 2
        named["w_hr"] = weights[count] if len(weights) > count else None
        layer = [named.get(name) for name in NAMES[3:]]
        found.append(
            reference.lstm_forward(x, h0[i], c0[i], *layer, lengths, resets, i == 1, 0)[:3]
        )
    y = torch.cat((found[0][0], found[1][0]), dim=2)
    outputs = [y, *(torch.stack(pair) for pair in list(zip(*found, strict=True))[1:])]
    gradients = torch.autograd.grad(outputs, tensors_of(arguments), doubled(cotangents))
    return [*outputs, *gradients]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_gradients_in_cuda(emulated, variant, dtype, assert_close):
    emulated.configure(only=VARIANTS.index(variant))
    arguments, cotangents = make(dtype, lengths=True, reset=True)
    before = emulated.counts()["launches"]
    with torch.no_grad():
        ops_both.lstm_forward_both(*arguments, reference.SAVE_NONE)
    # one packs the weights of each direction, one runs both
    assert emulated.counts()["launches"] - before == 3
    expected = expected_of(arguments, cotangents)
    for ours, theirs in zip(run(arguments, cotangents), expected, strict=True):
        assert_close(ours, theirs, variant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "sizes",
    [(70, 3, 17), (40, 1, 80), (1, 3, 500), (40, 14, 130), (5, 0, 7), (9, 31, 40)],
    ids=str,
)
@needs_native
def test_values_and_gradients_on_the_cpu(sizes, dtype, assert_close):
    for options in ({}, {"projection": 6, "lengths": True, "reset": True}):
        arguments, cotangents = make(dtype, sizes, **options)
        expected = expected_of(arguments, cotangents)
        first = None
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            for save in (reference.SAVE_GATES, reference.SAVE_CELLS):
                found = run(arguments, cotangents, save)
                for ours, theirs in zip(found, expected, strict=True):
                    assert_close(ours, theirs, (options, threads, save))
            # the kernels' own results have the same bits for any number of threads
            first = first or found
            for index in (0, 1, 2, 4, 5):
                assert torch.equal(found[index], first[index]), (index, threads)


@pytest.mark.parametrize(
    "options",
    [
        {"projection": 33, "lengths": True, "reset": True},
        {"projection": 5, "bias": False, "sizes": (3, 3, 17)},
        {"bias": False, "sizes": (1, 1, 1)},
        {"sizes": (4, 20, 33), "lengths": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("save", [reference.SAVE_GATES, reference.SAVE_CELLS])
def test_options(both, options, save, assert_close):
    arguments, cotangents = make(**options)
    expected = expected_of(arguments, cotangents)
    for ours, theirs in zip(run(arguments, cotangents, save), expected, strict=True):
        assert_close(ours, theirs, str(options))


@needs_native
@pytest.mark.parametrize("projection", [0, 3])
def test_opcheck(projection):
    arguments, cotangents = make(sizes=(3, 2, 5), projection=projection, lengths=True, reset=True)
    forward = torch.ops.fast_s2s.lstm_forward_both.default
    backward = torch.ops.fast_s2s.lstm_backward_both.default
    torch.library.opcheck(forward, (*arguments, reference.SAVE_GATES))
    with torch.no_grad():
        y, _, _, *saved = forward(*arguments, reference.SAVE_GATES)
    plain = [v.detach() if isinstance(v, torch.Tensor) else v for v in arguments]
    plain[3:5] = [[w.detach() for w in weights] for weights in arguments[3:5]]
    torch.library.opcheck(backward, (*cotangents, *plain, y, *saved, True, True))


def test_second_derivatives(both):
    arguments, cotangents = make(sizes=(3, 2, 5), lengths=True)
    outputs = ops_both.lstm_forward_both(*arguments, reference.SAVE_GATES)[:3]
    (d_x,) = torch.autograd.grad(outputs, arguments[0], cotangents, create_graph=True)
    found = torch.autograd.grad(d_x.square().sum(), arguments[4][1])[0]
    double = doubled(arguments)
    outputs = _two_references(double)
    (d_x,) = torch.autograd.grad(outputs, double[0], doubled(cotangents), create_graph=True)
    expected = torch.autograd.grad(d_x.square().sum(), double[4][1])[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


def _two_references(double):
    x, h0, c0, *both_weights, _, lengths, _, _ = double
    found = [
        reference.lstm_forward(
            x, h0[i], c0[i], *weights[:2], *weights[2:4], None, lengths, None, i == 1, 0
        )[:3]
        for i, weights in enumerate(both_weights)
    ]
    y = torch.cat((found[0][0], found[1][0]), dim=2)
    return [y, *(torch.stack(pair) for pair in list(zip(*found, strict=True))[1:])]


def test_frozen_weights_and_unused_outputs_get_no_gradient(both):
    arguments, _ = make(sizes=(3, 2, 5))
    arguments[3][1].requires_grad_(False)
    y = ops_both.lstm_forward_both(*arguments, reference.SAVE_GATES)[0]
    y.sum().backward()
    assert arguments[3][1].grad is None
    wanted = [t for t in tensors_of(arguments) if t is not arguments[3][1]]
    assert all(t.grad is not None for t in wanted)


@pytest.mark.parametrize("options", [{}, {"proj_size": 7}, {"bias": False, "batch_first": True}])
def test_the_module_runs_both_directions_at_once(emulated, options, monkeypatch, assert_close):
    lstm = fast_s2s.LSTM(5, 20, num_layers=2, bidirectional=True, **options)
    twin = nn.LSTM(5, 20, num_layers=2, bidirectional=True, **options).double()
    twin.load_state_dict(lstm.state_dict())
    x = torch.randn(6, 4, 5)
    monkeypatch.setattr(backends, "has_both_directions", lambda *_: True)
    before = emulated.counts()["launches"]
    lstm(x)
    packs = 4 if options.get("proj_size") else 2
    assert emulated.counts()["launches"] - before == 2 * (packs + 1)
    results = []
    for module, value in ((lstm, x), (twin, x.double())):
        value.requires_grad_()
        y, (h, c) = module(value)
        (y.square().sum() + h.sum() + c.square().sum()).backward()
        results.append([y, h, c, value.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, "bidirectional")


def test_where_directions_run_at_once(monkeypatch):
    assert backends.has_both_directions("cpu", torch.float32) == bool(backends.extension)
    assert not backends.has_both_directions("cpu", torch.float16)
    monkeypatch.setattr(backends, "cuda_loaded", True)
    assert backends.has_both_directions("cuda", torch.bfloat16)
    with fast_s2s.backend("reference"):
        assert not backends.has_both_directions("cuda", torch.bfloat16)


def test_bad_arguments(both):
    def call(**changes):
        arguments, _ = make(sizes=(3, 2, 4))
        names = ("x", "h0", "c0", "weights", "weights_reverse", "bias", "lengths", "reset")
        named = dict(zip((*names, "reset_reverse"), arguments, strict=True))
        with torch.no_grad():
            both.lstm_forward_both(*{**named, **changes}.values(), 0)

    call()
    w_ih, w_hh, b_ih, b_hh = make(sizes=(3, 2, 4))[0][3]
    for changes, message in [
        ({"h0": torch.zeros(2, 4)}, r"h0: expected shape \(2,2,4,\), got \(2,4,\)"),
        ({"weights": [w_ih, w_hh]}, "weights: expected w_ih, w_hh, b_ih, b_hh and perhaps w_hr, g"),
        ({"weights_reverse": [w_ih, w_hh[:12], b_ih, b_hh]}, "w_hh_reverse: expected shape"),
        (
            {"weights_reverse": [w_ih, w_hh, b_ih, b_hh, torch.zeros(4, 4)]},
            "w_hr_reverse: expected one in both directions or in none",
        ),
        ({"reset_reverse": torch.zeros(3, 2)}, "reset_reverse: expected dtype Bool, got Float"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            call(**changes)
