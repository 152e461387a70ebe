"""The whole sequence in one launch. Only for R = H, that is without a projection.

`single_*`: one program per batch tile holds all of W_hh on chip for all steps, h or the gradients
in registers; for small H. `grid_*`: each program owns some hidden units, their rows of W_hh on chip
too if RESIDENT, and the programs of a batch tile exchange h or d_gates through global memory after
every step (exchange.py). A batch tile stops at its longest row. T and B are run-time values.
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
from fast_s2s.kernels.exchange import publish, wait
from fast_s2s.kernels.products import (
    INTERPRETED,
    d_gates_times_weights,
    dot,
    hidden_times_weights,
    load_d_gates,
    load_hidden,
    load_recurrent,
    load_transposed,
    multiply,
)
from fast_s2s.kernels.step import flow, load_saved


@triton.jit
def longest(rows, T, B, lengths):
    """Steps of the longest of these rows."""
    steps = tl.zeros_like(rows) + T
    if lengths is not None:
        steps = tl.minimum(tl.load(lengths + rows, rows < B, 0), steps)
    count = tl.max(steps).to(tl.int32)
    if INTERPRETED:
        # the interpreter of triton 3.6 has it in an array of one element, by which numpy does not
        # count loops since 2.4
        count.handle.data = count.handle.data.reshape(())
    return count


@triton.jit
def load_inputs(gates_x, bias, s, steps, rows, units, B, H, REVERSE: tl.constexpr):
    """x·W_ihᵀ + b of the s-th step to run; zero after the last."""
    t = steps - 1 - s if REVERSE else s
    live = (rows < B) & (tl.zeros_like(rows) + s < steps)
    inside = live[:, None] & (units < H)[None, :]
    i, f, g, o = load_gates(gates_x, t.to(tl.int64) * B + rows, units, inside, H)
    if bias is not None:
        i, f, g, o = add_bias(i, f, g, o, bias, units, H)
    return i, f, g, o


@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def single_forward(
    gates_x,  # Acc (T, B, 4H): x·W_ihᵀ
    bias,  # Acc (4H) or None
    w_hh,  # Io (4H, H)
    h0,  # Io (B, H)
    c,  # Acc (B, H): the state, before and after
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    y,  # Io (T, B, H): not written past a row's length
    gates,  # Io (T, B, 4H) or None
    cells,  # Acc (T, B, H) or None
    T,
    B,
    H,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Grid (rows). BLOCK_U holds all H units. AHEAD: a step's tiles are loaded one step ahead, for
    registers in which to keep them."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.arange(0, BLOCK_U)
    steps = longest(rows, T, B, lengths)
    inside = (rows < B)[:, None] & (units < H)[None, :]
    state = rows[:, None] * H + units[None, :]
    w_i, w_f, w_g, w_o = load_recurrent(w_hh, units, units, H, H)
    h = tl.load(h0 + state, inside, 0)
    c_prev = tl.load(c + state, inside, 0)
    if AHEAD:
        i, f, g, o = load_inputs(gates_x, bias, 0, steps, rows, units, B, H, REVERSE)
    for s in range(steps):
        t = steps - 1 - s if REVERSE else s
        if AHEAD:
            # on their way while this step is computed
            next_i, next_f, next_g, next_o = load_inputs(
                gates_x, bias, s + 1, steps, rows, units, B, H, REVERSE
            )
        else:
            i, f, g, o = load_inputs(gates_x, bias, s, steps, rows, units, B, H, REVERSE)
        live, _, _, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
        forgets = (live & (keep == 0))[:, None]
        h = tl.where(forgets, 0, h)
        c_prev = tl.where(forgets, 0, c_prev)
        i, f, g, o = multiply(h, w_i, w_f, w_g, w_o, i, f, g, o, PRECISION)
        i, f, g, o, c_new, h_new = cell(i, f, g, o, c_prev)
        runs = live[:, None] & inside
        h = tl.where(runs, h_new.to(h.dtype), h)
        c_prev = tl.where(runs, c_new, c_prev)
        row = t.to(tl.int64) * B + rows
        tl.store(y + row[:, None] * H + units[None, :], h, runs)
        save(gates, cells, i, f, g, o, c_new, t, rows, units, runs, B, H)
        if AHEAD:
            i, f, g, o = next_i, next_f, next_g, next_o
    tl.store(c + state, c_prev, inside)


@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def single_backward(
    w_hh,  # Io (4H, H)
    grad_y,  # Io (T, B, H) or None
    grad_h_n,  # Io (B, H) or None
    gates,  # Io (T, B, 4H)
    cells,  # Acc (T, B, H)
    c0,  # Acc (B, H)
    dc,  # Acc (B, H): in, the gradient of c_n; out, that of c0
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    d_gates,  # Io (T, B, 4H): not written past a row's length
    T,
    B,
    H,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Grid (rows). BLOCK_U holds all H units. AHEAD: a step's tiles are loaded one step ahead, for
    registers in which to keep them."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.arange(0, BLOCK_U)
    steps = longest(rows, T, B, lengths)
    inside = (rows < B)[:, None] & (units < H)[None, :]
    state = rows[:, None] * H + units[None, :]
    io = w_hh.dtype.element_ty
    w_i = load_transposed(w_hh, units, H, units, H)
    w_f = load_transposed(w_hh + H * H, units, H, units, H)
    w_g = load_transposed(w_hh + 2 * H * H, units, H, units, H)
    w_o = load_transposed(w_hh + 3 * H * H, units, H, units, H)
    dh = tl.zeros((BLOCK_B, BLOCK_U), tl.float32)
    d_c = tl.load(dc + state, inside, 0)
    if AHEAD:
        t = tl.full((), 0, tl.int32) if REVERSE else steps - 1
        grad, i, f, g, o, c, c_prev, live, keep = load_saved(
            grad_y, grad_h_n, gates, cells, c0, lengths, reset, t, T, B, H, rows, units, REVERSE
        )
    for s in range(steps):
        t = s if REVERSE else steps - 1 - s
        if AHEAD:
            # on their way while this step is computed
            after = s + 1 if REVERSE else steps - 2 - s
            next_grad, ni, nf, ng, no, nc, nc_prev, next_live, next_keep = load_saved(
                grad_y, grad_h_n, gates, cells, c0, lengths, reset,
                after, T, B, H, rows, units, REVERSE,
            )  # fmt: skip
        else:
            grad, i, f, g, o, c, c_prev, live, keep = load_saved(
                grad_y, grad_h_n, gates, cells, c0, lengths, reset, t, T, B, H, rows, units, REVERSE
            )
        d_i, d_f, d_g, d_o, d_c_new = cell_gradient(i, f, g, o, c, c_prev, grad + dh, d_c)
        d_i, d_f, d_g, d_o = d_i.to(io), d_f.to(io), d_g.to(io), d_o.to(io)
        runs = live[:, None] & inside
        store_gates(d_gates, d_i, d_f, d_g, d_o, t.to(tl.int64) * B + rows, units, runs, H)
        d = dot(d_i, w_i, tl.zeros((BLOCK_B, BLOCK_U), tl.float32), PRECISION)
        d = dot(d_f, w_f, d, PRECISION)
        d = dot(d_g, w_g, d, PRECISION)
        d = dot(d_o, w_o, d, PRECISION)
        dh = tl.where(runs, tl.where(keep[:, None], d, 0), dh)
        d_c = tl.where(runs, tl.where(keep[:, None], d_c_new, 0), d_c)
        if AHEAD:
            grad, i, f, g, o, c, c_prev = next_grad, ni, nf, ng, no, nc, nc_prev
            live, keep = next_live, next_keep
    tl.store(dc + state, d_c, inside)


@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def grid_forward(
    gates_x,  # Acc (T, B, 4H): x·W_ihᵀ
    bias,  # Acc (4H) or None
    w_hh,  # Io (4H, H)
    h0,  # Io (B, H)
    c,  # Acc (B, H): the state, before and after
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    y,  # Io (T, B, H): not written past a row's length
    gates,  # Io (T, B, 4H) or None
    cells,  # Acc (T, B, H) or None
    counters,  # int32, one for each batch tile, zero
    T,
    B,
    H,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCKS_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    SPINS: tl.constexpr,
):
    """Grid (rows, units), all of it resident. With RESIDENT, BLOCK_K holds all H units."""
    rows, units = tile(BLOCK_B, BLOCK_U)
    counter = counters + tl.program_id(0)
    steps = longest(rows, T, B, lengths)
    state = rows[:, None] * H + units[None, :]
    owned = (rows < B)[:, None] & (units < H)[None, :]
    c_prev = tl.load(c + state, owned, 0)
    if RESIDENT:
        ks = tl.arange(0, BLOCK_K)
        w_i, w_f, w_g, w_o = load_recurrent(w_hh, ks, units, H, H)
    ok = True
    for s in range(steps):
        t = steps - 1 - s if REVERSE else s
        live, first, _, keep = row_state(rows, t, T, B, lengths, reset, REVERSE)
        # on their way while this program waits
        i, f, g, o = load_inputs(gates_x, bias, s, steps, rows, units, B, H, REVERSE)
        ok = wait(counter, s * tl.num_programs(1), ok, SPINS)
        if RESIDENT:
            h = load_hidden(y, h0, t, rows, first, keep, ks, H, B, REVERSE)
            i, f, g, o = multiply(h, w_i, w_f, w_g, w_o, i, f, g, o, PRECISION)
        else:
            hi, hf, hg, ho = hidden_times_weights(
                w_hh, y, h0, t, rows, units, first, keep, H, B, H,
                REVERSE, PRECISION, BLOCK_B, BLOCK_U, BLOCK_K, BLOCKS_K,
            )  # fmt: skip
            i, f, g, o = i + hi, f + hf, g + hg, o + ho
        known = owned & live[:, None]
        c_prev = tl.where((live & (keep == 0))[:, None], 0, c_prev)
        i, f, g, o, c_new, h_new = cell(i, f, g, o, c_prev)
        c_new = tl.where(ok, c_new, float("nan"))
        h_new = tl.where(ok, h_new, float("nan"))
        c_prev = tl.where(known, c_new, c_prev)
        row = t.to(tl.int64) * B + rows
        tl.store(y + row[:, None] * H + units[None, :], h_new, known)
        publish(counter)
        save(gates, cells, i, f, g, o, c_new, t, rows, units, known, B, H)
    tl.store(c + state, c_prev, owned)


@triton.jit(do_not_specialize=["T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def grid_backward(
    w_hh,  # Io (4H, H)
    grad_y,  # Io (T, B, H) or None
    grad_h_n,  # Io (B, H) or None
    gates,  # Io (T, B, 4H)
    cells,  # Acc (T, B, H)
    c0,  # Acc (B, H)
    dc,  # Acc (B, H): in, the gradient of c_n; out, that of c0
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    d_gates,  # Io (T, B, 4H): not written past a row's length
    counters,  # int32, one for each batch tile, zero
    T,
    B,
    H,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCKS_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    SPINS: tl.constexpr,
):
    """Grid (rows, units), all of it resident. With RESIDENT, BLOCK_K holds all 4H gates."""
    rows, units = tile(BLOCK_B, BLOCK_U)
    counter = counters + tl.program_id(0)
    steps = longest(rows, T, B, lengths)
    state = rows[:, None] * H + units[None, :]
    owned = (rows < B)[:, None] & (units < H)[None, :]
    d_c = tl.load(dc + state, owned, 0)
    if RESIDENT:
        ks = tl.arange(0, BLOCK_K)
        w = load_transposed(w_hh, ks, 4 * H, units, H)
    ok = True
    for s in range(steps):
        t = s if REVERSE else steps - 1 - s
        flows = flow(rows, t, T, B, lengths, reset, REVERSE)
        # on their way while this program waits
        grad, i, f, g, o, c, c_prev, live, keep = load_saved(
            grad_y, grad_h_n, gates, cells, c0, lengths, reset, t, T, B, H, rows, units, REVERSE
        )
        ok = wait(counter, s * tl.num_programs(1), ok, SPINS)
        if RESIDENT:
            d = load_d_gates(d_gates, t, rows, flows, ks, H, B, REVERSE)
            dh = dot(d, w, grad, PRECISION)
        else:
            dh = grad + d_gates_times_weights(
                w_hh, d_gates, t, rows, units, flows, H, B,
                REVERSE, PRECISION, BLOCK_B, BLOCK_U, BLOCK_K, BLOCKS_K,
            )  # fmt: skip
        dh = tl.where(ok, dh, float("nan"))
        d_i, d_f, d_g, d_o, d_c_new = cell_gradient(i, f, g, o, c, c_prev, dh, d_c)
        runs = owned & live[:, None]
        store_gates(d_gates, d_i, d_f, d_g, d_o, t.to(tl.int64) * B + rows, units, runs, H)
        publish(counter)
        d_c = tl.where(runs, tl.where(keep[:, None], d_c_new, 0), d_c)
    tl.store(dc + state, d_c, owned)
