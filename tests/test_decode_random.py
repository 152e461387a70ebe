"""Random decoders, options and ways to stop on the way: the native kernels against the reference.

FAST_S2S_STRESS=5000 runs so many cases of each kind, from FAST_S2S_STRESS_SEED on.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from helpers_decode import make, random_options, random_size, run, twin, with_more

import fast_s2s
from fast_s2s import backends
from fast_s2s.decoding import DecodeOptions, DecodeResult

pytestmark = pytest.mark.skipif(
    backends.extension is None, reason=f"no native ops: {backends.extension_reason}"
)

_SEED = int(os.environ.get("FAST_S2S_STRESS_SEED", "0"))
_CASES = int(os.environ.get("FAST_S2S_STRESS", "250"))
_SEEDS = range(_SEED, _SEED + _CASES)


@pytest.fixture(autouse=True)
def _one_thread_after():
    yield
    torch.set_num_threads(1)


def draw(seed: int, dtype: torch.dtype):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size, batch = random_size(rng), rng.choice([1, 2, 3, 7, rng.randint(1, 12)])
    made = make(size, batch, dtype, rng.choice(["on", "off"]), sharpness=rng.choice([0.5, 2, 5]))
    torch.set_num_threads(rng.choice([1, 1, 2, 3]))
    return rng, made, with_more(seed, random_options(rng, size, batch))


def on_reference(made, options: DecodeOptions) -> DecodeResult:
    with fast_s2s.backend("reference"):
        return run(made, options)


def assert_same(actual: DecodeResult, expected: DecodeResult) -> None:
    """Tokens and counts exactly, numbers closely: everything, down to what is in empty slots."""
    assert torch.equal(actual.tokens, expected.tokens)
    assert torch.equal(actual.lengths, expected.lengths)
    assert (actual.done, actual.steps, actual.slot_steps) == (
        expected.done,
        expected.steps,
        expected.slot_steps,
    )
    assert (actual.kept is None) == (expected.kept is None)
    for name in actual.kept._fields if actual.kept else ():
        ours, theirs = getattr(actual.kept, name), getattr(expected.kept, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
    for ours, theirs in zip(actual.state, expected.state, strict=True):
        if ours is None:
            assert theirs is None
            continue
        for name, value in ours._asdict().items():
            other = getattr(theirs, name)
            if value.is_floating_point():
                torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9, msg=name)
            else:
                assert torch.equal(value, other), name


@pytest.mark.parametrize("seed", _SEEDS)
def test_float64_is_the_reference_token_by_token(seed):
    rng, made, options = draw(seed, torch.float64)
    expected = on_reference(made, options)
    assert_same(run(made, options), expected)
    assert_same(run(made, options, chunk=rng.randint(1, 4)), expected)


def rows_of(result: DecodeResult) -> list[tuple]:
    pairs = zip(result.tokens, result.lengths.tolist(), strict=True)
    return [tuple(tokens[: 1 + length].tolist()) for tokens, length in pairs]


def test_other_types_are_the_reference_of_their_own_weights():
    """Tokens are compared where the reference's own stay the same under noise of the size of the
    kernels' rounding; that must be nearly everywhere. Scores are compared wherever tokens are.
    """
    compared = total = 0
    for seed in _SEEDS[:: 2 if len(_SEEDS) > 40 else 1]:
        dtype = random.Random(seed).choice([torch.float32, torch.bfloat16, torch.int8])
        _, made, options = draw(10**6 + seed, dtype)
        decoder, h, c = made
        context = (h.float().double(), c.float().double())
        exact = on_reference((twin(decoder), *context), options)
        noisy = [on_reference((twin(decoder, 3e-6), *context), options) for _ in range(2)]
        actual = run(made, options)
        expected, others = rows_of(exact), [rows_of(result) for result in noisy]
        for row, tokens in enumerate(rows_of(actual)):
            total += 1
            if any(other[row] != expected[row] for other in others):
                continue
            compared += 1
            assert tokens == expected[row], f"seed {seed}, {dtype}, row {row}"
            torch.testing.assert_close(
                actual.scores[row], exact.scores[row], rtol=1e-3, atol=1e-3, msg=f"seed {seed}"
            )
    assert compared > 0.95 * total
