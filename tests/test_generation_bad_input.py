"""Bad arguments of `generate` and fields of `GenerationConfig`: the error names them."""

from __future__ import annotations

import pytest
import torch
from helpers_seq2seq import make_batch, make_model

from fast_s2s.generation import Automaton, GenerateOutput, GenerationConfig

MODEL = make_model()
SRC = make_batch().src
NEVER = "expected neither pad_token_id nor bos_token_id, which are never generated"
META = torch.zeros(5, dtype=torch.int64, device="meta")

# arguments of `generate`, the error, and what its message begins with
CALLS = {
    "unknown": ({"num_beans": 3}, TypeError, "generate: expected fields of GenerationConfig as fu"),
    "prefix kind": ({"prefix": [[1]]}, TypeError, "prefix: expected a tensor"),
    "prefix rows": (
        {"prefix": torch.zeros(4, 2).long()},
        ValueError,
        "prefix: expected shape (batch, steps), got (4, 2)",
    ),
    "prefix ids": ({"prefix": SRC + 9}, ValueError, "prefix: expected token ids in 0..12, got"),
    "prefix_lengths alone": (
        {"prefix_lengths": [1] * 5},
        ValueError,
        "prefix_lengths: expected No",
    ),
    "prefix_lengths": (
        {"prefix": SRC, "prefix_lengths": [8] * 5},
        ValueError,
        "prefix_lengths: expected values in 0..7, got 8..8",
    ),
    "max_new_tokens shape": (
        {"max_new_tokens": torch.ones(3).long()},
        ValueError,
        "max_new_tokens: expected shape (batch,) = (5,), got (3,)",
    ),
    "max_new_tokens dtype": (
        {"max_new_tokens": torch.ones(5)},
        ValueError,
        "max_new_tokens: expected dtype torch.int64",
    ),
    "max_new_tokens value": (
        {"max_new_tokens": torch.tensor([1, 2, 0, 3, 4])},
        ValueError,
        "max_new_tokens: expected integers >= 1, got 0",
    ),
    "max_new_tokens device": (
        {"max_new_tokens": META},
        ValueError,
        "max_new_tokens: expected a tensor on cpu, got one on meta",
    ),
    "seed shape": (
        {"seed": torch.ones(3).long(), "do_sample": True},
        ValueError,
        "seed: expected shape (batch,) = (5,), got (3,)",
    ),
    "max_new_tokens list": (
        {"max_new_tokens": [1, 2, 3]},
        ValueError,
        "max_new_tokens: expected shape (batch,) = (5,), got (3,)",
    ),
    "max_new_tokens fractions": (
        {"max_new_tokens": [1.5] * 5},
        TypeError,
        "max_new_tokens: expected a tensor or a sequence of integers, got [1.5",
    ),
    "seed list": (
        {"seed": ["a"] * 5},
        TypeError,
        "seed: expected a tensor or a sequence of integers, got ['a'",
    ),
    "another generation_config": (
        {"generation_config": type("GenerationConfig", (), {"__module__": "transformers.x"})()},
        TypeError,
        "generation_config: expected a fast_s2s.GenerationConfig, got transformers.x.GenerationCon",
    ),
    "no generation_config": (
        {"generation_config": 3},
        TypeError,
        "generation_config: expected a fast_s2s.GenerationConfig, got int",
    ),
    "seed dtype": ({"seed": torch.ones(5)}, ValueError, "seed: expected dtype torch.int64"),
    "max_length": ({"max_length": 1}, ValueError, "max_length: expected more than the 1 tokens"),
    "max_length kind": ({"max_length": 2.5}, TypeError, "max_length: expected an integer"),
    "max_length size": (
        {"max_length": 2**63},
        ValueError,
        "max_length: expected an integer <= 109",
    ),
    "max_new_tokens size": (
        {"max_new_tokens": torch.tensor([1, 2, 2**62, 3, 4])},
        ValueError,
        "max_new_tokens: expected integers in 0..1099511627776, got 4611686018427387904",
    ),
    "max_length twice": (
        {"max_length": 9, "max_new_tokens": 3},
        ValueError,
        "max_length: expected None beside max_new_tokens, got both",
    ),
    "max_length beside lengths": (
        {"max_length": 9, "prefix": SRC, "prefix_lengths": [1] * 5},
        ValueError,
        "max_length: expected None beside state or prefix_lengths",
    ),
    "constraint": ({"constraint": 3}, TypeError, "constraint: expected a sequence of token sequ"),
    "constraint text": (
        {"constraint": "ab"},
        TypeError,
        "constraint: expected a sequence of token",
    ),
    "constraint none": ({"constraint": []}, ValueError, "constraint: expected at least one"),
    "constraint ids": (
        {"constraint": [[3], [13]]},
        ValueError,
        "constraint: expected token ids in 0..12, got 13",
    ),
    "constraint bos": (
        {"constraint": [[3, 4], [3, 1]]},
        ValueError,
        f"constraint: {NEVER}, got 1",
    ),
    "constraint pad": (
        {"constraint": Automaton.from_sequences([[0, 4]])},
        ValueError,
        f"constraint: {NEVER}, got 0",
    ),
    "constraint of another pad": (
        {"constraint": Automaton.from_sequences([[3, 4]]), "pad_token_id": 4},
        ValueError,
        f"constraint: {NEVER}, got 4",
    ),
    "constraint of another vocabulary": (
        {"constraint": Automaton.from_sequences([[3], [13]])},
        ValueError,
        "automaton.arc_tokens: expected token ids in 0..12, got 13",
    ),
    "constraint offsets": (
        {
            "constraint": Automaton.from_sequences([[3]])._replace(
                node_offsets=torch.tensor([0, 2, 1])
            )
        },
        ValueError,
        "automaton.node_offsets: expected to rise",
    ),
    "logits_processor": (
        {"logits_processor": 3},
        TypeError,
        "logits_processor: expected a callable or a list, got int",
    ),
    "logits_processor result": (
        {"logits_processor": lambda tokens, scores: scores[:, :3]},
        ValueError,
        "logits_processor: expected function to return scores (5, 13), got (5, 3)",
    ),
    "logits_processor nothing": (
        {"logits_processor": lambda tokens, scores: None},
        ValueError,
        "logits_processor: expected function to return scores (5, 13), got NoneType",
    ),
    "stopping_criteria": (
        {"stopping_criteria": [len, 3]},
        TypeError,
        "stopping_criteria: expected a callable or a list, got int",
    ),
    "stopping_criteria result": (
        {"stopping_criteria": lambda tokens, scores: torch.zeros(2).bool()},
        ValueError,
        "stopping_criteria: expected function to return a bool or bools (5,)",
    ),
    "stopping_criteria numbers": (
        {"stopping_criteria": lambda tokens, scores: torch.tensor([1] * 5)},
        ValueError,
        "stopping_criteria: expected function to return a bool or bools (5,), got torch.int64 (5,)",
    ),
    "stopping_criteria number": (
        {"stopping_criteria": lambda tokens, scores: 1},
        ValueError,
        "stopping_criteria: expected function to return a bool or bools (5,), got 1",
    ),
    "streamer": (
        {"streamer": 3},
        TypeError,
        "streamer: expected objects with put and end, got int",
    ),
    "streamers": (
        {"streamer": [type("S", (), {"put": print, "end": print})()]},
        ValueError,
        "streamer: expected a list of 5, one for each sequence, got 1",
    ),
    "return_state": ({"return_state": 1}, TypeError, "return_state: expected a bool"),
    "output_attentions": (
        {"output_attentions": True},
        ValueError,
        "output_attentions: expected False for a model without attention, got True",
    ),
    "too many sequences": (
        {"num_return_sequences": 2},
        ValueError,
        "num_return_sequences: expected at most num_beams = 1 unless do_sample without beams, got",
    ),
    "suppress_tokens": (
        {"suppress_tokens": [13]},
        ValueError,
        "suppress_tokens: expected token ids in 0..12, got 13",
    ),
    "bad_words_ids": (
        {"bad_words_ids": [[3, 14]]},
        ValueError,
        "bad_words_ids: expected token ids in 0..12, got 14",
    ),
    "forced_eos_token_id": (
        {"forced_eos_token_id": [2, 15]},
        ValueError,
        "forced_eos_token_id: expected token ids in 0..12, got 15",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_arguments_of_generate(case):
    arguments, error, message = CALLS[case]
    with pytest.raises(error) as raised:
        MODEL.generate(SRC, **arguments)
    assert str(raised.value).startswith(message)


def test_a_constraint_is_checked_for_each_calls_own_special_tokens():
    automaton = Automaton.from_sequences([[3, 4]])
    MODEL.generate(SRC, constraint=automaton)
    with pytest.raises(ValueError, match=f"constraint: {NEVER}, got 3"):
        MODEL.generate(SRC, constraint=automaton, bos_token_id=3)
    MODEL.generate(SRC, constraint=automaton)


FIELDS = {
    "num_beams": [(0, ValueError, "an integer >= 1"), ("2", TypeError, "an integer")],
    "do_sample": [(1, TypeError, "a bool")],
    "num_return_sequences": [(0, ValueError, "an integer >= 1")],
    "seed": [(-1, ValueError, "an integer >= 0"), (2**63, ValueError, "below 2^63")],
    "temperature": [(0.0, ValueError, "a number in"), (float("nan"), ValueError, "a number")],
    "max_new_tokens": [(2**63, ValueError, "an integer <= 1099511627776, got 9223372036854775808")],
    "top_k": [(2**64, ValueError, "an integer <= "), (2.0, TypeError, "an integer")],
    "top_p": [(1.1, ValueError, "a number in [0, 1]"), (None, TypeError, "a number")],
    "min_p": [(-0.1, ValueError, "a number in [0, 1]")],
    "repetition_penalty": [(0, ValueError, "a number above 0")],
    "no_repeat_ngram_size": [(-1, ValueError, "an integer >= 0")],
    "length_penalty": [(float("inf"), ValueError, "a number in")],
    "early_stopping": [
        ("always", ValueError, "True, False or 'never'"),
        (1, ValueError, "True, F"),
    ],
    "renormalize_logits": [(None, TypeError, "a bool")],
    "bad_words_ids": [
        (3, TypeError, "a sequence of token sequences"),
        ([3], TypeError, "a sequence of token ids"),
        ([[]], ValueError, "sequences of at least one token"),
        ([[1.5]], TypeError, "an integer"),
    ],
    "suppress_tokens": [
        (3, TypeError, "a sequence of token ids"),
        ([-1], ValueError, "an integer"),
    ],
    "begin_suppress_tokens": [("ab", TypeError, "a sequence of token ids")],
    "forced_bos_token_id": [
        ([3], TypeError, "an integer"),
        (1, ValueError, "neither pad_token_id"),
    ],
    "forced_eos_token_id": [
        (-3, ValueError, "an integer"),
        ([0], ValueError, "neither pad_token_i"),
    ],
    "return_dict_in_generate": [(1, TypeError, "a bool")],
    "output_scores": [("yes", TypeError, "a bool")],
    "output_logits": [(0, TypeError, "a bool")],
    "output_attentions": [(None, TypeError, "a bool")],
    "eos_token_id": [([], ValueError, "at least one id"), ([2, True], TypeError, "an integer")],
}


@pytest.mark.parametrize("name", FIELDS)
def test_bad_fields_of_the_config(name):
    for value, error, message in FIELDS[name]:
        with pytest.raises(error) as raised:
            GenerationConfig(**{name: value})
        assert str(raised.value).startswith(f"{name}: expected {message}"), value


def test_every_field_has_its_bad_values():
    elsewhere = {"min_new_tokens", "pad_token_id", "bos_token_id"}
    assert GenerationConfig.__dataclass_fields__.keys() - elsewhere == FIELDS.keys()


def test_several_ends_differ_from_pad_and_bos():
    with pytest.raises(ValueError, match="expected different ids, got"):
        GenerationConfig(eos_token_id=[2, 1])


def test_an_output_has_no_other_names():
    output = MODEL.generate(SRC, max_new_tokens=1, return_dict_in_generate=True)
    assert isinstance(output, GenerateOutput)
    with pytest.raises(KeyError):
        output[0]


def test_a_model_without_values_is_refused():
    with pytest.raises(ValueError, match="generate: expected parameters with values, got the meta"):
        make_model().to("meta").generate(SRC.to("meta"))
