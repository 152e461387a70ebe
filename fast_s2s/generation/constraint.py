"""What `constraint` says a row may be: checked, and the same one in every part of a generation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fast_s2s.checks import check_sequence
from fast_s2s.decoding import Automaton
from fast_s2s.device import settled
from fast_s2s.generation.state import DecoderState


class Constraint(NamedTuple):
    """fingerprint: of the automaton's content, never 0, by which states know it
    copies:      of the automaton, on devices it was asked for on
    """

    automaton: Automaton
    fingerprint: int
    copies: dict[torch.device, Automaton]

    @classmethod
    def of(cls, automaton: Automaton) -> Constraint:
        return cls(automaton, _fingerprint(automaton), {})

    def on(self, device: torch.device) -> Automaton:
        """The automaton on a device, copied there once."""
        copy = self.copies.get(device)
        if copy is None:
            copy = self.automaton.to(device)
            # the next call may be on another stream
            if settled(device):
                self.copies[device] = copy
        return copy


class _Checked(NamedTuple):
    constraint: Constraint
    against: tuple[int, Sequence[int]]

    def is_of(self, automaton: Automaton, against: tuple[int, Sequence[int]]) -> bool:
        same = zip(automaton, self.constraint.automaton, strict=True)
        return against == self.against and all(a is b for a, b in same)


# the last one, known by its arrays: a server uses one for many calls
_last: _Checked | None = None


def checked(constraint: Any, vocab_size: int, never: Sequence[int]) -> Constraint | None:
    """The argument `constraint`. never: pad and bos

    Raises TypeError or ValueError naming what does not fit.
    """
    global _last
    if constraint is None:
        return None
    if not isinstance(constraint, Automaton):
        check_sequence("constraint", constraint, "token sequences, or an Automaton")
        automaton = Automaton.from_sequences(constraint, name="constraint")
        check_vocabulary("constraint", automaton.arc_tokens.tolist(), vocab_size)
        _check_never(automaton, never)
        return Constraint.of(automaton)
    last, against = _last, (vocab_size, never)
    if last is None or not last.is_of(constraint, against):
        constraint.check(vocab_size)
        _check_never(constraint, never)
        last = _last = _Checked(Constraint.of(constraint), against)
    return last.constraint


def resumed(state: DecoderState, constraint: Constraint | None) -> DecoderState:
    """`state`, to go on under the constraint.

    Raises ValueError unless its rows that have begun, and are not over, were written under it.
    """
    if constraint is None or state.position is None:
        return state
    marks = torch.zeros_like(state.position) if state.constraint is None else state.constraint
    other = (state.position > 0) & (marks != constraint.fingerprint)
    over = torch.zeros_like(other) if state.finished is None else state.finished
    if (other & ~over).any():
        row = int((other & ~over).nonzero()[0])
        if marks[row]:
            raise ValueError(
                f"constraint: expected the one that row {row} of the state was written under, got "
                "another"
            )
        raise ValueError(
            f"constraint: expected None, as row {row} of the state was not written under one from "
            "its first token on, got one"
        )
    if state.node is None:
        return state
    # of a row that is over, it may be a state that this automaton does not have
    return state._replace(node=state.node.masked_fill(other, 0))


def check_vocabulary(name: str, tokens: Any, vocab_size: int) -> None:
    """Raises ValueError for an id, one or several, outside the vocabulary."""
    ids = [] if tokens is None else [tokens] if isinstance(tokens, int) else tokens
    for token in ids:
        if not 0 <= token < vocab_size:
            raise ValueError(f"{name}: expected token ids in 0..{vocab_size - 1}, got {token}")


def _check_never(automaton: Automaton, never: Sequence[int]) -> None:
    # the rows would be empty, or lack what comes after such a token
    for token in never:
        if (automaton.arc_tokens == token).any():
            raise ValueError(
                "constraint: expected neither pad_token_id nor bos_token_id, which are never "
                f"generated, got {token}"
            )


def _fingerprint(automaton: Automaton) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for array in automaton:
        # the size too, or numbers could move from one array to the next
        digest.update(array.numel().to_bytes(8, "little"))
        digest.update(array.contiguous().cpu().numpy().data)
    return int.from_bytes(digest.digest(), "little", signed=True) or 1
