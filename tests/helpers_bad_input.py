"""Bad input for what `fast_s2s` does not export itself: text, data, metrics and training."""

from __future__ import annotations

import torch
from helpers_training import toy_entries, toy_model, toy_tokenizers, toy_trainer

from fast_s2s import cmudict, data, metrics, text, tokenizer, training
from fast_s2s.data import Batch, Entry, PairDataset, TokenBatches

SOURCE, TARGET = toy_tokenizers()
ENTRIES = toy_entries(4)
DATASET = PairDataset(ENTRIES, SOURCE, TARGET)
NO_DEVICE = "device: expected a torch.device or its name, got"
NO_TOKENIZER = "expected a fast_s2s.text.Tokenizer, got"
NO_INTEGERS = "indices: expected a tensor or a sequence of integers, got"


def fit(tmp_path, *arguments, **flags):
    return toy_trainer(tmp_path / "run").fit(*(arguments or [ENTRIES]), **flags)


def pair(source=SOURCE, target=TARGET, entries=ENTRIES, **more):
    return PairDataset(entries, source, target, **more)


def trainer(tmp_path, **changes):
    model = changes.pop("model", toy_model())
    given = {
        "source_tokenizer": SOURCE,
        "target_tokenizer": TARGET,
        "config": training.TrainingConfig(),
        "output_dir": tmp_path / "run",
    }
    return training.Trainer(model, **{**given, **changes})


# as the table in test_bad_input.py
TABLE = {
    "huggingface.HuggingFaceTokenizer": [
        (lambda _: text.HuggingFaceTokenizer(3), TypeError, "tokenizer: expected tokenizers.Tok"),
    ],
    "tokenizer.normalize": [
        (lambda _: tokenizer.normalize(3), TypeError, "text: expected str, got int"),
    ],
    "tokenizer.check_tokenizer": [
        (lambda _: tokenizer.check_tokenizer("name", 3), TypeError, f"name: {NO_TOKENIZER} int"),
    ],
    "data.Entry": [
        (lambda _: Entry(3, ("a",)), TypeError, "source: expected a str, got int"),
        (lambda _: Entry("a", ("b", 3)), TypeError, "targets: expected a tuple of str, got int in"),
    ],
    "data.read_tsv": [
        (lambda _: data.read_tsv(3), TypeError, "path: expected a path, got 3"),
    ],
    "data.read_parallel": [
        (
            lambda _: data.read_parallel("none", 3),
            TypeError,
            "target_path: expected a path, got 3",
        ),
        (
            lambda _: data.read_parallel(None, "none"),
            TypeError,
            "source_path: expected a path, got None",
        ),
    ],
    "data.group_references": [
        (lambda _: data.group_references(3), TypeError, "entries: expected a sequence of Entry"),
        (
            lambda _: data.group_references([ENTRIES[0], ("a", "b")]),
            TypeError,
            "entries[1]: expected an Entry, got tuple",
        ),
    ],
    "data.check_entries": [
        (lambda _: data.check_entries("x", "ab"), TypeError, "x: expected a sequence of Entry, go"),
    ],
    "data.Batch": [
        (lambda _: DATASET.collate([0]).to("nowhere"), ValueError, NO_DEVICE),
        (lambda _: Batch(*[torch.ones(1)] * 4).to(3.5), TypeError, NO_DEVICE),
    ],
    "data.PairDataset": [
        (
            lambda _: pair(entries=None),
            TypeError,
            "entries: expected a sequence of Entry, got None",
        ),
        (lambda _: pair(entries=[3]), TypeError, "entries[0]: expected an Entry, got int"),
        (lambda _: pair(source=None), TypeError, f"source_tokenizer: {NO_TOKENIZER} NoneType"),
        (lambda _: pair(target=3), TypeError, f"target_tokenizer: {NO_TOKENIZER} int"),
        (lambda _: pair(max_length="a"), TypeError, "max_length: expected an integer, got 'a'"),
        (lambda _: DATASET["a"], TypeError, "index: expected an integer, got 'a'"),
        (lambda _: DATASET[0:2], TypeError, "index: expected an integer, got slice(0, 2, None)"),
        (lambda _: DATASET.collate(3), TypeError, f"{NO_INTEGERS} 3"),
        (lambda _: DATASET.collate([1.5]), TypeError, f"{NO_INTEGERS} [1.5]"),
        (lambda _: DATASET.collate([True]), TypeError, f"{NO_INTEGERS} [True]"),
        (
            lambda _: DATASET.collate(torch.tensor([1.0])),
            ValueError,
            "indices: expected integers, got torch.float32",
        ),
        (
            lambda _: DATASET.collate(torch.tensor([[1]])),
            ValueError,
            "indices: expected at least one, in one row, got tensor([[1]])",
        ),
    ],
    "data.TokenBatches": [
        (lambda _: TokenBatches(3, 10), TypeError, "dataset: expected a PairDataset, got int"),
        (
            lambda _: TokenBatches(DATASET, 10).batches(1.5),
            TypeError,
            "epoch: expected an integer, got 1.5",
        ),
    ],
    "cmudict.cmudict_splits": [
        (lambda _: cmudict.cmudict_splits(3), TypeError, "test_words: expected a path, got 3"),
        (
            lambda _: cmudict.cmudict_splits(["word"] * 9),
            TypeError,
            "test_words: expected a path, got ['word', 'word', 'word', 'word', 'word', 'word', "
            "...] of type list",
        ),
        (
            lambda _: cmudict.cmudict_splits(dictionary=3),
            TypeError,
            "dictionary: expected a path, got 3",
        ),
    ],
    "cmudict.read_dictionary": [
        (lambda _: cmudict.read_dictionary(None), TypeError, "path: expected a path, got None"),
    ],
    "metrics.score": [
        (lambda _: metrics.score(3, 3), TypeError, "hypotheses: expected a sequence of items, one"),
        (
            lambda _: metrics.score(["a", None], [["a"], ["b"]]),
            TypeError,
            "hypotheses[1]: expected a str or a sequence of them, got None",
        ),
        (
            lambda _: metrics.score([["a", 3]], [["a"]]),
            TypeError,
            "hypotheses[0]: expected a str or a sequence of them, got ['a', 3]",
        ),
        (
            lambda _: metrics.score(["a"], [[3]]),
            TypeError,
            "references[0]: expected a str or a sequence of them, got 3",
        ),
        (
            lambda _: metrics.score(["a"], [None]),
            TypeError,
            "references[0]: expected a sequence of references, got NoneType",
        ),
    ],
    "metrics.bleu": [
        (lambda _: metrics.bleu([3], [["a"]]), TypeError, "hypotheses: expected texts, got 3"),
        (lambda _: metrics.bleu(["a"], [["b", 3]]), TypeError, "references: expected texts, got 3"),
        (
            lambda _: metrics.bleu(["a"], [["a"]], tokenize="nope"),
            ValueError,
            "tokenize: expected a tokenizer of sacrebleu, got 'nope'",
        ),
    ],
    "training.TrainingConfig": [
        (
            lambda _: training.TrainingConfig(seed=2**63),
            ValueError,
            "seed: expected below 2^63, got 9223372036854775808",
        ),
        (
            lambda _: training.TrainingConfig(max_minutes=float("nan")),
            ValueError,
            "max_minutes: expected above 0, got nan",
        ),
    ],
    "training.Trainer": [
        (lambda t: trainer(t, model=None), TypeError, "model: expected a Seq2Seq, got NoneType"),
        (lambda t: trainer(t, config={}), TypeError, "config: expected a TrainingConfig, got dict"),
        (
            lambda t: trainer(t, source_tokenizer=None),
            TypeError,
            f"source_tokenizer: {NO_TOKENIZER} NoneType",
        ),
        (
            lambda t: trainer(t, source_tokenizer=text.Vocabulary("01", level="char")),
            ValueError,
            "source_tokenizer: expected the model's 9 tokens, got 6",
        ),
        (lambda t: fit(t, []), ValueError, "entries: expected at least one"),
        (lambda t: trainer(t, output_dir=3), TypeError, "output_dir: expected a path, got 3"),
        (lambda t: trainer(t, quiet=1), TypeError, "quiet: expected a bool, got 1"),
        (
            lambda t: trainer(t, teacher=3),
            TypeError,
            "teacher: expected a Seq2Seq or an Ensemble, got 3",
        ),
        (
            lambda t: fit(t, None),
            TypeError,
            "train_entries: expected a sequence of Entry, got NoneType",
        ),
        (
            lambda t: fit(t, [("a", "b")]),
            TypeError,
            "train_entries[0]: expected an Entry, got tuple",
        ),
        (
            lambda t: fit(t, ENTRIES, None),
            TypeError,
            "dev_entries: expected a sequence of Entry, got NoneType",
        ),
        (lambda t: fit(t, resume=1), TypeError, "resume: expected a bool, got 1"),
        (lambda t: fit(t, overwrite="no"), TypeError, "overwrite: expected a bool, got 'no'"),
        (lambda t: fit(t, options=3), TypeError, "options: expected a mapping, got 3"),
        (lambda t: fit(t, options={"a": object()}), TypeError, "options: expected JSON values"),
    ],
}
