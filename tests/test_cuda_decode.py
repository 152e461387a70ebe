"""The op `decode` on CUDA, its kernels executed in the emulator, against the reference.

FAST_S2S_STRESS=5000 runs so many random cases, from FAST_S2S_STRESS_SEED on.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from helpers_cuda_decode import VARIANTS, emulated, random_device
from helpers_decode import (
    BOS,
    EOS,
    Size,
    make,
    random_options,
    random_size,
    run,
    twin,
    with_logits,
    with_more,
)
from helpers_decode_compare import assert_kept_close, assert_state_close

import fast_s2s
from fast_s2s.decoding import Automaton, DecodeOptions
from fast_s2s.decoding.api import initial_state
from fast_s2s.decoding.contract import Header, Keep, join_state
from fast_s2s.decoding.options import op_numbers, op_rules
from fast_s2s.decoding.packed import choose_backend
from fast_s2s.decoding.weights import CUDA_DTYPES

_SEED = int(os.environ.get("FAST_S2S_STRESS_SEED", "0"))
_CASES = int(os.environ.get("FAST_S2S_STRESS", "90"))


@pytest.fixture(autouse=True)
def _native_or_reference():
    with fast_s2s.backend("reference"):
        yield


def test_random_decoders_and_options_are_the_reference(emulator):
    """Where the reference's own tokens stay the same under noise of the size of the kernels'
    rounding, which must be nearly everywhere: everything else is compared there, too.
    """
    compared = 0
    for seed in range(_SEED, _SEED + _CASES):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        size, batch = random_size(rng, most=40), rng.choice([1, 2, 3, 7, 12])
        dtype = rng.choice(CUDA_DTYPES)
        made = make(size, batch, dtype, rng.choice(["on", "off"]), sharpness=rng.choice([0.5, 2]))
        options = with_more(seed, random_options(rng, size, batch))
        device = random_device(rng)
        emulator.configure(**device)
        expected = run(made, options)
        others = [run((twin(made[0], 3e-6), *(t.double() for t in made[1:])), options)]
        chunk = rng.choice([None, None, rng.randint(1, 4)])
        actual = run(emulated(made, emulator), options, chunk)
        if any(not torch.equal(other.tokens, expected.tokens) for other in others):
            continue
        compared += 1
        what = f"seed {seed}: {size}, {batch} rows, {dtype}, {device}, chunk {chunk}, {options}"
        assert torch.equal(actual.tokens, expected.tokens), what
        assert torch.equal(actual.lengths, expected.lengths), what
        assert actual.slot_steps == expected.slot_steps and actual.done == expected.done, what
        assert chunk is not None or actual.steps == expected.steps, what
        torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-4, atol=1e-4, msg=what)
        assert_state_close(actual, expected)
        assert_kept_close(actual, expected, what)
    assert compared > 0.9 * _CASES


KINDS = {
    "greedy": {},
    "sample": {"do_sample": True, "seed": torch.zeros(1, dtype=torch.int64)},
    "beam": {"num_beams": 3, "num_return_sequences": 3},
}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "logits",
    [
        [0.0, 2.0, 2.0, 1.0],
        [NAN, 0.5, NAN, 1.0, NAN],
        [-INF, 0.5, INF, 1.0],
        [NAN] * 5,
        [1.0] * 70,
        [NAN] * 40 + [0.0, 1.0],
    ],
    ids=["ties", "nan", "inf", "stuck", "all alike", "far"],
)
def test_logits_at_the_edge(emulator, kind, logits):
    made = with_logits(logits)
    options = DecodeOptions(max_new_tokens=3, top_k=50, top_p=0.49, keep=Keep(7), **KINDS[kind])
    actual, expected = run(emulated(made, emulator), options), run(made, options)
    torch.testing.assert_close(actual.scores, expected.scores)
    # sequences of the same tokens in another order are worth the same but for rounding
    if kind != "beam":
        assert torch.equal(actual.tokens, expected.tokens)
        assert_state_close(actual, expected)
        assert_kept_close(actual, expected, kind)


def test_ended_rows_cost_nothing_and_groups_of_rows_end_by_themselves(emulator):
    emulator.configure(only=VARIANTS["cluster"], sms=8)
    made = make(Size(hidden=6, vocab=9), 40, torch.float32, sharpness=3)
    options = DecodeOptions(max_new_tokens=12, eos_token_id=[2, 3, 4])
    actual, expected = run(emulated(made, emulator), options), run(made, options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert actual.slot_steps == int(actual.lengths.sum()) == expected.slot_steps
    assert actual.steps == int(actual.lengths.max())
    before = emulator.counts()["products"]
    one = DecodeOptions(max_new_tokens=1)
    run(emulated(made, emulator), one)
    each = emulator.counts()["products"] - before
    before = emulator.counts()["products"]
    run(emulated(made, emulator), options)
    # as many steps of all rows would be twelve times the products
    assert emulator.counts()["products"] - before < 9 * each


def test_rows_beyond_one_launch(emulator):
    emulator.configure(only=VARIANTS["grid"], sms=1)
    made = make(Size(hidden=3, vocab=5), 1030, torch.float32)
    options = DecodeOptions(max_new_tokens=1, eos_token_id=EOS)
    before = emulator.counts()["launches"]
    actual = run(emulated(made, emulator), options)
    # packing has five, then two of the generation and one that counts
    assert emulator.counts()["launches"] - before == 5 + 2 + 1
    expected = run(made, options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert (actual.steps, actual.slot_steps) == (expected.steps, expected.slot_steps)


@pytest.mark.parametrize("dtype", CUDA_DTYPES, ids=str)
def test_a_row_has_the_same_bits_in_every_batch_and_variant(emulator, dtype):
    made = make(Size(layers=2, hidden=37, vocab=50, projection=9), 11, dtype, "off")
    options = DecodeOptions(max_new_tokens=2, eos_token_id=EOS)
    wanted = None
    for only in VARIANTS.values():
        for row_tiles in (1, 4):
            emulator.configure(only=only, row_tiles=row_tiles, shared_bytes=60_000)
            result = run(emulated(made, emulator), options)
            alone = run(emulated((made[0], made[1][:, 3:4], made[2][:, 3:4]), emulator), options)
            wanted = wanted or result
            for name in ("h", "c", "score"):
                ours = getattr(result.state.slots, name)
                assert torch.equal(ours, getattr(wanted.state.slots, name)), name
                at = ours[3:4] if name == "score" else ours[:, 3:4]
                assert torch.equal(at, getattr(alone.state.slots, name)), name


@pytest.mark.parametrize("row_tiles", [1, 4])
@pytest.mark.parametrize("dtype", CUDA_DTYPES, ids=str)
def test_warps_with_more_k_tiles_than_are_read_ahead(emulator, dtype, row_tiles):
    # each of 8 warps has more than 4 of the sum's k-tiles, and not a multiple of them
    deep = 8 * 4 * {torch.float32: 8, torch.int8: 32}.get(dtype, 16) + 20
    made = make(Size(hidden=7, embedding=deep, vocab=30), 9, dtype, "off")
    options = DecodeOptions(max_new_tokens=2, eos_token_id=EOS)
    emulator.configure(only=VARIANTS["grid"], sms=2, row_tiles=row_tiles)
    actual, expected = run(emulated(made, emulator), options), run(made, options)
    assert torch.equal(actual.tokens, expected.tokens)
    assert_state_close(actual, expected)


def test_schedules_do_not_matter(emulator):
    made = make(Size(hidden=9, vocab=20), 3, torch.float32)
    options = DecodeOptions(max_new_tokens=4, num_beams=3, eos_token_id=EOS)
    results = []
    for seed in range(1, 7):
        emulator.configure(seed=seed, only=VARIANTS["grid"], sms=4)
        results.append(run(emulated(made, emulator), options))
    for result in results[1:]:
        assert torch.equal(result.tokens, results[0].tokens)
        assert torch.equal(result.scores, results[0].scores)


def test_values_out_of_range_are_not_there(emulator):
    """The device's values are not checked: what is wrong must not be read."""
    made = make(Size(), 3, torch.float32)
    wrapped = emulated(made, emulator)[0]
    automaton = Automaton(*(torch.tensor(v) for v in ([0, 2], [3, 99], [0, 7], [True])))
    options = DecodeOptions(max_new_tokens=2, eos_token_id=EOS)
    state = initial_state(made[0], *made[1:], BOS, options).slots
    state = state._replace(tokens=torch.tensor([[99], [-5], [1]]))
    state = state._replace(position=torch.tensor([0, 0, 40]), node=torch.tensor([0, 9, -3]))
    rules = op_rules(made[0], options, 3)._replace(**automaton._asdict())
    numbers = op_numbers(options)
    result = wrapped.run(join_state(state, None), [], rules, *numbers, 2)
    assert result[2][0, 1:].tolist() in ([3, 2], [3, 3], [2, 0])
    assert result[5][1] == -torch.inf and result[4].tolist()[2] == 40


def test_hypotheses_out_of_range_are_not_there(emulator):
    made = make(Size(), 2, torch.float32)
    wrapped = emulated(made, emulator)[0]
    options = DecodeOptions(max_new_tokens=3, eos_token_id=EOS, num_beams=2)
    state = initial_state(made[0], *made[1:], BOS, options)
    # better than any other, if they were there
    wrong = state.hypotheses._replace(
        score=torch.tensor([1.0, 2.0, -torch.inf, -torch.inf], dtype=torch.float64),
        position=torch.tensor([40, -3, 0, 0]),
    )
    rest = [], list(op_rules(made[0], options, 4)), *op_numbers(options), 3
    expected = wrapped.run(join_state(state.slots, state.hypotheses), *rest)
    found = wrapped.run(join_state(state.slots, wrong), *rest)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_packed_weights_begin_where_vectors_may(emulator):
    made = make(Size(), 2, torch.float32)
    packed = emulated(made, emulator)[0].packed
    odd = torch.empty(packed.numel() + 1, dtype=torch.uint8)[1:].copy_(packed)
    options = DecodeOptions(max_new_tokens=2)
    state = initial_state(made[0], *made[1:], BOS, options).slots
    rest = list(state), [], list(op_rules(made[0], options, 2)), *op_numbers(options), 2
    emulator.decode(packed, made[0].header, *rest)
    with pytest.raises(RuntimeError, match="packed: expected a tensor that begins at a multiple"):
        emulator.decode(odd, made[0].header, *rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packed": torch.zeros(400, dtype=torch.uint8)}, r"packed: expected \d+ bytes, got 400"),
        ({"packed": torch.zeros(400)}, "packed: expected what decode_pack gave"),
        ({"header": [0] * 12}, "header: expected 14 numbers, got 12"),
        ({"h": torch.zeros(1, 2, 9)}, r"state\.h: expected shape \(1,2,8,\), got \(1,2,9,\)"),
        ({"c": torch.zeros(1, 2, 8).double()}, r"state\.c: expected dtype Float, got Double"),
        ({"position": torch.zeros(3).long()}, r"state\.position: expected shape"),
        ({"limits": torch.zeros(5).long()}, r"rules\.limits: expected shape"),
        ({"max_steps": -1}, "max_steps: expected at least 0, got -1"),
        ({"options": [0] * 8}, "options: expected 11 numbers, got 8"),
        ({"options": [0, 0, *[0] * 9]}, r"width: expected a value in 1\.\.\d+, got 0"),
        (
            {"options": [0, 1, -1, *[0] * 8]},
            r"min_new_tokens: expected a value in 0\.\.\d+, got -1",
        ),
        ({"options": [0, 1, 0, 0, -2, *[0] * 6]}, r"top_k: expected a value in 0\.\.\d+, got -2"),
        (
            {"options": [0, 1, *[0] * 5, 99, 0, 0, 0]},
            r"forced_bos: expected a value in -1\.\.\d+, got 99",
        ),
        ({"options": [7, 1, *[0] * 9]}, r"strategy: expected a value in 0\.\.2, got 7"),
        ({"options": [0, 1, *[0] * 8, 16]}, r"keep: expected a value in 0\.\.15, got 16"),
        ({"parameters": [0.0] * 5}, "temperature: expected a number > 0, got 0"),
    ],
)
def test_bad_arguments_of_the_op(emulator, change, message):
    made = make(Size(), 2, torch.float32)
    options = DecodeOptions(max_new_tokens=2)
    state = initial_state(made[0], *made[1:], BOS, options).slots
    rules = op_rules(made[0], options, 2)
    numbers, parameters = op_numbers(options)
    state = state._replace(**{k: v for k, v in change.items() if k in state._fields})
    rules = rules._replace(**{k: v for k, v in change.items() if k in rules._fields})
    with pytest.raises(RuntimeError, match=message):
        emulator.decode(
            change.get("packed", emulated(made, emulator)[0].packed),
            change.get("header", made[0].header),
            list(state),
            [],
            list(rules),
            change.get("options", numbers),
            change.get("parameters", parameters),
            change.get("max_steps", 2),
        )


@pytest.mark.parametrize(
    "change",
    [
        {"weights": 5},
        {"layers": 0},
        {"output": 7},
        {"vocab": 2**60},
        {"inputs": -1},
        {"table": 1},
        {"heads": 2},
        {"heads": 2, "keys": 8, "values": 3},
        {"feeding": 1},
    ],
    ids=str,
)
def test_a_header_of_no_weights(emulator, change):
    made = make(Size(), 2, torch.float32, "off")
    wrapped, *_ = emulated(made, emulator)
    options = DecodeOptions(max_new_tokens=2)
    state = initial_state(made[0], *made[1:], BOS, options).slots
    header = [*Header(*made[0].header)._replace(**change)]
    rules, numbers = op_rules(made[0], options, 2), op_numbers(options)
    with pytest.raises(RuntimeError, match="header: expected that of the packed weights"):
        emulator.decode(wrapped.packed, header, [*state], [], [*rules], *numbers, 2)


def test_weights_that_there_are_no_kernels_for(emulator):
    decoder = make(Size(), 1, torch.float64)[0]
    with pytest.raises(RuntimeError, match="matrices: expected dtype Float, BFloat16, Half or Ch"):
        emulator.decode_pack(*decoder.pack_arguments())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scales: [], "scales: expected 3 tensors, got 0"),
        (lambda scales: [*scales[:2], scales[2].double()], r"scales\[2\]: expected dtype Float"),
        (lambda scales: [scales[0][1:], *scales[1:]], r"scales\[0\]: expected shape \(32,\)"),
    ],
)
def test_scales_that_do_not_fit(emulator, change, message):
    matrices, scales, *rest = make(Size(), 1, torch.int8, "off")[0].pack_arguments()
    with pytest.raises(RuntimeError, match=message):
        emulator.decode_pack(matrices, change(scales), *rest)


@pytest.mark.parametrize("more", [{"norm": True}, {"zoneout": (0.1, 0.0)}])
def test_layer_norm_and_zoneout_are_for_the_cpu(emulator, more):
    decoder = make(Size(**more), 1, torch.float32)[0]
    with pytest.raises(RuntimeError, match="no kernels with layer norm or zoneout"):
        emulator.decode_pack(*decoder.pack_arguments())
    choice = choose_backend("cuda", torch.float32, "layer norm or zoneout")
    assert choice.backend == "reference"
    made, options = make(Size(), 2, torch.float32), DecodeOptions(max_new_tokens=2)
    packed = emulated(made, emulator)[0].packed
    state = initial_state(made[0], *made[1:], BOS, options).slots
    rest = list(state), [], list(op_rules(made[0], options, 2)), *op_numbers(options), 2
    with pytest.raises(RuntimeError, match="header: expected no layer norm"):
        emulator.decode(packed, [*made[0].header[:-1], 1], *rest)
