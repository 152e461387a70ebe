"""Matrix products of one step: device functions that step.py and sequence.py share.

The operand that changes from step to step is read from where the step before has left it: h from
`y`, the gradients of the gates from `d_gates`. Nothing is copied, and no two steps share a place.
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a·b, summed in float32."""
    if INTERPRETED:
        # the interpreter multiplies the bits of bfloat16 as if they were integers; in float32 the
        # products are the same, to the last bit
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def load_recurrent(w_hh, ks, units, R, H):
    """W_hhᵀ of four gates: tiles (k, unit) of a dense w_hh (4H, R)."""
    inside = (ks < R)[:, None] & (units < H)[None, :]
    row = units[None, :].to(tl.int64)
    k = ks[:, None]
    w_i = tl.load(w_hh + row * R + k, inside, 0)
    w_f = tl.load(w_hh + (row + H) * R + k, inside, 0)
    w_g = tl.load(w_hh + (row + 2 * H) * R + k, inside, 0)
    w_o = tl.load(w_hh + (row + 3 * H) * R + k, inside, 0)
    return w_i, w_f, w_g, w_o


@triton.jit
def load_hidden(y, h0, t, rows, first, keep, ks, R, B, REVERSE: tl.constexpr):
    """h before step t, (row, k): from y, from h0 at a row's first step, zero where forgotten."""
    before = t + 1 if REVERSE else t - 1
    inside = ks < R
    from_y = (keep & (first == 0))[:, None] & inside[None, :]
    from_h0 = (keep & first)[:, None] & inside[None, :]
    row = before.to(tl.int64) * B + rows
    # past the L1 cache, which another program's stores do not reach
    h = tl.load(y + row[:, None] * R + ks[None, :], from_y, 0, cache_modifier=".cg")
    h_first = tl.load(h0 + rows[:, None] * R + ks[None, :], from_h0, 0)
    return tl.where(first[:, None], h_first, h)


@triton.jit
def multiply(h, w_i, w_f, w_g, w_o, i, f, g, o, PRECISION: tl.constexpr):
    i = dot(h, w_i, i, PRECISION)
    f = dot(h, w_f, f, PRECISION)
    g = dot(h, w_g, g, PRECISION)
    o = dot(h, w_o, o, PRECISION)
    return i, f, g, o


@triton.jit
def hidden_times_weights(
    w_hh,
    y,
    h0,
    t,
    rows,
    units,
    first,
    keep,
    R,
    B,
    H,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCKS_K: tl.constexpr,
):
    """h·W_hhᵀ of step t for the units of this program, the weights read on the way."""
    i = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    f = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    g = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    o = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    for k in range(BLOCKS_K):
        ks = k * BLOCK_K + tl.arange(0, BLOCK_K)
        h = load_hidden(y, h0, t, rows, first, keep, ks, R, B, REVERSE)
        w_i, w_f, w_g, w_o = load_recurrent(w_hh, ks, units, R, H)
        i, f, g, o = multiply(h, w_i, w_f, w_g, w_o, i, f, g, o, PRECISION)
    return i, f, g, o


@triton.jit
def load_d_gates(d_gates, t, rows, flows, ks, H, B, REVERSE: tl.constexpr):
    """The gates' gradients of the step that ran after step t, (row, k), k counting all 4H."""
    after = t - 1 if REVERSE else t + 1
    row = after.to(tl.int64) * B + rows
    inside = flows[:, None] & (ks < 4 * H)[None, :]
    return tl.load(d_gates + row[:, None] * (4 * H) + ks[None, :], inside, 0, cache_modifier=".cg")


@triton.jit
def load_transposed(w_hh, ks, terms, units, H):
    """A part of W_hh as it lies, `terms` rows of it: tile (k, unit)."""
    inside = (ks < terms)[:, None] & (units < H)[None, :]
    return tl.load(w_hh + ks[:, None].to(tl.int64) * H + units[None, :], inside, 0)


@triton.jit
def d_gates_times_weights(
    w_hh,
    d_gates,
    t,
    rows,
    units,
    flows,
    H,
    B,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCKS_K: tl.constexpr,
):
    """d_gates·W_hh of the step after t for the units of this program, the weights read on the
    way."""
    dh = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    for k in range(BLOCKS_K):
        ks = k * BLOCK_K + tl.arange(0, BLOCK_K)
        d = load_d_gates(d_gates, t, rows, flows, ks, H, B, REVERSE)
        w = load_transposed(w_hh, ks, 4 * H, units, H)
        dh = dot(d, w, dh, PRECISION)
    return dh
