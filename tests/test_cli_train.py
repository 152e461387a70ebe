"""`fast-s2s train`: what it prints and writes, its settings, a resumed run, bad files."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from helpers_cli import QUICK, assert_wrong_usage
from helpers_training import NAMES, toy_entries, toy_tokenizers, toy_tsv

from fast_s2s import backends
from fast_s2s.cli import main
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.text import load_tokenizer
from fast_s2s.training.run_folder import RunFolder


@pytest.fixture
def tsv(tmp_path):
    return toy_tsv(tmp_path / "train.tsv", toy_entries(40))


def test_train_then_everything_else(tmp_path, tsv, capsys):
    run = tmp_path / "run"
    assert main(["train", "--train", tsv, "--dev", tsv, "--output", str(run), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "6 updates" in out and "ended by max_updates" in out and "best dev per" in out
    assert f"to use it: fast-s2s generate --model {run}" in out
    updates = [
        json.loads(line)["update"] for line in (run / "train_log.jsonl").read_text().splitlines()
    ]
    assert updates == [3, 6]
    model = Seq2Seq.from_pretrained(run)
    assert (model.config.hidden_size, model.config.embedding_size) == (8, 4)
    assert load_tokenizer(run / "target_tokenizer.json").level == "word"
    assert main(["generate", "--model", str(run), "123"]) == 0
    assert main(["evaluate", "--model", str(run), "--data", tsv]) == 0
    assert "PER %" in capsys.readouterr().out


def test_train_with_attention(tmp_path, tsv, capsys):
    run = str(tmp_path / "run")
    flags = ["--attention", "general", "--attention-heads", "2", "--input-feeding"]
    assert main(["train", "--train", tsv, "--dev", tsv, "--output", run, *QUICK, *flags]) == 0
    config = Seq2Seq.from_pretrained(run).config
    assert (config.attention, config.attention_heads, config.input_feeding) == ("general", 2, True)
    assert main(["generate", "--model", run, "--beam", "3", "123"]) == 0
    assert main(["evaluate", "--model", run, "--data", tsv]) == 0
    capsys.readouterr()
    assert_wrong_usage("train", "--train", tsv, "--output", run, "--overwrite", "--attention=dots")
    assert "attention: expected None or one of dot, general, additive" in capsys.readouterr().err


def test_train_is_the_same_twice_and_from_any_source(tmp_path, tsv):
    pairs = [line.split("\t") for line in (tmp_path / "train.tsv").read_text().splitlines()]
    for side, name in enumerate(("src", "tgt")):
        (tmp_path / name).write_text("".join(pair[side] + "\n" for pair in pairs))
    sources = {
        "tsv": ["--train", tsv],
        "again": ["--train", tsv],
        "parallel": [
            f"--train-source={tmp_path / 'src'}",
            f"--train-target={tmp_path / 'tgt'}",
        ],
    }
    states = []
    for name, flags in sources.items():
        assert main(["train", *flags, "--output", str(tmp_path / name), *QUICK]) == 0
        states.append(Seq2Seq.from_pretrained(tmp_path / name).state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())


def test_config_file_with_flags_overriding(tmp_path, tsv):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"train: {tsv}\nhidden_size: 10\nembedding-size: 6\nlearning_rate: 1e-3\nmax_updates: 2\n"
        "warmup_updates: 1\nbidirectional: true\nclip_norm: null\ntensorboard: false\n"
        # absent: of a plain option, of one with choices, of a switch
        "dev: null\nmax_tokens: null\ntarget_level: null\nlowercase: null\nattention: null\n"
    )
    run = tmp_path / "run"
    argv = ["train", "--config", str(config), "--output", str(run), "--embedding-size", "5"]
    assert main([*argv, "--quiet"]) == 0
    model = Seq2Seq.from_pretrained(run)
    assert (model.config.hidden_size, model.config.embedding_size) == (10, 5)
    assert model.config.bidirectional
    settings = json.loads((run / "run.json").read_text())["training_config"]
    assert settings["learning_rate"] == 1e-3
    assert settings["clip_norm"] is None and settings["max_updates"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hiden_size: 3", "unknown setting 'hiden_size'"),
        ("- a\n- b", "expected lines of the form"),
        ("a: [", "expected YAML"),
        ("hiden_size: true", "unknown setting 'hiden_size'"),
        ("train=file: 3", "unknown setting 'train=file'"),
        ("hiden_size: null", "unknown setting 'hiden_size'"),
        ("max_updates: many", "max_updates: invalid int value: 'many'"),
        ("max_updates: 1.5", "max_updates: invalid int value: '1.5'"),
        ("schedule: cosine", "schedule: invalid choice: 'cosine'"),
        ("dropout: true", "dropout: expected a value, in quotes if it is a word, got true"),
        ("attention: no", "attention: expected a value, in quotes if it is a word, got false"),
        ("bidirectional: 3", "bidirectional: expected true or false, got 3"),
        ("train: [a, b]", "train: expected one value, got ['a', 'b']"),
        ("overwrite: true", "overwrite: expected on the command line"),
        ("resume: false", "resume: expected on the command line"),
        ("quiet: true", "quiet: expected on the command line"),
        ("config: other.yaml", "config: expected on the command line"),
        ("output: runs/a", "output: expected on the command line"),
        ("help: true", "help: expected on the command line"),
        ("hidden_size: 8\nhidden-size: 9", "hidden_size: expected once, got 2 times"),
        ("seed: 1\nseed: 1", "seed: expected once, got 2 times"),
        ("a: &a [*a]", "a: expected one value, got [[...]]"),
        ("[" * 2000, "expected YAML"),
    ],
)
def test_bad_config_file(tmp_path, capsys, content, message):
    config = tmp_path / "config.yaml"
    config.write_text(content)
    assert_wrong_usage("train", "--config", str(config), "--output", str(tmp_path / "run"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fast-s2s train: {config}: ") and message in line
    assert not (tmp_path / "run").exists()


def test_whole_numbers_of_a_config_file(tmp_path, tsv):
    """YAML reads 1e1 as a text and 3.0 as no integer."""
    config = tmp_path / "config.yaml"
    config.write_text(f"train: {tsv}\nmax_updates: 1e1\nhidden_size: 8.0\nlearning_rate: 1\n")
    run = tmp_path / "run"
    assert main(["train", "--config", str(config), "--output", str(run), "--quiet"]) == 0
    settings = json.loads((run / "run.json").read_text())["training_config"]
    assert (settings["max_updates"], settings["learning_rate"]) == (10, 1)
    assert Seq2Seq.from_pretrained(run).config.hidden_size == 8


def test_resume_remembers_the_options(tmp_path, tsv, capsys, monkeypatch):
    run = str(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    first = ["--schedule=constant", *QUICK]
    assert main(["train", "--train", "train.tsv", "--output", run, *first]) == 0
    # options that are not repeated, from another folder, and a later end
    monkeypatch.chdir("/")
    more = ["--resume", "--max-updates=9", "--quiet"]
    assert main(["train", "--output", run, *more]) == 0
    assert "9 updates" in capsys.readouterr().out
    assert main(["train", "--output", run, "--resume", "--learning-rate=1", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "learning_rate was 0.002, is 1.0" in err
    assert "train its model further in another folder (--init-from)" in err


def test_train_refuses_to_overwrite(tmp_path, tsv, capsys):
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "run"), *QUICK]
    assert main(argv) == 0
    assert main(argv) == 1
    assert "holds a finished training run" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0


def test_a_used_folder_is_refused_before_data_is_read(tmp_path, tsv, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert main(["train", "--train", tsv, "--output", str(run), *QUICK]) == 0
    other.mkdir()
    (other / "thesis.tex").touch()
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    argv = ["train", "--train", "missing.tsv", *QUICK]
    for folder, more, message in (
        (run, [], f"{run} holds a finished training run; go on with it (--resume"),
        (other, [], f"{other} holds files that are not a training run"),
        (other, ["--resume"], f"{other} holds files that are not a training run"),
        (other, ["--overwrite"], f"{other} holds files that are not a training run"),
        (tsv, [], f"expected a folder, got the file {tsv}"),
        # these are as they should be
        (run, ["--overwrite"], "missing.tsv: No such file"),
        (tmp_path / "new", [], "missing.tsv: No such file"),
    ):
        assert main([*argv, *more, "--output", str(folder)]) == 1
        assert message in capsys.readouterr().err
    held = RunFolder(run)
    held.open(resume=True, overwrite=False)
    for more in ([], ["--resume"], ["--overwrite"]):
        assert main([*argv, *more, "--output", str(run)]) == 1
        assert f"another process is training in {run}" in capsys.readouterr().err
    held.close()
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_lines_are_shown_and_counted(tmp_path, capsys):
    path = tmp_path / "train.tsv"
    path.write_text("12\ttwo one\n" + "no tab here\n" * 13 + "3\tthree\n")
    assert main(["train", "--train", str(path), "--output", str(tmp_path / "run"), *QUICK]) == 0
    err = capsys.readouterr().err.splitlines()
    shown = [line for line in err if "expected 2 columns" in line]
    assert [line.split(":")[1] for line in shown] == [str(n) for n in range(2, 12)]
    assert "13 bad lines left out, 3 of them not shown" in err


def test_settings_that_do_not_fit_exit_with_2(tmp_path, tsv, capsys):
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "run"), *QUICK]
    for flag, message in (
        ("--learning-rate=-1", "--learning-rate: expected above 0"),
        ("--norm=batch", "--norm: expected None or 'layer', got 'batch'"),
        ("--dropout=2", "--dropout: expected a number in"),
        ("--device=quantum", "--device quantum"),
        ("--device=meta", "--device: expected cpu or cuda[:N], got meta"),
        ("--seed=99999999999999999999", "--seed: expected below 2^63"),
    ):
        assert_wrong_usage(*argv, flag)
        assert message in capsys.readouterr().err


def test_saved_and_hugging_face_tokenizers(tmp_path, tsv):
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "<s>", "</s>", "<unk>", *NAMES, "spare"]
    level = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    target = tokenizers.Tokenizer(level)
    target.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    target.save(str(tmp_path / "target.json"))
    toy_tokenizers()[0].save(tmp_path / "source.json")
    run = str(tmp_path / "run")
    argv = ["train", "--train", tsv, "--dev", tsv, "--output", run, *QUICK]
    argv += [f"--source-tokenizer={tmp_path / 'source.json'}"]
    assert main([*argv, f"--target-tokenizer={tmp_path / 'target.json'}"]) == 0
    config = Seq2Seq.from_pretrained(run).config
    assert (config.src_vocab_size, config.tgt_vocab_size) == (9, 10)
    assert main(["generate", "--model", run, "12"]) == 0


def test_training_options_as_flags(tmp_path, tsv, capsys):
    """Layer norm and zoneout from the command line to outputs; a value `none` in between."""
    flags = ["--norm=layer", "--zoneout-cell=0.1", "--variational-dropout", "--dropout=0.1"]
    flags += ["--recurrent-init=orthogonal", "--forget-bias=1", "--weight-dropout=0.1", "--ema=0.9"]
    run = tmp_path / "run"
    assert main(["train", "--train", tsv, "--output", str(run), *QUICK, *flags]) == 0
    config = Seq2Seq.from_pretrained(run).config
    assert (config.norm, config.zoneout_cell, config.forget_bias) == ("layer", 0.1, 1.0)
    capsys.readouterr()
    assert main(["generate", "--model", str(run), "--beam=2", "12"]) == 0
    assert capsys.readouterr().out
    assert main(["info", "--model", str(run)]) == 0
    out = capsys.readouterr().out
    choice = backends.current("cpu", torch.float32)
    assert f"decoder, in generation: {choice.backend} (" in out
    assert_wrong_usage(
        "train", "--train", tsv, "--output", str(tmp_path / "b"), *QUICK, "--norm=batch"
    )
    assert (
        main(["train", "--train", tsv, "--output", str(tmp_path / "c"), *QUICK, "--norm=none"]) == 0
    )


def test_without_matplotlib_a_run_says_so_in_one_line(tmp_path, tsv):
    code = (
        "import sys; sys.modules['matplotlib.figure'] = None\n"
        "from fast_s2s.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "run"), *QUICK]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("fast-s2s train: no curve.png: ") and "matplotlib" in line
