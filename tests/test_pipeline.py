"""`TextPipeline` with the options of `generate`; and work done ahead of it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from helpers_training import toy_model, toy_tokenizers

from fast_s2s import TextPipeline
from fast_s2s.cli.prefetch import prefetch

TEXTS = ["123", "0", "4412", "3"]


def test_n_best_with_scores(toy_pipeline):
    options = {"num_beams": 5, "num_return_sequences": 3, "max_new_tokens": 6, "scores": True}
    predictions = toy_pipeline.predict(TEXTS, length_penalty=0.0, **options)
    for text, prediction in zip(TEXTS, predictions, strict=True):
        nbest = prediction.nbest
        assert len(nbest) == 3 and nbest[0].text == prediction.text
        assert (nbest[0].score, nbest[0].num_tokens) == (prediction.score, prediction.num_tokens)
        # without a length penalty the search ranks by probability
        scores = [each.score for each in nbest]
        assert scores == sorted(scores, reverse=True)
        (alone,) = toy_pipeline.predict([text], length_penalty=0.0, **options)
        assert [each.text for each in alone.nbest] == [each.text for each in nbest]
    (greedy,) = toy_pipeline.predict(["123"], scores=True)
    assert len(greedy.nbest) == 1 and greedy.nbest[0].score == greedy.score


def test_score_is_that_of_teacher_forcing(toy_pipeline):
    (prediction,) = toy_pipeline.predict(["123"], num_beams=3, scores=True, max_new_tokens=20)
    model, source = toy_pipeline.model, toy_pipeline.source_tokenizer
    target = toy_pipeline.target_tokenizer
    src = torch.tensor([[*source.encode("123"), source.eos_token_id]])
    tgt = torch.tensor([[*target.encode(prediction.text), target.eos_token_id]])
    tgt = tgt[:, : prediction.num_tokens]
    log_probabilities = model(src, tgt).logits.log_softmax(-1)
    expected = log_probabilities.gather(2, tgt.unsqueeze(2)).sum().item()
    assert prediction.score == pytest.approx(expected, abs=1e-4)


def test_constraint(toy_pipeline):
    words = ["one two", "three", "nil four nil"]
    automaton = toy_pipeline.compile_constraint(iter(words))
    for constraint in (words, automaton):
        for options in ({}, {"num_beams": 2}, {"do_sample": True, "seed": 3}):
            outputs = toy_pipeline(TEXTS, constraint=constraint, **options)
            assert set(outputs) <= set(words)
    (prediction,) = toy_pipeline.predict(
        ["1"], constraint=words, num_beams=6, num_return_sequences=6, scores=True
    )
    # three words, so three outputs
    assert sorted(each.text for each in prediction.nbest) == sorted(words)


def test_samples_of_a_stream_do_not_depend_on_the_batches(toy_pipeline):
    options = {"do_sample": True, "seed": 5, "num_return_sequences": 2}
    runs = [
        [
            prediction
            for batch in toy_pipeline.stream(TEXTS, batch_size=size, **options)
            for prediction in batch
        ]
        for size in (1, 3, 4)
    ]
    assert runs[0] == runs[1] == runs[2] == toy_pipeline.predict(TEXTS, **options)
    numpys = toy_pipeline.stream(TEXTS, batch_size=1, **{**options, "seed": np.int64(5)})
    assert [prediction for batch in numpys for prediction in batch] == runs[0]
    assert any(one.text != other.text for one, other in zip(runs[0], runs[0][1:], strict=False))


def test_a_models_own_config_decides(toy_pipeline):
    model = toy_pipeline.model
    before = model.generation_config
    try:
        values = {**before.to_dict(), "num_beams": 3, "output_scores": True}
        model.generation_config = type(before).from_dict(values)
        assert toy_pipeline(TEXTS) == toy_pipeline(TEXTS, num_beams=3)
    finally:
        model.generation_config = before


def test_prefetch_works_ahead_but_not_far():
    made = []

    def items():
        for index in range(10):
            made.append(index)
            yield index

    taken = prefetch(items(), depth=2)
    assert next(taken) == 0
    deadline = time.monotonic() + 10
    # two wait, one more is in the hands of the thread
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(taken) == list(range(1, 10))


def test_prefetch_hands_on_errors_and_lets_its_thread_go():
    def broken():
        yield 1
        raise OSError("gone")

    taken = prefetch(broken())
    assert next(taken) == 1
    with pytest.raises(OSError, match="gone"):
        next(taken)

    endless = prefetch(iter(int, 1))
    next(endless)
    endless.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(thread.name == "prefetch" for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    raise AssertionError("the thread is still there")


def test_prediction_scores_are_log_probabilities():
    """Against a step-by-step loop."""
    model = toy_model(bidirectional=True).eval()
    pipeline = TextPipeline(model, *toy_tokenizers())
    for text in ("0", "4321", "0x0"):
        (prediction,) = pipeline.predict([text, "123"], max_new_tokens=6, scores=True)[:1]
        state = model.encode(torch.tensor([[*pipeline.source_tokenizer.encode(text), 2]]))
        token, total, count = torch.tensor([1]), 0.0, 0
        while count < 6 and int(token) != 2:
            logits, state = model.step(token, state)
            token = logits.index_fill(1, torch.tensor([0, 1]), -torch.inf).argmax(1)
            total += logits.log_softmax(1)[0, int(token)].item()
            count += 1
        assert prediction.num_tokens == count
        assert prediction.score == pytest.approx(total, abs=1e-5)
        assert prediction.unknown == text.count("x")


def test_nothing_gives_nothing(toy_pipeline):
    assert toy_pipeline([]) == []
