"""What `Seq2SeqConfig` and `Seq2Seq` refuse, and how the error names it."""

from __future__ import annotations

import pytest
import torch
from helpers_seq2seq import SIZES, SRC_VOCAB, TGT_VOCAB, make_model

from fast_s2s.seq2seq import Seq2SeqConfig

BAD_CONFIGS = [
    ({"hidden_size": 0}, ValueError, "hidden_size: expected an integer >= 1, got 0"),
    ({"hidden_size": 8.0}, TypeError, "hidden_size: expected an integer, got 8.0 of type float"),
    ({"embedding_size": -1}, ValueError, "embedding_size: expected an integer >= 1, got -1"),
    ({"num_layers": 0}, ValueError, "num_layers: expected an integer >= 1, got 0"),
    ({"encoder_layers": 0}, ValueError, "encoder_layers: expected an integer >= 1, got 0"),
    ({"decoder_layers": "2"}, TypeError, "decoder_layers: expected an integer, got '2'"),
    ({"bidirectional": 1}, TypeError, "bidirectional: expected a bool, got 1 of type int"),
    ({"tie_embeddings": None}, TypeError, "tie_embeddings: expected a bool, got None"),
    ({"tie_embeddings": True}, ValueError, "expected embedding_size == hidden_size, got 256 and"),
    ({"dropout": 1.5}, ValueError, "dropout: expected a number in [0.0, 1.0], got 1.5"),
    ({"dropout": float("nan")}, ValueError, "dropout: expected a number in [0.0, 1.0], got nan"),
    ({"dropout": True}, TypeError, "dropout: expected a number, got True"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing: expected a number in [0.0, 1.0]"),
    ({"attention": "dots"}, ValueError, "attention: expected None or one of dot, general, additi"),
    ({"attention": "dot", "bidirectional": True}, ValueError, "attention: expected 'general' or"),
    ({"attention_heads": 2}, ValueError, "attention_heads: expected 1 without attention, got 2"),
    ({"input_feeding": True}, ValueError, "input_feeding: expected False without attention, got T"),
    ({"attention": "dot", "input_feeding": 1}, TypeError, "input_feeding: expected a bool, got 1"),
    (
        {"attention": "dot", "attention_heads": 0},
        ValueError,
        "attention_heads: expected an integ",
    ),
    (
        {"attention": "dot", "attention_heads": 3},
        ValueError,
        "attention_heads: expected a divisor of hidden_size = 512, got 3",
    ),
    ({"src_vocab_size": 0}, ValueError, "src_vocab_size: expected an integer >= 1, got 0"),
    ({"tgt_vocab_size": 3}, ValueError, "tgt_vocab_size: expected an integer >= 4, got 3"),
    ({"eos_token_id": 13}, ValueError, "eos_token_id: expected an id below tgt_vocab_size = 13"),
    ({"pad_token_id": 11}, ValueError, "pad_token_id: expected an id below src_vocab_size = 11"),
    ({"bos_token_id": -1}, ValueError, "bos_token_id: expected an integer >= 0, got -1"),
    ({"bos_token_id": 2}, ValueError, "expected different ids, got (0, 2, 2)"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_CONFIGS)
def test_bad_config(changes, error, message):
    with pytest.raises(error) as raised:
        Seq2SeqConfig(**{**SIZES, **changes})
    assert message in str(raised.value)


def ids(*shape):
    return torch.full(shape, 3)


BAD_SOURCES = {
    "no tensor": ([[3, 4]], None, TypeError, "src: expected a tensor, got [[3, 4]] of type list"),
    "dtype": (ids(2, 3).int(), None, ValueError, "src: expected dtype torch.int64, got torch.int"),
    "float": (ids(2, 3).float(), None, ValueError, "src: expected dtype torch.int64, got torch.f"),
    "dimensions": (ids(3), None, ValueError, "src: expected shape (batch, steps), got (3,)"),
    "no steps": (ids(2, 0), None, ValueError, "src: expected at least one step, got shape (2, 0)"),
    "device": (ids(2, 3).to("meta"), None, ValueError, "src: expected a tensor on cpu, got one on"),
    "high id": (
        torch.tensor([[3, 4], [5, SRC_VOCAB]]),
        None,
        ValueError,
        "src: expected token ids in 0..10, got 11 at src[1, 1]",
    ),
    "negative id": (torch.tensor([[-100]]), None, ValueError, "got -100 at src[0, 0]"),
    "lengths, one missing": (
        ids(2, 3),
        torch.tensor([3]),
        ValueError,
        "src_lengths: expected shape (2,), one per row, got (1,)",
    ),
    "lengths, dtype": (
        ids(2, 3),
        torch.tensor([3.0, 1.0]),
        ValueError,
        "src_lengths: expected integers, got torch.float32",
    ),
    "lengths, range": (
        ids(2, 3),
        torch.tensor([4, -1]),
        ValueError,
        "src_lengths: expected values in 0..3, got -1..4",
    ),
    "lengths, list": (ids(2, 3), [1.5, 2], TypeError, "src_lengths: expected a tensor or a seq"),
    "lengths, number": (ids(2, 3), 3, TypeError, "src_lengths: expected a tensor or a sequence"),
}


@pytest.mark.parametrize("entry", ["encode", "generate", "forward"])
@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_source(entry, case):
    src, lengths, error, message = BAD_SOURCES[case]
    model = make_model()
    call = {
        "encode": lambda: model.encode(src, lengths),
        "generate": lambda: model.generate(src, lengths),
        "forward": lambda: model(src, ids(2, 3), lengths),
    }
    with pytest.raises(error) as raised:
        call[entry]()
    assert message in str(raised.value)


BAD_TARGETS = {
    "no tensor": (None, None, TypeError, "tgt: expected a tensor, got None"),
    "dtype": (ids(2, 3).short(), None, ValueError, "tgt: expected dtype torch.int64, got torch.i"),
    "dimensions": (ids(2, 3, 1), None, ValueError, "tgt: expected shape (batch, steps), got (2, 3"),
    "batch": (ids(3, 3), None, ValueError, "tgt: expected 2 rows, as src has, got 3"),
    "no steps": (ids(2, 0), None, ValueError, "tgt: expected at least one step, got shape (2, 0)"),
    "device": (ids(2, 3).to("meta"), None, ValueError, "tgt: expected a tensor on cpu, got one on"),
    "high id": (
        torch.full((2, 3), TGT_VOCAB),
        None,
        ValueError,
        "tgt: expected token ids in 0..12, got 13 at tgt[0, 0]",
    ),
    "ignore index": (torch.tensor([[3, -100], [3, 3]]), None, ValueError, "got -100 at tgt[0, 1]"),
    "lengths, shape": (
        ids(2, 3),
        torch.tensor([[3], [3]]),
        ValueError,
        "tgt_lengths: expected shape (2,), one per row, got (2, 1)",
    ),
    "lengths, range": (
        ids(2, 3),
        [1, 4],
        ValueError,
        "tgt_lengths: expected values in 0..3, got 1..4",
    ),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_bad_target(case):
    tgt, lengths, error, message = BAD_TARGETS[case]
    with pytest.raises(error) as raised:
        make_model()(ids(2, 3), tgt, None, lengths)
    assert message in str(raised.value)
