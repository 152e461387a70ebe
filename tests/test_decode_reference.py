"""The op `decode` on its reference: each strategy against the plainest way to the same answer."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers_decode import EOS, Size, log_probabilities, make, run

import fast_s2s
from fast_s2s.decoding import Automaton, DecodeOptions
from fast_s2s.decoding.philox import gumbel, philox


@pytest.fixture(autouse=True)
def _reference():
    with fast_s2s.backend("reference"):
        yield


def words(counter, key):
    tensors = [torch.tensor(word) for word in (*counter, *key)]
    return philox(tuple(tensors[:4]), tuple(tensors[4:])).tolist()


def test_philox_known_answers():
    """Random123's kat_vectors for philox4x32-10."""
    ones = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert words((0,) * 4, (0,) * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words((ones,) * 4, (ones,) * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert words(*pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_gumbel_noise_has_its_distribution():
    noise = gumbel(torch.arange(50), torch.zeros(50).long(), torch.zeros(50).long(), 2001)
    assert noise.isfinite().all()
    # mean: Euler's constant; variance: pi^2 / 6
    assert abs(noise.mean() - 0.5772) < 0.02 and abs(noise.var() - 1.6449) < 0.04


def test_greedy_takes_the_most_probable_token():
    made = make(Size(), 4)
    result = run(made, DecodeOptions(max_new_tokens=7, eos_token_id=EOS))
    for row in range(4):
        expected: list[int] = []
        total = 0.0
        while len(expected) < 7 and EOS not in expected:
            scores = log_probabilities(made, row, expected)[-1]
            expected.append(int(scores.argmax()))
            total += float(scores.max())
        length = int(result.lengths[row])
        assert result.tokens[row, 1 : 1 + length].tolist() == expected
        assert float(result.scores[row]) == pytest.approx(total, abs=1e-9)
        assert (result.tokens[row, 1 + length :] == 0).all()


def test_samples_follow_the_distribution():
    made = make(Size(vocab=5), 1)
    options = DecodeOptions(
        max_new_tokens=1, do_sample=True, seed=torch.tensor([7]), num_return_sequences=20000
    )
    counts = run(made, options).tokens[:, 1].bincount(minlength=5) / 20000
    expected = log_probabilities(made, 0, [])[0].exp()
    assert (counts - expected).abs().max() < 0.015


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_what_brute_force_finds(length_penalty, seed):
    torch.manual_seed(seed)
    vocab, limit = 4, 4
    made = make(Size(vocab=vocab), 1)
    options = DecodeOptions(
        max_new_tokens=limit,
        eos_token_id=EOS,
        # every open sequence fits
        num_beams=81,
        num_return_sequences=81,
        early_stopping="never",
        length_penalty=length_penalty,
    )
    found = {}
    rest = [token for token in range(vocab) if token != EOS]
    for length in range(1, limit + 1):
        lasts = range(vocab) if length == limit else [EOS]
        for body in itertools.product(rest, repeat=length - 1):
            scores = log_probabilities(made, 0, list(body))
            start = sum(float(scores[i, token]) for i, token in enumerate(body))
            for last in lasts:
                total = start + float(scores[length - 1, last])
                found[(*body, last)] = total / length**length_penalty
    expected = sorted(found.items(), key=lambda item: -item[1])[:81]
    result = run(made, options)
    for index, (tokens, score) in enumerate(expected):
        length = int(result.lengths[index])
        assert float(result.scores[index]) == pytest.approx(score, abs=1e-9)
        assert tuple(result.tokens[index, 1 : 1 + length].tolist()) == tokens


def test_a_constrained_beam_ranks_a_list_of_words():
    made = make(Size(vocab=9), 2)
    sequences = [[3], [3, 4], [4, 5, 6], [5], [7, 7, 7, 7], [8, 3]]
    options = DecodeOptions(
        max_new_tokens=6,
        eos_token_id=EOS,
        num_beams=6,
        num_return_sequences=6,
        length_penalty=0.0,
        early_stopping="never",
        automaton=Automaton.from_sequences(sequences),
    )
    result = run(made, options)
    for row in range(2):
        scores = {}
        for sequence in sequences:
            table = log_probabilities(made, row, sequence)
            path = [*sequence, EOS]
            scores[tuple(path)] = sum(float(table[i, token]) for i, token in enumerate(path))
        ranked = sorted(scores, key=scores.get, reverse=True)
        got = [
            tuple(result.tokens[i, 1 : 1 + int(result.lengths[i])].tolist())
            for i in range(6 * row, 6 * row + 6)
        ]
        assert got == ranked
