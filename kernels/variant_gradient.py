"""The gradients of the steps in variant.py, of which a kernel undoes one."""

import triton
import triton.language as tl

from fast_s2s.kernels.cell import ANYWHERE, load_gates, row_state, sigmoid, store_gates, tanh
from fast_s2s.kernels.variant import (
    kept_part,
    load_gain,
    load_rows,
    normed,
    normed_gates,
    whole_rows,
)


@triton.jit
def receive(
    grad_y, carried, sent, mask, kept_hidden, lengths, reset, rows, units, t, T, B, R,
    ZONEOUT_HIDDEN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """The gradient of the new h of step t, 0 for rows that do not run.

    carried: Acc (B, R): in, of the h after step t but for what `sent` holds; out, of the h before
             it, likewise. A row that does not run keeps what it gets
    sent:    Acc (B, R): what the product of the step that ran after this one sends back
    """
    live, _, _, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
    after = t - 1 if REVERSE else t + 1
    _, _, _, took = row_state(rows, after, T, B, lengths, reset, REVERSE)
    inside = (rows < B)[:, None] & (units < R)[None, :]
    runs = live[:, None] & inside
    state = rows[:, None] * R + units[None, :]
    at = (t.to(tl.int64) * B + rows)[:, None] * R + units[None, :]
    arrives = tl.load(sent + state, inside & took[:, None], 0)
    if mask is not None:
        arrives *= tl.load(mask + state, inside, 0).to(arrives.dtype)
    d = tl.load(carried + state, inside, 0) + arrives
    whole = d
    if grad_y is not None:
        whole += tl.load(grad_y + at, runs, 0).to(d.dtype)
    stays = kept_part(kept_hidden, ZONEOUT_HIDDEN, at, runs, d)
    passes = tl.where(live[:, None], tl.where(keep[:, None], whole * stays, 0), d)
    tl.store(carried + state, passes, inside)
    return tl.where(runs, whole * (1 - stays), 0)


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def variant_receive(
    grad_y,  # Io (T, B, R) or None
    carried,  # Acc (B, R)
    sent,  # Acc (B, R)
    mask,
    kept_hidden,
    lengths,
    reset,
    d_h,  # Io (T, B, R): the gradient of the new h of step t
    t,
    T,
    B,
    R,
    ZONEOUT_HIDDEN: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """What comes before a projection's product in the gradient of step t. Grid (rows,)."""
    rows, units = whole_rows(BLOCK_B, BLOCK_U)
    found = receive(
        grad_y, carried, sent, mask, kept_hidden, lengths, reset, rows, units, t, T, B, R,
        ZONEOUT_HIDDEN, REVERSE,
    )  # fmt: skip
    at = (t.to(tl.int64) * B + rows)[:, None] * R + units[None, :]
    tl.store(d_h + at, found, (rows < B)[:, None] & (units < R)[None, :])


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def variant_backward(
    gates_x,  # Acc (T, B, 4H) with layer norm: as in `variant_forward`
    saved,  # Io (T, B, ·): as that left them
    saved_row,
    norm_hh,
    norm_c,
    norm_c_bias,
    cells,  # Acc (T, B, H)
    c0,  # Acc (B, H)
    mask,
    kept_hidden,
    kept_cell,
    lengths,
    reset,
    grad_y,  # Io (T, B, R) or None
    carried,  # Acc (B, R)
    sent,  # Acc (B, R)
    d_unprojected,  # Acc (B, H): the gradient of h before a projection, or None without one
    dc,  # Acc (B, H): in, the gradient of c after step t; out, of the c before
    d_gates,  # Io (T, B, 4H): not written for rows past their length, as the next
    d_product,  # Io (T, B, 4H): of `product`, with layer norm
    d_norm_hh,  # Acc (B, 4H): each row's part, to which step t is added; as the next two
    d_norm_c,  # Acc (B, H)
    d_norm_c_bias,
    unprojected,  # Io (T, B, H): h before a projection, again
    t,
    T,
    B,
    H,
    ZONEOUT_HIDDEN: tl.constexpr,
    ZONEOUT_CELL: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Step t of all rows. Grid (rows,)."""
    rows, units = whole_rows(BLOCK_B, BLOCK_U)
    live, first, _, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
    inside = (rows < B)[:, None] & (units < H)[None, :]
    runs = live[:, None] & inside
    row = t.to(tl.int64) * B + rows
    at = row[:, None] * H + units[None, :]
    state = rows[:, None] * H + units[None, :]
    d_c = tl.load(dc + state, inside, 0)
    acc = d_c.dtype
    if d_unprojected is None:
        dh = receive(
            grad_y, carried, sent, mask, kept_hidden, lengths, reset, rows, units, t, T, B, H,
            ZONEOUT_HIDDEN, REVERSE,
        )  # fmt: skip
    else:
        dh = tl.load(d_unprojected + state, runs, 0)
    i, f, g, o = load_rows(saved, saved_row, row, units, runs, H)
    i, f, g, o = i.to(acc), f.to(acc), g.to(acc), o.to(acc)
    if norm_hh is not None:
        hat_i, hat_f, hat_g, hat_o, scale = normed_gates(i, f, g, o, runs, 4 * H)
        gain_i, gain_f, gain_g, gain_o = load_gain(norm_hh, units, H)
        i, f, g, o = load_gates(gates_x, row, units, runs, H)
        i, f = sigmoid(i + hat_i * gain_i), sigmoid(f + hat_f * gain_f)
        g, o = tanh(g + hat_g * gain_g), sigmoid(o + hat_o * gain_o)
    known = runs & keep[:, None]
    before = (t + 1 if REVERSE else t - 1).to(tl.int64) * B + rows
    c_prev = tl.load(cells + before[:, None] * H + units[None, :], known & (first == 0)[:, None], 0)
    c_first = tl.load(c0 + state, known & first[:, None], 0)
    c_prev = tl.where(first[:, None], c_first, c_prev)
    c_new = f * c_prev + i * g

    # from h to the new c
    if norm_c is not None:
        hat, c_scale = normed(c_new, runs, H)
        gain = tl.load(norm_c + units, units < H, 0)[None, :]
        tanh_c = tanh(hat * gain + tl.load(norm_c_bias + units, units < H, 0)[None, :])
        d_shown = dh * o * (1 - tanh_c * tanh_c)
        add_to(d_norm_c + state, d_shown * hat, runs)
        add_to(d_norm_c_bias + state, d_shown, runs)
        d_shown = tl.where(runs, d_shown * gain, 0)
        mean, along = tl.sum(d_shown, 1) / H, tl.sum(d_shown * hat, 1) / H
        d_shown = (d_shown - mean[:, None] - hat * along[:, None]) * c_scale
    else:
        tanh_c = tanh(c_new)
        d_shown = dh * o * (1 - tanh_c * tanh_c)
    if unprojected is not None:
        tl.store(unprojected + at, o * tanh_c, runs)

    # from the c after the step to the gates and the c before
    stays = kept_part(kept_cell, ZONEOUT_CELL, at, runs, d_c)
    d_new = d_c * (1 - stays) + d_shown
    back = tl.where(keep[:, None], d_c * stays + d_new * f, 0)
    tl.store(dc + state, tl.where(live[:, None], back, d_c), inside)
    d_i, d_f = d_new * g * i * (1 - i), d_new * c_prev * f * (1 - f)
    d_g, d_o = d_new * i * (1 - g * g), dh * tanh_c * o * (1 - o)
    store_gates(d_gates, d_i, d_f, d_g, d_o, row, units, runs, H)

    # through the layer norm of the product
    if norm_hh is not None:
        p = d_norm_hh + rows[:, None] * (4 * H) + units[None, :]
        add_to(p, d_i * hat_i, runs)
        add_to(p + H, d_f * hat_f, runs)
        add_to(p + 2 * H, d_g * hat_g, runs)
        add_to(p + 3 * H, d_o * hat_o, runs)
        d_i, d_f = tl.where(runs, d_i * gain_i, 0), tl.where(runs, d_f * gain_f, 0)
        d_g, d_o = tl.where(runs, d_g * gain_g, 0), tl.where(runs, d_o * gain_o, 0)
        mean = (tl.sum(d_i + d_f + d_g + d_o, 1) / (4 * H))[:, None]
        total = d_i * hat_i + d_f * hat_f + d_g * hat_g + d_o * hat_o
        along = (tl.sum(total, 1) / (4 * H))[:, None]
        d_i, d_f = (d_i - mean - hat_i * along) * scale, (d_f - mean - hat_f * along) * scale
        d_g, d_o = (d_g - mean - hat_g * along) * scale, (d_o - mean - hat_o * along) * scale
        store_gates(d_product, d_i, d_f, d_g, d_o, row, units, runs, H)


@triton.jit
def add_to(pointers, values, runs):
    """A program's own sums, which no other writes."""
    tl.store(pointers, tl.load(pointers, runs, 0) + values, runs)
