"""The op `decode` where random cases do not reach: edges, resuming, what is computed once."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers_decode import (
    BOS,
    DTYPES,
    EOS,
    Size,
    kinds,
    make,
    random_context,
    random_weights,
    run,
    with_logits,
)
from helpers_native import needs_native

from fast_s2s.decoding import DecodeOptions, decode, initial_state, pack_decoder
from fast_s2s.decoding.contract import Keep


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


def test_limits_may_change_between_calls(backend):
    made, limits = make(Size(), 2), torch.tensor([2, 1])
    options = DecodeOptions(max_new_tokens=limits)
    for more in (0, 4, -3):
        limits += more
        assert torch.equal(run(made, options).lengths, limits)


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
    parts = run(made, options).kept
    assert len(parts.scores) == len(parts.logits) == len(parts.tokens) == 11
    for ours, theirs in zip(parts, whole.kept, strict=True):
        assert torch.equal(ours, theirs)


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
