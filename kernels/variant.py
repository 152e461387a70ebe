"""Steps of a layer whose formula is another than `torch.nn.LSTM`'s: layer norm, zoneout, dropout of
the state before.

Formula and sources: `fast_s2s.reference.Variant`. Each program has whole rows, over which layer
norm takes its sums. A step is a product by torch and one of these kernels, with a projection a
product and a kernel more.
"""

import triton
import triton.language as tl

from fast_s2s.kernels.cell import ANYWHERE, load_gates, row_state, sigmoid, tanh


@triton.jit
def whole_rows(BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr):
    """Rows (int64) of this program, of grid (rows,), and all units."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    return rows, tl.arange(0, BLOCK_U)


@triton.jit
def inverse_deviation(squares, size):
    """1 / the standard deviation, of a sum of squared distances from the mean."""
    return 1 / tl.sqrt(squares / size + 1e-5)


@triton.jit
def normed(x, inside, size):
    """Layer norm of each row of a tile, without gain and bias, and its gradient's scale."""
    mean = tl.sum(tl.where(inside, x, 0), 1) / size
    d = tl.where(inside, x - mean[:, None], 0)
    scale = inverse_deviation(tl.sum(d * d, 1), size)[:, None]
    return d * scale, scale


@triton.jit
def normed_gates(i, f, g, o, inside, size):
    """The same of four tiles that are one vector in each row."""
    total = tl.where(inside, i, 0) + tl.where(inside, f, 0)
    total += tl.where(inside, g, 0) + tl.where(inside, o, 0)
    mean = (tl.sum(total, 1) / size)[:, None]
    i, f = tl.where(inside, i - mean, 0), tl.where(inside, f - mean, 0)
    g, o = tl.where(inside, g - mean, 0), tl.where(inside, o - mean, 0)
    scale = inverse_deviation(tl.sum(i * i + f * f + g * g + o * o, 1), size)[:, None]
    return i * scale, f * scale, g * scale, o * scale, scale


@triton.jit
def load_gain(gain, units, H):
    """Four parts of a vector (4H), each as a row."""
    inside = units < H
    i = tl.load(gain + units, inside, 0)[None, :]
    f = tl.load(gain + H + units, inside, 0)[None, :]
    g = tl.load(gain + 2 * H + units, inside, 0)[None, :]
    o = tl.load(gain + 3 * H + units, inside, 0)[None, :]
    return i, f, g, o


@triton.jit
def kept_part(kept, PART: tl.constexpr, at, runs, like):
    """The part of a state that stays what it was: 0 or 1 by a mask, else PART."""
    if kept is not None:
        return (tl.load(kept + at, runs, 0) != 0).to(like.dtype)
    return tl.zeros_like(like) + PART


@triton.jit
def zoned(before, after, kept, PART: tl.constexpr, at, runs):
    """Zoneout. What is kept whole does not see the other, which may be no number."""
    if kept is not None:
        stays = tl.load(kept + at, runs, 0) != 0
        return tl.where(stays, before, after)
    if PART == 0:
        return after
    return PART * before + (1 - PART) * after


@triton.jit
def settle(
    h_new, h, y, fed, mask, kept_hidden, reset, rows, units, live, keep, t, T, B, R,
    ZONEOUT_HIDDEN: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """From the new h of step t to the state, the output and what the next step multiplies."""
    inside = (rows < B)[:, None] & (units < R)[None, :]
    runs = live[:, None] & inside
    at = (t.to(tl.int64) * B + rows)[:, None] * R + units[None, :]
    state = rows[:, None] * R + units[None, :]
    was = tl.load(h + state, inside, 0).to(h_new.dtype)
    before = tl.where(keep[:, None], was, 0)
    now = zoned(before, h_new, kept_hidden, ZONEOUT_HIDDEN, at, runs)
    now = tl.where(live[:, None], now, was)
    tl.store(h + state, now, inside)
    tl.store(y + at, tl.where(live[:, None], now, 0), inside)
    if mask is not None:
        now = now * tl.load(mask + state, inside, 0).to(now.dtype)
    if reset is not None:
        after = tl.zeros_like(rows) + (t - 1 if REVERSE else t + 1)
        known = (rows < B) & (after >= 0) & (after < T)
        forget = tl.load(reset + after * B + rows, known, 0)
        now = tl.where((forget != 0)[:, None], 0, now)
    tl.store(fed + state, now, inside)


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def variant_forward(
    gates_x,  # Acc (T, B, 4H): x·W_ihᵀ, normed, with biases
    product,  # Acc (B, 4H): fed·W_hhᵀ
    norm_hh,  # Acc (4H) or None, as the next two
    norm_c,  # Acc (H)
    norm_c_bias,
    c,  # Acc (B, H): the state, before and after
    h,  # Io (B, R): likewise
    mask,  # Io (B, R) or None
    kept_hidden,  # bool (T, B, R) or None
    kept_cell,  # bool (T, B, H) or None
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    y,  # Io (T, B, R)
    unprojected,  # Io (B, H): h before a projection, whose rest `variant_settle` does; or None
    fed,  # Io (B, R): what the next step multiplies
    saved,  # Io (T, B, ·) or None: `product` with layer norm, else the gates
    saved_row,
    cells,  # Acc (T, B, H) or None
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
    live, _, _, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
    inside = (rows < B)[:, None] & (units < H)[None, :]
    runs = live[:, None] & inside
    row = t.to(tl.int64) * B + rows
    i, f, g, o = load_gates(product, rows, units, runs, H)
    if norm_hh is not None:
        if saved is not None:
            store_rows(saved, saved_row, i, f, g, o, row, units, runs, H)
        i, f, g, o, _ = normed_gates(i, f, g, o, runs, 4 * H)
        gi, gf, gg, go = load_gain(norm_hh, units, H)
        i, f, g, o = i * gi, f * gf, g * gg, o * go
    xi, xf, xg, xo = load_gates(gates_x, row, units, runs, H)
    i, f, g, o = sigmoid(i + xi), sigmoid(f + xf), tanh(g + xg), sigmoid(o + xo)
    if norm_hh is None and saved is not None:
        store_rows(saved, saved_row, i, f, g, o, row, units, runs, H)
    state = rows[:, None] * H + units[None, :]
    at = row[:, None] * H + units[None, :]
    before = tl.load(c + state, runs & keep[:, None], 0)
    c_new = f * before + i * g
    shown = c_new
    if norm_c is not None:
        shown, _ = normed(c_new, runs, H)
        shown = shown * tl.load(norm_c + units, units < H, 0)[None, :]
        shown += tl.load(norm_c_bias + units, units < H, 0)[None, :]
    h_new = o * tanh(shown)
    c_new = zoned(before, c_new, kept_cell, ZONEOUT_CELL, at, runs)
    tl.store(c + state, c_new, runs)
    if cells is not None:
        tl.store(cells + at, c_new, runs)
    if unprojected is not None:
        tl.store(unprojected + state, tl.where(live[:, None], h_new, 0), inside)
    else:
        settle(
            h_new, h, y, fed, mask, kept_hidden, reset, rows, units, live, keep, t, T, B, H,
            ZONEOUT_HIDDEN, REVERSE,
        )  # fmt: skip


@triton.jit
def store_rows(saved, saved_row, i, f, g, o, row, units, runs, H):
    """Four tiles into rows that are so far apart."""
    p = saved + row[:, None] * saved_row + units[None, :]
    tl.store(p, i, runs)
    tl.store(p + H, f, runs)
    tl.store(p + 2 * H, g, runs)
    tl.store(p + 3 * H, o, runs)


@triton.jit
def load_rows(saved, saved_row, row, units, runs, H):
    """The inverse of `store_rows`."""
    p = saved + row[:, None] * saved_row + units[None, :]
    i = tl.load(p, runs, 0)
    f = tl.load(p + H, runs, 0)
    g = tl.load(p + 2 * H, runs, 0)
    o = tl.load(p + 3 * H, runs, 0)
    return i, f, g, o


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def variant_settle(
    projected,  # Acc (B, R): the new h of step t
    h,
    mask,
    kept_hidden,
    lengths,
    reset,
    y,
    fed,
    t,
    T,
    B,
    R,
    ZONEOUT_HIDDEN: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """What is left of step t behind a projection; arguments as of `variant_forward`."""
    rows, units = whole_rows(BLOCK_B, BLOCK_U)
    live, _, _, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
    runs = (live & (rows < B))[:, None] & (units < R)[None, :]
    h_new = tl.load(projected + rows[:, None] * R + units[None, :], runs, 0)
    settle(
        h_new, h, y, fed, mask, kept_hidden, reset, rows, units, live, keep, t, T, B, R,
        ZONEOUT_HIDDEN, REVERSE,
    )  # fmt: skip
