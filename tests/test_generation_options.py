"""Options of `generate`: one native call against the step loop, resumption, seeds, outputs."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from helpers_seq2seq import (
    BOS,
    EOS,
    PAD,
    TGT_VOCAB,
    TorchSeq2Seq,
    assert_same_state,
    make_batch,
    make_model,
)

from fast_s2s.generation import Automaton, GenerateOutput, GenerationConfig

LIMIT = 9


def lively(dtype=torch.float64, **fields):
    """A model whose rows end early, late and never."""
    model = make_model(dtype, **fields)
    with torch.no_grad():
        model.output_projection.weight.mul_(0.5)
        model.output_projection.bias[EOS] += 0.8
    return model


def random_options(rng, rows):
    """Any options that go together."""
    tokens = range(3, TGT_VOCAB)
    options = {"max_new_tokens": rng.randint(4, LIMIT)}
    strategy = rng.choice(["greedy", "sample", "beam"])
    if strategy == "sample":
        options |= {"do_sample": True, "seed": rng.randrange(2**40)}
        options |= {"num_return_sequences": rng.choice([1, 3]), "top_k": rng.choice([0, 3, 50])}
        options |= {"temperature": rng.uniform(0.5, 2), "top_p": rng.choice([1.0, 0.8])}
        options["min_p"] = rng.choice([None, 0.05])
    elif strategy == "beam":
        options["num_beams"] = rng.randint(2, 4)
        options["num_return_sequences"] = rng.randint(1, options["num_beams"])
        options["length_penalty"] = rng.choice([-0.5, 0.0, 1.0, 2.0])
        options["early_stopping"] = rng.choice([True, False, "never"])
        options["renormalize_logits"] = rng.random() < 0.5
    sometimes = {
        "min_new_tokens": rng.randint(1, 4),
        "repetition_penalty": rng.uniform(0.7, 2),
        "no_repeat_ngram_size": rng.randint(1, 3),
        "bad_words_ids": [rng.sample(tokens, rng.randint(1, 2)) for _ in range(3)],
        "suppress_tokens": rng.sample(tokens, 2),
        "begin_suppress_tokens": rng.sample(tokens, 2),
        "forced_eos_token_id": EOS,
        "forced_bos_token_id": rng.choice(tokens),
        "eos_token_id": [EOS, rng.choice(tokens)],
    }
    options |= {name: value for name, value in sometimes.items() if rng.random() < 0.25}
    if rng.random() < 0.3:
        options["prefix"] = torch.tensor([rng.choices(tokens, k=3) for _ in range(rows)])
        options["prefix_lengths"] = [rng.randint(0, 3) for _ in range(rows)]
    if rng.random() < 0.2:
        options["constraint"] = [rng.choices(tokens, k=rng.randint(1, 6)) for _ in range(8)]
        options.pop("prefix", None), options.pop("prefix_lengths", None)
    if rng.random() < 0.2:
        options["max_new_tokens"] = torch.tensor([rng.randint(4, LIMIT) for _ in range(rows)])
    return options


def unchanged(tokens, scores):
    return scores


@pytest.mark.parametrize("seed", range(60))
def test_one_native_call_equals_the_step_loop(seed, assert_close):
    rng = random.Random(seed)
    model = lively(num_layers=rng.randint(1, 2))
    batch = make_batch(rows=4)
    options = {**random_options(rng, 4), "return_dict_in_generate": True}

    native = model.generate(batch.src, batch.src_lengths, **options)
    looped = model.generate(batch.src, batch.src_lengths, logits_processor=unchanged, **options)

    assert torch.equal(native.sequences, looped.sequences)
    assert torch.equal(native.lengths, looped.lengths)
    assert_close(native.token_scores, looped.token_scores, "token_scores")
    for name in ("h", "c"):
        assert_close(getattr(native.state, name), getattr(looped.state, name), name)
    for name in ("token", "finished", "node", "history", "position"):
        assert torch.equal(getattr(native.state, name), getattr(looped.state, name)), name


def test_the_random_options_mean_something():
    """Hardly any two cases are alike; one or two leave nothing that is possible."""
    outputs = set()
    for seed in range(20):
        rng = random.Random(seed)
        model = lively(num_layers=rng.randint(1, 2))
        batch = make_batch(rows=4)
        tokens = model.generate(batch.src, batch.src_lengths, **random_options(rng, 4))
        outputs.add(str(tokens.tolist()))
    assert len(outputs) > 17


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
    whole, whole_state = model.generate(
        batch.src, batch.src_lengths, max_new_tokens=LIMIT, **options
    )
    state = model.encode(batch.src, batch.src_lengths)
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


def test_seeds():
    model = lively()
    batch = make_batch(rows=6)

    def sample(rows=slice(None), **options):
        src, lengths = batch.src[rows], batch.src_lengths[rows]
        return model.generate(src, lengths, do_sample=True, max_new_tokens=LIMIT, **options)

    whole = sample(seed=5)
    assert torch.equal(whole, sample(seed=5))
    assert not torch.equal(whole, sample(seed=6))
    # a row's text does not depend on how many there are
    few = sample(slice(2), seed=5)
    assert torch.equal(few, whole[:2, : few.size(1)])
    # with seeds of their own not on their order either
    seeds = torch.tensor([3, -7, 2**62, 0, 11, 3])
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    assert torch.equal(sample(order, seed=seeds[order]), sample(seed=seeds)[order])
    # sequences of a row differ; and more of them change nothing in the first
    several = sample(seed=5, num_return_sequences=4)
    assert len({tuple(row) for row in several[:4].tolist()}) > 1
    assert torch.equal(several[::4, : whole.size(1)], whole[:, : several.size(1)])
    # without a seed, torch's generator decides
    torch.manual_seed(0)
    free = sample()
    torch.manual_seed(0)
    assert torch.equal(free, sample()) and not torch.equal(free, sample())


def test_limits_of_each_row():
    model = lively()
    batch = make_batch(rows=5)
    whole = model.generate(batch.src, batch.src_lengths, max_new_tokens=8)
    limits = torch.tensor([1, 8, 3, 2, 5])
    tokens = model.generate(batch.src, batch.src_lengths, max_new_tokens=limits)
    for row, limit in enumerate(limits.tolist()):
        assert tokens[row, : 1 + limit].tolist() == whole[row, : 1 + limit].tolist()
        assert (tokens[row, 1 + limit :] == PAD).all()


def test_max_length_and_min_length_count_what_is_given():
    model = lively()
    src = make_batch().src
    prefix = torch.full((5, 2), 7)
    with_prefix = {"prefix": prefix, "max_length": 8, "min_length": 6}
    expected = model.generate(src, prefix=prefix, max_new_tokens=5, min_new_tokens=3)
    assert torch.equal(model.generate(src, **with_prefix), expected)
    assert model.generate(src, max_length=4).size(1) == 4


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


def test_words_of_a_list_with_their_probabilities(assert_close):
    words = [[3, 4, 5], [3, 4], [11], [12, 11, 10, 9, 8], [7, 7]]
    model = lively()
    batch = make_batch(rows=3)
    output = model.generate(
        batch.src,
        batch.src_lengths,
        constraint=words,
        num_beams=len(words),
        num_return_sequences=len(words),
        length_penalty=0.0,
        return_dict_in_generate=True,
    )
    assert isinstance(output, GenerateOutput)
    found = output.sequences.view(3, len(words), -1)
    for row in range(3):
        ranked = []
        for word in words:
            tgt = torch.tensor([[*word, EOS]])
            src, length = batch.src[row : row + 1], batch.src_lengths[row : row + 1]
            logits = model(src, tgt, length).logits
            score = logits.log_softmax(-1).gather(2, tgt.unsqueeze(2)).sum().item()
            ranked.append((score, word))
        ranked.sort(reverse=True)
        here = [[t for t in r if t not in (BOS, EOS, PAD)] for r in found[row].tolist()]
        assert here == [word for _, word in ranked]
        scores = output.sequences_scores.view(3, -1)[row]
        assert_close(scores, torch.tensor([s for s, _ in ranked]).double(), "s", torch.float32)
    # an automaton compiled once, greedily and by sampling
    automaton = Automaton.from_sequences(words)
    for more in ({}, {"do_sample": True, "seed": 2}):
        tokens = model.generate(batch.src, batch.src_lengths, constraint=automaton, **more)
        for row in tokens.tolist():
            assert [t for t in row if t not in (BOS, EOS, PAD)] in words


def test_output_scores_and_logits(assert_close):
    model = lively()
    batch = make_batch(rows=4)
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    for options in (
        {},
        {"do_sample": True, "seed": 3},
        {"num_beams": 3, "num_return_sequences": 2},
    ):
        output = model.generate(batch.src, batch.src_lengths, max_new_tokens=6, **wanted, **options)
        assert len(output.scores) == len(output.logits) >= output.sequences.size(1) - 1
        assert {"scores", "logits"} <= set(output.keys())
        beams = "num_beams" in options
        present = set(output.keys())
        assert (output.beam_indices is not None) == beams == ("beam_indices" in present)
        # transformers' compute_transition_scores
        for row, length in enumerate(output.lengths.tolist()):
            for step in range(length):
                slot = int(output.beam_indices[row, step]) if beams else row
                scores = output.scores[step][slot]
                scores = scores if beams else scores.log_softmax(0)
                expected = scores[output.sequences[row, step + 1]].double()
                got = output.token_scores[row, step]
                assert_close(got, expected, f"{options}, {row}, {step}", torch.float32)
        assert output["sequences"] is output.sequences and output.past_key_values is output.state
    present = set(model.generate(batch.src, return_dict_in_generate=True).keys())
    assert "scores" not in present
    with pytest.raises(KeyError, match="attentions"):
        output["attentions"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "top_k": 5, "num_return_sequences": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.3},
        {"num_beams": 3, "do_sample": True, "temperature": 2.0},
        {"num_beams": 3, "renormalize_logits": True, "constraint": [[5, 6, 7], [8], [5, 9]]},
        {"constraint": [[5, 6, 7], [8], [5, 9]]},
    ],
    ids=str,
)
def test_scores_of_the_kernels_are_those_of_the_loop(options, assert_close):
    model = lively()
    batch = make_batch(rows=4)
    prefix = None if "constraint" in options else torch.tensor([[7, 8], [9, 9], [4, 5], [6, 6]])
    call = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "prefix": prefix,
        "prefix_lengths": None if prefix is None else [2, 1, 0, 1],
        "seed": 5,
        "max_new_tokens": 9,
        "repetition_penalty": 1.2,
        "min_new_tokens": 2 if prefix is not None else 0,
        **options,
    }
    ours = model.generate(batch.src, batch.src_lengths, **call)
    never = lambda tokens, scores: False  # noqa: E731
    loop = model.generate(batch.src, batch.src_lengths, stopping_criteria=never, **call)
    assert torch.equal(ours.sequences, loop.sequences)
    for name in ("scores", "logits"):
        pairs = zip(getattr(ours, name), getattr(loop, name), strict=True)
        for step, (each, other) in enumerate(pairs):
            assert_close(each, other, f"{name}, {step}", torch.float32)
    if "num_beams" in options:
        assert torch.equal(ours.beam_indices, loop.beam_indices)


def test_the_kernels_keep_scores(monkeypatch):
    """Also of beams drawn by chance: no loop in Python is made."""
    monkeypatch.setattr("fast_s2s.generation.mixin.StepDecoder", _NoLoop)
    model, batch = lively(), make_batch(rows=2)
    for more in ({}, {"num_beams": 2}, {"num_beams": 2, "do_sample": True, "seed": 1}):
        output = model.generate(
            batch.src,
            return_dict_in_generate=True,
            output_scores=True,
            min_length=4,
            max_new_tokens=3,
            **more,
        )
        assert len(output.scores) == 3


class _NoLoop:
    def __init__(self, *_, **__):
        raise AssertionError("a loop in Python")


def test_callables():
    model = lively()
    batch = make_batch(rows=4)
    seen = []

    def favour(tokens, scores):
        seen.append((tokens.shape, scores.shape))
        scores[:, 9] += 100.0
        return scores

    def long(tokens, scores):
        assert scores is None
        return torch.full((len(tokens),), tokens.size(1) >= 5)

    tokens = model.generate(
        batch.src, batch.src_lengths, logits_processor=favour, stopping_criteria=[long]
    )
    assert (tokens[:, 1:] == 9).all() and tokens.shape == (4, 5)
    assert seen == [((4, step), (4, TGT_VOCAB)) for step in range(1, 5)]
    beams = model.generate(
        batch.src, num_beams=3, logits_processor=[favour], stopping_criteria=long, max_new_tokens=9
    )
    assert beams.shape == (4, 5) and (beams[:, 1:] == 9).all()
    # one row may stop alone
    tokens = model.generate(
        batch.src,
        logits_processor=favour,
        stopping_criteria=lambda tokens, _: torch.arange(4) == 2,
        max_new_tokens=4,
    )
    assert (tokens[2, 2:] == PAD).all() and (tokens[[0, 1, 3]] != PAD).all()


def test_dropout_in_training_mode():
    model = lively(dropout=0.4, num_layers=2)
    src = make_batch(rows=6).src
    sure = model.generate(src, max_new_tokens=6)
    model.train()
    torch.manual_seed(1)
    first = model.generate(src, max_new_tokens=6)
    torch.manual_seed(1)
    assert torch.equal(model.generate(src, max_new_tokens=6), first)
    assert not torch.equal(model.generate(src, max_new_tokens=6), first)
    assert model.generate(src, max_new_tokens=6, num_beams=2).shape[0] == 6
    assert torch.equal(model.eval().generate(src, max_new_tokens=6), sure)


def test_config_goes_to_json_and_back():
    config = GenerationConfig(
        num_beams=4,
        num_return_sequences=2,
        bad_words_ids=[[3, 4], [5]],
        suppress_tokens=[6],
        eos_token_id=[2, 7],
        forced_eos_token_id=2,
        early_stopping="never",
        length_penalty=0.5,
    )
    assert GenerationConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["bad_words_ids"] == [[3, 4], [5]]
    # files of the first versions
    old = {"max_new_tokens": 9, "min_new_tokens": 1}
    assert GenerationConfig.from_dict(old) == GenerationConfig(**old)
    hash(dataclasses.replace(config, num_beams=2))
