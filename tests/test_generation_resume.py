"""Generation that goes on: from a state, from a prefix, rows of different ages, beams."""

from __future__ import annotations

import pickle
import random

import pytest
import torch
from helpers_seq2seq import BOS, EOS, PAD, TorchSeq2Seq, assert_same_state, lively, make_batch
from test_generation_options import random_options

import fast_s2s
from fast_s2s import Automaton, DecoderState

LIMIT = 9
FEEDING = {"attention": "additive", "input_feeding": True}
RESUMED = {
    "greedy": {},
    "rules": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.4, "bad_words_ids": [[5, 7]]},
    "sampled": {"do_sample": True, "seed": 11},
    "constrained": {"constraint": [[3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 6], [9] * 7, [10, 3]]},
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("parts", [[1] * LIMIT, [2, 3, 4], [LIMIT - 1, 1]], ids=str)
def test_parts_join_to_the_whole(case, parts):
    model = lively(num_layers=2)
    batch = make_batch(rows=8)
    options = {**RESUMED[case], "return_state": True}
    # `generate` reads the source with packed weights, and so rounds differently
    state = model.encode(batch.src, batch.src_lengths)
    whole, whole_state = model.generate(state=state, max_new_tokens=LIMIT, **options)
    read = model.generate(batch.src, batch.src_lengths, max_new_tokens=LIMIT, **RESUMED[case])
    assert torch.equal(read, whole)
    columns = []
    for size in parts:
        tokens, state = model.generate(state=state, max_new_tokens=size, **options)
        columns.append(tokens if not columns else tokens[:, 1:])
    assert torch.equal(torch.cat(columns, 1), whole)
    assert_same_state(state, whole_state)
    assert state.finished.any()


def test_rows_of_different_ages_go_on_together():
    """Merged states, selected rows: what a server does that batches as requests come and go."""
    model = lively(num_layers=2)
    batch = make_batch(rows=6)
    options = {"no_repeat_ngram_size": 2, "do_sample": True, "min_new_tokens": 2}
    seeds = torch.arange(6)
    whole = model.generate(
        batch.src, batch.src_lengths, max_new_tokens=LIMIT, seed=seeds, **options
    )
    old = model.encode(batch.src[:4], batch.src_lengths[:4])
    head, old = model.generate(
        state=old, max_new_tokens=3, seed=seeds[:4], return_state=True, **options
    )
    new = model.encode(batch.src[4:], batch.src_lengths[4:])
    both = type(old).merge([old.select([2, 0]), new, old.select([3])], bos_token_id=BOS)
    order = torch.tensor([2, 0, 4, 5, 3])
    # of each row what is left
    left = torch.where(order < 4, LIMIT - 3, LIMIT)
    options["min_new_tokens"] = 0

    tail = model.generate(state=both, max_new_tokens=left, seed=seeds[order], **options)

    for index, row in enumerate(order.tolist()):
        begun = head[row].tolist() if row < 4 else [BOS]
        assert tail[index, 0] == begun[-1] or (begun[-1] == PAD)
        joined = [t for t in begun + tail[index, 1:].tolist() if t != PAD]
        expected = [t for t in whole[row].tolist() if t != PAD]
        # rows that began before kept their first two free of eos; the new ones did not ask to
        if row < 4 or EOS not in joined[:3]:
            assert joined == expected


@pytest.mark.parametrize("seed", range(24))
def test_rows_of_different_ages_under_any_options_equal_the_reference(seed, assert_close):
    rng = random.Random(seed)
    model = lively(**rng.choice([{"num_layers": 2}, {"attention": "general"}, FEEDING]))
    batch = make_batch(rows=4)
    options = {**random_options(rng, 4), "return_dict_in_generate": True}
    before = {"constraint": options.get("constraint"), "return_state": True}
    fresh = model.encode(batch.src, batch.src_lengths)
    _, young = model.generate(state=fresh, max_new_tokens=2, **before)
    _, old = model.generate(state=young, max_new_tokens=3, **before)
    states = [rng.choice([fresh, young, old]).select([row]) for row in range(4)]
    state = type(fresh).merge(states, bos_token_id=BOS)

    native = model.generate(state=state, **options)
    with fast_s2s.backend("reference"):
        expected = model.generate(state=state, **options)

    assert torch.equal(native.sequences, expected.sequences)
    assert_close(native.token_scores, expected.token_scores, "token_scores")
    for name in ("token", "finished", "node", "history", "position"):
        assert torch.equal(getattr(native.state, name), getattr(expected.state, name)), name


def test_beams_go_on_each_for_itself():
    model = lively()
    batch = make_batch(rows=3)
    options = {"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True}
    first = model.generate(batch.src, batch.src_lengths, max_new_tokens=3, **options)
    over = first.state.finished
    assert over.any() and not over.all()
    second = model.generate(state=first.state, num_beams=2, max_new_tokens=4)
    assert torch.equal(second[:, 0], first.state.token)
    assert (second[over, 1:] == PAD).all()
    assert (second[~over, 1] != PAD).all()
    # the states are those of the sequences, as teacher forcing has them
    reference = TorchSeq2Seq(model)
    for row in range(6):
        src = batch.src[row // 2][: batch.src_lengths[row // 2]]
        fed = first.sequences[row][: first.lengths[row]]
        state, _ = reference.context(src)
        with torch.no_grad():
            _, (h, _) = reference.decoder(reference.tgt_embedding(fed), state)
        assert torch.allclose(first.state.h[:, row], h)


def test_prefix_equals_teacher_forcing():
    model = lively()
    batch = make_batch(rows=4)
    prefix = torch.tensor([[5, 6, 7], [8, 9, PAD], [PAD] * 3, [3, EOS, 4]])
    lengths = [3, 2, 0, 3]
    tokens = model.generate(
        batch.src, batch.src_lengths, prefix=prefix, prefix_lengths=lengths, max_new_tokens=5
    )
    for row, length in enumerate(lengths):
        src, given = batch.src[row : row + 1], prefix[row : row + 1, :length]
        src_lengths = batch.src_lengths[row : row + 1]
        state = model.encode(src, src_lengths)
        if length:
            state = model(src, given.contiguous(), src_lengths, [length]).state
            state = state._replace(finished=None)
        tail = model.generate(state=state, max_new_tokens=5)[0, 1:].tolist()
        expected = [BOS, *given[0].tolist(), *tail]
        assert tokens[row, : len(expected)].tolist() == expected


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4}], ids=str)
def test_prefix_of_a_generation_that_goes_on(options):
    """What is given comes after what is there, and neither counts towards the limits."""
    model = lively()
    batch = make_batch(rows=4)
    state = model.encode(batch.src, batch.src_lengths)
    # rows of different ages
    parts = []
    for row, age in enumerate((1, 3, 2, 1)):
        given = torch.full((1, age), 9)
        one = state.select([row])
        parts.append(
            model.generate(state=one, prefix=given, max_new_tokens=1, return_state=True)[1]
        )
    merged = type(state).merge(parts)
    merged = merged._replace(finished=None)
    prefix, lengths = torch.tensor([[5, 6], [7, PAD], [PAD, PAD], [4, 3]]), [2, 1, 0, 2]
    limit = {"max_new_tokens": 4, "min_new_tokens": 4, "no_repeat_ngram_size": 2}
    if options.get("do_sample"):
        options = {**options, "seed": torch.arange(4)}
    tokens = model.generate(state=merged, prefix=prefix, prefix_lengths=lengths, **limit, **options)
    for row, length in enumerate(lengths):
        assert tokens[row, 1 : 1 + length].tolist() == prefix[row, :length].tolist()
        assert (tokens[row] != PAD).sum() == 1 + length + 4
        alone = dict(options)
        if "do_sample" in alone:
            alone["seed"] = torch.tensor([row])
        expected = model.generate(
            state=merged.select([row]), prefix=prefix[row : row + 1, :length], **limit, **alone
        )
        assert tokens[row, : expected.size(1)].tolist() == expected[0].tolist()


WORDS = [[3, 4, 5, 6], [3, 9, 3, 4]]
BEGUN_WITH = {
    "another": (WORDS, [[7, 8, 9]], "expected the one that row 0 of the state was written under"),
    "a shorter": (WORDS, [[3]], "expected the one that row 0 of the state was written under"),
    "none": (None, WORDS, "expected None, as row 0 of the state was not written under one from"),
}


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("case", BEGUN_WITH)
def test_another_constraint_is_refused(case, beams):
    begun, other, message = BEGUN_WITH[case]
    model, batch = lively(), make_batch(rows=4)
    options = {"num_beams": beams, "max_new_tokens": 1, "min_new_tokens": 1}
    _, state = model.generate(batch.src, constraint=begun, return_state=True, **options)
    assert not state.finished.any()
    for constraint in (other, Automaton.from_sequences(other)):
        with pytest.raises(ValueError) as raised:
            model.generate(state=state, constraint=constraint, **options)
        assert str(raised.value).startswith(f"constraint: {message}")


def test_a_state_knows_its_constraint_by_content():
    """In a copy, in rows picked and put together, beside rows that begin."""
    model, batch = lively(attention="general"), make_batch(rows=4)
    options = {"max_new_tokens": 2, "return_state": True, "constraint": WORDS}
    whole = model.generate(batch.src, constraint=WORDS, max_new_tokens=9)
    _, state = model.generate(batch.src, **options)
    state = pickle.loads(pickle.dumps(state))
    fresh = model.encode(batch.src[:1])
    merged = DecoderState.merge([state.select([3, 0]), fresh, state.select([1])], BOS)
    # as a set of sequences it is the same
    tokens, after = model.generate(state=merged, **{**options, "constraint": WORDS[::-1]})
    assert tokens[:2, 1:].tolist() == whole[[3, 0], 3:5].tolist()
    assert tokens[2, 1:].tolist() == whole[0, 1:3].tolist()
    assert after.constraint.unique().numel() == 1
    with pytest.raises(ValueError, match="constraint: expected the one that row 2 of the state"):
        model.generate(state=DecoderState.merge([fresh.expand(2), state], BOS), constraint=[[3]])


def test_a_constraint_may_end_but_not_come_back():
    model, batch = lively(), make_batch(rows=4)
    options = {"max_new_tokens": 2, "return_state": True}
    _, state = model.generate(batch.src, constraint=WORDS, **options)
    _, state = model.generate(state=state, min_new_tokens=2, **options)
    with pytest.raises(ValueError, match="constraint: expected None, as row 0 of the state was"):
        model.generate(state=state, constraint=WORDS)


def test_rows_that_are_over_mind_no_constraint():
    model, batch = lively(), make_batch(rows=3)
    long = [[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 3, 4]]
    _, over = model.generate(batch.src, constraint=long, max_new_tokens=13, return_state=True)
    assert over.finished.all()
    merged = DecoderState.merge([over, model.encode(batch.src)], BOS)
    for options in ({}, {"num_beams": 3}):
        tokens = model.generate(state=merged, constraint=[[3]], **options)
        assert tokens[:3, 1:].eq(PAD).all() and tokens[3:, 1:].eq(torch.tensor([3, EOS])).all()
