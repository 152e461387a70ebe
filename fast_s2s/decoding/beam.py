"""Beam search for the op `decode` in plain torch.

transformers' `GenerationMixin._beam_search`, each row by itself: a row's result does not depend on
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fast_s2s.decoding import choice
from fast_s2s.decoding.contract import (
    EarlyStopping,
    Hypotheses,
    Options,
    Parameters,
    Rules,
    State,
)


class _Found(NamedTuple):
    """A sequence: the slot that it continues, its last token, that token's score and its own."""

    slot: int
    token: int
    token_score: float
    score: float


class BeamSearch:
    """The ended sequences, and how beams give rise to the next."""

    def __init__(
        self, hypotheses: Hypotheses, rules: Rules, options: Options, parameters: Parameters
    ) -> None:
        self.hypotheses = Hypotheses(*(tensor.clone() for tensor in hypotheses))
        self.rules, self.options, self.parameters = rules, options, parameters
        self.eos = set(rules.eos.tolist())
        # so that enough are left if all the best end here
        self.num_candidates = max(2, 1 + rules.eos.numel()) * options.width
        # other reasons to end: sequences (any number, 2 + position) -> bool of each
        self.stops: Callable[[Tensor], Sequence[bool]] | None = None
        # of each slot, the one whose sequence it continues
        self.parents = torch.arange(len(hypotheses.position), device=hypotheses.position.device)
        # beams by chance: the first slot of a row, and its position -> what is added to the scores
        # (width, V) to choose by; Gumbel noise makes a sample without replacement
        self.noise: Callable[[int, int], Tensor] | None = None

    def begin(self, state: State, max_steps: int) -> State:
        """Room for `max_steps` tokens more, and empty slots in their one form."""
        pad = self.options.pad
        self.hypotheses = self.hypotheses._replace(
            tokens=choice.grow(self.hypotheses.tokens, max_steps, pad),
            token_scores=choice.grow(self.hypotheses.token_scores, max_steps, 0.0),
        )
        slots = range(state.position.size(0))
        _fill(state, [None if state.finished[slot] else slot for slot in slots], state, pad)
        return state

    def advance(self, state: State, scores: Tensor, running: Tensor) -> State:
        """State after one more token; `scores` (N, V) float64 are log-probabilities."""
        width = self.options.width
        after = State(*(tensor.clone() for tensor in state))
        for row in range(scores.size(0) // width):
            slots = slice(row * width, (row + 1) * width)
            if running[slots].any():
                self._advance_row(row, state, after, scores[slots], running[slots])
        return after

    def _advance_row(
        self, row: int, state: State, after: State, scores: Tensor, running: Tensor
    ) -> None:
        width, first = self.options.width, row * self.options.width
        position = int(state.position[first])
        # tokens after the prefix, the next one included
        new = position + 1 - int(self.rules.prefix_lengths[row])
        limit = int(self.rules.limits[row])
        going_on: list[_Found] = []
        ended: list[_Found] = []
        candidates = self._candidates(first, state, scores, running)
        stopped = self._stopped(candidates, state, position)
        for rank, found in enumerate(candidates):
            if new > 0 and (found.token in self.eos or new == limit or stopped[rank]):
                if rank < width:
                    ended.append(found)
            elif len(going_on) < width:
                going_on.append(found)
        self._keep_ended(first, state, ended, new)
        if self._is_done(first, going_on, new, limit):
            going_on = []
        for index, found in enumerate(going_on):
            self.parents[first + index] = found.slot
        _extend(after, first, state, going_on, width, self.options.pad, self.rules)

    def _candidates(
        self, first: int, state: State, scores: Tensor, running: Tensor
    ) -> list[_Found]:
        """The best continuations of a row's beams; the lower beam, then id, first among equals."""
        width, vocab_size = scores.shape
        beams = state.score[first : first + width].where(running, -torch.inf)
        totals = beams.unsqueeze(1) + scores
        chosen_by = totals
        if self.noise is not None:
            chosen_by = totals + self.noise(first, int(state.position[first]))
        order = chosen_by.flatten().argsort(descending=True, stable=True)
        found = []
        pairs = zip(totals.flatten()[order].tolist(), order.tolist(), strict=True)
        for total, index in list(pairs)[: self.num_candidates]:
            if total > -torch.inf:
                beam, token = divmod(index, vocab_size)
                found.append(_Found(first + beam, token, float(scores[beam, token]), total))
        # in this order already, unless chosen by chance
        return sorted(found, key=lambda each: -each.score)

    def _stopped(self, candidates: list[_Found], state: State, position: int) -> Sequence[bool]:
        if self.stops is None or not candidates:
            return [False] * len(candidates)
        slots = [found.slot for found in candidates]
        last = state.tokens.new_tensor([[found.token] for found in candidates])
        return self.stops(torch.cat((state.tokens[slots, : 1 + position], last), 1))

    def _keep_ended(self, first: int, state: State, ended: list[_Found], new: int) -> None:
        """Merge into the row's best ended sequences; the older first among equals."""
        if not ended:
            return
        width, before = self.options.width, self.hypotheses
        power = float(new) ** self.parameters.length_penalty
        ranked: list[tuple[float, int | _Found]] = [
            (float(before.score[first + index]), first + index) for index in range(width)
        ]
        ranked += [(found.score / power, found) for found in ended]
        ranked.sort(key=lambda pair: -pair[0])
        merged = Hypotheses(*(tensor.clone() for tensor in before))
        for index, (score, source) in enumerate(ranked[:width]):
            if isinstance(source, _Found):
                _extend(merged, first + index, state, [source], 1, self.options.pad, self.rules)
                merged.score[first + index] = score
            else:
                _copy_slot(merged, first + index, before, source)
        self.hypotheses = merged

    def _is_done(self, first: int, going_on: list[_Found], new: int, limit: int) -> bool:
        if not going_on:
            return True
        ended = self.hypotheses.score[first : first + self.options.width]
        if new <= 0 or not (ended > -torch.inf).all():
            return False
        if self.options.early_stopping == EarlyStopping.FIRST:
            return True
        never = self.options.early_stopping == EarlyStopping.NEVER
        longest = limit if never and self.parameters.length_penalty > 0 else new
        best = going_on[0].score / float(longest) ** self.parameters.length_penalty
        return best <= float(ended.min())


# tensors whose second dimension, not the first, are the slots
_STATES = ("h", "c")
_EMPTY = {"h": 0, "c": 0, "token_scores": 0, "position": 0, "score": -torch.inf, "node": -1}


def _copy_slot(to: State | Hypotheses, slot: int, source: State | Hypotheses, index: int) -> None:
    for name in to._fields:
        target, values = getattr(to, name), getattr(source, name)
        if name in _STATES:
            target[:, slot] = values[:, index]
        else:
            target[slot] = values[index]


def _clear_slot(to: State | Hypotheses, slot: int, pad: int) -> None:
    for name in to._fields:
        target = getattr(to, name)
        if name in _STATES:
            target[:, slot] = 0
        else:
            target[slot] = {**_EMPTY, "tokens": pad, "finished": True}[name]


def _fill(to: State, sources: list[int | None], source: State, pad: int) -> None:
    for slot, index in enumerate(sources):
        if index is None:
            _clear_slot(to, slot, pad)
        else:
            _copy_slot(to, slot, source, index)


def _extend(
    to: State | Hypotheses,
    first: int,
    source: State,
    found: list[_Found],
    count: int,
    pad: int,
    rules: Rules,
) -> None:
    """Slots first, first + 1, ... of `to` from what was found, the rest of `count` empty."""
    for index in range(count):
        slot = first + index
        if index >= len(found):
            _clear_slot(to, slot, pad)
            continue
        choice_ = found[index]
        position = int(source.position[choice_.slot])
        partial = source if isinstance(to, State) else _as_hypotheses(source)
        _copy_slot(to, slot, partial, choice_.slot)
        to.tokens[slot, position + 1] = choice_.token
        to.token_scores[slot, position] = choice_.token_score
        to.position[slot] = position + 1
        to.score[slot] = choice_.score
        node = source.node[choice_.slot].unsqueeze(0)
        token = node.new_tensor([choice_.token])
        to.node[slot] = choice.follow(rules, node, token)[0]


def _as_hypotheses(state: State) -> Hypotheses:
    return Hypotheses(*(getattr(state, name) for name in Hypotheses._fields))
