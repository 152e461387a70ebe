"""The ops for a single step, which the native CPU kernels have.

Their meaning is `reference.lstm_forward` of one step. They take and return less than the ops of a
sequence: at the size of a small cell each argument costs as much as a hundred multiplications.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fast_s2s import backends, ops, reference
from fast_s2s.reference import SAVE_NONE

ops.library.define(
    "lstm_cell(Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, "
    "Tensor? b_hh, bool save) -> (Tensor, Tensor, Tensor, Tensor)"
)
ops.library.define(
    "lstm_cell_backward(Tensor? grad_h, Tensor? grad_c, Tensor x, Tensor h0, Tensor c0, "
    "Tensor w_ih, Tensor w_hh, Tensor gates, Tensor cells, bool needs_x, bool needs_h0, "
    "bool needs_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def lstm_cell(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of one layer, where `serves` says so.

    x: (B, I), h0 and c0: (B, H), w_ih: (4H, I), w_hh: (4H, H), b_ih and b_hh: (4H,) or None
    -> h and c, (B, H)
    """
    args = (x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    if ops.want_gradients(args):
        h, c, _, _ = _Cell.apply(*args)
    else:
        h, c, _, _ = ops.below_autograd(_forward_op, *args, False)
    return h, c


def serves(x: Tensor) -> bool:
    """Whether `lstm_cell` may run here: eagerly, on the native backend of the CPU."""
    return (
        x.is_cpu
        and ops.is_plainly_eager()
        and not ops.is_transformed()
        and backends.current("cpu", x.dtype).backend == "native"
    )


_forward_op: Any = torch.ops.fast_s2s.lstm_cell.default
_backward_op: Any = torch.ops.fast_s2s.lstm_cell_backward.default


def _fake_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, hidden = h0.shape
    return (
        x.new_empty(batch, hidden),
        x.new_empty(batch, hidden),
        x.new_empty((batch, 4 * hidden) if save else (0,)),
        x.new_empty((batch, hidden) if save else (0,), dtype=reference.accumulate_dtype(x.dtype)),
    )


def _fake_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    gates: Tensor,
    cells: Tensor,
    needs_x: bool,
    needs_h0: bool,
    needs_weights: bool,
) -> tuple[Tensor, ...]:
    nothing = torch.Size((0,))
    shapes = (
        x.shape if needs_x else nothing,
        h0.shape if needs_h0 else nothing,
        c0.shape,
        w_ih.shape if needs_weights else nothing,
        w_hh.shape if needs_weights else nothing,
        w_hh.shape[:1],
        w_hh.shape[:1],
    )
    return tuple(x.new_empty(shape) for shape in shapes)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.save = inputs
    _, _, gates, cells = output
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, gates, cells)


def _backward(
    ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if not ctx.save:
        raise RuntimeError("lstm_cell: gradients need save=True")
    if grad_h is None and grad_c is None:
        return (None,) * 8
    *tensors, gates, cells = ctx.saved_tensors
    if torch.is_grad_enabled():
        # create_graph=True: as for a sequence
        tensors = ops.apart(tensors)
        x, h0, c0, w_ih, w_hh, b_ih, b_hh = tensors
        outputs = reference.lstm_forward(
            x.unsqueeze(0), h0, c0, w_ih, w_hh, b_ih, b_hh, None, None, None, False, SAVE_NONE
        )[1:3]
        return (*ops.gradients_with_graph(outputs, (grad_h, grad_c), tensors), None)
    needs = ctx.needs_input_grad
    wanted = needs[0], needs[1], needs[3] or needs[4]
    found = ops.below_autograd(_backward_op, grad_h, grad_c, *tensors[:5], gates, cells, *wanted)
    return (*(grad if need else None for grad, need in zip(found, needs, strict=False)), None)


class _Cell(torch.autograd.Function):
    """The op with its autograd; why not the registered one: see `ops._NativeForward`."""

    @staticmethod
    def forward(ctx: Any, *args: Tensor | None) -> tuple[Tensor, ...]:
        output = ops.below_autograd(_forward_op, *args, True)
        _setup_context(ctx, (*args, True), output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _backward(ctx, *grads)[:7]


torch.library.register_fake("fast_s2s::lstm_cell", _fake_forward)
torch.library.register_fake("fast_s2s::lstm_cell_backward", _fake_backward)
torch.library.register_autograd("fast_s2s::lstm_cell", _backward, setup_context=_setup_context)
ops.refuse_derivative("fast_s2s::lstm_cell_backward", "fast_s2s::lstm_cell")
