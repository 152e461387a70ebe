"""LSTM as a function of its weights: layers, directions, dropout between layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s import backends, ops, ops_both, ops_cell, ops_variant
from fast_s2s.reference import SAVE_CELLS, SAVE_GATES, SAVE_NONE, Variant

# what training keeps of each step for the backward pass, by the name users give
_SAVE = {"save": SAVE_GATES, "recompute": SAVE_CELLS}
MEMORY_MODES = tuple(_SAVE)

# asked once: torch.compile traces the question in newer torch versions only
_AUTOCAST_DEVICES = frozenset(
    name
    for name in ("cpu", "cuda", "hpu", "maia", "mps", "mtia", "xla", "xpu")
    if torch.amp.is_autocast_available(name)
)


@dataclass(frozen=True)
class Regularization:
    """What training adds to an LSTM, each a probability, off at 0.

    variational_dropout: dropout between layers has one mask for all steps of a row
    recurrent_dropout:   of h_{t-1} on its way into the gates, one mask for all steps of a row; with
                         `variational_dropout`, Gal and Ghahramani 2016,
                         https://arxiv.org/abs/1512.05287
    weight_dropout:      of single weights of w_hh, one mask for all rows and steps of a call:
                         DropConnect of Merity et al. 2017, https://arxiv.org/abs/1708.02182. It
                         costs next to nothing, the kernels seeing other weights only
    zoneout_hidden:      of units of h that stay as they were, for each step, row and unit; in
                         evaluation this part of each stays. Krueger et al. 2017,
                         https://arxiv.org/abs/1606.01305
    zoneout_cell:        the same of c
    """

    variational_dropout: bool = False
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    zoneout_hidden: float = 0.0
    zoneout_cell: float = 0.0


def lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Sequence[Tensor]],
    *,
    bias: bool = True,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    memory: str = "save",
    norms: Sequence[Sequence[Tensor]] | None = None,
    regularization: Regularization | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A multi-layer LSTM over time-major input.

    x:        (T, B, I)
    hx:       h0 (L·D, B, R) and c0 (L·D, B, H); D = 2 if bidirectional, R = H or the size of the
              projection; None for zeros
    weights:  per layer and direction, in `torch.nn.LSTM`'s order: w_ih (4H, I or D·R), w_hh (4H,
              R), then b_ih and b_hh (4H) if `bias`, then w_hr (R, H) with a projection
    lengths:  (B,) int64, steps of each row; outputs past them are zero and final states are taken
              at them
    reset:    (T, B) bool; the state is zero before step t of row b. The reverse direction forgets
              at the same boundary: between t and t-1
    memory:   what training keeps of each step for the backward pass: "save" the activated gates and
              the cell state; "recompute" the cell state only
    dropout:  applied to the outputs of all layers but the last, when training
    norms:    layer norm: per layer and direction norm_ih, norm_hh (4H,), norm_c and norm_c_bias
              (H,) of `reference.Variant`

    Returns y (T, B, D·R) and (h_n, c_n) shaped as hx.

    Raises ValueError for another `memory` or number of weights, RuntimeError for shapes, dtypes and
    devices that do not fit.
    """
    check_memory(memory)
    _check_weights(weights, bias, bidirectional)
    x, hx, weights = _autocast(x, hx, weights)
    drops = training and (dropout > 0 or regularization is not None)
    extras = regularization or _NONE
    other_formula = norms is not None or extras.zoneout_hidden or extras.zoneout_cell
    if not drops and not other_formula and _infers_at_once(x, hx, weights, bias):
        h0, c0 = hx or (None, None)
        flat = [weight for layer in weights for weight in layer]
        projected = len(weights[0]) == (5 if bias else 3)
        y, h, c = ops.lstm_infer(x, h0, c0, flat, bias, projected, bidirectional, lengths, reset)
        return y, (h, c)
    if hx is None:
        hx = _zero_state(x, weights)
    weight_dropout = extras.weight_dropout if training else 0.0
    directions = 2 if bidirectional else 1
    resets = (reset, _reverse_reset(reset) if bidirectional else None)
    together = (
        bidirectional
        and backends.has_both_directions(x.device.type, x.dtype)
        and not ops.is_transformed()
    )
    h_n, c_n = [], []
    for first in range(0, len(weights), directions):
        layers, variants = [], []
        for k in range(first, first + directions):
            layer, norm = weights[k], None if norms is None else norms[k]
            if weight_dropout:
                layer = (layer[0], F.dropout(layer[1], weight_dropout), *layer[2:])
            layers.append(layer)
            variants.append(_variant(x, hx[0][k], hx[1][k], norm, extras, training))
        here = slice(first, first + directions)
        run = _both_directions if together and variants[0] is None else _directions
        x, h, c = run(
            x, (hx[0][here], hx[1][here]), layers, bias, lengths, resets, memory, variants
        )
        h_n.append(h)
        c_n.append(c)
        if dropout > 0 and first + directions < len(weights):
            x = variational_dropout(x, dropout, training, extras.variational_dropout)
    return x, (_join(h_n), _join(c_n))


def check_memory(memory: object) -> None:
    """Raises ValueError for anything but one of `MEMORY_MODES`."""
    if memory not in MEMORY_MODES:
        expected = ", ".join(map(repr, MEMORY_MODES))
        raise ValueError(f"memory: expected one of {expected}, got {memory!r}")


def _check_weights(weights: Sequence[Sequence[Tensor]], bias: bool, bidirectional: bool) -> None:
    if not weights or (bidirectional and len(weights) % 2):
        kind = "layer and direction, an even number," if bidirectional else "layer"
        raise ValueError(f"weights: expected those of each {kind} in turn, got {len(weights)}")
    least = 4 if bias else 2
    for layer in weights:
        if not least <= len(layer) <= least + 1:
            raise ValueError(
                f"weights: expected {least} tensors for each layer and direction with bias={bias}, "
                f"one more with a projection, got {len(layer)}"
            )


def _infers_at_once(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Sequence[Tensor]],
    bias: bool,
) -> bool:
    """Whether one call of the CPU's kernels will do: nothing has gradients, nothing is compiled."""
    if not x.is_cpu or torch.compiler.is_compiling() or ops.is_transformed():
        return False
    if _gradients_are_on() and _want_gradients(
        x, *(hx or ()), *(weight for layer in weights for weight in layer)
    ):
        return False
    return backends.current("cpu", x.dtype).backend == "native"


def _gradients_are_on() -> bool:
    # torch.jit's tracer runs again without gradients, and wants to see the same graph then
    return torch.is_grad_enabled() or torch.jit.is_tracing()


def _want_gradients(*tensors: Tensor) -> bool:
    return _gradients_are_on() and any(tensor.requires_grad for tensor in tensors)


def _zero_state(x: Tensor, weights: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    w_hh, batch = weights[0][1], x.size(1)
    h = x.new_zeros(len(weights), batch, w_hh.size(1))
    return h, x.new_zeros(len(weights), batch, w_hh.size(0) // 4)


def variational_dropout(
    x: Tensor, p: float, training: bool, one_mask: bool = True, dim: int = 0
) -> Tensor:
    """Dropout of x with the same mask at all steps, which are its dimension `dim`.

    one_mask: False for a mask of its own at each step, as in `torch.nn.functional.dropout`
    """
    if not (one_mask and training and p > 0):
        return F.dropout(x, p, training)
    return x * F.dropout(torch.ones_like(x.narrow(dim, 0, 1)), p)


def lstm_cell(
    x: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step: x (B, I), hx = h (B, H) and c (B, H) -> (h, c)."""
    biases: Sequence[Tensor]
    if b_ih is not None and b_hh is not None:
        biases = (b_ih, b_hh)
    else:
        one = b_hh if b_ih is None else b_ih
        biases = () if one is None else (one, torch.zeros_like(one))
    x, (h0, c0), layers = _autocast(x, hx, [(w_ih, w_hh, *biases)])
    if ops_cell.serves(x):
        return ops_cell.lstm_cell(x, h0, c0, *layers[0])
    _, h, c = _layer(x.unsqueeze(0), h0, c0, layers[0], len(biases) > 0, None, None, False, "save")
    return h, c


def _directions(
    x: Tensor,
    hx: tuple[Tensor, Tensor],
    weights: Sequence[Sequence[Tensor]],
    bias: bool,
    lengths: Tensor | None,
    resets: tuple[Tensor | None, Tensor | None],
    memory: str,
    variants: Sequence[Variant | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer, one direction after the other: y (T, B, D·R), h_n (D, B, R), c_n (D, B, H)."""
    found = [
        _layer(x, hx[0][i], hx[1][i], own, bias, lengths, resets[i], i == 1, memory, variants[i])
        for i, own in enumerate(weights)
    ]
    if len(found) == 1:
        y, h, c = found[0]
        return y, h.unsqueeze(0), c.unsqueeze(0)
    ys, hs, cs = zip(*found, strict=True)
    return torch.cat(ys, dim=2), torch.stack(hs), torch.stack(cs)


def _both_directions(
    x: Tensor,
    hx: tuple[Tensor, Tensor],
    weights: Sequence[Sequence[Tensor]],
    bias: bool,
    lengths: Tensor | None,
    resets: tuple[Tensor | None, Tensor | None],
    memory: str,
    variants: Sequence[Variant | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for two directions at once, where nothing varies the formula."""
    saves = _want_gradients(x, *hx, *weights[0], *weights[1])
    return ops_both.lstm_forward_both(
        x,
        *hx,
        list(weights[0]),
        list(weights[1]),
        bias,
        lengths,
        *resets,
        _SAVE[memory] if saves else SAVE_NONE,
    )[:3]


def _layer(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    bias: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    memory: str,
    variant: Variant | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    w_ih, w_hh = weights[:2]
    b_ih, b_hh = weights[2:4] if bias else (None, None)
    projection = weights[4 if bias else 2 :]
    w_hr = projection[0] if projection else None
    arguments = (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reset, reverse)
    if variant is not None:
        saves = _want_gradients(x, h0, c0, *weights, *variant.norms)
        save = _SAVE[memory] if saves else SAVE_NONE
        return ops_variant.lstm_variant(*arguments, variant, save)
    saves = _want_gradients(x, h0, c0, *weights)
    y, h_n, c_n, _, _ = ops.lstm_forward(*arguments, _SAVE[memory] if saves else SAVE_NONE)
    return y, h_n, c_n


_NONE = Regularization()


def _variant(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    norms: Sequence[Tensor] | None,
    extras: Regularization,
    training: bool,
) -> Variant | None:
    """What makes the formula another, masks drawn; None if nothing does."""
    recurrent = extras.recurrent_dropout if training else 0.0
    zoneouts = extras.zoneout_hidden, extras.zoneout_cell
    if norms is None and not recurrent and not any(zoneouts):
        return None
    kept: list[Tensor | float] = list(zoneouts)
    if training:
        kept = [
            torch.rand(x.size(0), *state.shape, device=x.device) < p if p else 0.0
            for p, state in zip(zoneouts, (h0, c0), strict=True)
        ]
    mask = F.dropout(torch.ones_like(h0), recurrent) if recurrent else None
    hidden, cell = kept
    parts = (None, None, None, None) if norms is None else norms
    return Variant(parts[0], parts[1], parts[2], parts[3], mask, hidden, cell)


def _join(states: list[Tensor]) -> Tensor:
    return states[0] if len(states) == 1 else torch.cat(states)


def _reverse_reset(reset: Tensor | None) -> Tensor | None:
    """Boundaries as the reverse direction meets them: stepping from t+1 to t, before t."""
    if reset is None:
        return None
    return torch.cat((reset[1:], torch.zeros_like(reset[:1])))


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The type autocast asks for on this device; None where it is off, or not known at all."""
    if device_type not in _AUTOCAST_DEVICES:
        return None
    enabled = torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if enabled else None


_Hx = TypeVar("_Hx", bound=tuple[Tensor, Tensor] | None)


def _autocast(
    x: Tensor, hx: _Hx, weights: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, _Hx, Sequence[Sequence[Tensor]]]:
    """Everything but float64 in autocast's type, if it is on for this device."""
    # the type of a device is a string made anew each time
    dtype = autocast_dtype("cpu" if x.is_cpu else x.device.type)
    if dtype is None:
        return x, hx, weights

    def cast(value: Tensor) -> Tensor:
        return value if value.dtype == torch.float64 else value.to(dtype)

    state: Any = None if hx is None else (cast(hx[0]), cast(hx[1]))
    return cast(x), state, [[cast(w) for w in layer] for layer in weights]
