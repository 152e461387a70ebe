"""The op `decode` on any number of threads, in any batch and on any instruction set."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers_decode import DTYPES, EOS, Size, kinds, make, run
from helpers_native import ISAS, needs_native, run_with

from fast_s2s.decoding import DecodeOptions


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["greedy", "sample", "beam"])
@needs_native
def test_a_row_does_not_depend_on_the_others(name, dtype):
    made = make(Size(layers=2, hidden=33, vocab=70), 13, dtype)
    options = DecodeOptions(max_new_tokens=12, eos_token_id=[2, 3], **kinds(13)[name])
    together = run(made, options)
    count = options.num_return_sequences
    for row in (0, 5, 12):
        alone = (made[0], *(t[:, row : row + 1] for t in made[1:]))
        seed = None if options.seed is None else options.seed[row : row + 1]
        result = run(alone, dataclasses.replace(options, seed=seed))
        rows = slice(row * count, (row + 1) * count)
        width = result.tokens.size(1)
        assert torch.equal(result.tokens, together.tokens[rows, :width])
        assert torch.equal(result.scores, together.scores[rows])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_native
def test_any_number_of_threads_gives_the_same_bits(dtype):
    made = make(Size(layers=2, hidden=400, vocab=700, projection=150), 9, dtype)
    for kind in kinds(9).values():
        options = DecodeOptions(max_new_tokens=10, eos_token_id=EOS, **kind)
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(run(made, options))
        for other in results[1:]:
            assert torch.equal(other.tokens, results[0].tokens)
            assert torch.equal(other.scores, results[0].scores)
            assert torch.equal(other.state.slots.h, results[0].state.slots.h)


@needs_native
def test_threads_wait_for_each_other_in_a_prefix():
    """There no logits are computed, so one barrier of a step less is met."""
    made = make(Size(hidden=600, vocab=50), 1, torch.float32)
    options = DecodeOptions(max_new_tokens=3, prefix=torch.randint(0, 50, (1, 12)))
    expected = run(made, options).tokens
    torch.set_num_threads(2)
    for _ in range(150):
        assert torch.equal(run(made, options).tokens, expected)


@needs_native
def test_python_threads_do_not_disturb_each_other():
    made = make(Size(layers=2, hidden=300, vocab=300), 6, torch.float32)
    options = [
        DecodeOptions(max_new_tokens=15, eos_token_id=EOS, **kind) for kind in kinds(6).values()
    ]
    torch.set_num_threads(2)
    expected = [run(made, option) for option in options]
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(run, made, option) for option in options * 4]
        actual = [future.result() for future in futures]
    for result, again in zip(actual, expected * 4, strict=True):
        assert torch.equal(result.tokens, again.tokens)
        assert torch.equal(result.scores, again.scores)


_RUN_AN_ISA = """
import test_decode_random as t
for seed in range(25):
    t.test_float64_is_the_reference_token_by_token(seed)
t._SEEDS = range(40)
t.test_other_types_are_the_reference_of_their_own_weights()
"""


@needs_native
@pytest.mark.parametrize("isa", [*ISAS, "neon_emulated"])
def test_every_instruction_set(isa):
    run_with(isa, _RUN_AN_ISA)
