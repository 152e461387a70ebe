"""The LSTM under torch's function transforms: `torch.func`, and the tracer of `torch.jit`."""

import copy

import pytest
import torch
from helpers_seq2seq import make_batch, make_model
from torch.func import functional_call, grad, hessian, jacrev, stack_module_state, vjp, vmap

import fast_s2s

X = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small_lstm(**options):
    return fast_s2s.LSTM(4, 5, dtype=torch.float64, **options)


def loss_of(model, **arguments):
    def loss(weights, x):
        y, (h, c) = functional_call(model, weights, (x,), arguments)
        return y.sin().sum() + h.cos().sum() + c.sum()

    return loss


def weights_of(model):
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 3}, {"bias": False}]
)
def test_grad_is_that_of_backward(options, assert_close):
    model = small_lstm(**options)
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[2, 1] = True
    loss = loss_of(model, lengths=[6, 0, 4], reset=reset)
    found = grad(loss, argnums=(0, 1))(weights_of(model), X)
    x = X.clone().requires_grad_()
    loss(dict(model.named_parameters()), x).backward()
    assert_close(found[1], x.grad, "x")
    for name, weight in model.named_parameters():
        assert_close(found[0][name], weight.grad, name)


def test_vjp_jacobian_and_hessian(assert_close):
    model = small_lstm()
    _, pull = vjp(lambda x: model(x)[0], X)
    jacobian = jacrev(lambda x: model(x)[0])(X)
    cotangent = torch.randn(6, 3, 5, dtype=torch.float64)
    expected = torch.einsum("tbh,tbhsci->sci", cotangent, jacobian)
    assert_close(pull(cotangent)[0], expected, "vjp")
    curvature = hessian(lambda x: model(x)[0].sin().sum())(X[:2, :1])
    by_autograd = torch.autograd.functional.hessian(lambda x: model(x)[0].sin().sum(), X[:2, :1])
    assert_close(curvature, by_autograd, "hessian")


def test_gradients_of_each_example(assert_close):
    model = small_lstm(num_layers=2)
    weights = weights_of(model)
    each = vmap(grad(loss_of(model)), in_dims=(None, 1))(weights, X.unsqueeze(2))
    for row in range(3):
        alone = grad(loss_of(model))(weights, X[:, row : row + 1])
        for name, expected in alone.items():
            assert_close(each[name][row], expected, name)


@pytest.mark.parametrize("grad_enabled", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_models_side_by_side(grad_enabled, bidirectional, assert_close):
    models = [small_lstm(bidirectional=bidirectional) for _ in range(3)]
    weights, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def run(weights, buffers, x):
        return functional_call(skeleton, (weights, buffers), (x,))[0]

    with torch.set_grad_enabled(grad_enabled):
        found = vmap(run, in_dims=(0, 0, None))(weights, buffers, X)
        expected = torch.stack([model(X)[0] for model in models])
    assert_close(found, expected, "y")


@pytest.mark.parametrize("grad_enabled", [True, False])
def test_vmap_over_batches(grad_enabled, assert_close):
    model = small_lstm(num_layers=2)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    with torch.set_grad_enabled(grad_enabled):
        found = vmap(lambda one: model(one)[0])(x)
        expected = torch.stack([model(one)[0] for one in x])
    assert_close(found, expected, "y")


def test_vmap_over_lengths(assert_close):
    model, x = small_lstm(), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    lengths = torch.tensor([[6, 1, 2], [3, 6, 0]])
    found = vmap(lambda one, lengths: model(one, lengths=lengths)[0])(x, lengths)
    expected = [model(one, lengths=own)[0] for one, own in zip(x, lengths, strict=True)]
    assert_close(found, torch.stack(expected), "y")


def test_cells_too(assert_close):
    cell = fast_s2s.LSTMCell(4, 5, dtype=torch.float64)

    def loss(x):
        h, c = cell(x)
        return h.sin().sum() + c.cos().sum()

    x = X[0].clone().requires_grad_()
    loss(x).backward()
    assert_close(grad(loss)(X[0]), x.grad, "x")
    each = vmap(grad(loss))(X[0])
    assert_close(each, x.grad, "x")


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"norm": "layer"}, {"zoneout_cell": 0.2}], ids=str
)
def test_batched_cotangents(options, assert_close):
    model = small_lstm(**options).eval()
    jacobians = [
        torch.autograd.functional.jacobian(lambda x: model(x)[0][-1], X, vectorize=vectorize)
        for vectorize in (True, False)
    ]
    assert_close(*jacobians, "jacobian")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_runs_as_the_module_does(assert_close):
    model = small_lstm(num_layers=2)
    traced = torch.jit.trace(model, (X,))
    assert_close(traced(X)[0], model(X)[0], "y")


def test_gradients_of_each_example_of_a_seq2seq(assert_close):
    model = make_model(attention="general")
    batch = make_batch()
    weights = weights_of(model)

    def loss(weights, src, tgt):
        return functional_call(model, weights, (src.unsqueeze(0), tgt.unsqueeze(0))).loss

    each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, batch.src, batch.tgt)
    for row in range(len(batch.src)):
        alone = grad(loss)(weights, batch.src[row], batch.tgt[row])
        for name, expected in alone.items():
            assert_close(each[name][row], expected, name)
