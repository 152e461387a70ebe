"""The op `decode_ensemble`: beside the step loop, beside one decoder, and what it refuses."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from helpers_attention import Case, Shape, make_case
from helpers_decode import BOS, DTYPES, EOS, Size, kinds, make, random_weights, run_from
from helpers_native import AVAILABLE, needs_native, run_with
from helpers_training import toy_model

import fast_s2s
from fast_s2s.attention import Memory
from fast_s2s.decoding import DecodeOptions, JoinedDecoder, can_join, initial_state, pack_decoder
from fast_s2s.decoding.contract import Keep, join_state
from fast_s2s.decoding.options import op_numbers, op_rules

pytestmark = needs_native

SRC = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0], [5, 5, 2, 0], [8, 3, 8, 2]])
KINDS = [
    {"bidirectional": True, "num_layers": 2},
    {"attention": "dot", "hidden_size": 7},
    {"attention": "general", "bidirectional": True, "input_feeding": True, "hidden_size": 6},
    {"attention": "additive", "hidden_size": 33, "embedding_size": 5, "num_layers": 3},
]
WAYS = {
    "greedy": {},
    "rules": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "sampling": {"do_sample": True, "seed": 3, "num_return_sequences": 5, "top_p": 0.9},
    "beams": {"num_beams": 4, "num_return_sequences": 3},
    "drawn beams": {"num_beams": 3, "do_sample": True, "seed": 5},
    "constraint": {"constraint": [[3, 4, 5], [5, 4, 3], [8]], "num_beams": 2},
    "prefix": {"prefix": torch.tensor([[3, 4]] * 4), "prefix_lengths": [0, 1, 2, 2]},
}


def ensemble(dtype=torch.float64, types=(None,) * 4):
    models = []
    for seed, (kind, stored) in enumerate(zip(KINDS, types, strict=True)):
        model = toy_model(seed, dtype=dtype, **kind).eval()
        with torch.no_grad():
            # so that outputs differ, and end
            model.output_projection.weight.mul_(5)
        models.append(model.compile_decoder(stored) if stored else model)
    return fast_s2s.Ensemble(models)


def by_the_loop(monkeypatch, generate):
    with monkeypatch.context() as patch:
        patch.setattr("fast_s2s.ensemble.can_join", lambda packs: False)
        patch.setattr(JoinedDecoder, "run", None)
        return generate()


def native(monkeypatch, generate):
    """Fails where it is not one native call."""
    with monkeypatch.context() as patch:
        patch.setattr("fast_s2s.ensemble.StepDecoder", None)
        return generate()


@pytest.mark.parametrize("way", WAYS)
def test_what_the_loop_finds(way, monkeypatch, assert_close):
    """Tokens, scores, logits and states of float64 models of all kinds."""
    models = ensemble()
    options = {"max_new_tokens": 8, "output_scores": True, "output_logits": True, **WAYS[way]}

    def generate():
        return models.generate(SRC, return_dict_in_generate=True, **options)

    found, expected = native(monkeypatch, generate), by_the_loop(monkeypatch, generate)
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("sequences_scores", "token_scores"):
        assert_close(getattr(found, name), getattr(expected, name), name, torch.float64)
    for name in ("scores", "logits"):
        for ours, theirs in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert_close(ours, theirs, name, torch.float32)
    for name in ("h", "c"):
        ours, theirs = getattr(found.state, name), getattr(expected.state, name)
        assert_close(ours, theirs, name, torch.float64)
    assert len({tuple(row) for row in found.sequences.tolist()}) > 1


def test_weights_of_several_types(monkeypatch, assert_close):
    models = ensemble(torch.float32, ("int8", None, "bfloat16", "int8"))

    def generate():
        return models.generate(SRC, max_new_tokens=8, return_dict_in_generate=True, num_beams=3)

    found, expected = native(monkeypatch, generate), by_the_loop(monkeypatch, generate)
    assert torch.equal(found.sequences, expected.sequences)
    assert_close(found.token_scores, expected.token_scores, "scores", torch.float32)


def test_goes_on_as_if_it_had_never_stopped(monkeypatch):
    """Also from states that the loop left."""
    models = ensemble(torch.float32)
    for options in ({}, {"do_sample": True, "seed": 1}):
        whole = models.generate(SRC, max_new_tokens=7, **options)
        begin = functools.partial(
            models.generate, SRC, max_new_tokens=3, return_state=True, **options
        )
        for first_by in (native, by_the_loop):
            first, state = first_by(monkeypatch, begin)
            rest = models.generate(state=state, max_new_tokens=4, **options)
            joined = torch.cat((first, rest[:, 1:]), 1)[:, : whole.size(1)]
            assert torch.equal(joined, whole)


def copies(case, count):
    """The same decoder so many times, beginning where it begins."""

    def side_by_side(state):
        flat = state.transpose(0, 1).flatten(1)
        return flat.repeat(1, count).unsqueeze(0)

    memory = case.memory
    if memory is not None:
        values, keys = memory.values.repeat(1, 1, count), memory.keys.repeat(1, 1, count)
        memory = Memory(values, keys, memory.lengths)
    joined = JoinedDecoder([case.decoder] * count)
    return Case(joined, side_by_side(case.h), side_by_side(case.c), memory)


CASES = {
    "projection": lambda dtype: Case(*make(Size(3, 17, 70, projection=5), 4, dtype, "off")),
    "no bias": lambda dtype: Case(*make(Size(1, 1, 3, bias=False), 4, dtype)),
    "tied": lambda dtype: Case(*make(Size(2, 40, 33, tied=True), 4, dtype)),
    "attention": lambda dtype: make_case(Size(2, 24, 50), Shape(), 4, dtype),
    "fed": lambda dtype: make_case(
        Size(2, 9, projection=4), Shape(additive=True, feeding=True), 4, dtype
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_copies_of_a_decoder_are_that_decoder(name, dtype, assert_close):
    """One, two and three of it: their mean is each one's probability."""
    case = CASES[name](dtype)
    acc = case.decoder.acc
    for kind in kinds(4).values():
        options = DecodeOptions(max_new_tokens=9, eos_token_id=EOS, keep=Keep.LOGITS, **kind)
        expected = case.run(options)
        for count in (1, 2, 3):
            found = copies(case, count).run(options, chunk=4)
            assert torch.equal(found.tokens, expected.tokens)
            assert_close(found.token_scores, expected.token_scores, "scores", acc)
            logits = expected.kept.logits.log_softmax(-1)
            computed = (expected.kept.logits != 0).any(-1)
            assert_close(found.kept.logits[computed], logits[computed], "logits", torch.float32)
            for state in ("h", "c"):
                theirs = getattr(expected.state.slots, state)
                flat = theirs.transpose(0, 1).flatten(1).repeat(1, count)
                assert_close(getattr(found.state.slots, state)[0], flat, state, acc)


def test_any_number_of_threads_gives_the_same_bits():
    sizes = (Size(2, 400, 700, projection=150), Size(1, 350, 700), Size(1, 90, 700))
    types = (torch.float32, torch.int8, torch.bfloat16)
    members = [
        pack_decoder(random_weights(size), dtype) for size, dtype in zip(sizes, types, strict=True)
    ]
    shapes = (Shape(additive=True, feeding=True), Shape())
    attending = [make_case(Size(1, 200, 700), shape, 9, torch.float32) for shape in shapes]
    joined = JoinedDecoder([*members, *(case.decoder for case in attending)])
    h = torch.randn(1, 9, joined.output_size).tanh()
    c = torch.randn(1, 9, joined.hidden_size)
    sizes = joined.attention
    memory = Memory(
        torch.randn(9, 12, sizes.values), torch.randn(9, 12, sizes.keys), torch.arange(9)
    )
    for kind in kinds(9).values():
        options = DecodeOptions(max_new_tokens=10, eos_token_id=EOS, **kind)
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            state = initial_state(joined, h, c, BOS, options, memory=memory)
            results.append(run_from(joined, state, options))
        for other in results[1:]:
            assert torch.equal(other.tokens, results[0].tokens)
            assert torch.equal(other.scores, results[0].scores)
            assert torch.equal(other.state.slots.h, results[0].state.slots.h)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        *((bad, [0.25, 0.25, 0.25, 0.125, 0.125, 0.0]) for bad in (math.nan, -math.inf, -1e30)),
        # the largest number: of two of them each is as likely
        (math.inf, [0.0, 0.0, 0.0, 0.25, 0.25, 0.5]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_one_model_cannot_say_the_other_may(bad, expected, dtype):
    """A token is as likely as the others think; never, where nobody can say it."""
    made = []
    for impossible in (3, 4):
        weights = random_weights(Size(vocab=6))
        bias = torch.full((6,), 1.0)
        bias[[impossible, 5]] = bad
        weights = weights._replace(
            output_weight=torch.zeros_like(weights.output_weight), output_bias=bias
        )
        made.append(pack_decoder(weights, dtype))
    joined = JoinedDecoder(made)
    options = DecodeOptions(max_new_tokens=1, suppress_tokens=[], keep=Keep.LOGITS)
    zeros = torch.zeros(1, 1, joined.hidden_size)
    result = run_from(joined, initial_state(joined, zeros, zeros, 0, options), options)
    probabilities = result.kept.logits[0, 0].exp()
    # the largest number is its own normaliser, however many there are
    probabilities /= probabilities.sum()
    torch.testing.assert_close(probabilities, torch.tensor(expected))
    assert result.tokens[0, 1] == expected.index(max(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_model_that_says_nothing_leaves_it_to_the_others(bad, dtype, monkeypatch, assert_close):
    """In the native call and in the loop: its probabilities are 0."""
    models = ensemble(dtype)
    alone = fast_s2s.Ensemble([models.models[0], models.models[2]])
    expected = alone.generate(SRC, max_new_tokens=6, return_dict_in_generate=True)
    with torch.no_grad():
        models.models[1].output_projection.bias.fill_(bad)
    three = fast_s2s.Ensemble([models.models[i] for i in (0, 1, 2)])

    def generate():
        options = {"max_new_tokens": 6, "output_logits": True}
        return three.generate(SRC, return_dict_in_generate=True, **options)

    for by in (native, by_the_loop):
        found = by(monkeypatch, generate)
        assert torch.equal(found.sequences, expected.sequences)
        assert_close(found.token_scores, expected.token_scores, "scores", dtype)
        sums = found.logits[0].double().exp().sum(-1)
        assert_close(sums, torch.full((4,), 2 / 3), "probability", torch.float32)


@pytest.mark.parametrize("together", [False, True])
def test_autocast_does_not_change_what_is_packed(together):
    model = toy_model(3, embedding_size=64, hidden_size=40).eval()
    model = fast_s2s.Ensemble([model]) if together else model
    options = {"max_new_tokens": 4, "return_dict_in_generate": True}
    state = model.encode(SRC)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.generate(state=state, **options)
    after = model.generate(state=state, **options)
    fresh = copy.deepcopy(model).generate(state=state, **options)
    assert torch.equal(after.token_scores, fresh.token_scores)
    assert torch.equal(inside.token_scores, fresh.token_scores)


def test_what_does_not_join_runs_as_a_loop(monkeypatch):
    models = ensemble(torch.float32)
    packs = [model._pack() for model in models.models]
    assert can_join(packs)
    double = pack_decoder(random_weights(Size(vocab=9)), torch.float64)
    assert not can_join([*packs, double]) and not can_join([])
    for members in ([], [*packs, double]):
        with pytest.raises(ValueError, match="members: expected one or more packed for the CPU"):
            JoinedDecoder(members)
    case = make_case(Size(), Shape(), 2, torch.float32)
    with pytest.raises(ValueError, match="keep: expected no ATTENTION of several decoders"):
        copies(case, 2).run(DecodeOptions(max_new_tokens=2, keep=Keep.ATTENTION))
    expected = models.generate(SRC, max_new_tokens=5)
    with fast_s2s.backend("reference"):
        assert not can_join(packs)
        monkeypatch.setattr(JoinedDecoder, "run", None)
        assert torch.equal(models.generate(SRC, max_new_tokens=5), expected)
    # processors are called by the loop alone
    seen = []
    models.generate(SRC, max_new_tokens=2, logits_processor=lambda t, s: seen.append(t) or s)
    assert seen


def op_arguments(beams=1, keep=0):
    plain = pack_decoder(random_weights(Size(2, 7)), torch.float32)
    attending = make_case(Size(1, 9), Shape(additive=True, feeding=True), 2, torch.float32)
    joined = JoinedDecoder([plain, attending.decoder])
    h = torch.randn(1, 2, joined.output_size)
    c = torch.randn(1, 2, joined.hidden_size)
    options = DecodeOptions(max_new_tokens=4, eos_token_id=EOS, num_beams=beams, keep=Keep(keep))
    state = initial_state(joined, h, c, BOS, options, memory=attending.memory)
    rules = op_rules(joined, options, state.slots.position.numel())
    return [
        [each.packed for each in joined.members],
        [*joined.members[0].header, *joined.members[1].header],
        join_state(state.slots, state.hypotheses),
        list(state.memory),
        list(rules),
        *op_numbers(options),
        3,
    ]


@pytest.mark.parametrize("keep", [0, Keep.SCORES, Keep.LOGITS])
@pytest.mark.parametrize("beams", [1, 3])
def test_opcheck(beams, keep):
    torch.library.opcheck(
        torch.ops.fast_s2s.decode_ensemble.default, tuple(op_arguments(beams, keep))
    )


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, lambda p: [], "packed: expected at least one tensor, got none"),
        (0, lambda p: [p[1], p[0]], "header: expected that of the packed weights"),
        (1, lambda n: n[1:], "headers: expected 28 numbers, got 27"),
        (2, lambda s: [s[0][:, :, 1:], *s[1:]], r"state.h: expected shape \(1,2,32,\)"),
        (2, lambda s: [s[0], s[1][:, :, 1:], *s[2:]], r"state.c: expected shape \(1,2,23,\)"),
        (2, lambda s: [s[0].double(), *s[1:]], "state.h: expected dtype Float, got Double"),
        (3, lambda m: [], "memory: expected 3 tensors, got 0"),
        (3, lambda m: [m[0][:, :, 1:], *m[1:]], "memory.values: expected shape"),
        (3, lambda m: [*m[:2], m[2] + 99], r"memory.lengths: expected values in 0\.\."),
        (4, lambda r: r[1:], "rules: expected 14 tensors, got 13"),
        (5, lambda o: [*o[:10], 8], "keep: expected no attention of several networks, got it"),
        (7, lambda n: -1, "max_steps: expected at least 0, got -1"),
    ],
)
def test_bad_arguments_of_the_op(index, change, message):
    arguments = op_arguments()
    arguments[index] = change(arguments[index])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fast_s2s.decode_ensemble.default(*arguments)


@pytest.mark.parametrize("other", [Size(vocab=12), Size()])
def test_networks_that_do_not_fit(other):
    first = pack_decoder(random_weights(Size()), torch.float32)
    dtype = torch.float32 if other.vocab == 12 else torch.float64
    second = pack_decoder(random_weights(other), dtype)
    arguments = op_arguments()
    arguments[:2] = [first.packed, second.packed], [*first.header, *second.header]
    with pytest.raises(RuntimeError, match="packed: expected networks of 11 tokens and states of"):
        torch.ops.fast_s2s.decode_ensemble.default(*arguments)


_RUN_AN_ISA = """
import torch
import test_decode_ensemble as t
from conftest import assert_close
for name in t.CASES:
    for dtype in t.DTYPES:
        t.test_copies_of_a_decoder_are_that_decoder(name, dtype, assert_close)
"""


@pytest.mark.parametrize("isa", [isa for isa in AVAILABLE if isa != "amx_emulated"])
def test_every_instruction_set(isa):
    run_with(isa, _RUN_AN_ISA)
