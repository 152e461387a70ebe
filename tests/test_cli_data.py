"""Flags of data and symbols that would have no effect are refused."""

from __future__ import annotations

import pytest
from helpers_cli import QUICK, assert_wrong_usage
from helpers_training import toy_entries, toy_tokenizers, toy_tsv

from fast_s2s.cli import main


@pytest.fixture
def tsv(tmp_path):
    return toy_tsv(tmp_path / "train.tsv", toy_entries(40))


@pytest.fixture
def files(tmp_path):
    for tokenizer, side in zip(toy_tokenizers(), ("source", "target"), strict=True):
        tokenizer.save(tmp_path / f"{side}.json")
    return {side: f"--{side}-tokenizer={tmp_path / side}.json" for side in ("source", "target")}


def test_one_dev_set(tmp_path, tsv, capsys):
    argv = ["train", "--output", str(tmp_path / "run"), *QUICK]
    lines = ["--dev-source", "missing.src", "--dev-target", "missing.tgt"]
    for flags, message in (
        (["--dataset=scan", "--dev=missing.tsv"], "--dev: expected not with --dataset, which has "),
        (["--dataset=scan", *lines], "--dev-source: expected not with --dataset, which has"),
        (["--train", tsv, "--dev", tsv, *lines], "--dev-source: expected not with --dev"),
        (["--train", tsv, "--dev", tsv, lines[2], tsv], "--dev-target: expected not with --dev"),
    ):
        assert_wrong_usage(*argv, *flags)
        assert message in capsys.readouterr().err


def test_one_kind_of_pairs(tmp_path, model_dir, tsv, capsys):
    train = ["train", "--output", str(tmp_path / "run"), *QUICK]
    evaluate = ["evaluate", "--model", model_dir]
    expected = {
        "train": "expected training data: either --train FILE, or --train-source FILE and "
        "--train-target FILE, or --dataset NAME, got ",
        "evaluate": "expected data: either --data FILE, or --source FILE and --target FILE, or "
        "--dataset NAME, got ",
    }
    for argv, message in (
        (train, "none"),
        ([*train, "--train", tsv, "--dataset=scan"], "--train and --dataset"),
        ([*train, "--train-target", tsv, "--train", tsv], "--train and --train-target"),
        (evaluate, "none"),
        ([*evaluate, "--dataset=scan", "--source", tsv], "--source and --dataset"),
    ):
        assert_wrong_usage(*argv)
        assert capsys.readouterr().err == f"fast-s2s {argv[0]}: {expected[argv[0]]}{message}\n"


def test_a_split_is_of_a_data_set(model_dir, tsv, capsys):
    argv = ["evaluate", "--model", model_dir, "--data", tsv, "--split=nonsense"]
    assert_wrong_usage(*argv)
    assert "--split: expected only with --dataset, got nonsense" in capsys.readouterr().err
    assert_wrong_usage("evaluate", "--model", model_dir, "--dataset=scan", "--split=nonsense")
    assert "--split: expected one of train, dev, test" in capsys.readouterr().err


def test_symbols_beside_a_tokenizer_file(tmp_path, tsv, files, capsys):
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "run"), *QUICK]
    both = list(files.values())
    for flags, message in (
        ([files["source"], "--source-level=word"], "--source-level: expected not with --source-to"),
        ([files["target"], "--target-level=word"], "--target-level: expected not with --target-to"),
        ([*both, "--lowercase"], "--lowercase: expected not with both tokenizers"),
        ([*both, "--no-lowercase"], "--lowercase: expected not with both tokenizers"),
        ([*both, "--min-count=2"], "--min-count: expected not with both tokenizers"),
        ([*both, "--max-vocab-size=9"], "--max-vocab-size: expected not with both tokenizers"),
    ):
        assert_wrong_usage(*argv, *flags)
        assert message in capsys.readouterr().err
    # they act on the other side
    more = [files["source"], "--target-level=word", "--lowercase", "--min-count=1"]
    assert main([*argv, *more]) == 0


def test_a_vocabulary_without_room(tmp_path, tsv, capsys):
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "run"), *QUICK]
    assert_wrong_usage(*argv, "--max-vocab-size=4")
    err = capsys.readouterr().err
    assert "--max-vocab-size: expected at least 5, for 4 special tokens and a symbol, got 4" in err
    assert main([*argv, "--max-vocab-size=5"]) == 0
