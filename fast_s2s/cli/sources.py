"""Where the pairs of a command come from: TSV, line-aligned files, or a data set by name."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fast_s2s.cli.options import UsageError
from fast_s2s.cmudict import cmudict_splits
from fast_s2s.data import BadLine, DatasetSplits, Entry, read_parallel, read_tsv
from fast_s2s.scan import scan_splits
from fast_s2s.text import SPECIAL_TOKENS, Tokenizer, Vocabulary, load_tokenizer

_SHOWN_BAD_LINES = 10


@dataclass(frozen=True)
class TrainingData:
    """Entries to train on and to choose a model by, and what they are, for people."""

    train: list[Entry]
    dev: list[Entry]
    label: str
    splits: DatasetSplits | None = None


def add_dataset_options(parser: argparse._ActionsContainer) -> None:
    """--dataset and --test-words, absent unless given."""
    parser.add_argument(
        "--dataset",
        choices=["cmudict", "scan"],
        default=argparse.SUPPRESS,
        help="a known data set instead of files: cmudict, English words and their phonemes; scan, "
        "commands and the actions they mean, the simple split",
    )
    add_test_words_option(parser)


def add_test_words_option(parser: argparse._ActionsContainer) -> None:
    """--test-words, absent unless given."""
    parser.add_argument(
        "--test-words",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="cmudict: the words of the test set, one a line (default: a tenth, by rule)",
    )


def report_bad_lines(bad: Sequence[BadLine]) -> None:
    """Tell on stderr which lines were left out: the first few, and how many in all."""
    for line in bad[:_SHOWN_BAD_LINES]:
        print(line, file=sys.stderr)
    if bad:
        more = len(bad) - _SHOWN_BAD_LINES
        rest = f", {more} of them not shown" if more > 0 else ""
        print(f"{len(bad)} bad lines left out{rest}", file=sys.stderr)


def read_pairs(tsv: str | None, source: str | None, target: str | None) -> list[Entry]:
    """Entries of a TSV file, or of two files whose lines belong together; bad lines are reported.

    Raises OSError for a file that cannot be read, ValueError if no line is good.
    """
    if tsv is not None:
        entries, bad = read_tsv(tsv)
    else:
        assert source is not None and target is not None
        entries, bad = read_parallel(source, target)
    report_bad_lines(bad)
    if not entries:
        raise ValueError(f"{tsv or source}: expected pairs of source and target, found none")
    return entries


def load_splits(options: Mapping[str, Any]) -> DatasetSplits:
    """The data set of --dataset; listed test words that it lacks are reported."""
    if options.get("dataset") == "scan":
        if options.get("test_words"):
            raise UsageError("--test-words: expected only with --dataset cmudict")
        return scan_splits()
    splits = cmudict_splits(options.get("test_words"))
    if splits.missing_words:
        shown = ", ".join(splits.missing_words[:_SHOWN_BAD_LINES])
        print(
            f"{len(splits.missing_words)} listed test words are not in the data: {shown}, …",
            file=sys.stderr,
        )
    return splits


def load_training_data(options: Mapping[str, Any]) -> TrainingData:
    """What the options of `train` name.

    Raises UsageError unless they name exactly one kind of source.
    """
    dataset, tsv = options.get("dataset"), options.get("train")
    parallel = ("train_source", "train_target")
    check_one_kind("training data", options, "train", *parallel)
    if options.get("test_words") and dataset is None:
        raise UsageError("--test-words: expected only with --dataset cmudict")
    _check_one_dev_set(options)
    if dataset is not None:
        splits = load_splits(options)
        named = TrainingData(splits.train, splits.dev, f"{dataset}, {splits.name}", splits)
        return _with_extra(named, options.get("extra_train"))
    _check_both(options, *parallel)
    _check_both(options, "dev_source", "dev_target")
    train = read_pairs(tsv, *(options.get(name) for name in parallel))
    dev: list[Entry] = []
    if options.get("dev") or options.get("dev_source"):
        dev = read_pairs(options.get("dev"), options.get("dev_source"), options.get("dev_target"))
    label = str(tsv or options["train_source"])
    return _with_extra(TrainingData(train, dev, label), options.get("extra_train"))


def check_one_kind(what: str, options: Mapping[str, Any], tsv: str, *parallel: str) -> None:
    """Raises UsageError, with what was given, unless options name pairs in exactly one way: a TSV
    file, line-aligned files, or a data set.
    """
    ways = ((tsv,), parallel, ("dataset",))
    given = [[_flag(name) for name in way if options.get(name) is not None] for way in ways]
    if sum(map(bool, given)) == 1:
        return
    files = " and ".join(f"{_flag(name)} FILE" for name in parallel)
    found = " and ".join(flag for flags in given for flag in flags) or "none"
    raise UsageError(
        f"expected {what}: either {_flag(tsv)} FILE, or {files}, or --dataset NAME, got {found}"
    )


def _check_one_dev_set(options: Mapping[str, Any]) -> None:
    for name in ("dev", "dev_source", "dev_target"):
        if options.get(name) is None:
            continue
        if options.get("dataset") is not None:
            raise UsageError(
                f"{_flag(name)}: expected not with --dataset, which has a dev set of its own"
            )
        if name != "dev" and options.get("dev") is not None:
            raise UsageError(f"{_flag(name)}: expected not with --dev")


def _with_extra(data: TrainingData, extra: str | None) -> TrainingData:
    """With the pairs of a TSV file to train on too. What is held out stays so, in any case."""
    if extra is None:
        return data
    test = [] if data.splits is None else data.splits.test
    held_out = {entry.source.casefold() for entry in (*data.dev, *test)}
    pairs = read_pairs(extra, None, None)
    more = [entry for entry in pairs if entry.source.casefold() not in held_out]
    if len(more) < len(pairs):
        left_out = len(pairs) - len(more)
        print(f"{extra}: {left_out} pairs of the dev or test set left out", file=sys.stderr)
    train = [*data.train, *more]
    return dataclasses.replace(data, train=train, label=f"{data.label}, {extra}")


def build_tokenizers(options: Mapping[str, Any], data: TrainingData) -> tuple[Tokenizer, Tokenizer]:
    """Tokenizers of source and target: the files named, or vocabularies of the training data."""
    _check_symbol_options(options)
    by_letter = options.get("dataset") == "cmudict"
    texts = {
        "source": [entry.source for entry in data.train],
        "target": [target for entry in data.train for target in entry.targets],
    }
    usual = {"source": "word" if options.get("dataset") == "scan" else "char", "target": "word"}
    made: list[Tokenizer] = []
    for side in ("source", "target"):
        path = options.get(f"{side}_tokenizer")
        backwards = side == "target" and bool(options.get("reverse_target"))
        if path is not None and backwards:
            raise UsageError("--reverse-target: expected not with --target-tokenizer")
        if path is not None:
            made.append(load_tokenizer(path))
            continue
        made.append(
            Vocabulary.build(
                texts[side],
                level=options.get(f"{side}_level", usual[side]),
                lowercase=options.get("lowercase", by_letter and side == "source"),
                reverse=backwards,
                min_count=options.get("min_count", 1),
                max_size=options.get("max_vocab_size"),
            )
        )
    return made[0], made[1]


def _check_symbol_options(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options of vocabularies where there are files instead of these, or
    no room.
    """
    files = ("source_tokenizer", "target_tokenizer")
    given = [options.get(name) is not None for name in files]
    for file, name, is_file in zip(files, ("source_level", "target_level"), given, strict=True):
        if is_file and options.get(name) is not None:
            raise UsageError(f"{_flag(name)}: expected not with {_flag(file)}")
    for name in ("lowercase", "min_count", "max_vocab_size"):
        if all(given) and options.get(name) is not None:
            raise UsageError(f"{_flag(name)}: expected not with both tokenizers given as files")
    size, special = options.get("max_vocab_size"), len(SPECIAL_TOKENS)
    if size is not None and size <= special:
        raise UsageError(
            f"--max-vocab-size: expected at least {special + 1}, for {special} special tokens and "
            f"a symbol, got {size}"
        )


def _check_both(options: Mapping[str, Any], first: str, second: str) -> None:
    if bool(options.get(first)) != bool(options.get(second)):
        raise UsageError(f"expected both or neither of {_flag(first)} and {_flag(second)}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
