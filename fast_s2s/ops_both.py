"""The ops for both directions of a layer at once, which the native kernels have.

Their meaning is two calls of `reference.lstm_forward`: states and what is saved lie one direction
after the other, outputs side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fast_s2s import ops, reference
from fast_s2s.reference import SAVE_GATES, SAVE_NONE

_ARGUMENTS = (
    "Tensor x, Tensor h0, Tensor c0, Tensor[] weights, Tensor[] weights_reverse, bool bias, "
    "Tensor? lengths, Tensor? reset, Tensor? reset_reverse"
)
ops.library.define(
    f"lstm_forward_both({_ARGUMENTS}, int save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
ops.library.define(
    f"lstm_backward_both(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, {_ARGUMENTS}, "
    "Tensor y, Tensor gates, Tensor cells, bool needs_x, bool needs_weights) -> Tensor[]"
)


def lstm_forward_both(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    weights_reverse: Sequence[Tensor],
    bias: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_reverse: Tensor | None,
    save: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One layer, both directions, the whole sequence.

    x:       (T, B, I)
    h0:      (2, B, R)   R = H, or P with a projection
    c0:      (2, B, H)
    weights: w_ih (4H, I), w_hh (4H, R), with `bias` b_ih and b_hh (4H,), w_hr (R, H) or none; the
             same of the direction from T-1 to 0 in `weights_reverse`
    lengths, reset, save: as of `reference.lstm_forward`; `reset_reverse` of the other direction

    Returns y (T, B, 2R), h_n (2, B, R), c_n (2, B, H); then, empty where not saved, the activated
    gates (2, T, B, 4H) and the cell states (2, T, B, H).

    Raises NotImplementedError where there are no such kernels: see `backends.has_both_directions`.
    """
    optional = (lengths, reset, reset_reverse)
    tensors = (x, h0, c0, *weights, *weights_reverse)
    if save != SAVE_NONE and ops.is_plainly_eager():
        return _Forward.apply(bias, save, optional, *tensors)
    args = (x, h0, c0, weights, weights_reverse, bias, *optional, save)
    if ops.is_plainly_eager() and not ops.want_gradients(tensors):
        return ops.below_autograd(_forward_op, *args)
    return _forward_op(*args)


_forward_op: Any = torch.ops.fast_s2s.lstm_forward_both.default
_backward_op: Any = torch.ops.fast_s2s.lstm_backward_both.default


class _Forward(torch.autograd.Function):
    """The op with its autograd, as `ops._NativeForward` is for one direction."""

    @staticmethod
    def forward(ctx: Any, bias: bool, save: int, optional: tuple, *tensors: Tensor) -> tuple:
        states, weights = tensors[:3], list(tensors[3:])
        count = len(weights) // 2
        inputs = (*states, weights[:count], weights[count:], bias, *optional, save)
        output = ops.below_autograd(_forward_op, *inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        found = _backward(functools.partial(ops.below_autograd, _backward_op), ctx, *grads)
        d_x, d_h0, d_c0, d_weights, d_weights_reverse, *_ = found
        return (None, None, None, d_x, d_h0, d_c0, *d_weights, *d_weights_reverse)


def _fake_forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    weights_reverse: Sequence[Tensor],
    bias: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_reverse: Tensor | None,
    save: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, batch, _ = x.shape
    hidden = c0.size(2)
    return (
        x.new_empty(steps, batch, 2 * h0.size(2)),
        x.new_empty(h0.shape),
        x.new_empty(c0.shape),
        x.new_empty((2, steps, batch, 4 * hidden) if save == SAVE_GATES else (0,)),
        x.new_empty(
            (2, steps, batch, hidden) if save != SAVE_NONE else (0,),
            dtype=reference.accumulate_dtype(x.dtype),
        ),
    )


def _fake_backward(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    weights_reverse: Sequence[Tensor],
    bias: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_reverse: Tensor | None,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    needs_x: bool,
    needs_weights: bool,
) -> list[Tensor]:
    found = [
        x.new_empty(x.shape if needs_x else (0,)),
        x.new_empty(h0.shape),
        x.new_empty(c0.shape),
    ]
    nothing = torch.Size((0,))
    for of_direction in (weights, weights_reverse):
        w_ih, w_hh = of_direction[:2]
        w_hr = next(iter(of_direction[4 if bias else 2 :]), None)
        wanted = w_ih.shape, w_hh.shape, nothing if w_hr is None else w_hr.shape
        d_w_ih, d_w_hh, d_w_hr = wanted if needs_weights else (nothing,) * 3
        found += [x.new_empty(shape) for shape in (d_w_ih, d_w_hh, w_hh.shape[:1], d_w_hr)]
    return found


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, h0, c0, weights, weights_reverse, ctx.bias, *optional, ctx.save = inputs
    y, _, _, gates, cells = output
    ctx.mark_non_differentiable(gates, cells)
    ctx.set_materialize_grads(False)
    ctx.num_weights = len(weights)
    ctx.save_for_backward(x, h0, c0, *weights, *weights_reverse, *optional, y, gates, cells)


def _backward(op: Any, ctx: Any, *grads: Tensor | None) -> tuple:
    if ctx.save == SAVE_NONE:
        raise RuntimeError("lstm_forward_both: gradients need save=SAVE_GATES or SAVE_CELLS")
    count = ctx.num_weights
    x, h0, c0, *rest = ctx.saved_tensors
    weights, weights_reverse, rest = rest[:count], rest[count : 2 * count], rest[2 * count :]
    *optional, y, gates, cells = rest
    grads = grads[:3]
    nothing = (None, None, None, [None] * count, [None] * count, *(None,) * 5)
    if all(grad is None for grad in grads):
        return nothing
    if torch.is_grad_enabled():
        # create_graph=True: as for one direction
        tensors = ops.apart([x, h0, c0, *weights, *weights_reverse])
        found = _differentiable_backward(tensors, ctx.bias, optional, grads)
        by_weight = found[3 : 3 + count], found[3 + count :]
        return (*found[:3], list(by_weight[0]), list(by_weight[1]), *nothing[5:])
    needs = [tensor.requires_grad for tensor in (x, h0, c0)]
    needs_weights = any(w.requires_grad for w in (*weights, *weights_reverse))
    # torch's transforms do not know how to take lists of tensors apart
    run: Any = _backward_by_direction if any(map(_is_batched, grads)) else op
    d_x, d_h0, d_c0, *of_weights = run(
        *grads, x, h0, c0, weights, weights_reverse, ctx.bias, *optional, y, gates, cells,
        needs[0], needs_weights,
    )  # fmt: skip
    by_direction = [
        _of_weights(of_weights[4 * i : 4 * i + 4], own, ctx.bias)
        for i, own in enumerate((weights, weights_reverse))
    ]
    states = [grad if need else None for grad, need in zip((d_x, d_h0, d_c0), needs, strict=True)]
    return (*states, *by_direction, *nothing[5:])


def _is_batched(grad: Tensor | None) -> bool:
    """Whether it stands for several, as under `vmap` or with `is_grads_batched=True`."""
    functorch = torch._C._functorch
    return grad is not None and (
        functorch.is_batchedtensor(grad) or functorch.is_legacy_batchedtensor(grad)
    )


def _backward_by_direction(
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    weights_reverse: Sequence[Tensor],
    bias: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_reverse: Tensor | None,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    needs_x: bool,
    needs_weights: bool,
) -> list[Tensor]:
    """What the op gives, by that for one direction."""
    found = []
    for i, (own, resets) in enumerate(((weights, reset), (weights_reverse, reset_reverse))):
        grads = [
            None if grad_y is None else grad_y.chunk(2, -1)[i],
            None if grad_h_n is None else grad_h_n[i],
            None if grad_c_n is None else grad_c_n[i],
        ]
        layer = (x, h0[i], c0[i], *_by_name(own, bias), lengths, resets, i == 1)
        saved = (y.chunk(2, -1)[i], gates[i] if gates.numel() else gates, cells[i])
        found.append(
            torch.ops.fast_s2s.lstm_backward.default(*grads, *layer, *saved, needs_x, needs_weights)
        )
    one, other = found
    d_x = one[0] + other[0]
    states = [torch.stack((one[k], other[k])) for k in (1, 2)]
    return [d_x, *states, *one[3:], *other[3:]]


def _by_name(weights: Sequence[Tensor], bias: bool) -> tuple[Any, ...]:
    """w_ih, w_hh, b_ih, b_hh and w_hr of a direction; None for those that there are not."""
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = rest[:2] if bias else (None, None)
    return w_ih, w_hh, b_ih, b_hh, next(iter(rest[2 if bias else 0 :]), None)


def _of_weights(
    found: Sequence[Tensor], weights: Sequence[Tensor], bias: bool
) -> list[Tensor | None]:
    """A direction's gradients in the order of its weights; None for those that want none."""
    d_w_ih, d_w_hh, d_bias, d_w_hr = found
    # outputs of one backward may not share memory with each other's accumulated gradients
    biases = [d_bias, d_bias.clone()] if bias else []
    every = [d_w_ih, d_w_hh, *biases, d_w_hr][: len(weights)]
    return [grad if w.requires_grad else None for grad, w in zip(every, weights, strict=True)]


def _differentiable_backward(
    tensors: list[Tensor], bias: bool, optional: Sequence[Tensor | None], grads: Sequence
) -> list[Tensor | None]:
    x, h0, c0, *weights = tensors
    lengths, *resets = optional
    count = len(weights) // 2
    results = []
    for i in range(2):
        own = _by_name(weights[i * count : (i + 1) * count], bias)
        layer: Any = (x, h0[i], c0[i], *own, lengths, resets[i], i == 1, SAVE_NONE)
        results.append(reference.lstm_forward(*layer))
    (y, h_n, c_n, *_), (y_reverse, h_n_reverse, c_n_reverse, *_) = results
    outputs = (
        torch.cat((y, y_reverse), dim=2),
        torch.stack((h_n, h_n_reverse)),
        torch.stack((c_n, c_n_reverse)),
    )
    return ops.gradients_with_graph(outputs, grads, tensors)


torch.library.register_fake("fast_s2s::lstm_forward_both", _fake_forward)
torch.library.register_fake("fast_s2s::lstm_backward_both", _fake_backward)
torch.library.register_autograd(
    "fast_s2s::lstm_forward_both",
    functools.partial(_backward, _backward_op),
    setup_context=_setup_context,
)
ops.refuse_derivative("fast_s2s::lstm_backward_both", "fast_s2s::lstm_forward_both")
