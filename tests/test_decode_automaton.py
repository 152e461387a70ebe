"""Automata: sequences become a trie, what is refused, and decoding under one."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers_decode import EOS, Size, kinds, make, run
from helpers_native import needs_native

import fast_s2s
from fast_s2s.decoding import Automaton, DecodeOptions


@pytest.mark.parametrize("kind_name", ["greedy", "sample", "beam"])
@needs_native
def test_a_large_vocabulary_under_an_automaton(kind_name, assert_close):
    """Only what is allowed is computed; the result is that of computing everything."""
    made = make(Size(hidden=40, vocab=3000), 3)
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(3, 3000, (500, 3), generator=generator).tolist()
    automaton = Automaton.from_sequences(words)
    automaton.check(3000)
    options = DecodeOptions(
        max_new_tokens=6,
        eos_token_id=EOS,
        automaton=automaton,
        renormalize_logits=True,
        **kinds(3)[kind_name],
    )
    actual = run(made, options)
    with fast_s2s.backend("reference"):
        expected = run(made, options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert_close(actual.scores, expected.scores, "scores")
    allowed = {tuple(word) for word in words}
    for tokens in actual.tokens:
        assert tuple(tokens[1:4].tolist()) in allowed and tokens[4] == EOS


def test_trie_of_sequences():
    words = [[3, 4], [3, 5, 6], [], [3], [7, 3, 4]]
    automaton = Automaton.from_sequences(words)
    automaton.check(8)
    found = set()

    def walk(node: int, path: tuple[int, ...]) -> None:
        if automaton.final[node]:
            found.add(path)
        begin, end = automaton.node_offsets[node : node + 2].tolist()
        for arc in range(begin, end):
            walk(int(automaton.arc_targets[arc]), (*path, int(automaton.arc_tokens[arc])))

    walk(0, ())
    assert found == {tuple(word) for word in words}
    # shared beginnings are shared states
    assert automaton.final.numel() == 1 + 4 + 3


def test_a_long_word_list_becomes_a_trie(assert_close):
    letters = itertools.product(range(3, 13), repeat=5)
    words = [list(word) for word in letters]
    automaton = Automaton.from_sequences(words)
    automaton.check(13)
    assert len(words) == 100_000
    assert automaton.final.sum() == 100_000 and automaton.arc_tokens.numel() == 111_110


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ("ab", TypeError, "sequences: expected a sequence of token sequences, got one str"),
        ([], ValueError, "sequences: expected at least one, got none"),
        ([["a"]], TypeError, "sequences: expected sequences of integers"),
        ([3], TypeError, "sequences: expected sequences of integers"),
        ([[3.5]], TypeError, "sequences: expected sequences of integers"),
        ([[2**63]], TypeError, "sequences: expected sequences of integers"),
        ([[1], [-2]], ValueError, "sequences: expected token ids >= 0, got -2"),
    ],
)
def test_bad_word_lists(sequences, error, message):
    with pytest.raises(error, match=message):
        Automaton.from_sequences(sequences)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([0], [], [], []), "automaton.node_offsets: expected at least two"),
        (([0, 2], [1, 2], [0], [True]), "automaton.arc_targets: expected shape"),
        (([0, 1], [1, 2], [0, 0], [True]), "automaton.node_offsets: expected to rise from 0 to 2"),
        (([0, 2], [1, 9], [0, 0], [True]), "automaton.arc_tokens: expected token ids in 0..8"),
        (([0, 2], [1, 2], [0, 1], [True]), "automaton.arc_targets: expected states in 0..0"),
        (([0, 2], [2, 2], [0, 0], [True]), "automaton.arc_tokens: expected them to rise strictly"),
        (([0, 2], [2, 3], [0, 0], [True, False]), "automaton.final: expected shape"),
    ],
)
def test_bad_automata(arrays, message):
    offsets, tokens, targets = (torch.tensor(array, dtype=torch.int64) for array in arrays[:3])
    with pytest.raises(ValueError, match=message):
        Automaton(offsets, tokens, targets, torch.tensor(arrays[3], dtype=torch.bool)).check(9)
