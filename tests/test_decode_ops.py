"""The op `decode` where random cases do not reach: edges, threads, ISAs, bad arguments."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers_decode import BOS, EOS, Size, make, random_context, random_weights, run

import fast_s2s
from fast_s2s import backends
from fast_s2s.decoding import (
    Automaton,
    DecodeOptions,
    LayerWeights,
    decode,
    initial_state,
    pack_decoder,
)
from fast_s2s.decoding.contract import Keep, join_state
from fast_s2s.decoding.options import op_numbers, op_rules

needs_native = pytest.mark.skipif(
    backends.extension is None, reason=f"no native ops: {backends.extension_reason}"
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int8)


def with_logits(logits: list[float], batch: int = 1, dtype: torch.dtype = torch.float32):
    """A decoder whose logits are these at every step, whatever it reads."""
    size = Size(hidden=4, vocab=len(logits), embedding=3)
    weights = random_weights(size)
    weights = weights._replace(
        output_weight=torch.zeros_like(weights.output_weight), output_bias=torch.tensor(logits)
    )
    return pack_decoder(weights, dtype), *random_context(size, batch)


def kinds(batch: int = 1) -> dict[str, dict]:
    seed = torch.arange(batch)
    return {
        "greedy": {},
        "sample": {"do_sample": True, "seed": seed},
        "beam": {"num_beams": 3, "num_return_sequences": 3},
    }


@pytest.fixture(params=["greedy", "sample", "beam"])
def kind(request) -> dict:
    return kinds()[request.param]


def test_ties_go_to_the_lowest_id(backend):
    result = run(with_logits([0.0, 2.0, 2.0, 1.0]), DecodeOptions(max_new_tokens=2))
    assert result.tokens.tolist() == [[BOS, 1, 1]]


def test_nan_logits_are_never_chosen(backend, kind):
    logits = [float("nan"), 0.5, float("nan"), 1.0, float("nan")]
    result = run(with_logits(logits), DecodeOptions(max_new_tokens=3, **kind))
    assert set(result.tokens[:, 1:].flatten().tolist()) <= {1, 3}
    assert result.scores.isfinite().all() and (result.lengths == 3).all()


def test_infinite_logits(backend, kind):
    logits = [float("-inf"), 0.5, float("inf"), 1.0]
    result = run(with_logits(logits), DecodeOptions(max_new_tokens=3, **kind))
    assert result.tokens[0].tolist() == [BOS, 2, 2, 2]
    assert result.scores[0] == 0 and not result.token_scores.isnan().any()


def test_a_row_without_a_possible_token_ends(backend, kind):
    result = run(with_logits([float("nan")] * 5), DecodeOptions(max_new_tokens=3, **kind))
    assert result.done and (result.lengths == 0).all()
    assert (result.scores == -torch.inf).all()
    # of a beam search nothing is left
    first = [] if "num_beams" in kind else [BOS]
    assert result.tokens.shape == (len(result.lengths), 1) and result.tokens[0].tolist() in (
        first,
        [0],
    )


def test_nothing_to_do(backend):
    made = make(Size(), 2)
    result = run(made, DecodeOptions(max_new_tokens=0))
    assert (result.steps, result.slot_steps, result.done) == (0, 0, True)
    assert result.tokens.tolist() == [[BOS], [BOS]]
    assert torch.equal(result.state.slots.h, made[1])
    empty = (made[0], made[1][:, :0], made[2][:, :0])
    for options in kinds(0).values():
        result = run(empty, DecodeOptions(max_new_tokens=5, eos_token_id=EOS, **options))
        assert result.done and result.tokens.shape == (0, 1) and result.slot_steps == 0


def test_ended_rows_cost_nothing(backend):
    made = make(Size(), 16, sharpness=3)
    options = DecodeOptions(max_new_tokens=40, eos_token_id=[2, 3, 4])
    result = run(made, options)
    assert len(set(result.lengths.tolist())) > 2
    assert result.slot_steps == int(result.lengths.sum())
    assert result.steps == int(result.lengths.max())
    limits = torch.tensor([0, 1, 2, 5] * 4)
    result = run(made, DecodeOptions(max_new_tokens=limits))
    assert torch.equal(result.lengths, limits) and result.slot_steps == int(limits.sum())


def test_a_prefix_needs_no_logits_but_is_read(backend):
    made = make(Size(vocab=20), 2)
    free = run(made, DecodeOptions(max_new_tokens=6))
    prefix = free.tokens[:, 1:4]
    forced = run(made, DecodeOptions(max_new_tokens=3, prefix=prefix))
    assert torch.equal(forced.tokens, free.tokens)
    assert (forced.token_scores[:, :3] == 0).all()
    torch.testing.assert_close(forced.token_scores[:, 3:], free.token_scores[:, 3:])


def test_state_goes_on_where_it_stopped(backend):
    """With a higher limit, by another call, by rows in another order."""
    made = make(Size(layers=2), 5)
    whole = run(made, DecodeOptions(max_new_tokens=9, eos_token_id=EOS))
    part = run(made, DecodeOptions(max_new_tokens=4, eos_token_id=EOS))
    order = torch.tensor([3, 0, 4, 4, 1])
    state = part.state.select(order, 1)
    rest = decode(made[0], state, DecodeOptions(max_new_tokens=9, eos_token_id=EOS))
    assert torch.equal(rest.tokens, whole.tokens[order][:, : rest.tokens.size(1)])
    torch.testing.assert_close(rest.scores, whole.scores[order])


@pytest.mark.parametrize("beams", [1, 3])
def test_options_serve_batches_of_any_size(backend, beams):
    """And decoders of any vocabulary: what was made of them for one is not another's."""
    options = DecodeOptions(max_new_tokens=4, suppress_tokens=[2], num_beams=beams)
    for batch, vocab in ((2, 11), (3, 11), (3, 7), (2, 11)):
        made = make(Size(vocab=vocab), batch)
        fresh = dataclasses.replace(options)
        assert torch.equal(run(made, options).tokens, run(made, fresh).tokens)


def test_more_steps_than_the_op_takes_at_once(backend, monkeypatch):
    made = make(Size(), 2)
    whole = run(made, DecodeOptions(max_new_tokens=11))
    monkeypatch.setattr("fast_s2s.decoding.api._STEPS_AT_ONCE", 4)
    parts = run(made, DecodeOptions(max_new_tokens=11))
    assert torch.equal(parts.tokens, whole.tokens)
    assert (parts.steps, parts.slot_steps) == (11, 22)


@needs_native
def test_what_is_kept_does_not_depend_on_how_often_the_op_is_called(monkeypatch):
    made = make(Size(), 2)
    options = DecodeOptions(max_new_tokens=11, num_beams=3, keep=Keep.SCORES | Keep.LOGITS)
    whole = run(made, options)
    monkeypatch.setattr("fast_s2s.decoding.api._KEPT_AT_ONCE", 4 * 6 * 11)
    for ours, theirs in zip(run(made, options).kept, whole.kept, strict=True):
        assert len(ours) == 11 and torch.equal(ours, theirs)


@needs_native
def test_samples_cost_nothing_until_they_differ():
    """Work is counted: a row's samples are computed once for each different sequence so far."""
    made = make(Size(hidden=33, vocab=6), 3, sharpness=2)
    seed = torch.arange(3)
    kind = {"do_sample": True, "num_return_sequences": 40, "seed": seed}
    options = DecodeOptions(max_new_tokens=7, eos_token_id=EOS, **kind)
    result = run(made, options)
    computed = 0
    for row in result.tokens.unflatten(0, (3, 40)):
        ends = [t.tolist().index(EOS) if EOS in t else 8 for t in row]
        for step in range(1, 8):
            tokens = [
                tuple(t[:step].tolist()) for t, end in zip(row, ends, strict=True) if end >= step
            ]
            computed += len(set(tokens))
    assert 0 < computed == result.slot_steps - result.shared_steps < result.slot_steps / 2
    # found again in a state to go on from; the same samples
    state, shared, text = result.state, 0, None
    state = initial_state(*made, BOS, options)
    while True:
        text = decode(made[0], state, options, max_steps=2)
        state, shared = text.state, shared + text.shared_steps
        if text.done:
            break
    assert shared == result.shared_steps and torch.equal(text.tokens, result.tokens)
    # a prefix is read once
    prefix = torch.full((3, 4), 3)
    forced = run(made, DecodeOptions(max_new_tokens=0, prefix=prefix, **kind))
    assert forced.slot_steps - forced.shared_steps == 3 * 4
    # other samples of the row say nothing about one
    alone = run(made, dataclasses.replace(options, num_return_sequences=1))
    assert torch.equal(alone.tokens, result.tokens[::40, : alone.tokens.size(1)])
    assert torch.equal(alone.scores, result.scores[::40])


@needs_native
def test_samples_that_begin_from_different_states_share_nothing():
    made = make(Size(), 1, sharpness=2)
    options = DecodeOptions(
        max_new_tokens=1, do_sample=True, num_return_sequences=4, seed=torch.tensor([3])
    )
    state = initial_state(*made, BOS, options)
    for name in ("h", "c"):
        changed = getattr(state.slots, name).clone()
        changed[:, 2] += 1e-9
        slots = state.slots._replace(**{name: changed})
        result = decode(made[0], state._replace(slots=slots), options)
        assert result.slot_steps - result.shared_steps == 2
        assert torch.equal(result.state.slots.h[:, 0], result.state.slots.h[:, 3])
        assert not torch.equal(result.state.slots.h[:, 0], result.state.slots.h[:, 2])


def test_a_finished_row_resumes_as_it_is(backend):
    made = make(Size(), 3, sharpness=4)
    options = DecodeOptions(max_new_tokens=30, eos_token_id=[2, 3])
    result = run(made, options)
    again = decode(made[0], result.state, options)
    assert again.steps == 0 and torch.equal(again.tokens, result.tokens)
    assert torch.equal(again.state.slots.c, result.state.slots.c)


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
            try:
                results.append(run(made, options))
            finally:
                torch.set_num_threads(1)
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
    try:
        for _ in range(150):
            assert torch.equal(run(made, options).tokens, expected)
    finally:
        torch.set_num_threads(1)


@needs_native
def test_python_threads_do_not_disturb_each_other():
    made = make(Size(layers=2, hidden=300, vocab=300), 6, torch.float32)
    options = [
        DecodeOptions(max_new_tokens=15, eos_token_id=EOS, **kind) for kind in kinds(6).values()
    ]
    torch.set_num_threads(2)
    try:
        expected = [run(made, option) for option in options]
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(run, made, option) for option in options * 4]
            actual = [future.result() for future in futures]
    finally:
        torch.set_num_threads(1)
    for result, again in zip(actual, expected * 4, strict=True):
        assert torch.equal(result.tokens, again.tokens)
        assert torch.equal(result.scores, again.scores)


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


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_int8_and_bfloat16_stay_near_float32(dtype):
    """Log-probabilities of the first token; docs/decode.md says what rounding costs."""
    size = Size(layers=2, hidden=100, vocab=50, embedding=40)
    weights, context = random_weights(size), random_context(size, 20)
    options = DecodeOptions(max_new_tokens=1)
    exact = run((pack_decoder(weights, torch.float64), *context), options)
    rounded = run((pack_decoder(weights, dtype), *context), options)
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1, torch.int8: 0.1}
    same = exact.tokens == rounded.tokens
    error = (exact.scores - rounded.scores).abs()[same[:, 1]]
    assert same.float().mean() > 0.9 and error.max() < limit[dtype]
    assert dtype in (torch.float32, torch.float64) or error.max() > 1e-5


_RUN_AN_ISA = """
import torch
import pytest
from fast_s2s import backends
assert backends.extension.build_info()["cpu isa"] == "{isa}"
import test_decode_random as t
for seed in range(25):
    t.test_float64_is_the_reference_token_by_token(seed)
t._SEEDS = range(40)
t.test_other_types_are_the_reference_of_their_own_weights()
"""


@needs_native
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512_bf16", "amx"])
def test_every_instruction_set(isa):
    available = backends.extension.build_info()["cpu isas available"].split()
    if isa not in available:
        pytest.skip(f"this machine has no {isa}")
    environment = {**os.environ, "FAST_S2S_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", _RUN_AN_ISA.format(isa=isa)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def op_arguments(made, options: DecodeOptions, max_steps: int = 2) -> list:
    decoder, h, c = made
    state = initial_state(decoder, h, c, BOS, options)
    rules = op_rules(decoder, options, state.slots.position.numel())
    return [
        decoder.packed,
        decoder.header,
        join_state(state.slots, state.hypotheses),
        [],
        list(rules),
        *op_numbers(options),
        max_steps,
    ]


@needs_native
@pytest.mark.parametrize("keep", [Keep(0), Keep.SCORES, Keep.LOGITS])
@pytest.mark.parametrize("name", ["greedy", "sample", "beam"])
def test_opcheck(name, keep):
    options = DecodeOptions(max_new_tokens=4, eos_token_id=EOS, keep=keep, **kinds(2)[name])
    arguments = op_arguments(make(Size(projection=3), 2, torch.float32), options)
    torch.library.opcheck(torch.ops.fast_s2s.decode.default, tuple(arguments))


@needs_native
def test_opcheck_of_packing():
    weights = [torch.randn(12, 5), torch.randn(12, 3), torch.randn(7, 3)]
    arguments = (weights, [], [torch.randn(12), torch.randn(7)], torch.randn(7, 5), 1)
    arguments = (*arguments, False, False, 0, False, False)
    torch.library.opcheck(torch.ops.fast_s2s.decode_pack.default, arguments)


@needs_native
@pytest.mark.parametrize(
    ("index", "part", "change", "message"),
    [
        (0, None, lambda t: t[:-1], "packed: expected .* bytes, got"),
        (0, None, lambda t: t.flip(0), "packed: expected what decode_pack of this version gave"),
        (0, None, lambda t: t.float(), "packed: expected what decode_pack gave"),
        (1, None, lambda h: h[1:], "header: expected that of the packed weights"),
        (1, 4, lambda n: n + 1, "header: expected that of the packed weights"),
        (2, None, lambda s: s[:-1], "state: expected 15 tensors, got 14"),
        (2, 0, lambda t: t.double(), "state.h: expected dtype Float, got Double"),
        (2, 1, lambda t: t[:, :-1], "state.c: expected shape"),
        (2, 2, lambda t: t + 50, r"state.tokens: expected ids in 0\.\.10, got 51"),
        (2, 4, lambda t: t + 1, r"state.position: expected values in 0\.\.0, got 1"),
        (2, 14, lambda t: t.int(), "hypotheses.node: expected dtype Long, got Int"),
        (3, None, lambda m: [torch.zeros(1)], "memory: expected 0 tensors, got 1"),
        (4, None, lambda r: r[1:], "rules: expected 14 tensors, got 13"),
        (4, 1, lambda t: t - 99, "rules.limits: expected values in 1"),
        (4, 4, lambda t: t + 99, r"rules.eos: expected values in 0\.\.10, got 101"),
        (4, 3, lambda t: t + 1, r"rules.prefix_lengths: expected values in 0\.\.0, got 1"),
        (4, 9, lambda t: t + 1, "rules.bad_offsets: expected to rise from 0"),
        (5, None, lambda o: o[1:], "options: expected 11 numbers, got 10"),
        (5, None, lambda o: [7, *o[1:]], r"strategy: expected a value in 0\.\.2, got 7"),
        (5, None, lambda o: [o[0], 4, *o[2:]], "state: expected rows of 4 slots"),
        (6, None, lambda p: [0.0, *p[1:]], "temperature: expected a number > 0, got 0"),
        (7, None, lambda n: -1, "max_steps: expected at least 0, got -1"),
    ],
)
def test_bad_arguments_of_the_op(index, part, change, message):
    options = DecodeOptions(
        max_new_tokens=4, eos_token_id=EOS, bad_words_ids=[[3, 4]], **kinds()["beam"]
    )
    arguments = op_arguments(make(Size(), 1, torch.float32), options)
    if part is None:
        arguments[index] = change(arguments[index])
    else:
        arguments[index][part] = change(arguments[index][part])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.decode(*arguments)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"num_beams": 0}, ValueError, "num_beams: expected an integer >= 1, got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p: expected a number in \[0, 1\], got 1.5"),
        ({"temperature": 0}, ValueError, "temperature: expected a number > 0, got 0"),
        ({"temperature": float("nan")}, ValueError, "temperature: expected a number"),
        ({"early_stopping": "ever"}, ValueError, "early_stopping: expected True, False or 'never'"),
        ({"early_stopping": 1}, ValueError, "early_stopping: expected True, False or 'never'"),
        ({"do_sample": True}, ValueError, "seed: expected a tensor"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences: expected at most"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens: expected an integer >= 0, got -1"),
        ({"max_new_tokens": 0, "num_beams": 2}, ValueError, "max_new_tokens: expected .* >= 1"),
        ({"max_new_tokens": torch.tensor([1, 2])}, ValueError, "max_new_tokens: expected shape"),
        ({"eos_token_id": 11}, ValueError, r"eos_token_id: expected token ids in 0\.\.10, got 11"),
        ({"suppress_tokens": ["a"]}, TypeError, "suppress_tokens: expected"),
        ({"bad_words_ids": [[]]}, ValueError, "bad_words_ids: expected sequences of at least one"),
        ({"bad_words_ids": [[1, 12]]}, ValueError, "bad_words_ids: expected token ids"),
        ({"prefix": torch.tensor([[11]] * 3)}, ValueError, "prefix: expected token ids"),
        ({"prefix_lengths": torch.tensor([1])}, ValueError, "prefix_lengths: expected None"),
        (
            {"prefix": torch.ones(3, 1).long(), "prefix_lengths": torch.tensor([0, 1, 2])},
            ValueError,
            r"prefix_lengths: expected integers in 0\.\.1",
        ),
        ({"do_sample": True, "seed": torch.tensor([1])}, ValueError, "seed: expected shape"),
    ],
)
def test_bad_options(fields, error, message):
    with pytest.raises(error, match=message):
        run(make(Size(), 3), DecodeOptions(**fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w._replace(embedding=torch.zeros(10, 5)), r"embedding: expected shape \(V, E\)"),
        (lambda w: w._replace(output_bias=torch.zeros(3)), "output_bias: expected shape"),
        (lambda w: w._replace(layers=()), "layers: expected at least one, got none"),
        (lambda w: w._replace(output_weight=torch.zeros(11, 7)), r"layers\[0\].w_hh: expected"),
        (
            lambda w: w._replace(layers=(LayerWeights(torch.zeros(32, 4), torch.zeros(32, 8)),)),
            r"layers\[0\].w_ih: expected shape \(4H, I\) = \(32, 5\)",
        ),
        (lambda w: w._replace(embedding=torch.zeros(11, 5).long()), "embedding: expected a float"),
    ],
)
def test_bad_weights(change, message):
    with pytest.raises(ValueError, match=message):
        pack_decoder(change(random_weights(Size())))


def test_bad_types_of_weights():
    with pytest.raises(ValueError, match="dtype: expected one of torch.float32"):
        pack_decoder(random_weights(Size()), torch.int32)
    with pytest.raises(ValueError, match="table: expected one of auto, on, off, got 'yes'"):
        pack_decoder(random_weights(Size()), table="yes")
    with pytest.raises(TypeError, match="weights: expected DecoderWeights, got dict"):
        pack_decoder({})


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (1, lambda h: h[:, :, :-1], r"h: expected shape \(L, B, R\)"),
        (2, lambda c: c[:1], r"c: expected shape \(L, B, H\)"),
    ],
)
def test_bad_contexts(index, change, message):
    made = list(make(Size(layers=2), 2))
    made[index] = change(made[index])
    with pytest.raises(ValueError, match=message):
        run(tuple(made), DecodeOptions())


def test_bad_first_token():
    decoder, h, c = make(Size(), 2)
    with pytest.raises(ValueError, match=r"token: expected token ids in 0\.\.10, got 11"):
        initial_state(decoder, h, c, 11, DecodeOptions())
