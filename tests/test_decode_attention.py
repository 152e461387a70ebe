"""The op `decode` with attention: random decoders and memories, the native kernels against the
reference; edges, threads, instruction sets, and bad arguments.

FAST_S2S_STRESS=5000 runs so many cases of each kind, from FAST_S2S_STRESS_SEED on.
"""

from __future__ import annotations

import itertools
import os
import random

import pytest
import torch
from helpers_attention import Case, Shape, make_case, random_shape
from helpers_decode import (
    BOS,
    EOS,
    Size,
    log_probabilities,
    random_options,
    random_size,
    random_weights,
    twin,
    varied,
    with_more,
)
from helpers_decode_compare import assert_same, sure_rows
from helpers_native import needs_native, run_with

from fast_s2s.attention import Memory
from fast_s2s.decoding import (
    AttentionWeights,
    DecodeOptions,
    DecoderWeights,
    initial_state,
    pack_decoder,
)

_SEED = int(os.environ.get("FAST_S2S_STRESS_SEED", "0"))
_CASES = int(os.environ.get("FAST_S2S_STRESS", "80"))
_SEEDS = range(_SEED, _SEED + _CASES)


def draw(seed: int, dtype: torch.dtype) -> tuple[random.Random, Case, DecodeOptions]:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size, batch = varied(seed, random_size(rng)), rng.choice([1, 2, 3, 7, rng.randint(1, 12)])
    shape = random_shape(rng, size)
    table, sharpness = rng.choice(["on", "off"]), rng.choice([0.5, 2, 5])
    case = make_case(size, shape, batch, dtype, table, sharpness)
    torch.set_num_threads(rng.choice([1, 1, 2, 3]))
    return rng, case, with_more(seed, random_options(rng, size, batch), attends=True)


@needs_native
@pytest.mark.parametrize("seed", _SEEDS)
def test_float64_is_the_reference_token_by_token(seed):
    rng, case, options = draw(seed, torch.float64)
    expected = case.on_reference(options)
    assert case.decoder.backend == "native"
    assert_same(case.run(options), expected)
    assert_same(case.run(options, chunk=rng.randint(1, 4)), expected)


@needs_native
def test_other_types_are_the_reference_of_their_own_weights():
    """As in test_decode_random.py."""
    counts = []
    for seed in _SEEDS[:: 2 if len(_SEEDS) > 40 else 1]:
        dtype = random.Random(seed).choice([torch.float32, torch.bfloat16, torch.int8])
        _, case, options = draw(10**6 + seed, dtype)
        single = case._replace(
            h=case.h.float(), c=case.c.float(), memory=case.memory.to(torch.float32)
        )
        exact = single._replace(decoder=twin(case.decoder)).on_reference(options)
        noisy = [
            single._replace(decoder=twin(case.decoder, 3e-6)).on_reference(options)
            for _ in range(2)
        ]
        counts.append(sure_rows(case.run(options), exact, noisy, f"seed {seed}, {dtype}"))
    compared, total = map(sum, zip(*counts, strict=True))
    assert compared > 0.95 * total


@pytest.mark.parametrize("feeding", [False, True])
@pytest.mark.parametrize("additive", [False, True])
def test_beams_find_the_best_of_all_sequences(backend, additive, feeding):
    """As many beams as there are sequences miss none; all are scored one by one."""
    vocab, length = 4, 3
    shape = Shape(additive=additive, feeding=feeding, heads=2, keys=4)
    case = make_case(Size(hidden=8, vocab=vocab), shape, 2)
    beams = vocab**length
    options = DecodeOptions(
        max_new_tokens=length, num_beams=beams, num_return_sequences=5, length_penalty=0.0
    )
    result = case.run(options)
    for row in range(2):
        scores = {}
        for tokens in itertools.product(range(vocab), repeat=length):
            steps = log_probabilities(case[:3], row, list(tokens[:-1]), case.memory)
            scores[tokens] = float(steps[range(length), tokens].sum())
        best = sorted(scores, key=lambda tokens: -scores[tokens])[:5]
        found = result.tokens[row * 5 : row * 5 + 5, 1:].tolist()
        assert [tuple(tokens) for tokens in found] == best
        expected = torch.tensor([scores[tokens] for tokens in best], dtype=torch.float64)
        torch.testing.assert_close(result.scores[row * 5 : row * 5 + 5], expected)


@needs_native
@pytest.mark.parametrize("additive", [False, True])
def test_what_lies_past_the_lengths_does_not_count(additive):
    case = make_case(Size(hidden=16), Shape(additive=additive, heads=2), 5, torch.float32)
    options = DecodeOptions(max_new_tokens=6)
    expected = case.run(options)
    for row, length in enumerate(case.memory.lengths.tolist()):
        case.memory.values[row, length:] = float("nan")
        case.memory.keys[row, length:] = float("nan")
    again = case.run(options)
    assert torch.equal(again.tokens, expected.tokens)
    assert torch.equal(again.scores, expected.scores)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at", [0, 1])
def test_keys_that_are_nan_are_not_passed_over(dtype, at):
    case = make_case(Size(hidden=16), Shape(heads=2), 5, dtype)
    case.memory.lengths.fill_(case.memory.keys.size(1))
    case.memory.keys[3, at] = float("nan")
    options = DecodeOptions(max_new_tokens=6)
    actual, expected = case.run(options), case.on_reference(options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert actual.scores[3] == -torch.inf
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-4, atol=1e-5)


@needs_native
@pytest.mark.parametrize("largest", [39.0, 44.0, 60.0, 1e30])
def test_additive_scores_of_large_keys(largest):
    """e^{2k} of these keys, or its product with e^{2q}, is beyond float32."""
    shape = Shape(additive=True, heads=2, keys=17, steps=9)
    case = make_case(Size(hidden=16), shape, 3, torch.float32)
    case.memory.lengths[:] = torch.tensor([9, 9, 5])
    case.memory.keys[1] *= largest / case.memory.keys[1].abs().max()
    case = case._replace(memory=case.memory.to(torch.float32))
    options = DecodeOptions(max_new_tokens=6)
    actual, expected = case.run(options), case.on_reference(options)
    assert torch.equal(actual.tokens, expected.tokens)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-4, atol=1e-5)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float64])
def test_a_row_does_not_depend_on_others_or_threads(dtype):
    shape = Shape(additive=True, feeding=True, heads=4, keys=16, values=70, steps=37)
    case = make_case(Size(hidden=160, vocab=90, layers=2), shape, 9, dtype)
    options = DecodeOptions(max_new_tokens=10)
    torch.set_num_threads(3)
    whole = case.run(options)
    torch.set_num_threads(1)
    assert torch.equal(case.run(options).scores, whole.scores)
    for row in (0, 4, 8):
        index = torch.tensor([row])
        alone = Case(case.decoder, case.h[:, index], case.c[:, index], case.memory.select(index))
        result = alone.run(options)
        assert torch.equal(result.tokens[0], whole.tokens[row])
        assert torch.equal(result.scores[0], whole.scores[row])


def test_empty_memory_and_no_rows(backend):
    options = DecodeOptions(max_new_tokens=3)
    case = make_case(Size(), Shape(), 2)
    empty = case._replace(
        memory=Memory(case.memory.values[:, :0], case.memory.keys[:, :0], torch.zeros(2).long())
    )
    nothing = case._replace(memory=case.memory._replace(lengths=torch.zeros(2).long()))
    assert torch.equal(empty.run(options).scores, nothing.run(options).scores)
    none = Case(case.decoder, case.h[:, :0], case.c[:, :0], case.memory.select(torch.arange(0)))
    assert none.run(options).tokens.shape == (0, 1)


_RUN_AN_ISA = """
import torch
import test_decode_attention as tests
from helpers_decode_compare import assert_same
for seed in range(24):
    for dtype in (torch.float64, torch.float32, torch.int8):
        _, case, options = tests.draw(seed, dtype)
        expected = case.on_reference(options)
        actual = case.run(options)
        if dtype == torch.float64:
            assert_same(actual, expected)
        same = sum(map(torch.equal, actual.tokens[:, :2], expected.tokens[:, :2]))
        assert same >= 0.8 * len(actual.tokens), (seed, dtype)
"""


@needs_native
@pytest.mark.parametrize("isa", ["generic", "avx2", "neon_dot", "neon_emulated"])
def test_other_instruction_sets(isa):
    run_with(isa, _RUN_AN_ISA)


@needs_native
@pytest.mark.parametrize("beams", [1, 3])
def test_opcheck(beams):
    options = DecodeOptions(max_new_tokens=4, eos_token_id=EOS, num_beams=beams)
    case = make_case(Size(projection=3), Shape(additive=True, feeding=True), 2, torch.float32)
    torch.library.opcheck(torch.ops.fast_s2s.decode.default, case.op_arguments(options))


@needs_native
@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (None, lambda memory: [], "memory: expected 3 tensors, got 0"),
        (0, lambda t: t.float(), "memory.values: expected dtype Double, got Float"),
        (0, lambda t: t[:, :, 1:], "memory.values: expected shape"),
        (1, lambda t: t[:, 1:], "memory.keys: expected shape"),
        (2, lambda t: t[1:], "memory.lengths: expected shape"),
        (2, lambda t: t + 8, "memory.lengths: expected values in 0..7"),
    ],
)
def test_bad_arguments_of_the_op(index, change, message):
    arguments = make_case(Size(), Shape(), 2).op_arguments(DecodeOptions(max_new_tokens=2))
    if index is None:
        arguments[3] = change(arguments[3])
    else:
        arguments[3][index] = change(arguments[3][index])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.decode(*arguments)


def weights_with(**changes) -> DecoderWeights:
    size = Size()
    weights = random_weights(size)
    attention = AttentionWeights(torch.randn(8, 14, dtype=torch.float64))
    return weights._replace(attention=attention._replace(**changes))


BAD_WEIGHTS = {
    "output": ({"output": torch.zeros(7, 14)}, "attention.output: expected shape"),
    "no values": ({"output": torch.zeros(8, 8)}, "attention.output: expected (R, M + R) with R"),
    "query": ({"query": torch.zeros(5, 8)}, "attention.query: expected one beside attention.sco"),
    "score": (
        {"query": torch.zeros(5, 8), "score": torch.zeros(4)},
        "attention.score: expected shape (A,) = (5,), got (4,)",
    ),
    "heads": ({"heads": 4}, "attention.heads: expected a divisor of M = 6 and A = 8, got 4"),
    "feeding": ({"feeding": True}, "layers[0].w_ih: expected shape (4H, I) = (32, 13), got"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights(case):
    changes, message = BAD_WEIGHTS[case]
    with pytest.raises(ValueError) as raised:
        pack_decoder(weights_with(**changes))
    assert str(raised.value).startswith(message)


def test_bad_memory():
    case = make_case(Size(), Shape(), 2)
    options = DecodeOptions(max_new_tokens=2)
    for memory, error, message in (
        (None, TypeError, "memory: expected a Memory for a decoder with attention, got NoneType"),
        (
            case.memory._replace(keys=case.memory.keys[:, 1:]),
            ValueError,
            "memory.keys: expected shape (B, S, A) = (2, 7, 8), got (2, 6, 8)",
        ),
        (
            case.memory._replace(lengths=torch.tensor([8, 1])),
            ValueError,
            "memory.lengths: expected lengths in 0..7, got 8 at memory.lengths[0]",
        ),
    ):
        with pytest.raises(error) as raised:
            case._replace(memory=memory).run(options)
        assert str(raised.value) == message
    plain = pack_decoder(random_weights(Size()), torch.float64)
    with pytest.raises(ValueError, match="memory: expected None for a decoder without attention"):
        initial_state(plain, case.h, case.c, BOS, options, memory=case.memory)
