"""The ops: schema, fake kernels, autograd.

The schemas are here rather than in C++ so that a backend without the extension has them too;
csrc/ops.cpp registers the CPU kernels under these names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fast_s2s import backends, reference
from fast_s2s.reference import SAVE_GATES, SAVE_NONE

# kept alive for the life of the process: the schemas go when it does
_library = torch.library.Library("fast_s2s", "FRAGMENT")
_library.define(
    "lstm_forward(Tensor gates_x, Tensor h0, Tensor c0, Tensor w_hh, Tensor? w_hr, "
    "Tensor? lengths, Tensor? reset, bool reverse, int save) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "lstm_backward(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor gates, Tensor cells, "
    "Tensor c0, Tensor w_hh, Tensor? w_hr, Tensor? lengths, Tensor? reset, bool reverse) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def lstm_forward(
    gates_x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
    save: int = SAVE_NONE,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reference.lstm_forward` on the backend chosen for the tensors' device and type."""
    choice = backends.current(gates_x.device.type, gates_x.dtype)
    op = (
        reference.lstm_forward if choice.backend == "reference" else torch.ops.fast_s2s.lstm_forward
    )
    return op(gates_x, h0, c0, w_hh, w_hr, lengths, reset, reverse, save)


@torch.library.register_fake("fast_s2s::lstm_forward")  # type: ignore[untyped-decorator]
def _(
    gates_x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    save: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, batch, _ = gates_x.shape
    acc = reference.accumulate_dtype(gates_x.dtype)
    saves = save == SAVE_GATES
    return (
        gates_x.new_empty(steps, batch, h0.size(1)),
        torch.empty_like(h0, memory_format=torch.contiguous_format),
        torch.empty_like(c0, memory_format=torch.contiguous_format),
        torch.empty_like(gates_x, memory_format=torch.contiguous_format)
        if saves
        else gates_x.new_empty(0),
        gates_x.new_empty((steps, *c0.shape) if saves else (0,), dtype=acc),
    )


@torch.library.register_fake("fast_s2s::lstm_backward")  # type: ignore[untyped-decorator]
def _(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    gates: Tensor,
    cells: Tensor,
    c0: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps, batch, _ = gates.shape
    r = w_hh.size(1)
    return (
        torch.empty_like(gates),
        gates.new_empty(batch, r),
        torch.empty_like(c0, memory_format=torch.contiguous_format),
        gates.new_empty((0,) if w_hr is None else (steps, batch, r)),
    )


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    gates_x, h0, c0, w_hh, w_hr, lengths, reset, ctx.reverse, ctx.save = inputs
    y, _, _, gates, cells = output
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gates_x, h0, c0, w_hh, w_hr, lengths, reset, y, gates, cells)


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None, *_: Any
) -> tuple:
    if ctx.save != SAVE_GATES:
        raise RuntimeError("lstm_forward: gradients need save=SAVE_GATES, got save=SAVE_NONE")
    gates_x, h0, c0, w_hh, w_hr, lengths, reset, y, gates, cells = ctx.saved_tensors
    grads = (grad_y, grad_h_n, grad_c_n)
    if all(grad is None for grad in grads):
        return (None,) * 9
    if torch.is_grad_enabled():
        # create_graph=True: autograd itself differentiates the reference, which makes second
        # derivatives right
        return _differentiable_backward(ctx.saved_tensors[:7], ctx.reverse, grads)
    d_gates, d_h0, d_c0, d_h = torch.ops.fast_s2s.lstm_backward(
        *grads, gates, cells, c0, w_hh, w_hr, lengths, reset, ctx.reverse
    )
    d_w_hh = d_w_hr = None
    if ctx.needs_input_grad[3]:
        h_prev = reference.previous_hidden(y, h0, lengths, reset, ctx.reverse)
        d_w_hh = d_gates.flatten(0, 1).t() @ h_prev.flatten(0, 1)
    if w_hr is not None and ctx.needs_input_grad[4]:
        output_gate = gates[..., -cells.size(-1) :]
        unprojected = (output_gate * cells.tanh()).to(gates.dtype)
        d_w_hr = d_h.flatten(0, 1).t() @ unprojected.flatten(0, 1)
    return d_gates, d_h0, d_c0, d_w_hh, d_w_hr, None, None, None, None


def _differentiable_backward(inputs: tuple, reverse: bool, grads: tuple) -> tuple:
    *tensors, lengths, reset = inputs
    gates_x, h0, c0, w_hh, w_hr = tensors
    outputs = reference.lstm_forward(
        gates_x, h0, c0, w_hh, w_hr, lengths, reset, reverse, SAVE_NONE
    )[:3]
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
    found = [next(results) if t is not None and t.requires_grad else None for t in tensors]
    return (*found, None, None, None, None)


torch.library.register_autograd("fast_s2s::lstm_forward", _backward, setup_context=_setup_context)


def _no_second_derivative(ctx: Any, *grads: Any) -> tuple:
    raise RuntimeError(
        "fast_s2s::lstm_backward has no derivative of its own; differentiate "
        "fast_s2s::lstm_forward twice (torch.autograd.grad with create_graph=True), "
        "or use `with fast_s2s.backend('reference')`"
    )


torch.library.register_autograd("fast_s2s::lstm_backward", _no_second_derivative)
