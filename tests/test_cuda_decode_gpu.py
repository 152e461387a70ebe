"""The CUDA decode on a GPU: what the emulator cannot show. Skipped where there is none."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from helpers_attention import Case, Shape, make_case, random_shape
from helpers_decode import EOS, Size, make, random_options, random_size, run, twin, with_more
from helpers_decode_compare import assert_kept_close

import fast_s2s
from fast_s2s import backends
from fast_s2s.attention import Memory
from fast_s2s.decoding import DecodeOptions
from fast_s2s.decoding.contract import Kept, join_state
from fast_s2s.decoding.options import op_numbers, op_rules
from fast_s2s.decoding.packed import PackedDecoder
from fast_s2s.decoding.weights import CUDA_DTYPES
from fast_s2s.stored import Stored

if not torch.cuda.is_available() or not backends.cuda_loaded:
    pytest.skip(f"no GPU with the CUDA library: {backends.cuda_reason}", allow_module_level=True)

KINDS = {"greedy": {}, "sample": {"do_sample": True}, "beam": {"num_beams": 4}}


def decoder_on_device(decoder: PackedDecoder) -> PackedDecoder:
    """Packed anew from the same numbers, on the GPU."""

    def moved(matrix: Stored | None) -> Stored | None:
        if matrix is None:
            return None
        return Stored(matrix.values.cuda(), None if matrix.scale is None else matrix.scale.cuda())

    attending = decoder.attending
    if attending is not None:
        attending = attending._replace(
            output=moved(attending.output),
            query=moved(attending.query),
            score=None if attending.score is None else attending.score.cuda(),
        )
    return dataclasses.replace(
        decoder,
        embedding=decoder.embedding.cuda(),
        layers=tuple(tuple(map(moved, layer)) for layer in decoder.layers),
        biases=tuple(bias.cuda() for bias in decoder.biases),
        output=moved(decoder.output),
        attending=attending,
    )


def on_device(made):
    decoder, h, c = made
    return decoder_on_device(decoder), h.cuda(), c.cuda()


def case_on_device(case: Case) -> Case:
    memory = Memory(*(part.cuda() for part in case.memory))
    return Case(*on_device(case[:3]), memory)


def options_on_device(options: DecodeOptions) -> DecodeOptions:
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    tensors = {k: v.cuda() for k, v in given.items() if isinstance(v, torch.Tensor)}
    return dataclasses.replace(options, **tensors)


def reference(made, options: DecodeOptions):
    with fast_s2s.backend("reference"):
        return run(made, options)


def native(made, options: DecodeOptions):
    moved = on_device(made)
    assert moved[0].backend == "native", moved[0].choice
    return run(moved, options_on_device(options))


@pytest.mark.parametrize("seed", range(200))
def test_random_decoders_and_options(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size, batch = random_size(rng), rng.choice([1, 2, 7, 40])
    made = make(size, batch, rng.choice(CUDA_DTYPES), rng.choice(["on", "off"]))
    options = with_more(seed, random_options(rng, size, batch))
    expected = reference(made, options)
    noisy = reference((twin(made[0], 3e-6), *(t.double() for t in made[1:])), options)
    actual = native(made, options)
    if torch.equal(noisy.tokens, expected.tokens):
        assert torch.equal(actual.tokens.cpu(), expected.tokens)
        torch.testing.assert_close(actual.scores.cpu(), expected.scores, rtol=1e-3, atol=1e-3)
        kept = actual.kept and Kept(*(part.cpu() for part in actual.kept))
        assert_kept_close(actual._replace(kept=kept), expected, str(options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", CUDA_DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 8, 33, 300])
@pytest.mark.parametrize("hidden", [128, 512, 1024])
def test_sizes_that_spread_over_the_device(hidden, batch, dtype, kind):
    options = dict(KINDS[kind])
    if kind == "sample":
        options["seed"] = torch.arange(batch)
    made = make(Size(layers=2, hidden=hidden, vocab=1000, embedding=64), batch, dtype)
    options = DecodeOptions(max_new_tokens=20, eos_token_id=EOS, **options)
    expected, actual = reference(made, options), native(made, options)
    pairs = zip(actual.tokens.tolist(), expected.tokens.tolist(), strict=True)
    # rounding may part a row's ways; padding differs with the longest row
    width = min(actual.tokens.size(1), expected.tokens.size(1))
    same = [ours[:width] == theirs[:width] for ours, theirs in pairs]
    assert sum(same) > 0.9 * len(same)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", CUDA_DTYPES, ids=str)
def test_every_variant_gives_the_same_bits(dtype, kind, monkeypatch):
    # plans choose few of them for these sizes
    seeds = {"seed": torch.arange(19, device="cuda")} if kind == "sample" else {}
    made = on_device(make(Size(layers=2, hidden=200, vocab=300), 19, dtype))
    options = DecodeOptions(max_new_tokens=20, eos_token_id=EOS, **KINDS[kind], **seeds)
    expected = run(made, options)
    for variant, blocks in (("block", 1), ("grid", 1), *(("cluster", n) for n in (2, 4, 8, 16))):
        if blocks > 1 and torch.cuda.get_device_capability() < (9, 0):
            continue
        monkeypatch.setenv("FAST_S2S_CUDA_VARIANT", variant)
        monkeypatch.setenv("FAST_S2S_CUDA_CLUSTER", str(blocks))
        found = run(made, options)
        assert torch.equal(found.tokens, expected.tokens), (variant, blocks)
        assert torch.equal(found.scores, expected.scores), (variant, blocks)


@pytest.mark.parametrize("seed", range(200))
def test_random_decoders_with_attention(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size, batch = random_size(rng), rng.choice([1, 2, 7, 40])
    dtype, table = rng.choice(CUDA_DTYPES), rng.choice(["on", "off"])
    case = make_case(size, random_shape(rng, size), batch, dtype, table, rng.choice([0.5, 2]))
    options = random_options(rng, size, batch)
    expected = case.on_reference(options)
    twins = [case._replace(decoder=twin(case.decoder, noise)) for noise in (3e-6, 3e-6, 1e-5)]
    noisy = [other.on_reference(options).tokens for other in twins]
    moved = case_on_device(case)
    assert moved.decoder.backend == "native", moved.decoder.choice
    actual = moved.run(options_on_device(options))
    if all(torch.equal(tokens, expected.tokens) for tokens in noisy):
        # beams that are permutations of each other may be worth the same but for rounding
        others = (actual.tokens.cpu() != expected.tokens).any(1)
        apart = (actual.scores.cpu() - expected.scores)[others].abs()
        assert not others.any() or (options.num_beams > 1 and float(apart.max()) < 1e-6)
        torch.testing.assert_close(actual.scores.cpu(), expected.scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("batch", [1, 33])
def test_attention_that_spreads_over_the_device(batch, additive, kind):
    options = dict(KINDS[kind])
    if kind == "sample":
        options["seed"] = torch.arange(batch)
    options = DecodeOptions(max_new_tokens=20, eos_token_id=EOS, **options)
    shape = Shape(heads=4, values=256, keys=128, additive=additive, feeding=additive, steps=300)
    case = make_case(Size(layers=2, hidden=512, vocab=1000), shape, batch, torch.float32)
    expected, actual = (
        case.on_reference(options),
        case_on_device(case).run(options_on_device(options)),
    )
    width = min(actual.tokens.size(1), expected.tokens.size(1))
    same = (actual.tokens[:, :width].cpu() == expected.tokens[:, :width]).all(1)
    assert same.float().mean() > 0.9


def test_a_thousand_runs_give_the_same_bits():
    made = on_device(make(Size(layers=2, hidden=300, vocab=500), 12, torch.bfloat16))
    options = DecodeOptions(max_new_tokens=10, num_beams=3, eos_token_id=EOS)
    first = run(made, options)
    for _ in range(1000):
        again = run(made, options)
        assert torch.equal(again.tokens, first.tokens)
        assert torch.equal(again.scores, first.scores)


def test_two_streams_at_once():
    made = [on_device(make(Size(hidden=512, vocab=300), 4, torch.bfloat16)) for _ in range(2)]
    options = DecodeOptions(max_new_tokens=30)
    expected = [run(m, options).tokens for m in made]
    streams = [torch.cuda.Stream() for _ in made]
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, m, tokens in zip(streams, made, expected, strict=True):
            with torch.cuda.stream(stream):
                assert torch.equal(run(m, options).tokens, tokens)


def test_no_growth_of_memory():
    made = on_device(make(Size(hidden=64, vocab=100), 4, torch.float32))
    options = DecodeOptions(max_new_tokens=5, num_beams=2)
    run(made, options)
    before = torch.cuda.memory_allocated()
    for _ in range(1000):
        run(made, options)
    assert torch.cuda.memory_allocated() <= before


def captured(case: Case, options: DecodeOptions, steps: int):
    """A graph of one call of the op, what it reads and what it writes."""
    state = case.state(options)
    rules = op_rules(case.decoder, options, state.slots.position.numel())
    memory = list(state.memory or ())
    begin = join_state(state.slots, state.hypotheses)
    arguments = begin, memory, list(rules), *op_numbers(options), steps
    # kernels are loaded when first used
    case.decoder.run(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = case.decoder.run(*arguments)
    return graph, [*begin, *memory], results


@pytest.mark.parametrize("attends", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 33])
def test_a_graph_is_captured_and_replayed_with_other_inputs(batch, kind, attends):
    given = dict(KINDS[kind])
    if kind == "sample":
        given["seed"] = torch.arange(batch)
    options = options_on_device(DecodeOptions(max_new_tokens=12, eos_token_id=EOS, **given))
    size = Size(layers=2, hidden=512, vocab=300)
    shape = Shape(heads=4, values=64, additive=True, keys=16, feeding=True, steps=30)
    if attends:
        case = case_on_device(make_case(size, shape, batch, torch.float32))
    else:
        case = Case(*on_device(make(size, batch, torch.float32)), None)
    graph, inputs, results = captured(case, options, 12)
    for seed in range(3):
        torch.manual_seed(seed)
        memory = case.memory and case.memory._replace(values=torch.randn_like(case.memory.values))
        other = case._replace(h=torch.randn_like(case.h).tanh(), memory=memory)
        state = other.state(options)
        begin = [*join_state(state.slots, state.hypotheses), *(state.memory or ())]
        for ours, theirs in zip(inputs, begin, strict=True):
            ours.copy_(theirs)
        graph.replay()
        expected = other.run(options)
        part = expected.state.hypotheses if kind == "beam" else expected.state.slots
        found = results[10 if kind == "beam" else 2]
        assert torch.equal(found[:, : part.tokens.size(1)], part.tokens)
        assert results[-1].tolist()[:2] == [expected.steps, expected.slot_steps]


def test_a_call_of_the_op_never_waits():
    case = Case(*on_device(make(Size(hidden=64, vocab=100), 4, torch.float32)), None)
    options = DecodeOptions(max_new_tokens=5, num_beams=2)
    state, rules = case.state(options), op_rules(case.decoder, options, 8)
    begin = join_state(state.slots, state.hypotheses)
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.decoder.run(begin, [], list(rules), *op_numbers(options), 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
