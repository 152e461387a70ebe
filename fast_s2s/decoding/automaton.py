"""Finite automata over tokens: which sequences may be generated."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fast_s2s.checks import check_sequence, check_tensor, check_token_ids


class Automaton(NamedTuple):
    """A deterministic automaton with states 0..S-1; generation begins in state 0 unless told
    otherwise.

    node_offsets: (S + 1,) int64, where each state's arcs begin; the last is the number of arcs
    arc_tokens:   (arcs,) int64, strictly rising within a state
    arc_targets:  (arcs,) int64, the state each leads to
    final:        (S,) bool, states in which a sequence may end: there eos is allowed
    """

    node_offsets: Tensor
    arc_tokens: Tensor
    arc_targets: Tensor
    final: Tensor

    @classmethod
    def from_sequences(
        cls, sequences: Sequence[Sequence[int]], *, name: str = "sequences"
    ) -> Automaton:
        """The trie of these token sequences, which are without eos: exactly they are allowed.

        name: what errors call them

        Raises TypeError or ValueError naming what does not fit.
        """
        check_sequence(name, sequences, "token sequences")
        if not len(sequences):
            raise ValueError(f"{name}: expected at least one, got none")
        try:
            lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
            # index: a number with a fraction is no token
            flat = np.fromiter(
                (operator.index(token) for sequence in sequences for token in sequence),
                np.int64,
                lengths.sum(),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{name}: expected sequences of integers ({error})") from error
        if flat.size and flat.min() < 0:
            raise ValueError(f"{name}: expected token ids >= 0, got {flat.min()}")
        return cls(*(torch.from_numpy(array) for array in _trie(flat, lengths)))

    def to(self, device: torch.device) -> Automaton:
        """The automaton on a device."""
        return Automaton(*(array.to(device) for array in self))

    def accepts(self, sequence: Sequence[int]) -> bool:
        """Whether this sequence of tokens, without eos, is allowed."""
        state = 0
        for token in sequence:
            first, last = self.node_offsets[state : state + 2].tolist()
            arcs = self.arc_tokens[first:last].tolist()
            at = bisect.bisect_left(arcs, token)
            if at == len(arcs) or arcs[at] != token:
                return False
            state = int(self.arc_targets[first + at])
        return bool(self.final[state])

    def check(self, vocab_size: int) -> None:
        """Raises TypeError or ValueError naming the array that does not fit."""
        cpu = torch.device("cpu")
        offsets, tokens, targets, final = self
        check_tensor("automaton.node_offsets", offsets, "(S + 1,)", (None,), torch.int64, cpu)
        check_tensor("automaton.arc_tokens", tokens, "(arcs,)", (None,), torch.int64, cpu)
        check_tensor(
            "automaton.arc_targets", targets, "(arcs,)", (tokens.size(0),), torch.int64, cpu
        )
        if offsets.numel() < 2:
            raise ValueError("automaton.node_offsets: expected at least two, for one state")
        states = offsets.numel() - 1
        check_tensor("automaton.final", final, "(S,)", (states,), torch.bool, cpu)
        if offsets[0] != 0 or offsets[-1] != tokens.numel() or (offsets.diff() < 0).any():
            raise ValueError(
                f"automaton.node_offsets: expected to rise from 0 to {tokens.numel()}, the number "
                "of arcs"
            )
        check_token_ids("automaton.arc_tokens", tokens, vocab_size)
        if targets.numel() and (targets.min() < 0 or targets.max() >= states):
            raise ValueError(f"automaton.arc_targets: expected states in 0..{states - 1}")
        same_state = torch.ones(max(tokens.numel() - 1, 0), dtype=torch.bool)
        starts = offsets[1:-1]
        same_state[starts[(starts > 0) & (starts < tokens.numel())] - 1] = False
        if ((tokens.diff() <= 0) & same_state).any():
            raise ValueError("automaton.arc_tokens: expected them to rise strictly within a state")


def _trie(flat: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """Level by level: sequences that share a node are split by their next token."""
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    alive = np.arange(len(lengths))
    node = np.zeros(len(lengths), np.int64)
    ends: list[np.ndarray] = []
    # per level: source node, token, target node of each arc
    arcs: list[np.ndarray] = []
    states, depth = 1, 0
    while len(alive):
        at_end = lengths[alive] == depth
        ends.append(node[at_end])
        alive, node = alive[~at_end], node[~at_end]
        token = flat[starts[alive] + depth]
        pairs, inverse = np.unique(np.stack((node, token)), axis=1, return_inverse=True)
        targets = states + np.arange(pairs.shape[1])
        arcs.append(np.concatenate((pairs, targets[None])))
        node = targets[inverse.reshape(-1)]
        states, depth = states + pairs.shape[1], depth + 1
    source, tokens, targets = np.concatenate(arcs, axis=1)
    # levels come in order, nodes rise within one and so do a node's tokens
    offsets = np.concatenate(([0], np.cumsum(np.bincount(source, minlength=states))))
    final = np.zeros(states, bool)
    final[np.concatenate(ends)] = True
    return offsets, tokens.copy(), targets.copy(), final
