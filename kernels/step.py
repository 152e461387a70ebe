"""One launch per step: the recurrent product with the gate math as its epilogue.

The loop over steps is on the host and never waits for the device, so a CUDA graph can hold it.
Only for R = H, that is without a projection.
"""

import triton
import triton.language as tl

from fast_s2s.kernels.cell import (
    ANYWHERE,
    add_bias,
    cell,
    cell_gradient,
    load_gates,
    row_state,
    save,
    store_gates,
    tile,
)
from fast_s2s.kernels.products import d_gates_times_weights, hidden_times_weights

# h0 is loaded at every step, by copies in the background only if it is known to be aligned
_BUT_H0 = [name for name in ANYWHERE if name != "h0"]


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=_BUT_H0)
def step_forward(
    gates_x,  # Acc (T, B, 4H): x·W_ihᵀ
    bias,  # Acc (4H) or None
    w_hh,  # Io (4H, H)
    h0,  # Io (B, H)
    c,  # Acc (B, H): the state, before and after
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    y,  # Io (T, B, H): step t is written, the step before it read
    gates,  # Io (T, B, 4H) or None
    cells,  # Acc (T, B, H) or None
    t,
    T,
    B,
    H,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCKS_K: tl.constexpr,
):
    """Step t. Grid (rows, units). Rows past their length are not written."""
    rows, units = tile(BLOCK_B, BLOCK_U)
    live, first, _, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
    i, f, g, o = hidden_times_weights(
        w_hh, y, h0, t, rows, units, first, keep, H, B, H,
        REVERSE, PRECISION, BLOCK_B, BLOCK_U, BLOCK_K, BLOCKS_K,
    )  # fmt: skip
    inside = live[:, None] & (units < H)[None, :]
    row = t.to(tl.int64) * B + rows
    xi, xf, xg, xo = load_gates(gates_x, row, units, inside, H)
    i, f, g, o = i + xi, f + xf, g + xg, o + xo
    if bias is not None:
        i, f, g, o = add_bias(i, f, g, o, bias, units, H)
    pc = c + rows[:, None] * H + units[None, :]
    c_prev = tl.load(pc, inside & keep[:, None], 0)
    i, f, g, o, c_new, h = cell(i, f, g, o, c_prev)
    tl.store(pc, c_new, inside)
    tl.store(y + row[:, None] * H + units[None, :], h, inside)
    save(gates, cells, i, f, g, o, c_new, t, rows, units, inside, B, H)


@triton.jit
def load_saved(
    grad_y,
    grad_h_n,
    gates,
    cells,
    c0,
    lengths,
    reset,
    t,
    T,
    B,
    H,
    rows,
    units,
    REVERSE: tl.constexpr,
):
    """All that backward reads of step t, in float32, and which of the rows run and keep their
    state; none run where t is no step."""
    live, first, last, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
    inside = live[:, None] & (units < H)[None, :]
    row = t.to(tl.int64) * B + rows
    at = row[:, None] * H + units[None, :]
    state = rows[:, None] * H + units[None, :]
    dh = tl.zeros(at.shape, tl.float32)
    if grad_y is not None:
        dh += tl.load(grad_y + at, inside, 0).to(tl.float32)
    if grad_h_n is not None:
        dh += tl.load(grad_h_n + state, inside & last[:, None], 0).to(tl.float32)
    i, f, g, o = load_gates(gates, row, units, inside, H)
    c = tl.load(cells + at, inside, 0)
    known = inside & keep[:, None]
    before = (t + 1 if REVERSE else t - 1).to(tl.int64) * B + rows
    c_prev = tl.load(cells + before[:, None] * H + units[None, :], known & (first == 0)[:, None], 0)
    c_first = tl.load(c0 + state, known & first[:, None], 0)
    c_prev = tl.where(first[:, None], c_first, c_prev)
    i, f, g, o = i.to(tl.float32), f.to(tl.float32), g.to(tl.float32), o.to(tl.float32)
    return dh, i, f, g, o, c, c_prev, live, keep


@triton.jit
def flow(rows, t, T, B, lengths, reset, REVERSE: tl.constexpr):
    """Rows at step t whose h goes on into a next step, which does not forget it."""
    live, _, last, _ = row_state(rows, t, T, B, lengths, None, REVERSE)
    flows = live & (last == 0)
    if reset is not None:
        after = t - 1 if REVERSE else t + 1
        forget = tl.load(reset + after.to(tl.int64) * B + rows, mask=flows, other=0)
        flows = flows & (forget == 0)
    return flows


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def step_backward(
    w_hh,  # Io (4H, H)
    grad_y,  # Io (T, B, H) or None
    grad_h_n,  # Io (B, H) or None
    gates,  # Io (T, B, 4H)
    cells,  # Acc (T, B, H)
    c0,  # Acc (B, H)
    dc,  # Acc (B, H): in, the gradient of c; out, that of the c before
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    d_gates,  # Io (T, B, 4H): step t is written, the step that ran after it read
    t,
    T,
    B,
    H,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCKS_K: tl.constexpr,
):
    """Step t. Grid (rows, units). Rows past their length are not written."""
    rows, units = tile(BLOCK_B, BLOCK_U)
    flows = flow(rows, t, T, B, lengths, reset, REVERSE)
    grad, i, f, g, o, c, c_prev, live, keep = load_saved(
        grad_y, grad_h_n, gates, cells, c0, lengths, reset, t, T, B, H, rows, units, REVERSE
    )
    dh = d_gates_times_weights(
        w_hh, d_gates, t, rows, units, flows, H, B,
        REVERSE, PRECISION, BLOCK_B, BLOCK_U, BLOCK_K, BLOCKS_K,
    )  # fmt: skip
    inside = live[:, None] & (units < H)[None, :]
    pc = dc + rows[:, None] * H + units[None, :]
    d_c = tl.load(pc, inside, 0)
    d_i, d_f, d_g, d_o, d_c = cell_gradient(i, f, g, o, c, c_prev, grad + dh, d_c)
    store_gates(d_gates, d_i, d_f, d_g, d_o, t.to(tl.int64) * B + rows, units, inside, H)
    tl.store(pc, tl.where(keep[:, None], d_c, 0), inside)
