"""Random shapes, types, lengths and resets against the float64 reference.

A hundred cases; FAST_S2S_STRESS=5000 runs so many, from FAST_S2S_STRESS_SEED on.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from helpers_lstm import Case, compare, make_inputs
from helpers_native import needs_native

from fast_s2s import reference

pytestmark = needs_native

_SEED = int(os.environ.get("FAST_S2S_STRESS_SEED", "0"))
_CASES = int(os.environ.get("FAST_S2S_STRESS", "100"))


def random_case(rng: random.Random) -> Case:
    hidden = rng.choice([1, 2, 15, 16, 17, 31, 64, 65, rng.randint(1, 150)])
    projected = hidden > 1 and rng.random() < 0.3
    return Case(
        steps=rng.choice([1, 2, 3, 4, 5, 6, rng.randint(1, 40)]),
        batch=rng.choice([1, 2, 3, 5, 6, 7, rng.randint(1, 40)]),
        hidden=hidden,
        projection=rng.randint(1, hidden - 1) if projected else 0,
        inputs=rng.choice([1, 16, rng.randint(1, 100)]),
        bias=rng.random() < 0.7,
        lengths=rng.random() < 0.5,
        reset=rng.random() < 0.3,
        reverse=rng.random() < 0.5,
    )


def check_random_case(case: Case, rng: random.Random, dtypes, assert_close) -> None:
    dtype = rng.choice(dtypes)
    save = rng.choice([reference.SAVE_GATES, reference.SAVE_CELLS])
    torch.set_num_threads(rng.choice([1, 2, 3]))
    inputs = make_inputs(case, dtype)
    compare(inputs, inputs.run(save=save), assert_close, what=f"{case} {dtype} save={save}")


@pytest.mark.parametrize("seed", range(_SEED, _SEED + _CASES))
def test_random_case(seed, assert_close):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    types = [torch.float32, torch.float32, torch.float64, torch.bfloat16]
    check_random_case(random_case(rng), rng, types, assert_close)
