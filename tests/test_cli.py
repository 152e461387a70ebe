"""The command line: help, wrong usage, files that are not good, what is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
import torch
from helpers_cli import assert_wrong_usage
from helpers_training import toy_model, toy_tokenizers

from fast_s2s.bundled import G2P_FOLDER
from fast_s2s.cli import build_parser, main
from fast_s2s.cli.options import field_help
from fast_s2s.seq2seq import Seq2Seq, Seq2SeqConfig
from fast_s2s.training import TrainingConfig


def commands():
    """Each with its parser."""
    return build_parser()._subparsers._group_actions[0].choices


@pytest.mark.parametrize("argv", [[], *([name] for name in commands())], ids=" ".join)
def test_help(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*argv, "--help"])
    assert exit_info.value.code == 0
    assert "usage: fast-s2s" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [TrainingConfig, Seq2SeqConfig])
def test_every_setting_has_a_help_text(settings):
    texts = field_help(settings)
    assert texts.keys() == set(settings.__dataclass_fields__)
    assert all(texts.values())


def test_help_text_spans_lines():
    text = field_help(TrainingConfig)["max_minutes"]
    assert text.startswith("end after this many minutes") and text.endswith("no such limit")
    assert "Raises" not in field_help(TrainingConfig)["tensorboard"]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--output", "x"],
        ["train", "--output", "x", "--train", "a", "--dataset", "cmudict"],
        ["train", "--output", "x", "--train-source", "a"],
        ["train", "--output", "x", "--train", "a", "--test-words", "b"],
        ["train", "--output", "x", "--train", "a", "--resume", "--overwrite"],
        ["train", "--output", "x", "--train", "a", "--max-upd", "3"],
        ["train", "--output", "x", "--train", "a", "--device"],
        ["train", "--output", "x", "--resume"],
        ["generate", "word"],
        ["generate", "--model", "x", "--input", "y", "word"],
        ["generate", "--model", "x", "--batch-size", "0"],
        ["evaluate", "--model", "x"],
        ["evaluate", "--model", "x", "--source", "a"],
        ["evaluate", "--model", "x", "--data", "a", "--test-words", "b"],
        ["evaluate", "--model", "x", "--data", "a", "--split"],
        ["interactive", "--model", "x", "--batch-size", "2"],
        ["demo", "--max-minutes", "0"],
        ["demo", "--max-minutes", "nan"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(argv, capsys):
    assert_wrong_usage(*argv)
    assert "Traceback" not in capsys.readouterr().err


def test_missing_and_damaged_files_exit_with_1(tmp_path, model_dir, capsys):
    run = str(tmp_path / "run")
    damaged = tmp_path / "damaged"
    Seq2Seq.from_pretrained(model_dir).save_pretrained(damaged, *toy_tokenizers())
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    empty = tmp_path / "empty.tsv"
    empty.write_text("")
    for argv, message in (
        (["train", "--train", "none.tsv", "--output", run], "none.tsv: No such file"),
        (["train", "--train", str(empty), "--output", run], "expected pairs of source and target"),
        (["generate", "--model", "none", "1"], "--model none: no such folder"),
        (["generate", "--model", str(damaged), "1"], "model.safetensors: expected"),
        (["generate", "--model", str(tmp_path), "1"], "config.json"),
        (["generate", "--model", model_dir, "--input", "none.txt"], "none.txt: No such file"),
        (["generate", "--model", model_dir, "--output", "none/out", "1"], "--output none/out: no"),
        (["evaluate", "--model", model_dir, "--data", "none.tsv"], "none.tsv: No such file"),
    ):
        assert main(argv) == 1
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err and err.count("\n") == 1


def test_info(model_dir, capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out and "cpu float32: " in out
    assert main(["info", "--model", model_dir]) == 0
    out = capsys.readouterr().out
    size = sum(p.numel() for p in Seq2Seq.from_pretrained(model_dir).parameters())
    assert f"parameters: {size:,} of torch.float32" in out and "bidirectional: True" in out
    assert main(["info", "--model", str(G2P_FOLDER)]) == 0
    out = capsys.readouterr().out
    assert "stored as int8, for generation alone" in out and "in training" not in out
    assert main(["info", "--model", model_dir, "--model", model_dir]) == 2
    assert "--model: expected one, got 2" in capsys.readouterr().err


def test_info_needs_no_tokenizers(tmp_path, capsys):
    toy_model().save_pretrained(tmp_path)
    assert main(["info", "--model", str(tmp_path)]) == 0
    assert "hidden_size: 12" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"fast-s2s {metadata.version('fast-s2s')}\n"


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "fast_s2s", "info", "--nonsense"], capture_output=True, timeout=120
    )
    assert done.returncode == 2
    assert b"unrecognized arguments: --nonsense" in done.stderr
