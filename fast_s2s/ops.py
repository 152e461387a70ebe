"""The ops: schema, fake kernels, autograd.

The schemas are here rather than in C++ so that a backend without the extension has them too;
csrc/ops.cpp registers the CPU kernels under these names. The Triton kernels are ops of their own,
`lstm_forward_triton` and `lstm_backward_triton`, with the same schema, fake and autograd: so both
backends can serve one device in one process.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fast_s2s import backends, reference
from fast_s2s.reference import SAVE_GATES, SAVE_NONE

# the arguments of a layer in one direction
LAYER_SCHEMA = (
    "Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? w_hr, Tensor? lengths, Tensor? reset, bool reverse"
)
# kept alive for the life of the process: the schemas go when it does
library = torch.library.Library("fast_s2s", "FRAGMENT")
# of the names of the ops of each backend
SUFFIXES = {"native": "", "triton": "_triton"}
for _suffix in SUFFIXES.values():
    library.define(
        f"lstm_forward{_suffix}({LAYER_SCHEMA}, int save) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    )
    library.define(
        f"lstm_backward{_suffix}(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, "
        f"{LAYER_SCHEMA}, Tensor y, Tensor gates, Tensor cells, bool needs_x, bool needs_weights) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    )
library.define(
    "lstm_infer(Tensor x, Tensor? h0, Tensor? c0, Tensor[] weights, bool bias, bool projected, "
    "bool bidirectional, Tensor? lengths, Tensor? reset) -> (Tensor, Tensor, Tensor)"
)
library.define("tf32_is_allowed() -> bool")


def lstm_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
    save: int = SAVE_NONE,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reference.lstm_forward` on the backend chosen for the tensors' device and type."""
    if is_transformed():
        return reference.lstm_forward(
            x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse, save
        )
    args = (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse, save)
    backend = backends.current(x.device.type, x.dtype).backend
    op = _FORWARD[backend]
    if backend == "reference" or not is_plainly_eager():
        return op(*args)
    if save == SAVE_NONE and not want_gradients(args[:8]):
        return below_autograd(op, *args)
    if save != SAVE_NONE and backend == "native":
        return _NativeForward.apply(*args)
    return op(*args)


def below_autograd(op: Any, *args: Any) -> Any:
    """The op's kernel itself: its autograd, which is Python's and takes as long as the kernel of a
    small layer, is not asked.
    """
    if torch.is_inference_mode_enabled():
        # nor is it here, and the guard is not free either
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def want_gradients(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd has anything to do with a call of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def is_plainly_eager() -> bool:
    """Whether nothing traces this call, so that an `autograd.Function` may stand in for an op."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def is_transformed() -> bool:
    """Whether derivatives are taken forward, or a transform of `torch.func` is at work. The
    reference alone takes these: of the ops the first would return none in silence, and torch
    refuses `torch.func.grad` of ops whose gradients are registered from Python.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def lstm_infer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    bias: bool,
    projected: bool,
    bidirectional: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All layers and directions in one call, which has no gradients: `functional.lstm` on the
    native backend of the CPU, with its shapes.

    h0, c0:    None for zeros
    weights:   those of each layer and direction after those before
    projected: whether each has a w_hr

    Returns y (T, B, D·R), h_n (L·D, B, R), c_n (L·D, B, H).
    """
    return torch.ops.fast_s2s.lstm_infer.default(
        x, h0, c0, weights, bias, projected, bidirectional, lengths, reset
    )


_FORWARD: dict[str, Any] = {
    "native": torch.ops.fast_s2s.lstm_forward.default,
    "triton": torch.ops.fast_s2s.lstm_forward_triton.default,
    "reference": reference.lstm_forward,
}


def _fake_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    save: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, batch, _ = x.shape
    gates = (steps, batch, w_hh.size(0)) if save == SAVE_GATES else (0,)
    cells = (steps, batch, c0.size(1)) if save != SAVE_NONE else (0,)
    return (
        x.new_empty(steps, batch, h0.size(1)),
        x.new_empty(h0.shape),
        x.new_empty(c0.shape),
        x.new_empty(gates),
        x.new_empty(cells, dtype=reference.accumulate_dtype(x.dtype)),
    )


def _fake_infer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: list[Tensor],
    bias: bool,
    projected: bool,
    bidirectional: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    steps, batch, _ = x.shape
    count = len(weights) // (2 + 2 * bias + projected)
    output, hidden = weights[1].size(1), weights[1].size(0) // 4
    return (
        x.new_empty(steps, batch, output * (1 + bidirectional)),
        x.new_empty(count, batch, output),
        x.new_empty(count, batch, hidden),
    )


def _fake_backward(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    needs_x: bool,
    needs_weights: bool,
) -> tuple[Tensor, ...]:
    projection = w_hr.shape if needs_weights and w_hr is not None else (0,)
    shapes = (
        x.shape if needs_x else (0,),
        h0.shape,
        c0.shape,
        w_ih.shape if needs_weights else (0,),
        w_hh.shape if needs_weights else (0,),
        w_hh.shape[:1],
        projection,
    )
    return tuple(x.new_empty(shape) for shape in shapes)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.reverse, ctx.save = inputs
    y, _, _, gates, cells = output
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, y, gates, cells)


# inputs of lstm_forward, and those after the tensors that may have gradients
_NUM_INPUTS, _NO_GRADIENT = 12, (None,) * 4


def _backward(op: Any, ctx: Any, *grads: Tensor | None) -> tuple:
    if ctx.save == SAVE_NONE:
        raise RuntimeError("lstm_forward: gradients need save=SAVE_GATES or SAVE_CELLS")
    *inputs, y, gates, cells = ctx.saved_tensors
    grads = grads[:3]
    if all(grad is None for grad in grads):
        return (None,) * _NUM_INPUTS
    if torch.is_grad_enabled():
        # create_graph=True: autograd itself differentiates the reference, which makes second
        # derivatives right
        return _differentiable_backward(inputs, ctx.reverse, grads)
    needs = ctx.needs_input_grad
    needs_weights = any(needs[3:5]) or needs[7]
    d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_bias, d_w_hr = op(
        *grads, *inputs, ctx.reverse, y, gates, cells, needs[0], needs_weights
    )
    found = (d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_bias, d_bias, d_w_hr)
    # outputs of one backward may not share memory with each other's accumulated gradients
    wanted = [grad if need else None for grad, need in zip(found, needs, strict=False)]
    if wanted[5] is not None and wanted[6] is not None:
        wanted[6] = wanted[6].clone()
    return (*wanted, *_NO_GRADIENT)


class _NativeForward(torch.autograd.Function):
    """The native op with its autograd: what `torch.library.register_autograd` gives it, without
    that one's cost of some 50 µs a call: a small cell takes no longer.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple:
        output = below_autograd(torch.ops.fast_s2s.lstm_forward.default, *args)
        _setup_context(ctx, args, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        op = torch.ops.fast_s2s.lstm_backward.default
        return _backward(functools.partial(below_autograd, op), ctx, *grads)


def _differentiable_backward(inputs: list, reverse: bool, grads: tuple) -> tuple:
    *tensors, lengths, reset = inputs
    tensors = apart(tensors)
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr = tensors
    outputs = reference.lstm_forward(
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse, SAVE_NONE
    )[:3]
    return (*gradients_with_graph(outputs, grads, tensors), *_NO_GRADIENT)


def apart(tensors: Sequence[Tensor | None]) -> list[Any]:
    """The tensors of a call as inputs of their own: one may have been made from another, or be the
    same, and autograd would count the ways between them too.
    """
    return [None if t is None else t.view_as(t) for t in tensors]


def gradients_with_graph(
    outputs: Sequence[Tensor], grads: Sequence[Tensor | None], tensors: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of those tensors that want one, by autograd, to be differentiated again.

    tensors: what the outputs were computed from, by `apart`
    """
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    results = iter(
        torch.autograd.grad(
            [out for out, _ in pairs],
            wanted,
            [grad for _, grad in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(results) if t is not None and t.requires_grad else None for t in tensors]


def refuse_derivative(backward: str, forward: str) -> None:
    """Have derivatives of an op `backward` raise a RuntimeError, where torch would give zeros."""

    def refuse(ctx: Any, *grads: Any) -> tuple:
        raise RuntimeError(
            f"{backward} has no derivative of its own; differentiate {forward} twice "
            "(torch.autograd.grad with create_graph=True), "
            "or use `with fast_s2s.backend('reference')`"
        )

    torch.library.register_autograd(backward, refuse)


def _attach(suffix: str) -> None:
    """Fakes and autograd of one backend's pair of ops."""
    forward, backward = f"fast_s2s::lstm_forward{suffix}", f"fast_s2s::lstm_backward{suffix}"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(backward, _fake_backward)
    backward_op = getattr(torch.ops.fast_s2s, f"lstm_backward{suffix}").default
    torch.library.register_autograd(
        forward, functools.partial(_backward, backward_op), setup_context=_setup_context
    )
    refuse_derivative(backward, forward)


def serve_on_triton(name: str, module: str) -> None:
    """Have the op `name`_triton run the function of that name of a module of `fast_s2s.kernels`."""

    def run(device_type: str, *args: Any) -> Any:
        # triton is imported by the first call that needs it
        kernels = importlib.import_module(f"fast_s2s.kernels.{module}")
        # like a compiled op's: autocast has had its say before, and would round backward's products
        with torch.autocast(device_type, enabled=False):
            return getattr(kernels, name)(*args)

    for key in ("CPU", "CUDA"):
        library.impl(f"{name}_triton", functools.partial(run, key.lower()), key)


def _tf32_is_allowed() -> bool:
    """torch's switch for float32 matrix products on CUDA, for kernels that cannot ask for it."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


for _suffix in SUFFIXES.values():
    _attach(_suffix)
torch.library.register_fake("fast_s2s::lstm_infer", _fake_infer)
library.impl("tf32_is_allowed", _tf32_is_allowed, "CompositeExplicitAutograd")
serve_on_triton("lstm_forward", "lstm")
serve_on_triton("lstm_backward", "lstm")
