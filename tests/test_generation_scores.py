"""What `generate` gives beside tokens: scores, logits, probabilities of words."""

from __future__ import annotations

import pytest
import torch
from helpers_seq2seq import BOS, EOS, PAD, lively, make_batch

from fast_s2s.generation import Automaton, DecoderState, GenerateOutput


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


def test_beam_indices_are_as_wide_as_scores_where_rows_differ_in_age():
    model, batch = lively(), make_batch(rows=2)
    _, old = model.generate(batch.src[:1], max_new_tokens=4, min_new_tokens=4, return_state=True)
    state = DecoderState.merge([old, model.encode(batch.src[1:])], bos_token_id=BOS)
    options = {"num_beams": 2, "return_dict_in_generate": True, "output_scores": True}
    output = model.generate(state=state, max_new_tokens=3, **options)
    assert output.token_scores.size(1) == 3
    assert output.beam_indices.shape == output.token_scores.shape
