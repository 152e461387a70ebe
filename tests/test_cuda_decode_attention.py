"""Attention in the op `decode` on CUDA, its kernels executed in the emulator, against the
reference.

FAST_S2S_STRESS=5000 runs so many random cases, from FAST_S2S_STRESS_SEED on.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from helpers_attention import Case, Shape, make_case, random_shape
from helpers_cuda_decode import VARIANTS, Emulated, random_device
from helpers_decode import EOS, Size, random_options, random_size, twin, with_more
from helpers_decode_compare import assert_kept_close, assert_state_close

import fast_s2s
from fast_s2s.attention import Memory
from fast_s2s.decoding import DecodeOptions, decode
from fast_s2s.decoding.options import op_numbers, op_rules
from fast_s2s.decoding.weights import CUDA_DTYPES

_SEED = int(os.environ.get("FAST_S2S_STRESS_SEED", "0"))
_CASES = int(os.environ.get("FAST_S2S_STRESS", "50"))


@pytest.fixture(autouse=True)
def _native_or_reference():
    with fast_s2s.backend("reference"):
        yield


def emulated(case: Case, emulator) -> Case:
    return case._replace(decoder=Emulated(case.decoder, emulator))


def test_random_decoders_memories_and_options_are_the_reference(emulator):
    """Where the reference's own tokens stay the same under noise of the size of the kernels'
    rounding, which must be nearly everywhere.
    """
    compared = 0
    for seed in range(_SEED, _SEED + _CASES):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        size, batch = random_size(rng, most=40), rng.choice([1, 2, 3, 7])
        shape, dtype = random_shape(rng, size, 40), rng.choice(CUDA_DTYPES)
        table, sharpness = rng.choice(["on", "off"]), rng.choice([0.5, 2])
        case = make_case(size, shape, batch, dtype, table, sharpness)
        options = with_more(seed, random_options(rng, size, batch), attends=True)
        device = random_device(rng)
        emulator.configure(**device)
        expected = case.run(options)
        noisy = case._replace(decoder=twin(case.decoder, 3e-6)).run(options)
        chunk = rng.choice([None, None, rng.randint(1, 4)])
        actual = emulated(case, emulator).run(options, chunk)
        if not torch.equal(noisy.tokens, expected.tokens):
            continue
        compared += 1
        what = f"seed {seed}: {size}, {shape}, {batch} rows, {dtype}, {table}, {device}, {options}"
        assert torch.equal(actual.tokens, expected.tokens), what
        assert torch.equal(actual.lengths, expected.lengths), what
        assert actual.slot_steps == expected.slot_steps and actual.done == expected.done, what
        torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-4, atol=1e-4, msg=what)
        assert_state_close(actual, expected)
        assert_kept_close(actual, expected, what)
    assert compared > 0.9 * _CASES


KINDS = [Shape(heads=3), Shape(heads=2, additive=True, feeding=True, keys=21)]


@pytest.mark.parametrize("shape", KINDS, ids=["dot", "additive"])
@pytest.mark.parametrize("dtype", CUDA_DTYPES, ids=str)
def test_a_row_has_the_same_bits_in_every_batch_and_variant(emulator, dtype, shape):
    shape = shape._replace(values=35, steps=34)
    case = make_case(Size(hidden=36, vocab=50, projection=18), shape, 6, dtype, "off")
    options = DecodeOptions(max_new_tokens=2, eos_token_id=EOS)
    index = torch.tensor([3])
    one = case._replace(h=case.h[:, index], c=case.c[:, index], memory=case.memory.select(index))
    wanted = None
    for only in VARIANTS.values():
        for row_tiles in (1, 4):
            emulator.configure(only=only, row_tiles=row_tiles, shared_bytes=60_000)
            result, alone = (emulated(c, emulator).run(options) for c in (case, one))
            wanted = wanted or result
            for name in ("h", "c", "score"):
                ours = getattr(result.state.slots, name)
                assert torch.equal(ours, getattr(wanted.state.slots, name)), name
                at = ours[index] if name == "score" else ours[:, index]
                assert torch.equal(at, getattr(alone.state.slots, name)), name


@pytest.mark.parametrize("kind", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
def test_what_lies_past_the_lengths_does_not_count(emulator, kind):
    case = make_case(Size(hidden=16), Shape(heads=2, feeding=True), 5, torch.float32)
    options = DecodeOptions(max_new_tokens=6, eos_token_id=EOS, **kind)
    expected = emulated(case, emulator).run(options)
    past = torch.arange(7) >= case.memory.lengths.unsqueeze(1)
    assert past.any()
    case.memory.values[past] = torch.nan
    case.memory.keys[past] = torch.nan
    actual = emulated(case, emulator).run(options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert torch.equal(actual.scores, expected.scores)


def test_lengths_out_of_range_are_the_nearest_in_range(emulator):
    """The device's values are not checked: what is wrong must not be read."""
    options = DecodeOptions(max_new_tokens=4)
    case = make_case(Size(), Shape(), 3, torch.float32)
    case.memory.lengths[:] = torch.tensor([0, 7, 4])
    ours = emulated(case, emulator)
    expected, state = ours.run(options), ours.state(options)
    lengths = torch.tensor([-5, 2**40, 4])
    state = state._replace(memory=state.memory._replace(lengths=lengths))
    actual = decode(ours.decoder, state, options)
    assert torch.equal(actual.scores, expected.scores)


def test_empty_memory_and_no_rows(emulator):
    options = DecodeOptions(max_new_tokens=3)
    case = emulated(make_case(Size(), Shape(), 2, torch.float32), emulator)
    zeros = torch.zeros(2).long()
    empty = Memory(case.memory.values[:, :0], case.memory.keys[:, :0], zeros)
    nothing = case._replace(memory=case.memory._replace(lengths=zeros))
    found = case._replace(memory=empty).run(options).scores
    assert torch.equal(found, nothing.run(options).scores)
    assert found.isfinite().all()
    none = Case(case.decoder, case.h[:, :0], case.c[:, :0], case.memory.select(torch.arange(0)))
    assert none.run(options).tokens.shape == (0, 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("part", ["values", "keys"])
def test_numbers_that_are_none_stay_in_their_row(emulator, part, value):
    case = make_case(Size(), Shape(), 3, torch.float32)
    case.memory.lengths[:] = 7
    options = DecodeOptions(max_new_tokens=3, eos_token_id=EOS)
    getattr(case.memory, part)[1, 2] = value
    expected, actual = case.run(options), emulated(case, emulator).run(options)
    assert torch.equal(actual.tokens, expected.tokens)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-4, atol=1e-4)


def test_ended_rows_cost_nothing(emulator):
    emulator.configure(only=VARIANTS["grid"], sms=3)
    case = make_case(Size(hidden=6, vocab=9), Shape(additive=True), 12, torch.float32, sharpness=3)
    options = DecodeOptions(max_new_tokens=12, eos_token_id=[2, 3, 4])
    expected, actual = case.run(options), emulated(case, emulator).run(options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert actual.slot_steps == int(actual.lengths.sum()) == expected.slot_steps


def test_schedules_do_not_matter(emulator):
    shape = Shape(heads=2, additive=True, feeding=True, steps=9)
    case = emulated(make_case(Size(hidden=9, vocab=20), shape, 3, torch.float32), emulator)
    options = DecodeOptions(max_new_tokens=3, num_beams=3, eos_token_id=EOS)
    results = []
    for seed in range(1, 6):
        emulator.configure(seed=seed, only=VARIANTS["grid"], sms=4)
        results.append(case.run(options))
    for result in results[1:]:
        assert torch.equal(result.tokens, results[0].tokens)
        assert torch.equal(result.scores, results[0].scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda memory: [], "memory: expected 3 tensors, got 0"),
        (lambda memory: [memory[0].double(), *memory[1:]], r"memory\.values: expected dtype Float"),
        (lambda memory: [memory[0], memory[1][:, 1:], memory[2]], r"memory\.keys: expected shape"),
        (lambda memory: [*memory[:2], memory[2][1:]], r"memory\.lengths: expected shape"),
    ],
)
def test_bad_memory_of_the_op(emulator, change, message):
    case = emulated(make_case(Size(), Shape(), 2, torch.float32), emulator)
    options = DecodeOptions(max_new_tokens=2)
    state = case.state(options)
    rules, numbers = op_rules(case.decoder, options, 2), op_numbers(options)
    with pytest.raises(RuntimeError, match=message):
        memory = change(list(state.memory))
        case.decoder.run(list(state.slots), memory, list(rules), *numbers, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 0}, "additive, feeding: expected neither without heads"),
        ({"heads": 3}, "heads: expected a divisor of 6 and 8, got 3"),
        ({"feeding": False}, "matrices: expected 5 tensors, got 6"),
    ],
)
def test_bad_arguments_of_packing(emulator, change, message):
    shape = Shape(feeding=True, additive=False)
    *arguments, heads, additive, feeding, _, _ = make_case(
        Size(layers=2), shape, 1, torch.float32, "on"
    ).decoder.pack_arguments()
    last = {"heads": heads, "additive": additive, "feeding": feeding, **change}
    with pytest.raises(RuntimeError, match=message):
        emulator.decode_pack(*arguments, *last.values(), 0.0, 0.0)
