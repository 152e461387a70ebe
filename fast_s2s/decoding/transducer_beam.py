"""Beam search of a transducer, time-synchronous as algorithm 1 of Saon et al. 2020,
https://ieeexplore.ieee.org/document/9053040: all rows, frames and hypotheses in one call.

Rules and examples: docs/transducer.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fast_s2s.checks import check_integer, check_number, check_tensor, check_token_ids
from fast_s2s.decoding.transducer import PackedTransducer, check_frames
from fast_s2s.decoding.transducer_beam_reference import BeamSlots, beam_search


class TransducerBeamState(NamedTuple):
    """Where B rows of W hypotheses each stand between two pieces of their input.

    slots:     of `fast_s2s.decoding.transducer_beam_reference.BeamSlots`
    num_beams: W
    """

    slots: BeamSlots
    num_beams: int


class TransducerBeamResult(NamedTuple):
    """The N best of B rows, the best first; U is the most tokens of one.

    tokens:  (B, N, U) int64, all since the beginning, the blank behind a sequence's last
    lengths: (B, N) int64, tokens of each
    frames:  (B, N, U) int64, at which each was chosen, counted from the beginning; -1 behind
    scores:  (B, N) float64, log-probability, summed over the ways to the sequence that were met,
             over its length to the power of `length_penalty`; -inf where there is no sequence
    state:   to go on from with the next piece
    """

    tokens: Tensor
    lengths: Tensor
    frames: Tensor
    scores: Tensor
    state: TransducerBeamState


@torch.no_grad()
def transducer_beam(
    transducer: PackedTransducer,
    encoded: Tensor,
    lengths: Tensor | Sequence[int] | None = None,
    *,
    num_beams: int = 4,
    num_return_sequences: int = 1,
    max_symbols: int = 10,
    length_penalty: float = 0.0,
    state: TransducerBeamState | None = None,
) -> TransducerBeamResult:
    """The likeliest sequences of all rows.

    encoded:              (B, T, J), the encoder's frames, projected to what the joiner adds
    lengths:              (B,), frames of each row, in 0..T; default T
    num_beams:            W, hypotheses that are kept of a row; with a state its own
    num_return_sequences: N, at most W
    max_symbols:          tokens that one frame may have
    length_penalty:       the power of a sequence's length by which its score is divided before
                          sequences are compared at the end; 0: not at all
    state:                `TransducerBeamResult.state` of the piece before

    Pieces one after the other, each from the state of the one before, give what one call gives.

    Raises TypeError or ValueError naming the argument that does not fit; a transducer with
    durations does not.
    """
    encoded, lengths = check_frames(transducer, encoded, lengths, max_symbols)
    if transducer.durations:
        raise ValueError(
            f"transducer: expected one without durations, got {list(transducer.durations)}"
        )
    check_integer("num_beams", num_beams, 1)
    if state is None:
        state = _initial(transducer, len(encoded), num_beams)
    else:
        _check_state(state, transducer, len(encoded))
    num_beams = state.num_beams
    check_integer("num_return_sequences", num_return_sequences, 1, num_beams)
    check_number("length_penalty", length_penalty, -100.0, 100.0)
    with torch.autocast(transducer.device.type, enabled=False):
        found = _run(transducer, state.slots, encoded, lengths, max_symbols)
    return _best(found, num_beams, num_return_sequences, float(length_penalty))


def _run(
    transducer: PackedTransducer,
    slots: BeamSlots,
    encoded: Tensor,
    lengths: Tensor,
    max_symbols: int,
) -> BeamSlots:
    options = transducer.blank, max_symbols, transducer.activation == "relu"
    if transducer.choice.backend == "reference":
        return beam_search(transducer.dense, slots, encoded, lengths, *options)
    found = torch.ops.fast_s2s.transducer_beam.default(
        *transducer.arguments, list(slots), encoded, lengths, *options
    )
    return BeamSlots(*found)


def _initial(transducer: PackedTransducer, batch: int, width: int) -> TransducerBeamState:
    """One empty hypothesis for each row."""
    begin = transducer.initial_state(batch * width)
    first = torch.arange(batch * width, device=transducer.device) % width == 0
    score = torch.zeros(batch * width, dtype=torch.float64, device=transducer.device)
    none = begin.token.new_empty(batch * width, 0)
    slots = BeamSlots(
        begin.h,
        begin.c,
        begin.token,
        score.masked_fill(~first, -torch.inf),
        torch.zeros_like(begin.token),
        none,
        none.clone(),
        begin.token.new_zeros(batch),
    )
    return TransducerBeamState(slots, width)


def _best(found: BeamSlots, width: int, count: int, length_penalty: float) -> TransducerBeamResult:
    rows = found.seen.size(0)
    lengths, scores = found.counts.view(rows, width), found.score.view(rows, width)
    scores = scores / lengths.clamp(min=1).to(torch.float64) ** length_penalty
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    lengths = lengths.gather(1, order)
    longest = int(lengths.max()) if lengths.numel() else 0

    def picked(part: Tensor) -> Tensor:
        index = order.unsqueeze(2).expand(-1, -1, longest)
        return part.view(rows, width, part.size(1))[:, :, :longest].gather(1, index)

    tokens, frames = picked(found.tokens), picked(found.frames)
    state = TransducerBeamState(found, width)
    return TransducerBeamResult(tokens, lengths, frames, scores.gather(1, order), state)


def _check_state(state: object, transducer: PackedTransducer, batch: int) -> None:
    if not (isinstance(state, TransducerBeamState) and isinstance(state.slots, BeamSlots)):
        raise TypeError(f"state: expected a TransducerBeamState, got {type(state).__name__}")
    check_integer("state.num_beams", state.num_beams, 1)
    predictor, device, acc = transducer.predictor, transducer.device, transducer.acc
    layers, slots, whole = predictor.num_layers, batch * state.num_beams, torch.int64
    columns = state.slots.tokens.size(1) if state.slots.tokens.dim() == 2 else None
    expected = {
        "h": ("(L, B·W, R)", (layers, slots, predictor.output_size), acc),
        "c": ("(L, B·W, H)", (layers, slots, predictor.hidden_size), acc),
        "token": ("(B·W,)", (slots,), whole),
        "score": ("(B·W,)", (slots,), torch.float64),
        "counts": ("(B·W,)", (slots,), whole),
        "tokens": ("(B·W, U)", (slots, columns), whole),
        "frames": ("(B·W, U)", (slots, columns), whole),
        "seen": ("(B,)", (batch,), whole),
    }
    for name, (axes, sizes, dtype) in expected.items():
        value = getattr(state.slots, name)
        check_tensor(f"state.slots.{name}", value, axes, sizes, dtype, device)
    for name in ("token", "tokens"):
        check_token_ids(f"state.slots.{name}", getattr(state.slots, name), transducer.vocab_size)
    check_token_ids(
        "state.slots.counts", state.slots.counts, (columns or 0) + 1, "numbers of tokens"
    )
