"""`fast-s2s train` with a model to begin with, and with pairs beside the data set's."""

from __future__ import annotations

import json

import pytest
import torch
from helpers_cli import QUICK, assert_wrong_usage
from helpers_training import toy_entries, toy_model, toy_tokenizers, toy_tsv

from fast_s2s.cli import main, sources
from fast_s2s.configuration import GenerationConfig
from fast_s2s.data import DatasetSplits, Entry
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.text import load_tokenizer

# no update changes a weight by more than the learning rate, near enough
STANDING = ["--learning-rate=1e-12", "--quiet", "--max-updates=2", "--warmup-updates=1"]


@pytest.fixture
def tsv(tmp_path):
    return toy_tsv(tmp_path / "train.tsv", toy_entries(40))


@pytest.fixture
def trained(tmp_path, tsv):
    run = tmp_path / "trained"
    flags = ["--train", tsv, "--dev", tsv, *QUICK, "--seed=7", "--dropout=0.2", "--no-lowercase"]
    assert main(["train", *flags, "--output", str(run)]) == 0
    return run


def test_training_goes_on_from_a_model(tmp_path, trained):
    # fewer symbols, in another order: the model's own vocabularies stay
    few = toy_tsv(tmp_path / "few.tsv", [Entry("32", ("two three",)), Entry("3", ("three",))])
    run = tmp_path / "on"
    flags = ["--train", few, "--init-from", str(trained), "--label-smoothing=0.1", *STANDING]
    assert main(["train", *flags, "--output", str(run)]) == 0
    before, after = Seq2Seq.from_pretrained(trained), Seq2Seq.from_pretrained(run)
    assert (after.config.hidden_size, after.config.dropout) == (8, 0.2)
    assert (before.config.label_smoothing, after.config.label_smoothing) == (0.0, 0.1)
    for name, weight in after.state_dict().items():
        torch.testing.assert_close(weight, before.state_dict()[name], rtol=0, atol=1e-9)
    for side in ("source", "target"):
        file = f"{side}_tokenizer.json"
        assert (run / file).read_text() == (trained / file).read_text()


def test_a_rounded_model_is_trained_in_float32(tmp_path, tsv, trained):
    small, run = tmp_path / "small", tmp_path / "on"
    assert main(["export", "--dtype", "int8", str(trained), str(small)]) == 0
    flags = ["--train", tsv, "--init-from", str(small), *STANDING, "--output", str(run)]
    assert main(["train", *flags]) == 0
    model = Seq2Seq.from_pretrained(run)
    assert (model.config.decoder_dtype, model.dtype) == (None, torch.float32)


def test_a_run_that_began_with_a_model_is_resumed(tmp_path, tsv, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--train", tsv, "--init-from", "trained", "--schedule=constant", *QUICK]
    for name, more in (("whole", "--max-updates=6"), ("parts", "--max-updates=3")):
        assert main(["train", *flags, more, "--output", name]) == 0
    monkeypatch.chdir("/")
    # what it began with is in the run now
    trained.rename(tmp_path / "elsewhere")
    parts = str(tmp_path / "parts")
    assert main(["train", "--resume", "--output", parts, "--max-updates=6", "--quiet"]) == 0
    whole = Seq2Seq.from_pretrained(tmp_path / "whole").state_dict()
    for name, weight in Seq2Seq.from_pretrained(parts).state_dict().items():
        assert torch.equal(weight, whole[name]), name


def test_options_that_do_not_fit_the_model(tmp_path, tsv, trained, capsys):
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "on"), *STANDING]
    begun = [*argv, "--init-from", str(trained)]
    for flag, message in (
        ("--hidden-size=9", "--hidden-size: expected 8, as the model of --init-from has, got 9"),
        ("--attention=dot", "--attention: expected None, as the model"),
        ("--forget-bias=1", "--forget-bias: expected None, as the model"),
        ("--recurrent-init=orthogonal", "--recurrent-init: expected uniform, as the model"),
        ("--zoneout-cell=0.1", "--zoneout-cell: expected 0.0, as the model"),
        ("--max-vocab-size=5", "--max-vocab-size: expected not with --init-from"),
        ("--lowercase", "--lowercase: expected not with --init-from"),
        ("--dropout=2", "dropout: expected a number in"),
    ):
        assert_wrong_usage(*begun, flag)
        assert message in capsys.readouterr().err
    assert main([*argv, "--init-from", str(tmp_path / "none")]) == 1
    assert f"--init-from {tmp_path / 'none'}: no such folder" in capsys.readouterr().err


def test_options_that_change_what_the_weights_mean(tmp_path, tsv, capsys):
    """Of a model whose weights would have the same shapes with the options."""
    base = tmp_path / "base"
    model = toy_model(embedding_size=12, attention="general", num_layers=2)
    model.save_pretrained(base, *toy_tokenizers())
    argv = ["train", "--train", tsv, "--init-from", str(base), *STANDING]
    refused = [*argv, "--output", str(tmp_path / "refused")]
    for flags, message in (
        (["--tie-embeddings"], "--tie-embeddings: expected False, as the model of --init-from ha"),
        (["--attention-heads=4"], "--attention-heads: expected 1, as the model"),
        (["--encoder-layers=1"], "--encoder-layers: expected 2, as the model"),
        (["--num-layers=3", "--encoder-layers=none"], "--num-layers: expected 2, as the model"),
    ):
        assert_wrong_usage(*refused, *flags)
        assert message in capsys.readouterr().err
    # what it has, said again
    flags = ["--attention=general", "--encoder-layers=2", "--decoder-layers=none", "--dropout=0.1"]
    assert main([*argv, *flags, "--output", str(tmp_path / "on")]) == 0


def test_what_the_run_would_remove_is_refused(tmp_path, tsv, trained, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(trained)
    before = {path.name: path.read_bytes() for path in trained.glob("*.*")}
    argv = ["train", "--train", tsv, "--output", str(trained), *STANDING]
    for flags in (
        ["--init-from", str(trained), "--overwrite"],
        ["--init-from", "link", "--overwrite"],
        ["--init-from", "trained"],
    ):
        assert_wrong_usage(*argv, *flags)
        err = capsys.readouterr().err
        assert f"--init-from: expected another folder than --output, got {trained}" in err
    for side in ("source", "target"):
        file = f"trained/{side}_tokenizer.json"
        assert_wrong_usage(*argv, "--overwrite", f"--{side}-tokenizer", file)
        err = capsys.readouterr().err
        assert f"--{side}-tokenizer: expected a file that --overwrite does not remove, got" in err
    assert before == {path.name: path.read_bytes() for path in trained.glob("*.*")}
    # a copy will do, also there
    (trained / "kept.json").write_bytes((trained / "source_tokenizer.json").read_bytes())
    assert main([*argv, "--overwrite", "--source-tokenizer", "trained/kept.json"]) == 0


def test_an_export_overwrites_no_run(tmp_path, trained, capsys):
    other = tmp_path / "other"
    toy_model().save_pretrained(other, *toy_tokenizers())
    before = {path.name: path.read_bytes() for path in trained.glob("*.*")}
    assert main(["export", str(other), str(trained)]) == 2
    assert f"DIR: expected a folder of no training run, got {trained}" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in trained.glob("*.*")}


def test_unknown_symbols_are_counted(tmp_path, tsv, trained, capsys):
    loud = [flag for flag in QUICK if flag != "--quiet"]
    lines = toy_tsv(tmp_path / "more.tsv", [Entry("1x2", ("un deux",)), Entry("0", ("nil",))])
    argv = ["train", "--train", lines, "--init-from", str(trained), *loud]
    # not sizes, which the model has
    argv = [flag for flag in argv if "size" not in flag]
    assert main([*argv, "--output", str(tmp_path / "on")]) == 0
    err = capsys.readouterr().err
    assert "unknown symbols to train on: 1 of 4 in the sources, 2 of 3 in the targets" in err
    # none, and nobody to tell
    for flags in (["--train", tsv, *loud], ["--train", lines, *QUICK, "--min-count=2"]):
        assert main(["train", *flags, "--output", str(tmp_path / "run"), "--overwrite"]) == 0
        assert "unknown symbols" not in capsys.readouterr().err
    flags = ["--train", lines, *loud, "--min-count=2", "--output", str(tmp_path / "rare")]
    assert main(["train", *flags]) == 0
    assert "4 of 4 in the sources, 3 of 3 in the targets" in capsys.readouterr().err


@pytest.mark.parametrize(("names", "limit"), [(150, 151), (2, 128)])
def test_outputs_may_be_as_long_as_the_longest_target(tmp_path, names, limit):
    tsv = toy_tsv(tmp_path / "long.tsv", [Entry("1", (" ".join(["one"] * names),))])
    argv = ["train", "--train", tsv, *QUICK, "--ema=0.9"]
    run = tmp_path / "run"
    assert main([*argv, "--output", str(run)]) == 0
    assert Seq2Seq.from_pretrained(run).generation_config.max_new_tokens == limit
    # what is left out is not learned
    argv += ["--train", toy_tsv(tmp_path / "both.tsv", [Entry("1", ("one",))])]
    more = tmp_path / "long.tsv"
    argv += ["--extra-train", str(more), "--max-length=100", "--output", str(tmp_path / "short")]
    assert main(argv) == 0
    config = Seq2Seq.from_pretrained(tmp_path / "short").generation_config
    assert config.max_new_tokens == 128


def test_targets_longer_than_the_outputs_of_a_trained_model(tmp_path, trained, capsys):
    tsv = toy_tsv(tmp_path / "long.tsv", [Entry("1", (" ".join(["one"] * 150),))])
    argv = ["train", "--train", tsv, "--init-from", str(trained), "--max-updates=2"]
    assert main([*argv, "--output", str(tmp_path / "on")]) == 0
    err = capsys.readouterr().err
    assert "targets of up to 151 tokens, but the model's outputs end at 128" in err
    config = Seq2Seq.from_pretrained(tmp_path / "on").generation_config
    assert config.max_new_tokens == 128


def test_the_generation_config_of_the_model_stays(tmp_path, tsv):
    model = toy_model()
    model.generation_config = GenerationConfig(num_beams=3, max_new_tokens=7)
    model.save_pretrained(tmp_path / "base", *toy_tokenizers())
    run = tmp_path / "on"
    flags = ["--train", tsv, "--init-from", str(tmp_path / "base"), *STANDING]
    assert main(["train", *flags, "--output", str(run)]) == 0
    assert Seq2Seq.from_pretrained(run).generation_config == model.generation_config


def test_extra_pairs_are_trained_on_unless_held_out(tmp_path, tsv, monkeypatch, capsys):
    extra = toy_tsv(
        tmp_path / "extra.tsv",
        [Entry("q", ("two",)), Entry("Held", ("one",)), Entry("dev", ("one",))],
    )
    splits = DatasetSplits(
        name="toy", train=[Entry("1", ("one",))], dev=[Entry("dev", ("one",))],
        test=[Entry("held", ("one",))],
    )  # fmt: skip
    monkeypatch.setattr(sources, "load_splits", lambda options: splits)
    data = sources.load_training_data({"dataset": "cmudict", "extra_train": extra})
    assert [entry.source for entry in data.train] == ["1", "q"]
    assert data.dev == splits.dev
    assert "2 pairs of the dev or test set left out" in capsys.readouterr().err
    # beside files
    run = tmp_path / "run"
    flags = ["--train", tsv, "--extra-train", extra, *QUICK, "--output", str(run)]
    assert main(["train", *flags]) == 0
    known = load_tokenizer(run / "source_tokenizer.json")
    assert known.unk_token_id not in known.encode("qHeldv")
    options = json.loads((run / "run.json").read_text())["options"]
    assert options["extra_train"] == extra
