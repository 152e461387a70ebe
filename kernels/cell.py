"""The gate math and state update of one step, forward and backward.

The device functions are the one home of the formula in Triton: every kernel of it calls them. The
two kernels here do nothing else: they follow a matrix product made by torch, which serves any
type, any size and projections. Gates in torch's order i, f, g, o; formula: `torch.nn.LSTM`.
"""

import triton
import triton.language as tl

# pointers that are parts of larger arrays, one for each layer or sequence: another batch size must
# not compile again because they then begin elsewhere
ANYWHERE = ["h0", "c0", "grad_h_n", "lengths", "reset"]


@triton.jit
def sigmoid(x):
    # by exp(-|x|), which neither overflows nor loses the small side
    e = tl.exp(-tl.abs(x))
    r = 1 / (1 + e)
    return tl.where(x >= 0, r, e * r)


@triton.jit
def tanh(x):
    e = tl.exp(-2 * tl.abs(x))
    r = (1 - e) / (1 + e)
    r = tl.where(x >= 0, r, -r)
    if x.dtype == tl.float32:
        # 1 - e cancels near zero; there the odd Taylor polynomial is exact to rounding
        s = x * x
        p = 62.0 / 2835 * s - 17.0 / 315
        p = p * s + 2.0 / 15
        p = p * s - 1.0 / 3
        r = tl.where(s < 0.0625, x + x * s * p, r)
    return r


@triton.jit
def cell(i, f, g, o, c_prev):
    """Pre-activations and the cell state before -> activated gates, c, h."""
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c_prev + i * g
    return i, f, g, o, c, o * tanh(c)


@triton.jit
def cell_gradient(i, f, g, o, c, c_prev, dh, dc):
    """Activated gates, c, c before and the gradients of h and c -> those of the pre-activations
    and of the c before."""
    tanh_c = tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    d_i = dc * g * i * (1 - i)
    d_f = dc * c_prev * f * (1 - f)
    d_g = dc * i * (1 - g * g)
    d_o = dh * tanh_c * o * (1 - o)
    return d_i, d_f, d_g, d_o, dc * f


@triton.jit
def row_state(rows, t, T, B, lengths, reset, REVERSE: tl.constexpr):
    """Of each row at step t: whether it runs, whether this is its first and its last step in the
    order they run, and whether it keeps the state it comes with."""
    at = tl.zeros_like(rows) + t
    live = (rows < B) & (at >= 0) & (at < T)
    steps = tl.zeros_like(rows) + T
    if lengths is not None:
        steps = tl.load(lengths + rows, mask=live, other=0)
        live = live & (at < steps)
    if REVERSE:
        first = at == tl.minimum(steps, T) - 1
        last = at == 0
    else:
        first = at == 0
        last = at == tl.minimum(steps, T) - 1
    keep = live
    if reset is not None:
        forget = tl.load(reset + t.to(tl.int64) * B + rows, mask=live, other=0)
        keep = keep & (forget == 0)
    return live, first, last, keep


@triton.jit
def tile(BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr):
    """Rows (int64) and units of this program, of grid (rows, units)."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.program_id(1) * BLOCK_U + tl.arange(0, BLOCK_U)
    return rows, units


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def cell_forward(
    gates_x,  # Acc (B, 4H), any strides; with gates_h and bias the pre-activations
    gates_x_row,
    gates_x_col,
    gates_h,  # Acc (B, 4H), any strides
    gates_h_row,
    gates_h_col,
    bias,  # Acc (4H) or None
    c,  # Acc (B, H), any strides: the state, before and after
    c_row,
    c_col,
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    h,  # Io (B, H): zero for rows past their length
    gates,  # Io (T, B, 4H) or None
    cells,  # Acc (T, B, H) or None
    t,
    T,
    B,
    H,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Step t of all rows. Grid (rows, units); a program reads and writes its own tile only."""
    rows, units = tile(BLOCK_B, BLOCK_U)
    live, _, _, keep = row_state(rows, t, T, B, lengths, reset, False)
    inside = (rows < B)[:, None] & (units < H)[None, :]
    live = live[:, None] & inside
    px = gates_x + rows[:, None] * gates_x_row + units[None, :].to(tl.int64) * gates_x_col
    ph = gates_h + rows[:, None] * gates_h_row + units[None, :].to(tl.int64) * gates_h_col
    i = tl.load(px, live, 0) + tl.load(ph, live, 0)
    f = tl.load(px + H * gates_x_col, live, 0) + tl.load(ph + H * gates_h_col, live, 0)
    g = tl.load(px + 2 * H * gates_x_col, live, 0) + tl.load(ph + 2 * H * gates_h_col, live, 0)
    o = tl.load(px + 3 * H * gates_x_col, live, 0) + tl.load(ph + 3 * H * gates_h_col, live, 0)
    if bias is not None:
        i, f, g, o = add_bias(i, f, g, o, bias, units, H)
    pc = c + rows[:, None] * c_row + units[None, :].to(tl.int64) * c_col
    c_prev = tl.load(pc, live & keep[:, None], 0)
    i, f, g, o, c_new, h_new = cell(i, f, g, o, c_prev)
    tl.store(pc, c_new, live)
    tl.store(h + rows[:, None] * H + units[None, :], tl.where(live, h_new, 0), inside)
    save(gates, cells, i, f, g, o, c_new, t, rows, units, live, B, H)


@triton.jit
def add_bias(i, f, g, o, bias, units, H):
    inside = units < H
    i += tl.load(bias + units, inside, 0)[None, :]
    f += tl.load(bias + H + units, inside, 0)[None, :]
    g += tl.load(bias + 2 * H + units, inside, 0)[None, :]
    o += tl.load(bias + 3 * H + units, inside, 0)[None, :]
    return i, f, g, o


@triton.jit
def save(gates, cells, i, f, g, o, c, t, rows, units, live, B, H):
    """What backward needs of step t, where it is wanted."""
    row = t.to(tl.int64) * B + rows
    if gates is not None:
        store_gates(gates, i, f, g, o, row, units, live, H)
    if cells is not None:
        tl.store(cells + row[:, None] * H + units[None, :], c, live)


@triton.jit
def store_gates(gates, i, f, g, o, row, units, live, H):
    """Four tiles into the rows `row` of a dense (N, 4H)."""
    p = gates + row[:, None] * (4 * H) + units[None, :]
    tl.store(p, i, live)
    tl.store(p + H, f, live)
    tl.store(p + 2 * H, g, live)
    tl.store(p + 3 * H, o, live)


@triton.jit
def load_gates(gates, row, units, live, H):
    """Four tiles from the rows `row` of a dense (N, 4H)."""
    p = gates + row[:, None] * (4 * H) + units[None, :]
    i = tl.load(p, live, 0)
    f = tl.load(p + H, live, 0)
    g = tl.load(p + 2 * H, live, 0)
    o = tl.load(p + 3 * H, live, 0)
    return i, f, g, o


@triton.jit(do_not_specialize=["t", "T", "B"], do_not_specialize_on_alignment=ANYWHERE)
def cell_backward(
    gates,  # Io (T, B, 4H)
    cells,  # Acc (T, B, H)
    c_prev,  # Acc (B, H), any strides: zero where the row was reset
    c_prev_row,
    c_prev_col,
    dh,  # Acc (B, H), any strides
    dh_row,
    dh_col,
    dc,  # Acc (B, H): in, the gradient of c; out, that of the c before
    lengths,  # int64 (B) or None
    reset,  # bool (T, B) or None
    d_gates,  # Io (T, B, 4H): not written for rows past their length
    t,
    T,
    B,
    H,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Step t of all rows. Grid (rows, units); a program reads and writes its own tile only."""
    rows, units = tile(BLOCK_B, BLOCK_U)
    live, _, _, keep = row_state(rows, t, T, B, lengths, reset, False)
    live = live[:, None] & (units < H)[None, :]
    acc = dc.dtype.element_ty
    row = t.to(tl.int64) * B + rows
    i, f, g, o = load_gates(gates, row, units, live, H)
    c = tl.load(cells + row[:, None] * H + units[None, :], live, 0)
    columns = units[None, :].to(tl.int64)
    before = tl.load(c_prev + rows[:, None] * c_prev_row + columns * c_prev_col, live, 0)
    d_h = tl.load(dh + rows[:, None] * dh_row + columns * dh_col, live, 0)
    pc = dc + rows[:, None] * H + units[None, :]
    d_c = tl.load(pc, live, 0)
    d_i, d_f, d_g, d_o, d_c = cell_gradient(
        i.to(acc), f.to(acc), g.to(acc), o.to(acc), c, before, d_h, d_c
    )
    store_gates(d_gates, d_i, d_f, d_g, d_o, row, units, live, H)
    tl.store(pc, tl.where(keep[:, None], d_c, 0), live)


@triton.jit(do_not_specialize=["B"])
def activate(
    gates_x,  # Acc (B, 4H)
    gates_h,  # Acc (B, 4H)
    bias,  # Acc (4H) or None
    gates,  # Io (B, 4H): the activated gates
    B,
    H,
    BLOCK_B: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """The gates of B rows again, for a backward that did not keep them. Grid (rows, units)."""
    rows, units = tile(BLOCK_B, BLOCK_U)
    live = (rows < B)[:, None] & (units < H)[None, :]
    i, f, g, o = load_gates(gates_x, rows, units, live, H)
    hi, hf, hg, ho = load_gates(gates_h, rows, units, live, H)
    i, f, g, o = i + hi, f + hf, g + hg, o + ho
    if bias is not None:
        i, f, g, o = add_bias(i, f, g, o, bias, units, H)
    store_gates(gates, sigmoid(i), sigmoid(f), tanh(g), sigmoid(o), rows, units, live, H)
