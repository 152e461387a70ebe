"""The ops of `fast_s2s.ops_variant` on Triton: checks, products over the whole sequence, launches.

As in lstm.py, products over all steps at once are torch's, and so is the layer norm of x·W_ihᵀ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.kernels import launch, variant, variant_gradient
from fast_s2s.kernels.configs import Config, cdiv, power_of_2
from fast_s2s.kernels.layer import Layer, check, dense, previous, product, running
from fast_s2s.kernels.lstm import on_device
from fast_s2s.reference import SAVE_GATES, SAVE_NONE

_EPSILON = 1e-5


class Extras(NamedTuple):
    """Checked and dense: `fast_s2s.reference.Variant`, masks apart from numbers."""

    norm_ih: Tensor | None
    norm_hh: Tensor | None
    norm_c: Tensor | None
    norm_c_bias: Tensor | None
    mask: Tensor | None
    kept_hidden: Tensor | None
    kept_cell: Tensor | None
    zoneout_hidden: float
    zoneout_cell: float

    @property
    def zoneouts(self) -> dict[str, float]:
        """Compile-time values of the kernels."""
        return {"ZONEOUT_HIDDEN": self.zoneout_hidden, "ZONEOUT_CELL": self.zoneout_cell}


def lstm_variant_forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, h_n, c_n, and what backward takes: the products, with layer norm both as they are, else
    the activated gates; and the cell states. Those as `save` says.

    args: the op's, by its schema in `fast_s2s.ops_variant`
    """
    *given, save = args
    if save not in (0, 1, 2):
        raise RuntimeError(f"save: expected 0, 1 or 2, got {save}")
    layer, extras = _read(given)
    x, norm_hh = layer.x, extras.norm_hh
    hidden, acc = layer.c0.size(1), layer.acc
    y = layer.x.new_empty(*x.shape[:2], layer.h0.size(1))
    saved = x.new_empty(0)
    if save == SAVE_GATES:
        saved = layer.padded((4 if norm_hh is None else 8) * hidden)
    cells = layer.padded(hidden, dtype=acc) if save != SAVE_NONE else x.new_empty(0, dtype=acc)
    h, c = layer.h0.clone(), layer.c0.to(acc, copy=True)
    if y.numel():
        with on_device(x):
            from_x = product(layer.x, layer.w_ih)
            kept = None
            if save == SAVE_GATES and norm_hh is None:
                kept = saved
            elif save == SAVE_GATES:
                saved[..., : 4 * hidden] = from_x
                kept = saved[..., 4 * hidden :]
            gates_x = _gates_x(layer, extras, from_x)
            _forward(layer, extras, gates_x, h, c, y, kept, cells if save != SAVE_NONE else None)
    return y, h, c.to(x.dtype), saved, cells


def lstm_variant_backward(*args: Any) -> tuple[Tensor, ...]:
    """The gradients of x, h0, c0, w_ih, w_hh, the biases, w_hr and the four norms; empty where not
    needed or not there.

    args: the op's
    """
    grad_y, grad_h_n, grad_c_n, *given, y, products, cells, needs_x, needs_weights = args
    layer, extras = _read(given)
    x, norm_hh = layer.x, extras.norm_hh
    steps, batch, _ = x.shape
    hidden, output = layer.c0.size(1), layer.h0.size(1)
    grad_y = dense("grad_y", grad_y, x, (steps, batch, output))
    grad_h_n = dense("grad_h_n", grad_h_n, x, (batch, output))
    grad_c_n = dense("grad_c_n", grad_c_n, x, (batch, hidden))
    y = _kept("y", y, x, (steps, batch, output))
    cells = _kept("cells", cells, x, (steps, batch, hidden), layer.acc)
    width = (4 if norm_hh is None else 8) * hidden
    # nothing is kept with SAVE_CELLS
    shape = (0,) if products.dim() == 1 else (steps, batch, width)
    products = _kept("products", products, x, shape)
    with on_device(x):
        fed = previous(layer, y, layer.h0)
        if extras.mask is not None:
            fed = fed * extras.mask
        run = _Backward(layer, extras, fed, products, cells)
        run.take_steps(grad_y, grad_h_n, grad_c_n)
        return run.gradients(needs_x, needs_weights)


def _kept(name: str, tensor: Tensor, *like: Any) -> Tensor:
    """As `dense`, of what is there in any case."""
    found = dense(name, tensor, *like)
    assert found is not None
    return found


def _read(args: Sequence[Any]) -> tuple[Layer, Extras]:
    """What both ops are given: a layer, four norms, three masks, two numbers.

    Raises RuntimeError naming what does not fit.
    """
    layer = check(*args[:11])
    norms, masks, (zoneout_hidden, zoneout_cell) = args[11:15], args[15:18], args[18:]
    steps, batch = layer.x.shape[:2]
    hidden, output = layer.c0.size(1), layer.h0.size(1)
    given = sum(norm is not None for norm in norms)
    if given not in (0, 4):
        raise RuntimeError(
            "norm_ih, norm_hh, norm_c, norm_c_bias: expected all of them or none, "
            f"got {given} of them"
        )
    for name, part in (("zoneout_hidden", zoneout_hidden), ("zoneout_cell", zoneout_cell)):
        if not 0 <= part <= 1:
            raise RuntimeError(f"{name}: expected a number in 0..1, got {part}")
    names = ("norm_ih", "norm_hh", "norm_c", "norm_c_bias")
    norm_ih, norm_hh, norm_c, norm_c_bias = (
        dense(name, norm, layer.x, ((4 if i < 2 else 1) * hidden,), layer.acc)
        for i, (name, norm) in enumerate(zip(names, norms, strict=True))
    )
    mask = dense("recurrent_mask", masks[0], layer.x, (batch, output))
    kept_hidden = dense("kept_hidden", masks[1], layer.x, (steps, batch, output), torch.bool)
    kept_cell = dense("kept_cell", masks[2], layer.x, (steps, batch, hidden), torch.bool)
    numbers = zoneout_hidden, zoneout_cell
    found = (norm_ih, norm_hh, norm_c, norm_c_bias, mask, kept_hidden, kept_cell)
    return layer, Extras(*found, *numbers)


def _gates_x(layer: Layer, extras: Extras, from_x: Tensor) -> Tensor:
    """What the gates get from x: `from_x`, x·W_ihᵀ, normed, with biases."""
    found = from_x
    if extras.norm_ih is not None:
        found = F.layer_norm(from_x, extras.norm_ih.shape, extras.norm_ih, eps=_EPSILON)
    return found if layer.bias is None else found + layer.bias


def _launch(width: int, batch: int) -> tuple[tuple[int], dict[str, Any]]:
    """The grid and options of kernels whose programs have whole rows of so many units."""
    rows, units = tile(width)
    options = launch.options(Config("variant", rows, units, warps=warps(units)), 1)
    return (cdiv(batch, rows),), {"BLOCK_B": rows, "BLOCK_U": units, **options}


def tile(width: int) -> tuple[int, int]:
    """Rows, and units with all of a row's among them."""
    units = power_of_2(width)
    return max(1, 512 // units), units


def warps(units: int) -> int:
    """So that a thread has no more than eight numbers of a tile, while there are threads."""
    return min(max(units // 256, 4), 32)


def _forward(
    layer: Layer,
    extras: Extras,
    gates_x: Tensor,
    h: Tensor,
    c: Tensor,
    y: Tensor,
    saved: Tensor | None,
    cells: Tensor | None,
) -> None:
    """Runs all steps: fills y, and `saved` and `cells` where they are wanted; h and c go from what
    a row begins with to what it ends with.
    """
    steps, batch, hidden, output = *y.shape[:2], c.size(1), h.size(1)
    order = launch.order(layer)
    fed = h if extras.mask is None else h * extras.mask
    if layer.reset is not None:
        fed = fed.masked_fill(layer.reset[order[0]].unsqueeze(1), 0)
    fed = fed.clone()
    grid, constants = _launch(hidden, batch)
    output_grid, output_constants = _launch(output, batch)
    unprojected = None if layer.w_hr is None else y.new_empty(batch, hidden)
    for t in order:
        variant.variant_forward[grid](
            gates_x,
            product(fed, layer.w_hh),
            extras.norm_hh,
            extras.norm_c,
            extras.norm_c_bias,
            c,
            h,
            extras.mask,
            extras.kept_hidden,
            extras.kept_cell,
            layer.lengths,
            layer.reset,
            y,
            unprojected,
            fed,
            saved,
            0 if saved is None else saved.stride(1),
            cells,
            t,
            steps,
            batch,
            hidden,
            **extras.zoneouts,
            REVERSE=layer.reverse,
            **constants,
        )
        if unprojected is not None and layer.w_hr is not None:
            variant.variant_settle[output_grid](
                product(unprojected, layer.w_hr),
                h,
                extras.mask,
                extras.kept_hidden,
                layer.lengths,
                layer.reset,
                y,
                fed,
                t,
                steps,
                batch,
                output,
                ZONEOUT_HIDDEN=extras.zoneout_hidden,
                REVERSE=layer.reverse,
                **output_constants,
            )


class _Backward:
    """One call: what is computed again, the steps, and the gradients made of what they leave."""

    def __init__(
        self, layer: Layer, extras: Extras, fed: Tensor, products: Tensor, cells: Tensor
    ) -> None:
        self.layer, self.extras, self.fed, self.cells = layer, extras, fed, cells
        hidden, output, acc = layer.c0.size(1), layer.h0.size(1), layer.acc
        self.hidden = hidden
        self.normed = extras.norm_hh is not None
        x = running(layer, layer.x)
        self.from_x: Tensor | None = None
        self.gates_x: Tensor | None = None
        if self.normed:
            if products.numel():
                self.from_x = running(layer, products[..., : 4 * hidden]).to(acc)
                self.saved = products[..., 4 * hidden :]
            else:
                self.from_x = product(x, layer.w_ih)
                self.saved = product(fed, layer.w_hh).to(x.dtype)
            self.gates_x = _gates_x(layer, extras, self.from_x)
        elif products.numel():
            self.saved = products
        else:
            self.saved = launch.activate(layer, product(x, layer.w_ih), product(fed, layer.w_hh))

        def sums(*shape: int) -> Tensor:
            return x.new_zeros(shape, dtype=acc)

        batch = x.size(1)
        self.d_gates = layer.padded(4 * hidden)
        self.d_product = layer.padded(4 * hidden) if self.normed else self.d_gates
        self.d_norm_hh = sums(batch, 4 * hidden) if self.normed else None
        self.d_norm_c = sums(batch, hidden) if self.normed else None
        self.d_norm_c_bias = sums(batch, hidden) if self.normed else None
        projected = layer.w_hr is not None
        self.d_h = layer.padded(output) if projected else None
        self.unprojected = layer.padded(hidden) if projected else None
        self.carried, self.sent = sums(batch, output), sums(batch, output)
        self.dc = sums(batch, hidden)

    def take_steps(
        self, grad_y: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None
    ) -> None:
        """All steps, from the last to the first."""
        layer, extras = self.layer, self.extras
        if grad_h_n is not None:
            self.carried.copy_(grad_h_n)
        if grad_c_n is not None:
            self.dc.copy_(grad_c_n)
        if not self.d_gates.numel():
            return
        steps, batch = layer.x.shape[:2]
        grid, constants = _launch(self.hidden, batch)
        output = layer.h0.size(1)
        output_grid, output_constants = _launch(output, batch)
        c0 = layer.c0.to(layer.acc)
        for t in reversed(launch.order(layer)):
            d_unprojected = None
            if self.d_h is not None and layer.w_hr is not None:
                variant_gradient.variant_receive[output_grid](
                    grad_y,
                    self.carried,
                    self.sent,
                    extras.mask,
                    extras.kept_hidden,
                    layer.lengths,
                    layer.reset,
                    self.d_h,
                    t,
                    steps,
                    batch,
                    output,
                    ZONEOUT_HIDDEN=extras.zoneout_hidden,
                    REVERSE=layer.reverse,
                    **output_constants,
                )
                d_unprojected = product(self.d_h[t], layer.w_hr.t())
            variant_gradient.variant_backward[grid](
                self.gates_x,
                self.saved,
                self.saved.stride(1),
                extras.norm_hh,
                extras.norm_c,
                extras.norm_c_bias,
                self.cells,
                c0,
                extras.mask,
                extras.kept_hidden,
                extras.kept_cell,
                layer.lengths,
                layer.reset,
                grad_y,
                self.carried,
                self.sent,
                d_unprojected,
                self.dc,
                self.d_gates,
                self.d_product,
                self.d_norm_hh,
                self.d_norm_c,
                self.d_norm_c_bias,
                self.unprojected,
                t,
                steps,
                batch,
                self.hidden,
                **extras.zoneouts,
                REVERSE=layer.reverse,
                **constants,
            )
            self.sent = product(self.d_product[t], layer.w_hh.t())

    def gradients(self, needs_x: bool, needs_weights: bool) -> tuple[Tensor, ...]:
        """As `lstm_variant_backward`."""
        layer, extras, hidden = self.layer, self.extras, self.hidden
        x, dtype, acc = layer.x, layer.x.dtype, layer.acc
        rows = self.d_gates.reshape(-1, 4 * hidden)
        d_bias = rows.sum(0, dtype=acc).to(dtype)
        nothing = [x.new_empty(0, dtype=acc) for _ in range(4)]
        d_norm_ih, d_norm_hh, d_norm_c, d_norm_c_bias = nothing
        if self.normed:
            assert self.from_x is not None and extras.norm_ih is not None
            assert self.d_norm_hh is not None
            assert self.d_norm_c is not None and self.d_norm_c_bias is not None
            d_rows, d_norm_ih = _norm_gradient(
                rows.to(acc), self.from_x.reshape(rows.shape), extras.norm_ih
            )
            rows = d_rows.to(dtype)
            d_norm_hh, d_norm_c = self.d_norm_hh.sum(0), self.d_norm_c.sum(0)
            d_norm_c_bias = self.d_norm_c_bias.sum(0)
        d_x, d_w_ih, d_w_hh, d_w_hr = (x.new_empty(0) for _ in range(4))
        if needs_x:
            d_x = (rows @ layer.w_ih).reshape(x.shape)
        if needs_weights:
            output = layer.h0.size(1)
            d_w_ih = rows.t() @ running(layer, x).reshape(-1, x.size(2))
            d_w_hh = self.d_product.reshape(-1, 4 * hidden).t() @ self.fed.reshape(-1, output)
            if self.d_h is not None and self.unprojected is not None:
                d_w_hr = self.d_h.reshape(-1, output).t() @ self.unprojected.reshape(-1, hidden)
        d_h0 = self._initial_gradient().to(dtype)
        of_norms = d_norm_ih, d_norm_hh, d_norm_c, d_norm_c_bias
        return d_x, d_h0, self.dc.to(dtype), d_w_ih, d_w_hh, d_bias, d_w_hr, *of_norms

    def _initial_gradient(self) -> Tensor:
        """d h0: what was carried before the first step to run, and what its product sends back."""
        layer = self.layer
        if not self.d_gates.numel():
            return self.carried
        at = launch.order(layer)[0]
        sent = self.sent if self.extras.mask is None else self.sent * self.extras.mask
        # of rows that did not run there it is 0
        if layer.reset is not None:
            sent = sent.masked_fill(layer.reset[at].unsqueeze(1), 0)
        return self.carried + sent


def _norm_gradient(grad: Tensor, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Of x (N, 4H) and of the gain, where `grad` is that of x normed, times the gain."""
    shape = list(gain.shape)
    _, mean, scale = torch.native_layer_norm(x, shape, gain, None, _EPSILON)
    d_x, d_gain, _ = torch.ops.aten.native_layer_norm_backward(
        grad, x, shape, mean, scale, gain, None, [True, True, False]
    )
    return d_x, d_gain
