"""The op `transducer_beam` in plain torch, row by row: the definition of correctness, and the
fallback on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.decoding.choice import finite
from fast_s2s.decoding.reference import step
from fast_s2s.decoding.transducer_reference import DenseTransducer


class BeamSlots(NamedTuple):
    """Hypotheses of B rows, up to W of each, the best first; of places without one `score` is -inf.

    h, c:   (L, B·W, …), before `token` is read
    token:  (B·W,) int64, the last
    score:  (B·W,) float64, log-probability
    counts: (B·W,) int64, tokens chosen
    tokens: (B·W, U) int64, the blank behind a hypothesis's last
    frames: (B·W, U) int64, at which each was chosen, -1 behind
    seen:   (B,) int64, frames so far
    """

    h: Tensor
    c: Tensor
    token: Tensor
    score: Tensor
    counts: Tensor
    tokens: Tensor
    frames: Tensor
    seen: Tensor


@dataclass
class _Hypothesis:
    """h, c: (L, …), before `token` is read; read_h, read_c, prediction: after."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    score: float
    token: int
    h: Tensor
    c: Tensor
    read_h: Tensor | None = None
    read_c: Tensor | None = None
    prediction: Tensor | None = None


def beam_search(
    weights: DenseTransducer,
    state: Sequence[Tensor],
    encoded: Tensor,
    lengths: Tensor,
    blank: int,
    max_symbols: int,
    relu: bool,
) -> BeamSlots:
    """Arguments as of the op."""
    given = BeamSlots(*state)
    rows = len(lengths)
    width = len(given.token) // max(rows, 1)
    found = []
    for row in range(rows):
        search = _Row(weights, encoded[row], blank, max_symbols, relu, width)
        found.append(
            search.run(_hypotheses(given, row, width), int(lengths[row]), int(given.seen[row]))
        )
    return _joined(found, given, lengths, width, blank)


class _Row:
    """The search of one row."""

    def __init__(
        self,
        weights: DenseTransducer,
        encoded: Tensor,
        blank: int,
        max_symbols: int,
        relu: bool,
        width: int,
    ) -> None:
        self.weights, self.encoded = weights, encoded
        self.blank, self.max_symbols, self.relu, self.width = blank, max_symbols, relu, width

    def run(self, hypotheses: list[_Hypothesis], frames: int, seen: int) -> list[_Hypothesis]:
        if hypotheses and frames:
            self._read(hypotheses)
            for frame in range(frames):
                hypotheses = self._pass_frame(hypotheses, frame, seen + frame)
        return sorted(hypotheses, key=lambda each: -each.score)

    def _pass_frame(self, current: list[_Hypothesis], frame: int, number: int) -> list[_Hypothesis]:
        kept: list[_Hypothesis] = []
        for symbols in range(self.max_symbols + 1):
            scores = self._log_probabilities(current, frame)
            for each, of_tokens in zip(current, scores, strict=True):
                left = of_tokens.max() > -torch.inf
                # where no token is left, the frame is passed over
                stays = each.score + (float(of_tokens[self.blank]) if left else 0.0)
                if stays > -math.inf:
                    _add(kept, each, stays)
            kept = sorted(kept, key=lambda each: -each.score)[: self.width]
            if symbols == self.max_symbols:
                break
            extended = self._extend(current, scores, kept, number)
            if not extended:
                break
            self._read(extended)
            current = extended
        # where none could take the blank, all go on
        return kept or current

    def _extend(
        self, current: list[_Hypothesis], scores: Tensor, kept: list[_Hypothesis], number: int
    ) -> list[_Hypothesis]:
        """The likeliest with one token more, if they are likelier than the last that is kept."""
        limit = kept[-1].score if len(kept) == self.width else -math.inf
        total = scores + scores.new_tensor([each.score for each in current]).unsqueeze(1)
        total[:, self.blank] = -torch.inf
        # equal ones in order of parent and token
        order = total.flatten().argsort(descending=True, stable=True)[: self.width]
        extended = []
        for place in order.tolist():
            parent, token = divmod(place, scores.size(1))
            score, each = float(total[parent, token]), current[parent]
            if score > limit:
                assert each.read_h is not None and each.read_c is not None
                tokens, frames = (*each.tokens, token), (*each.frames, number)
                extended.append(_Hypothesis(tokens, frames, score, token, each.read_h, each.read_c))
        return extended

    def _read(self, hypotheses: list[_Hypothesis]) -> None:
        h, c = (torch.stack([getattr(each, name) for each in hypotheses], 1) for name in "hc")
        token = torch.tensor([each.token for each in hypotheses], device=h.device)
        read = step(self.weights.predictor, token, h, c)
        for index, each in enumerate(hypotheses):
            each.read_h, each.read_c = read.h[:, index], read.c[:, index]
            each.prediction = read.logits[index]

    def _log_probabilities(self, hypotheses: list[_Hypothesis], frame: int) -> Tensor:
        """(hypotheses, V) float64; -inf throughout where no token is left."""
        predictions = [each.prediction for each in hypotheses if each.prediction is not None]
        total = self.encoded[frame] + torch.stack(predictions)
        joined = total.relu() if self.relu else total.tanh()
        logits = finite(F.linear(joined, self.weights.joiner, self.weights.joiner_bias)).double()
        return (logits - logits.logsumexp(1, keepdim=True)).nan_to_num(
            nan=-torch.inf, neginf=-torch.inf
        )


def _add(kept: list[_Hypothesis], each: _Hypothesis, score: float) -> None:
    """One of tokens that are there adds to their probability; the likelier one dates them."""
    for there in kept:
        if there.tokens == each.tokens:
            if score > there.score:
                there.frames = each.frames
            most, least = max(score, there.score), min(score, there.score)
            there.score = most + math.log1p(math.exp(least - most))
            return
    made = _Hypothesis(**vars(each))
    made.score = score
    kept.append(made)


def _hypotheses(given: BeamSlots, row: int, width: int) -> list[_Hypothesis]:
    found: list[_Hypothesis] = []
    for slot in range(row * width, (row + 1) * width):
        score, count = float(given.score[slot]), int(given.counts[slot])
        if not score > -math.inf:
            break
        found.append(
            _Hypothesis(
                tuple(given.tokens[slot, :count].tolist()),
                tuple(given.frames[slot, :count].tolist()),
                score,
                int(given.token[slot]),
                given.h[:, slot],
                given.c[:, slot],
            )
        )
    return found


def _joined(
    found: list[list[_Hypothesis]], given: BeamSlots, lengths: Tensor, width: int, blank: int
) -> BeamSlots:
    slots = [each for row in found for each in [*row, *[None] * (width - len(row))]]
    longest = max((len(each.tokens) for each in slots if each is not None), default=0)
    h, c = torch.zeros_like(given.h), torch.zeros_like(given.c)
    token = torch.full_like(given.token, blank)
    score = torch.full_like(given.score, -torch.inf)
    count = torch.zeros_like(given.counts)
    tokens = token.new_full((len(slots), longest), blank)
    frames = token.new_full((len(slots), longest), -1)
    for slot, each in enumerate(slots):
        if each is None:
            continue
        h[:, slot], c[:, slot] = each.h, each.c
        token[slot], score[slot], count[slot] = each.token, each.score, len(each.tokens)
        tokens[slot, : len(each.tokens)] = token.new_tensor(each.tokens)
        frames[slot, : len(each.tokens)] = token.new_tensor(each.frames)
    return BeamSlots(h, c, token, score, count, tokens, frames, given.seen + lengths)
