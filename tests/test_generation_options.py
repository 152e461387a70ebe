"""Options of `generate`: one native call against the step loop, seeds, limits, callables."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from helpers_seq2seq import EOS, PAD, TGT_VOCAB, lively, make_batch

from fast_s2s.generation import GenerationConfig

LIMIT = 9


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


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_one_number_for_each_row_in_any_sequence(kind):
    model, batch = lively(), make_batch(rows=4)
    limits, seeds = [1, 2, 3, 4], [9, 8, 7, 6]
    options = {"do_sample": True, "min_new_tokens": 1}
    given = {"max_new_tokens": kind(limits), "seed": kind(seeds)}
    tokens = model.generate(batch.src, **given, **options)
    for row, (limit, seed) in enumerate(zip(limits, seeds, strict=True)):
        expected = model.generate(
            batch.src[row : row + 1], max_new_tokens=limit, seed=torch.tensor([seed]), **options
        )
        assert torch.equal(tokens[row : row + 1, : expected.size(1)], expected)


def test_numbers_may_be_of_numpy():
    model, batch = lively(), make_batch(rows=4)
    plain = {
        "max_new_tokens": 5,
        "do_sample": True,
        "seed": 3,
        "top_p": 0.5,
        "eos_token_id": [2, 4],
    }
    expected = model.generate(batch.src, **plain, bad_words_ids=[[3, 5]])
    given = {
        "max_new_tokens": np.int64(5),
        "do_sample": np.bool_(True),
        "seed": np.int32(3),
        "top_p": np.float32(0.5),
        "eos_token_id": list(np.array([2, 4])),
        "bad_words_ids": [tuple(np.array([3, 5]))],
    }
    assert torch.equal(model.generate(batch.src, **given), expected)
    config = GenerationConfig(**given)
    assert config == GenerationConfig(**plain, bad_words_ids=[[3, 5]])
    assert GenerationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    longer = model.generate(batch.src, max_length=np.int64(6), min_length=np.int64(4))
    assert torch.equal(longer, model.generate(batch.src, max_length=6, min_length=4))
