"""`fast_s2s.LSTM` and `LSTMCell` against `torch.nn`'s over the whole constructor space."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from helpers_lstm_module import SPACE, option_id, random_state, twins
from helpers_native import needs_native
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence
from torch.utils._pytree import tree_leaves

import fast_s2s


def leaves(tree):
    """All floating-point tensors in a nest of outputs."""
    return [
        leaf
        for leaf in tree_leaves(tree)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]


def compare(theirs, ours, arguments, assert_close, **kwargs):
    """Outputs and the gradients of all inputs and parameters, for random cotangents."""
    results = []
    cotangents = None
    for module, extra in ((theirs, {}), (ours, kwargs)):
        module.zero_grad()
        inputs = [leaf.detach().requires_grad_() for leaf in leaves(arguments)]
        outputs = leaves(module(*rebuild(arguments, iter(inputs)), **extra))
        cotangents = cotangents or [torch.randn_like(out) for out in outputs]
        torch.autograd.backward(outputs, cotangents)
        results.append((outputs, [i.grad for i in inputs], [p.grad for p in module.parameters()]))
    for kind, a, b in zip(
        ("output", "d input", "d parameter"), results[0], results[1], strict=True
    ):
        assert len(a) == len(b)
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(y, x, f"{kind} {index}")


def rebuild(tree, tensors):
    """`tree` with its floating-point tensors replaced, in order."""
    if isinstance(tree, PackedSequence):
        return PackedSequence(next(tensors), *tree[1:])
    if isinstance(tree, (tuple, list)):
        return [rebuild(item, tensors) for item in tree]
    return next(tensors) if isinstance(tree, torch.Tensor) else tree


@pytest.mark.parametrize("options", SPACE, ids=option_id)
@pytest.mark.parametrize(
    "kind", ["batched", "with state", "unbatched", "packed", "packed unsorted with state"]
)
def test_equals_torch(options, kind, backend, assert_close):
    theirs, ours = twins(4, 5, **options)
    if kind == "unbatched":
        arguments = [torch.randn(6, 4, dtype=torch.float64), random_state(ours)]
    elif kind.startswith("packed"):
        lengths = (3, 6, 1) if "unsorted" in kind else (6, 3, 1)
        rows = [torch.randn(n, 4, dtype=torch.float64) for n in lengths]
        arguments = [pack_sequence(rows, enforce_sorted=False)]
        if "state" in kind:
            arguments.append(random_state(ours, 3))
    else:
        arguments = [
            torch.randn(*((3, 6, 4) if ours.batch_first else (6, 3, 4)), dtype=torch.float64)
        ]
        if kind == "with state":
            arguments.append(random_state(ours, 3))
    compare(theirs, ours, arguments, assert_close)


@pytest.mark.parametrize(
    ("batch", "steps", "hidden"), [(1, 1, 1), (3, 63, 17), (1, 63, 500), (3, 1, 500)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_odd_shapes(batch, steps, hidden, dtype, backend, assert_close):
    """Values and gradients of every parameter in lower precision, against torch in float64."""
    if backend == "triton" and steps * hidden > 10_000:
        pytest.skip("takes minutes in Triton's interpreter; test_triton_ops has both sizes apart")
    theirs, ours = twins(9, hidden, bidirectional=True)
    ours = ours.to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(steps, batch, 9).to(dtype)
    cotangent = torch.randn(steps, batch, 2 * hidden).to(dtype)
    y, (h_n, c_n) = ours(x)
    expected, (their_h, their_c) = theirs(x.double())
    y.backward(cotangent)
    expected.backward(cotangent.double())
    for name, a, b in (("y", y, expected), ("h_n", h_n, their_h), ("c_n", c_n, their_c)):
        assert_close(a, b, name)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_close(a.grad, b.grad, name)


def test_dropout_between_layers(backend):
    theirs, ours = twins(4, 5, num_layers=3, dropout=0.5)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    assert torch.allclose(ours.eval()(x)[0], theirs.eval()(x)[0])
    ours.train()
    assert not torch.equal(ours(x)[0], ours(x)[0])
    all_dropped = fast_s2s.LSTM(4, 5, num_layers=2, dropout=1.0)
    y = all_dropped(torch.randn(6, 3, 4))[0]
    # the upper layer sees zeros, so all rows agree
    torch.testing.assert_close(y[:, 0], y[:, 1])


@pytest.mark.parametrize("options", SPACE, ids=option_id)
def test_state_dict_both_ways(options):
    theirs, ours = twins(4, 5, **options)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True)
    )
    nn.init.normal_(ours.weight_hh_l0)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.weight_hh_l0, ours.weight_hh_l0)
    ours.load_state_dict(nn.LSTM(4, 5, dtype=torch.float64, **options).state_dict())
    assert repr(theirs) == repr(ours)


def test_copies_and_pickles_are_independent():
    _, ours = twins(4, 5, num_layers=2)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    expected = ours(x)[0]
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(twin(x)[0], expected)
        with torch.no_grad():
            twin.weight_hh_l0.zero_()
        assert not torch.equal(twin(x)[0], expected)
    assert torch.equal(ours(x)[0], expected)


def test_weights_swapped_changed_or_moved_are_honoured():
    theirs, ours = twins(4, 5)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    other = {name: torch.randn_like(p) for name, p in ours.named_parameters()}
    swapped = torch.func.functional_call(ours, other, x)[0]
    assert torch.allclose(swapped, torch.func.functional_call(theirs, other, x)[0])
    assert not torch.allclose(swapped, ours(x)[0])
    ours.weight_hh_l0 = nn.Parameter(other["weight_hh_l0"])
    theirs.weight_hh_l0 = nn.Parameter(other["weight_hh_l0"])
    assert torch.allclose(ours(x)[0], theirs(x)[0])
    with torch.no_grad():
        ours.weight_ih_l0.mul_(2)
        theirs.weight_ih_l0.mul_(2)
    assert torch.allclose(ours(x)[0], theirs(x)[0])
    # no version counter sees this one
    ours.weight_hh_l0.data.mul_(2)
    theirs.weight_hh_l0.data.mul_(2)
    assert torch.allclose(ours(x)[0], theirs(x)[0])
    assert torch.allclose(ours.float()(x.float())[0].double(), theirs(x)[0], atol=1e-5)


def test_tied_weights(assert_close):
    theirs, ours = twins(5, 5, num_layers=2)
    for module in (theirs, ours):
        module.weight_hh_l1 = module.weight_hh_l0
        module.weight_ih_l1 = module.weight_hh_l0
    compare(theirs, ours, [torch.randn(6, 3, 5, dtype=torch.float64)], assert_close)


def test_weight_norm_parametrisation(assert_close):
    theirs, ours = twins(4, 5)
    for module in (theirs, ours):
        nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    compare(theirs, ours, [torch.randn(6, 3, 4, dtype=torch.float64)], assert_close)


def test_training_reaches_the_same_weights():
    theirs, ours = twins(4, 5, num_layers=2)
    x, target = torch.randn(6, 3, 4, dtype=torch.float64), torch.randn(6, 3, 5, dtype=torch.float64)
    for module in (theirs, ours):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            (module(x)[0] - target).square().mean().backward()
            optimizer.step()
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.allclose(a, b)


def test_backward_in_eval_mode_and_twice():
    """cuDNN refuses the first; a silent zero would pass the second unseen."""
    _, ours = twins(4, 5)
    x = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(ours.eval()(x)[0].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.abs().sum() > 0


@pytest.mark.parametrize("packed", [False, True])
def test_autocast(packed, backend):
    ours = fast_s2s.LSTM(4, 5)
    x = torch.randn(6, 3, 4)
    expected = ours(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, (h_n, c_n) = ours(pack_padded_sequence(x, [6, 6, 6]) if packed else x)
    y = y.data.reshape(6, 3, 5) if packed else y
    assert y.dtype == h_n.dtype == c_n.dtype == torch.bfloat16
    assert torch.allclose(y.float(), expected, atol=0.05)
    y.float().sum().backward()
    assert ours.weight_hh_l0.grad.dtype == torch.float32


@needs_native
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"proj_size": 3}], ids=str)
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_rounds_no_gradient(dtype, memory, options):
    """Where backward is called inside it, for a forward outside. On CUDA: test_cuda_autocast."""
    ours = fast_s2s.LSTM(4, 5, memory=memory, **options).to(dtype)
    y = ours(torch.randn(6, 3, 4, dtype=dtype))[0]
    arguments = y, list(ours.parameters()), torch.randn_like(y)
    expected = torch.autograd.grad(*arguments, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_autocast_leaves_float64_alone(backend):
    # as it does every op of torch's
    ours, cell = fast_s2s.LSTM(4, 5).double(), fast_s2s.LSTMCell(4, 5).double()
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (y, (h_n, _)), (h, c) = ours(x), cell(x[0])
    assert torch.equal(y, ours(x)[0])
    assert torch.equal(h, cell(x[0])[0])
    assert h_n.dtype == c.dtype == torch.float64
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match=r"weight_ih_l0: expected .*float32, got torch.float64"),
    ):
        ours(x.float())


def test_inference_mode_and_frozen_weights(backend):
    ours = fast_s2s.LSTM(4, 5)
    x = torch.randn(6, 3, 4)
    expected = ours(x)[0]
    with torch.inference_mode():
        assert torch.equal(ours(x)[0], expected)
    ours.weight_hh_l0.requires_grad_(False)
    ours(x)[0].sum().backward()
    assert ours.weight_hh_l0.grad is None and ours.weight_ih_l0.grad is not None


def test_compile_without_graph_break():
    ours = fast_s2s.LSTM(4, 5, num_layers=2, bidirectional=True)
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps, batch in ((6, 3), (9, 2)):
        x, lengths = torch.randn(steps, batch, 4), torch.randint(1, steps + 1, (batch,))
        assert torch.equal(compiled(x, lengths=lengths)[0], ours(x, lengths=lengths)[0])
    ours.zero_grad()
    compiled(x)[0].sum().backward()
    actual = ours.weight_hh_l0.grad.clone()
    ours.zero_grad()
    ours(x)[0].sum().backward()
    assert torch.equal(actual, ours.weight_hh_l0.grad)


def test_export_with_dynamic_time():
    ours = fast_s2s.LSTM(4, 5).eval()
    dynamic = {"input": {0: torch.export.Dim("steps"), 1: torch.export.Dim("batch")}}
    program = torch.export.export(ours, (torch.randn(6, 3, 4),), dynamic_shapes=dynamic)
    x = torch.randn(11, 2, 4)
    assert torch.equal(program.module()(x)[0], ours(x)[0])


def test_meta_tensors():
    y, (h_n, _) = fast_s2s.LSTM(4, 5, device="meta")(torch.zeros(6, 3, 4, device="meta"))
    assert (y.shape, h_n.shape, y.device.type) == ((6, 3, 5), (1, 3, 5), "meta")


@pytest.mark.parametrize("options", [{}, {"norm": "layer", "bidirectional": True}], ids=str)
def test_replicas_of_data_parallel(options):
    """As `torch.nn.parallel.replicate` makes them: plain tensors in place of parameters."""
    lstm = fast_s2s.LSTM(3, 4, **options)
    replica = lstm._replicate_for_data_parallel()
    replica._parameters = {}
    for name, parameter in lstm.named_parameters():
        setattr(replica, name, parameter.detach().clone().requires_grad_())
    x = torch.randn(5, 2, 3)
    assert torch.equal(replica(x)[0], lstm(x)[0])
    replica(x)[0].sum().backward()
    assert replica.weight_hh_l0.grad.any() and lstm.weight_hh_l0.grad is None
