"""Random decoders, options and ways to stop on the way: the native kernels against the reference.

FAST_S2S_STRESS=5000 runs so many cases of each kind, from FAST_S2S_STRESS_SEED on.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from helpers_decode import (
    make,
    random_options,
    random_size,
    run,
    twin,
    varied,
    with_logits,
    with_more,
)
from helpers_decode_compare import assert_same, sure_rows
from helpers_native import needs_native

import fast_s2s
from fast_s2s.decoding import DecodeOptions, DecodeResult

pytestmark = needs_native

_SEED = int(os.environ.get("FAST_S2S_STRESS_SEED", "0"))
_CASES = int(os.environ.get("FAST_S2S_STRESS", "250"))
_SEEDS = range(_SEED, _SEED + _CASES)


def draw(seed: int, dtype: torch.dtype):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size, batch = varied(seed, random_size(rng)), rng.choice([1, 2, 3, 7, rng.randint(1, 12)])
    made = make(size, batch, dtype, rng.choice(["on", "off"]), sharpness=rng.choice([0.5, 2, 5]))
    torch.set_num_threads(rng.choice([1, 1, 2, 3]))
    return rng, made, with_more(seed, random_options(rng, size, batch))


def on_reference(made, options: DecodeOptions) -> DecodeResult:
    with fast_s2s.backend("reference"):
        return run(made, options)


@pytest.mark.parametrize("seed", _SEEDS)
def test_float64_is_the_reference_token_by_token(seed):
    rng, made, options = draw(seed, torch.float64)
    expected = on_reference(made, options)
    assert_same(run(made, options), expected)
    assert_same(run(made, options, chunk=rng.randint(1, 4)), expected)


def test_other_types_are_the_reference_of_their_own_weights():
    """Rows that stand up to noise, which must be nearly all of them."""
    counts = []
    for seed in _SEEDS[:: 2 if len(_SEEDS) > 40 else 1]:
        dtype = random.Random(seed).choice([torch.float32, torch.bfloat16, torch.int8])
        _, made, options = draw(10**6 + seed, dtype)
        decoder, h, c = made
        context = (h.float().double(), c.float().double())
        exact = on_reference((twin(decoder), *context), options)
        noisy = [on_reference((twin(decoder, 3e-6), *context), options) for _ in range(2)]
        counts.append(sure_rows(run(made, options), exact, noisy, f"seed {seed}, {dtype}"))
    compared, total = map(sum, zip(*counts, strict=True))
    assert compared > 0.95 * total


def test_equals_have_equal_chances_whatever_their_size():
    """Logits over a low temperature, where float32 has no room for the noise between them."""
    rows = 200
    made = with_logits([0.0, *[1e3] * 21, -0.5], batch=rows)
    options = DecodeOptions(
        max_new_tokens=1, do_sample=True, seed=torch.arange(rows), temperature=1e-6
    )
    actual, expected = run(made, options), on_reference(made, options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert len(actual.tokens[:, 1].unique()) > 15
