"""Launches of the kernels for one layer: the recurrence, forward and backward, by any variant."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from fast_s2s.kernels import cell, configs, sequence, step
from fast_s2s.kernels.configs import Config, cdiv, power_of_2, programs
from fast_s2s.kernels.layer import Layer, previous, product

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# looks at a counter before a program gives its neighbours up: minutes on a GPU, where other kernels
# may hold its multiprocessors for a while. Nothing else interrupts a launch, so tests ask for less
SPINS = int(os.environ.get("FAST_S2S_SPINS", 1 << 29))


def options(config: Config, parts: int) -> dict[str, Any]:
    """Compile and launch options of a configuration, with so many programs of a batch tile."""
    # fusing is said, for triton means to change its default
    found: dict[str, Any] = {
        "num_warps": config.warps,
        "num_stages": config.stages,
        "enable_fp_fusion": True,
    }
    if config.variant == "grid" and parts > 1 and not INTERPRETED:
        # fails at once, instead of waiting for ever, where not all programs are resident; one that
        # is alone in its tile waits for nobody
        found["launch_cooperative_grid"] = True
    return found


def constants(config: Config, direction: str, hidden: int, type_name: str) -> dict[str, Any]:
    """Compile-time values of the kernel of a configuration, but for REVERSE."""
    found: dict[str, Any] = {"BLOCK_B": config.block_b, "BLOCK_U": config.block_u}
    if config.variant in ("cell", "variant"):
        return found
    found["PRECISION"] = "tf32" if type_name == "tf32" else "ieee"
    terms = hidden if direction == "forward" else 4 * hidden
    if config.variant == "single":
        found["BLOCK_U"] = power_of_2(hidden, least=16)
        found["AHEAD"] = config.ahead
    else:
        found["BLOCK_K"] = power_of_2(terms, least=16) if config.resident else config.block_k
        found["BLOCKS_K"] = cdiv(terms, found["BLOCK_K"])
    if config.variant == "grid":
        found |= {"RESIDENT": config.resident, "SPINS": SPINS}
    return found


def counters(tiles: int, device: torch.device) -> Tensor:
    """One counter for each batch tile of a grid kernel, made for each launch."""
    return torch.zeros(tiles, dtype=torch.int32, device=device)


def forward(
    layer: Layer,
    gates_x: Tensor,
    c: Tensor,
    y: Tensor,
    gates: Tensor | None,
    cells: Tensor | None,
) -> None:
    """Runs all steps: fills y, gates and cells where they are wanted, and c goes from c0 to c_n.

    gates_x: x·W_ihᵀ, (T, B, 4H) in the type of sums
    """
    sizes = layer.sizes()
    config = configs.choose("forward", sizes)
    if config.variant == "cell":
        return _cell_forward(layer, gates_x, c, y, gates, cells)
    steps, batch, hidden = sizes.steps, sizes.batch, sizes.hidden
    grid = programs(config, batch, hidden)
    given = (
        gates_x,
        layer.bias,
        layer.w_hh,
        layer.h0,
        c,
        layer.lengths,
        layer.reset,
        y,
        gates,
        cells,
    )
    constant = {
        "REVERSE": layer.reverse,
        **constants(config, "forward", hidden, sizes.type),
        **options(config, grid[1]),
    }
    if config.variant == "single":
        sequence.single_forward[grid[:1]](*given, steps, batch, hidden, **constant)
    elif config.variant == "grid":
        sequence.grid_forward[grid](
            *given, counters(grid[0], y.device), steps, batch, hidden, **constant
        )
    else:
        for t in order(layer):
            step.step_forward[grid](*given, t, steps, batch, hidden, **constant)
    return None


def backward(
    layer: Layer,
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    gates: Tensor,
    cells: Tensor,
    dc: Tensor,
    d_gates: Tensor,
    d_h: Tensor | None,
    unprojected: Tensor | None,
) -> None:
    """Runs all steps backward: fills d_gates, with a projection d_h (the gradient of each h_t) and
    unprojected (h_t before the projection), and dc goes from the gradient of c_n to that of c0."""
    sizes = layer.sizes()
    config = configs.choose("backward", sizes)
    if config.variant == "cell":
        return _cell_backward(layer, grad_y, grad_h_n, gates, cells, dc, d_gates, d_h, unprojected)
    steps, batch, hidden = sizes.steps, sizes.batch, sizes.hidden
    grid = programs(config, batch, hidden)
    given = (
        layer.w_hh,
        grad_y,
        grad_h_n,
        gates,
        cells,
        layer.c0.to(layer.acc),
        dc,
        layer.lengths,
        layer.reset,
        d_gates,
    )
    constant = {
        "REVERSE": layer.reverse,
        **constants(config, "backward", hidden, sizes.type),
        **options(config, grid[1]),
    }
    if config.variant == "single":
        sequence.single_backward[grid[:1]](*given, steps, batch, hidden, **constant)
    elif config.variant == "grid":
        sequence.grid_backward[grid](
            *given, counters(grid[0], dc.device), steps, batch, hidden, **constant
        )
    else:
        for t in reversed(order(layer)):
            step.step_backward[grid](*given, t, steps, batch, hidden, **constant)
    return None


def activate(layer: Layer, gates_x: Tensor, gates_h: Tensor) -> Tensor:
    """The activated gates (T, B, 4H) of all steps, from both products."""
    hidden = layer.c0.size(1)
    rows = gates_x.size(0) * gates_x.size(1)
    gates = layer.x.new_empty(gates_x.shape)
    block_b, block_u = configs.cell_tile(hidden)
    grid = (cdiv(rows, block_b), cdiv(hidden, block_u))
    cell.activate[grid](
        gates_x, gates_h, layer.bias, gates, rows, hidden, BLOCK_B=block_b, BLOCK_U=block_u
    )
    return gates


def order(layer: Layer) -> range:
    """Steps in the order they run."""
    steps = layer.x.size(0)
    return range(steps - 1, -1, -1) if layer.reverse else range(steps)


def _cell_forward(
    layer: Layer,
    gates_x: Tensor,
    c: Tensor,
    y: Tensor,
    gates: Tensor | None,
    cells: Tensor | None,
) -> None:
    steps, batch, hidden = gates_x.size(0), gates_x.size(1), c.size(1)
    block_b, block_u = configs.cell_tile(hidden)
    grid = (cdiv(batch, block_b), cdiv(hidden, block_u))
    h, unprojected = layer.h0, y.new_empty(batch, hidden)
    projected = layer.w_hr is not None
    for t in order(layer):
        if layer.reset is not None:
            h = h.masked_fill(layer.reset[t].unsqueeze(1), 0)
        gates_h = product(h, layer.w_hh)
        cell.cell_forward[grid](
            gates_x[t],
            *gates_x[t].stride(),
            gates_h,
            *gates_h.stride(),
            layer.bias,
            c,
            *c.stride(),
            layer.lengths,
            layer.reset,
            unprojected if projected else y[t],
            gates,
            cells,
            t,
            steps,
            batch,
            hidden,
            BLOCK_B=block_b,
            BLOCK_U=block_u,
        )
        if layer.w_hr is not None:
            y[t] = product(unprojected, layer.w_hr)
        h = y[t]
        if layer.lengths is not None:
            # a row that has not begun keeps h0
            h = torch.where((layer.lengths > t).unsqueeze(1), h, layer.h0)


def _cell_backward(
    layer: Layer,
    grad_y: Tensor | None,
    grad_h_n: Tensor | None,
    gates: Tensor,
    cells: Tensor,
    dc: Tensor,
    d_gates: Tensor,
    d_h: Tensor | None,
    unprojected: Tensor | None,
) -> None:
    steps, batch, hidden = cells.shape
    acc = layer.acc
    c_prev = previous(layer, cells, layer.c0.to(acc))
    block_b, block_u = configs.cell_tile(hidden)
    grid = (cdiv(batch, block_b), cdiv(hidden, block_u))
    if unprojected is not None:
        unprojected.copy_(gates[..., 3 * hidden :].to(acc) * cells.tanh())
    # what the step after sends back; at a row's last step, what h_n does
    back = torch.zeros_like(layer.h0, dtype=acc) if grad_h_n is None else grad_h_n.to(acc)
    for t in reversed(order(layer)):
        whole = back if grad_y is None else back + grad_y[t]
        dh = whole
        if d_h is not None and layer.w_hr is not None:
            d_h[t] = whole
            if layer.lengths is not None:
                d_h[t].masked_fill_((layer.lengths <= t).unsqueeze(1), 0)
            dh = product(d_h[t], layer.w_hr.t())
        cell.cell_backward[grid](
            gates,
            cells,
            c_prev[t],
            *c_prev[t].stride(),
            dh,
            *dh.stride(),
            dc,
            layer.lengths,
            layer.reset,
            d_gates,
            t,
            steps,
            batch,
            hidden,
            BLOCK_B=block_b,
            BLOCK_U=block_u,
        )
        sent = product(d_gates[t], layer.w_hh.t())
        if layer.reset is not None:
            sent = sent.masked_fill(layer.reset[t].unsqueeze(1), 0)
        if layer.lengths is not None:
            sent = torch.where((layer.lengths > t).unsqueeze(1), sent, back)
        back = sent
