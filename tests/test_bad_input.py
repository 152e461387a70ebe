"""Bad input at every public entry point: the error names the argument and what was expected.

Where a part has a table of its own (LSTM, LSTMCell, Seq2Seq, generation, configs, files), this one
holds what that one lacks.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from helpers_bad_input import NO_DEVICE
from helpers_bad_input import TABLE as MORE
from helpers_bad_pipelines import PIPELINE
from helpers_bad_pipelines import TABLE as PIPELINES
from helpers_seq2seq import make_batch, make_model
from helpers_training import toy_tokenizers
from torch import nn

import fast_s2s
from fast_s2s import cmudict, data, huggingface, metrics, text, tokenizer, training

SOURCE, TARGET = toy_tokenizers()
MODEL = make_model()
SRC = make_batch().src
LSTM, CELL = fast_s2s.LSTM(4, 5), fast_s2s.LSTMCell(4, 5)
X = torch.zeros(6, 3, 4)
SIZES = {"src_vocab_size": 9, "tgt_vocab_size": 9}
NO_DTYPE = "dtype: expected a floating-point torch.dtype, got"


def meta(*shape):
    return torch.ones(shape, dtype=torch.int64, device="meta")


# entry point: calls (of a temporary folder), errors, and what the messages begin with
TABLE = {
    "backend": [
        (lambda _: fast_s2s.backend(3).__enter__(), ValueError, "name: expected one of native, "),
    ],
    "from_torch": [
        (lambda _: fast_s2s.from_torch(3), TypeError, "module: expected torch.nn.LSTM or torch.nn"),
        (lambda _: fast_s2s.from_torch(nn.LSTM), TypeError, "module: expected torch.nn.LSTM"),
        (lambda _: fast_s2s.from_torch(LSTM), TypeError, "module: expected torch.nn.LSTM"),
    ],
    "to_torch": [
        (
            lambda _: fast_s2s.to_torch(nn.LSTM(2, 3)),
            TypeError,
            "module: expected fast_s2s.LSTM or fast_s2s.LSTMCell, got torch.nn.modules.rnn.LSTM",
        ),
    ],
    "replace_lstm": [
        (lambda _: fast_s2s.replace_lstm(3), TypeError, "model: expected a torch.nn.Module, got i"),
        (lambda _: fast_s2s.replace_lstm(nn.LSTM), TypeError, "model: expected a torch.nn.Module"),
    ],
    "restore_lstm": [
        (lambda _: fast_s2s.restore_lstm(3), TypeError, "model: expected a torch.nn.Module, got i"),
    ],
    "pack_lstm": [
        (lambda _: fast_s2s.pack_lstm(3), TypeError, "model: expected a torch.nn.Module, got int"),
        (lambda _: fast_s2s.pack_lstm(nn.LSTM(2, 3), "int8"), ValueError, "dtype: expected one of"),
    ],
    "PackedLSTM": [
        (
            lambda _: fast_s2s.PackedLSTM(2, 3),
            TypeError,
            "PackedLSTM: expected PackedLSTM.of(lstm, dtype)",
        ),
    ],
    "LSTM": [
        (
            lambda _: LSTM(X, lengths=meta(3)),
            ValueError,
            "lengths: expected a tensor on cpu, got one on meta",
        ),
        (
            lambda _: LSTM(X, lengths=[10**30, 1, 1]),
            ValueError,
            "lengths: expected integers of 64 bits, got [1000",
        ),
        (lambda _: LSTM(X, lengths="abc"), TypeError, "lengths: expected a tensor or a sequence"),
        (lambda _: LSTM(X, lengths=[True] * 3), TypeError, "lengths: expected a tensor or a seq"),
        (
            lambda _: LSTM(X, lengths=torch.tensor([1.0, 2.0, float("nan")])),
            ValueError,
            "lengths: expected integers, got torch.float32",
        ),
        (lambda _: LSTM(X[:, 0], lengths=[7]), ValueError, "lengths: expected values in 0..6, got"),
    ],
    "LSTMCell": [
        (lambda _: CELL(torch.zeros(2, 4).half()), RuntimeError, "weight_ih: expected the input's"),
    ],
    "Seq2SeqConfig": [
        (
            lambda _: fast_s2s.Seq2SeqConfig.from_dict(3),
            TypeError,
            "values: expected a mapping, got 3",
        ),
        (
            lambda _: fast_s2s.Seq2SeqConfig.from_dict({}),
            ValueError,
            "model_type: expected 'fast_s2s', got None",
        ),
    ],
    "GenerationConfig": [
        (
            lambda _: fast_s2s.GenerationConfig.from_dict(None),
            TypeError,
            "values: expected a mapping, got None",
        ),
    ],
    "Seq2Seq": [
        (lambda _: fast_s2s.Seq2Seq(**SIZES, device="nowhere"), ValueError, NO_DEVICE),
        (lambda _: fast_s2s.Seq2Seq(**SIZES, device=3.5), TypeError, NO_DEVICE),
        (lambda _: fast_s2s.Seq2Seq(**SIZES, device=True), TypeError, NO_DEVICE),
        (lambda _: fast_s2s.Seq2Seq(**SIZES, dtype="float32"), ValueError, NO_DTYPE),
        (lambda _: fast_s2s.Seq2Seq(**SIZES, dtype=torch.int64), ValueError, NO_DTYPE),
        (lambda _: fast_s2s.Seq2Seq(**SIZES, dtype=torch.complex64), ValueError, NO_DTYPE),
        (
            lambda _: MODEL(SRC, SRC, None, meta(5)),
            ValueError,
            "tgt_lengths: expected a tensor on cpu, got one on meta",
        ),
        (
            lambda _: MODEL.encode(SRC, [-(10**30)] * 5),
            ValueError,
            "src_lengths: expected integers of 64 bits",
        ),
        (
            lambda _: MODEL.encode(torch.full((2, 3), float("nan"))),
            ValueError,
            "src: expected dtype torch.int64, got torch.float32",
        ),
        (lambda _: MODEL.encode(SRC > 3), ValueError, "src: expected dtype torch.int64, got torch"),
        (
            lambda _: MODEL.step(SRC[:, 0], (1, 2)),
            TypeError,
            "state: expected a DecoderState, got tuple",
        ),
        (
            lambda _: MODEL.step(SRC[:, 0], fast_s2s.DecoderState(None, None)),
            TypeError,
            "state.h: expected a tensor, got None",
        ),
        (
            lambda _: MODEL.generate(SRC, max_new_tokens="3"),
            TypeError,
            "max_new_tokens: expected an integer, got '3'",
        ),
        (lambda _: MODEL.save_pretrained(3), TypeError, "directory: expected a path, got 3"),
        (
            lambda tmp: MODEL.save_pretrained(tmp / "new", source_tokenizer=3),
            TypeError,
            "source_tokenizer: expected a tokenizer, got int, which has no save",
        ),
        (
            lambda tmp: MODEL.save_pretrained(tmp / "new", None, "x"),
            TypeError,
            "target_tokenizer: expected a tokenizer, got str, which has no save",
        ),
        (
            lambda _: fast_s2s.Seq2Seq.from_pretrained(None),
            TypeError,
            "directory: expected a path, got None",
        ),
        (
            lambda tmp: fast_s2s.Seq2Seq.from_pretrained(tmp, device="nowhere"),
            ValueError,
            NO_DEVICE,
        ),
        (lambda tmp: fast_s2s.Seq2Seq.from_pretrained(tmp, device=3.2), TypeError, NO_DEVICE),
        (lambda tmp: fast_s2s.Seq2Seq.from_pretrained(tmp, dtype="bf16"), ValueError, NO_DTYPE),
    ],
    "Ensemble": [
        (lambda _: fast_s2s.Ensemble(3), TypeError, "models: expected a sequence of Seq2Seq, got"),
        (lambda _: fast_s2s.Ensemble([]), ValueError, "models: expected at least one, got none"),
        (
            lambda _: fast_s2s.Ensemble([PIPELINE.model, nn.Linear(2, 2)]),
            TypeError,
            "models[1]: expected a Seq2Seq, got Linear",
        ),
    ],
    "G2P": [
        (lambda _: fast_s2s.G2P(dictionary=1), TypeError, "dictionary: expected a bool, got 1"),
    ],
    "g2p": [
        (lambda _: fast_s2s.g2p(3), TypeError, "words: expected a text or a list of words, got 3"),
        (
            lambda _: fast_s2s.g2p("a", mass=2),
            ValueError,
            "mass: expected a number in [0.0, 1.0], got 2",
        ),
        (
            lambda _: fast_s2s.g2p("a", nbest=0),
            ValueError,
            "nbest: expected an integer >= 1, got 0",
        ),
    ],
    "Automaton": [
        (
            lambda _: fast_s2s.Automaton.from_sequences(3),
            TypeError,
            "sequences: expected a sequence of token sequences, got int",
        ),
        (
            lambda _: fast_s2s.Automaton.from_sequences([[-1]]),
            ValueError,
            "sequences: expected token ids >= 0, got -1",
        ),
    ],
    "Vocabulary": [
        (lambda _: fast_s2s.Vocabulary(3), TypeError, "symbols: expected an iterable of str, got"),
        (
            lambda _: fast_s2s.Vocabulary.build(None),
            TypeError,
            "texts: expected an iterable of str, got NoneType",
        ),
        (lambda _: fast_s2s.Vocabulary.build([3]), TypeError, "text: expected str, got int"),
        (lambda _: fast_s2s.Vocabulary.load(3), TypeError, "path: expected a path, got 3"),
        (lambda _: SOURCE.save(None), TypeError, "path: expected a path, got None"),
        (lambda _: SOURCE.decode(3), TypeError, "ids: expected a sequence of integers, got 3"),
        (lambda _: SOURCE.decode("12"), TypeError, "ids: expected a sequence of integers, got '"),
        (lambda _: SOURCE.tokens([1.5]), TypeError, "ids: expected a sequence of integers, got [1"),
        (
            lambda _: SOURCE.decode(torch.tensor([True])),
            ValueError,
            "ids: expected a 1-D integer tensor, got 1-D torch.bool",
        ),
    ],
    "load_tokenizer": [
        (lambda _: fast_s2s.load_tokenizer(3), TypeError, "path: expected a path, got 3"),
    ],
    **MORE,
    **PIPELINES,
}

# what only holds results, or is raised
CONTAINERS = {
    "DecoderState",
    "EncoderState",
    "GenerateOutput",
    "Prediction",
    "Seq2SeqOutput",
    "data.BadLine",
    "data.DatasetSplits",
    "metrics.Scores",
    "tokenizer.Tokenizer",
    "training.TrainingInterrupted",
    "training.TrainingResult",
}


ROWS = [
    pytest.param(*case, id=f"{entry_point}-{number}")
    for entry_point, cases in TABLE.items()
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize(("call", "error", "message"), ROWS)
def test_error_names_the_argument(call, error, message, tmp_path):
    with pytest.raises(error) as raised:
        call(tmp_path)
    # not a subclass that came from somewhere below
    assert raised.type is error
    assert str(raised.value).startswith(message)
    # before anything is written
    assert not list(tmp_path.iterdir())


def test_table_has_every_entry_point():
    found = {name for name, value in vars(fast_s2s).items() if _is_public(name, value, "fast_s2s")}
    for module in (cmudict, data, huggingface, metrics, text, tokenizer, training):
        short = module.__name__.removeprefix("fast_s2s.")
        found |= {
            f"{short}.{name}"
            for name, value in vars(module).items()
            if _is_public(name, value, module.__name__)
        }
    # what fast_s2s exports itself goes by that name
    found -= {"text.Vocabulary", "text.load_tokenizer"}
    # what tokenizers share, given what they have checked
    found -= {f"tokenizer.{name}" for name in ("check_format", "id_list", "naming")}
    found -= {"tokenizer.without_surrogates", "huggingface.parse", "huggingface.unwrap"}
    # takes nothing
    found -= {"cmudict.package_dictionary"}
    assert found - CONTAINERS == TABLE.keys()


def _is_public(name, value, package):
    made_here = getattr(value, "__module__", "").startswith(package)
    is_code = inspect.isclass(value) or inspect.isfunction(value)
    return is_code and made_here and not name.startswith("_")
