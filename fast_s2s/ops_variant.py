"""The ops of `reference.lstm_variant`: layer norm, zoneout and dropout of the state, in the CPU's
kernels and on Triton.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fast_s2s import backends, ops, reference
from fast_s2s.reference import SAVE_GATES, SAVE_NONE, Variant

_VARIANT = (
    "Tensor? norm_ih, Tensor? norm_hh, Tensor? norm_c, Tensor? norm_c_bias, "
    "Tensor? recurrent_mask, Tensor? kept_hidden, Tensor? kept_cell, "
    "float zoneout_hidden, float zoneout_cell"
)
for _suffix in ops.SUFFIXES.values():
    ops.library.define(
        f"lstm_variant_forward{_suffix}({ops.LAYER_SCHEMA}, {_VARIANT}, int save) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    )
    ops.library.define(
        f"lstm_variant_backward{_suffix}(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, "
        f"{ops.LAYER_SCHEMA}, {_VARIANT}, Tensor y, Tensor products, Tensor cells, bool needs_x, "
        f"bool needs_weights) -> ({', '.join(['Tensor'] * 11)})"
    )


def lstm_variant(
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
    variant: Variant,
    save: int = SAVE_NONE,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.lstm_variant` on the backend chosen for the tensors' device and type.

    save: `reference.SAVE_GATES` or `SAVE_CELLS` where gradients are wanted: the former keeps, in
          the type of x, 8H values of each row and step with layer norm, 4H without, and the cell
          states; the latter these alone. Masks of zoneout, a byte for each value, are kept besides

    Raises RuntimeError where a backend is asked for that has no such kernel.
    """
    arguments = (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse)
    backend = backends.current(x.device.type, x.dtype, variant.names).backend
    mask = variant.recurrent_mask
    # which has no gradient in kernels
    learned = mask is not None and mask.requires_grad
    if backend == "reference" or learned or ops.is_transformed():
        return reference.lstm_variant(*arguments, variant)
    norms = _norms(variant, reference.accumulate_dtype(x.dtype))
    args = (*arguments, *norms, *_masks(variant, x.dtype), save)
    forward_op = _FORWARD[backend]
    if not ops.is_plainly_eager():
        return forward_op(*args)[:3]
    if not ops.want_gradients((*args[:8], *norms)):
        return ops.below_autograd(forward_op, *args)[:3]
    if backend == "triton":
        return forward_op(*args)[:3]
    return _Forward.apply(*args)[:3]


def _norms(variant: Variant, dtype: torch.dtype) -> list[Tensor | None]:
    """The parameters of layer norm in the type they are computed in."""
    given = (variant.norm_ih, variant.norm_hh, variant.norm_c, variant.norm_c_bias)
    return [None if norm is None else norm.to(dtype) for norm in given]


def _masks(variant: Variant, dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments of the op for dropout and zoneout."""
    mask = variant.recurrent_mask
    kept = variant.zoneout_hidden, variant.zoneout_cell
    masks = [value if isinstance(value, Tensor) else None for value in kept]
    parts = [0.0 if isinstance(value, Tensor) else float(value) for value in kept]
    return (None if mask is None else mask.to(dtype), *masks, *parts)


_FORWARD: dict[str, Any] = {
    "native": torch.ops.fast_s2s.lstm_variant_forward.default,
    "triton": torch.ops.fast_s2s.lstm_variant_forward_triton.default,
}

# inputs of the op: those of a layer, eight of which may have gradients; four norms; the rest
_NUM_LAYER, _NUM_WITH_GRADIENT, _NUM_NORMS, _NUM_REST = 11, 8, 4, 6
_NUM_INPUTS = _NUM_LAYER + _NUM_NORMS + _NUM_REST


class _Forward(torch.autograd.Function):
    """The native op with its autograd, as `ops._NativeForward` is for the plain formula."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple:
        output = ops.below_autograd(_FORWARD["native"], *args)
        _setup_context(ctx, args, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        op = torch.ops.fast_s2s.lstm_variant_backward.default
        return _backward(functools.partial(ops.below_autograd, op), ctx, *grads)


def _fake_forward(*args: Any) -> tuple[Tensor, ...]:
    x, h0, c0, _, w_hh = args[:5]
    norm, save = args[_NUM_LAYER], args[-1]
    steps, batch, _ = x.shape
    width = w_hh.size(0) * (1 if norm is None else 2)
    return (
        x.new_empty(steps, batch, h0.size(1)),
        x.new_empty(h0.shape),
        x.new_empty(c0.shape),
        x.new_empty((steps, batch, width) if save == SAVE_GATES else (0,)),
        x.new_empty(
            (steps, batch, c0.size(1)) if save != SAVE_NONE else (0,),
            dtype=reference.accumulate_dtype(x.dtype),
        ),
    )


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    x, h0, c0, w_ih, w_hh, _, _, w_hr = args[3:11]
    norms = args[3 + _NUM_LAYER : 3 + _NUM_LAYER + _NUM_NORMS]
    needs_x, needs_weights = args[-2:]
    nothing = torch.Size((0,))
    weights = [nothing if w is None else w.shape for w in (w_ih, w_hh, w_hr)]
    d_w_ih, d_w_hh, d_w_hr = weights if needs_weights else [nothing] * 3
    shapes = (x.shape if needs_x else nothing, h0.shape, c0.shape, d_w_ih, d_w_hh, w_hh.shape[:1])
    acc = reference.accumulate_dtype(x.dtype)
    of_norms = [nothing if norm is None else norm.shape for norm in norms]
    return (
        *(x.new_empty(shape) for shape in (*shapes, d_w_hr)),
        *(x.new_empty(shape, dtype=acc) for shape in of_norms),
    )


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    layer, rest = inputs[:_NUM_LAYER], inputs[_NUM_LAYER:]
    *tensors, ctx.reverse = layer
    *given, zoneout_hidden, zoneout_cell, ctx.save = rest
    ctx.parts = (zoneout_hidden, zoneout_cell)
    y, _, _, products, cells = output
    ctx.mark_non_differentiable(products, cells)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *given, y, products, cells)


def _backward(op: Any, ctx: Any, *grads: Tensor | None) -> tuple:
    if ctx.save == SAVE_NONE:
        raise RuntimeError("lstm_variant_forward: gradients need save=SAVE_GATES or SAVE_CELLS")
    grads = grads[:3]
    if all(grad is None for grad in grads):
        return (None,) * _NUM_INPUTS
    *inputs, y, products, cells = ctx.saved_tensors
    layer, given = [*inputs[: _NUM_LAYER - 1], ctx.reverse], inputs[_NUM_LAYER - 1 :]
    needs = ctx.needs_input_grad
    needs_layer = needs[:_NUM_WITH_GRADIENT]
    needs_norms = needs[_NUM_LAYER : _NUM_LAYER + _NUM_NORMS]
    if torch.is_grad_enabled():
        # create_graph=True: as for the plain formula
        found = _differentiable_backward(layer, given, ctx.parts, grads)
    else:
        needs_weights = any(needs[3:5]) or needs[7]
        d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_bias, d_w_hr, *d_norms = op(
            *grads, *layer, *given, *ctx.parts, y, products, cells, needs[0], needs_weights
        )
        # outputs of one backward may not share memory with each other's accumulated gradients
        second = d_bias.clone() if needs[5] and needs[6] else d_bias
        found = [d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_bias, second, d_w_hr, *d_norms]
    of_layer, of_norms = found[:_NUM_WITH_GRADIENT], found[_NUM_WITH_GRADIENT:]
    return (
        *(grad if need else None for grad, need in zip(of_layer, needs_layer, strict=True)),
        *(None,) * (_NUM_LAYER - _NUM_WITH_GRADIENT),
        *(grad if need else None for grad, need in zip(of_norms, needs_norms, strict=True)),
        *(None,) * _NUM_REST,
    )


def _differentiable_backward(
    layer: list, given: list, parts: tuple[float, float], grads: tuple
) -> list[Tensor | None]:
    norms, (mask, *kept) = given[:_NUM_NORMS], given[_NUM_NORMS:]
    tensors = ops.apart([*layer[:_NUM_WITH_GRADIENT], *norms])
    hidden, cell = (
        part if tensor is None else tensor for tensor, part in zip(kept, parts, strict=True)
    )
    arguments = [*tensors[:_NUM_WITH_GRADIENT], *layer[_NUM_WITH_GRADIENT:]]
    norm_ih, norm_hh, norm_c, norm_c_bias = tensors[_NUM_WITH_GRADIENT:]
    variant = Variant(norm_ih, norm_hh, norm_c, norm_c_bias, mask, hidden, cell)
    run: Any = reference.lstm_variant
    outputs = run(*arguments, variant)
    return ops.gradients_with_graph(outputs, grads, tensors)


def _attach(suffix: str) -> None:
    """Fakes and autograd of one backend's pair of ops."""
    forward = f"fast_s2s::lstm_variant_forward{suffix}"
    backward = f"fast_s2s::lstm_variant_backward{suffix}"
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(backward, _fake_backward)
    backward_op = getattr(torch.ops.fast_s2s, f"lstm_variant_backward{suffix}").default
    torch.library.register_autograd(
        forward, functools.partial(_backward, backward_op), setup_context=_setup_context
    )
    ops.refuse_derivative(backward, forward)


for _suffix in ops.SUFFIXES.values():
    _attach(_suffix)
ops.serve_on_triton("lstm_variant_forward", "variant_lstm")
ops.serve_on_triton("lstm_variant_backward", "variant_lstm")
