"""The command line: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
import torch
from helpers_training import NAMES, toy_entries, toy_model, toy_tokenizers, toy_tsv

from fast_s2s.cli import main
from fast_s2s.cli.options import field_help
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq, Seq2SeqConfig
from fast_s2s.text import load_tokenizer
from fast_s2s.training import TrainingConfig

QUICK = [
    "--max-updates=6",
    "--warmup-updates=2",
    "--evaluate-every=3",
    "--max-tokens=64",
    "--hidden-size=8",
    "--embedding-size=4",
    "--quiet",
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model with random weights, whose outputs are short and differ."""
    folder = tmp_path_factory.mktemp("model") / "model"
    model = toy_model(bidirectional=True)
    with torch.no_grad():
        model.output_projection.weight.mul_(8)
    model.save_pretrained(folder, *toy_tokenizers())
    return str(folder)


@pytest.fixture(scope="module")
def pipeline(model_dir):
    return TextPipeline.from_pretrained(model_dir)


@pytest.fixture
def tsv(tmp_path):
    return toy_tsv(tmp_path / "train.tsv", toy_entries(40))


def usage_error(*argv):
    """Run a command that argparse or we refuse, with exit code 2."""
    try:
        code = main(argv)
    except SystemExit as error:
        code = error.code
    assert code == 2


def shell(*argv, stdin=b""):
    return subprocess.run(
        [sys.executable, "-m", "fast_s2s", *argv], input=stdin, capture_output=True, timeout=120
    )


@pytest.mark.parametrize(
    "argv",
    [[], ["train"], ["generate"], ["evaluate"], ["interactive"], ["info"], ["demo"], ["average"]],
    ids=" ".join,
)
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
    usage_error("train", "--train", tsv, "--output", run, "--overwrite", "--attention=dots")
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
        "warmup_updates: 1\nbidirectional: true\nclip_norm: null\nquiet: true\ntensorboard: false\n"
    )
    run = tmp_path / "run"
    argv = ["train", "--config", str(config), "--output", str(run), "--embedding-size", "5"]
    assert main(argv) == 0
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
        ("max_updates: many", "invalid int value: 'many'"),
        ("schedule: cosine", "invalid choice: 'cosine'"),
    ],
)
def test_bad_config_file(tmp_path, capsys, content, message):
    config = tmp_path / "config.yaml"
    config.write_text(content)
    usage_error("train", "--config", str(config), "--output", str(tmp_path / "run"))
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


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
    assert "learning_rate was 0.002, is 1.0" in capsys.readouterr().err


def test_train_refuses_to_overwrite(tmp_path, tsv, capsys):
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "run"), *QUICK]
    assert main(argv) == 0
    assert main(argv) == 1
    assert "holds a finished training run" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0


def test_bad_lines_are_shown_and_counted(tmp_path, capsys):
    path = tmp_path / "train.tsv"
    path.write_text("12\ttwo one\n" + "no tab here\n" * 13 + "3\tthree\n")
    assert main(["train", "--train", str(path), "--output", str(tmp_path / "run"), *QUICK]) == 0
    err = capsys.readouterr().err.splitlines()
    shown = [line for line in err if "expected 2 columns" in line]
    assert [line.split(":")[1] for line in shown] == [str(n) for n in range(2, 12)]
    assert "13 bad lines left out, 3 of them not shown" in err


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
    usage_error(*argv)
    assert "Traceback" not in capsys.readouterr().err


def test_settings_that_do_not_fit_exit_with_2(tmp_path, tsv, capsys):
    argv = ["train", "--train", tsv, "--output", str(tmp_path / "run"), *QUICK]
    for flag, message in (
        ("--learning-rate=-1", "learning_rate: expected above 0"),
        ("--dropout=2", "dropout: expected a number in"),
        ("--device=quantum", "--device quantum"),
        ("--device=meta", "--device: expected cpu or cuda[:N], got meta"),
        ("--seed=99999999999999999999", "seed: expected below 2^63"),
    ):
        usage_error(*argv, flag)
        assert message in capsys.readouterr().err


def test_missing_and_damaged_files_exit_with_1(tmp_path, tsv, model_dir, capsys):
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


def test_generate_arguments(model_dir, pipeline, capsys):
    texts = ["123", "0 2", "x1x", "44", ""]
    argv = ["generate", "--model", model_dir, "--batch-size=2", "--scores", *texts]
    assert main([*argv, "--max-new-tokens=7"]) == 0
    captured = capsys.readouterr()
    rows = [line.split("\t") for line in captured.out.splitlines()]
    for row, text in zip(rows[:4], texts, strict=False):
        (expected,) = pipeline.predict([text], max_new_tokens=7, scores=True)
        assert row[0] == expected.text
        assert float(row[1]) == pytest.approx(expected.score, abs=1e-3)
    # an empty line gets an empty one
    assert rows[4] == ["", "0.0000"]
    assert "3 unknown symbols in 2 inputs" in captured.err
    assert "5 inputs" in captured.err and "tokens/s" in captured.err


def generated(capsys, model_dir, *argv):
    """Output lines, split at tabs."""
    assert main(["generate", "--model", model_dir, *argv]) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_generate_n_best(model_dir, pipeline, capsys):
    texts = ["123", "", "44"]
    rows = generated(capsys, model_dir, "--beam=4", "--nbest=3", "--scores", "--", *texts)
    options = {"num_beams": 4, "num_return_sequences": 3, "scores": True}
    expected = [
        [text, best.text, f"{best.score:.4f}"]
        for text in ("123", "44")
        for best in pipeline.predict([text], **options)[0].nbest
    ]
    assert len(expected) == 6
    expected.insert(3, ["", "", "0.0000"])
    assert rows == expected
    # as many beams as outputs, unless told otherwise
    assert len(generated(capsys, model_dir, "--nbest=2", "12")) == 2


def test_generate_with_beams(model_dir, pipeline, capsys):
    flags = ["--beam=3", "--length-penalty=0", "--max-new-tokens=5"]
    options = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 5}
    assert generated(capsys, model_dir, *flags, "12") == [[pipeline(["12"], **options)[0]]]


def test_generate_by_chance(model_dir, capsys):
    texts = ["123", "0", "44", "3", "12"]
    once = generated(capsys, model_dir, "--seed=3", *texts)
    # whatever the batches
    assert generated(capsys, model_dir, "--seed=3", "--batch-size=2", *texts) == once
    assert generated(capsys, model_dir, "--seed=4", *texts) != once
    flags = ["--temperature=0.5", "--top-k=3", "--top-p=0.9", "--min-p=0.01", "--sample"]
    assert len(generated(capsys, model_dir, *flags, "--nbest=4", "1")) == 4


def test_generate_among_the_lines_of_a_file(model_dir, tmp_path, capsys):
    words = ["one two", "three", "nil nil nil", "four"]
    path = tmp_path / "words.txt"
    path.write_text("\n".join([*words, "", ""]))
    for flags in ([], ["--beam=3"], ["--seed=1"]):
        rows = generated(capsys, model_dir, f"--constrain={path}", *flags, "123", "0", "44")
        assert {row[0] for row in rows} <= set(words)
    path.write_text("one\nfive\n")
    assert main(["generate", "--model", model_dir, f"--constrain={path}", "1"]) == 1
    err = capsys.readouterr().err
    assert f"--constrain {path}: constraint[1]: expected symbols of the target" in err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_generate_with_weights_of_a_type(model_dir, dtype, capsys):
    model = Seq2Seq.from_pretrained(model_dir).compile_decoder(dtype)
    expected = TextPipeline(model, *toy_tokenizers())(["123", "44"])
    rows = generated(capsys, model_dir, f"--dtype={dtype}", "123", "44")
    assert [row[0] for row in rows] == expected


def test_beams_by_chance_on_the_command_line(model_dir, pipeline, capsys):
    flags = ["--beam=3", "--seed=4", "--nbest=2", "--temperature=2"]
    rows = generated(capsys, model_dir, *flags, "123", "44")
    seeds = pipeline.seeds({"seed": 4})(2)
    expected = pipeline.predict(
        ["123", "44"],
        do_sample=True,
        num_beams=3,
        num_return_sequences=2,
        temperature=2.0,
        **seeds,
    )
    assert [row[1] for row in rows] == [each.text for p in expected for each in p.nbest]


def test_generation_flags_that_make_no_sense_exit_with_2(model_dir, capsys):
    for flags, message in (
        (["--beam=0"], "--beam: expected a whole number from 1, got '0'"),
        (["--beam=2", "--nbest=3"], "--nbest 3: expected at most --beam 2"),
        (["--beam=2", "--sample", "--nbest=3"], "--nbest 3: expected at most --beam 2"),
        (["--temperature=0"], "--temperature: expected a number above 0"),
        (["--top-p=2"], "--top-p: expected a number in [0, 1]"),
        (["--seed=-1"], "--seed: expected an integer >= 0"),
        (["--dtype=int4"], "--dtype: invalid choice"),
        (["--length-penalty=inf"], "--length-penalty: expected a number in"),
    ):
        for command in ("generate", "interactive"):
            usage_error(command, "--model", model_dir, *flags)
            assert message in capsys.readouterr().err


def test_generate_file_to_file(model_dir, pipeline, tmp_path, capsys):
    texts = [entry.source for entry in toy_entries(10)]
    (tmp_path / "in.txt").write_bytes("\r\n".join(texts).encode())
    files = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")]
    assert main(["generate", "--model", model_dir, "--batch-size=3", *files]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "out.txt").read_text().splitlines() == pipeline(texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def test_generate_streams(model_dir, pipeline):
    """The first batch's output comes while the input is still open."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fast_s2s", "generate", "--model", model_dir, "--batch-size=2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        process.stdin.write(b"12\n\xff3\n4")
        process.stdin.flush()
        first = [process.stdout.readline().decode().strip() for _ in range(2)]
        process.stdin.close()
        rest = process.stdout.read().decode().splitlines()
    assert first == pipeline(["12", "\ufffd3"])
    assert rest == pipeline(["4"])
    assert process.returncode == 0


def test_generate_into_a_pipe_that_closes(model_dir):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "fast_s2s", "generate", "--model", model_dir, "1", "2"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_evaluate(model_dir, pipeline, tmp_path, capsys):
    """Scores of hand-made targets: all right but one, which lacks its last token of three."""
    texts = ["12", "30", "444", "2"]
    outputs = pipeline(texts)
    assert all(outputs)
    wrong = outputs[0] + " nil"
    lines = list(zip(texts, [wrong, *outputs[1:]], strict=True))
    # a second target for a source is a second way to be right
    lines.append((texts[1], "four"))
    path = tmp_path / "test.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in lines))
    argv = ["evaluate", "--model", model_dir, "--data", str(path), "--metric=bleu", "--json"]
    assert main(argv) == 0
    scores = json.loads(capsys.readouterr().out)
    tokens = sum(len(o.split()) for o in outputs) + 1
    assert scores["inputs"] == 4
    assert scores["per"] == pytest.approx(100 / tokens)
    assert scores["wer"] == pytest.approx(25) and scores["exact_match"] == pytest.approx(75)
    assert 0 < scores["bleu"] <= 100
    assert main(argv[:-2]) == 0
    out = capsys.readouterr().out
    assert "WER %           25.00" in out and "BLEU" not in out


def test_evaluate_with_beams(tmp_path, capsys):
    model = toy_model(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1.5, 1.5)
    model.save_pretrained(tmp_path / "model", *toy_tokenizers())
    pipeline = TextPipeline.from_pretrained(tmp_path / "model")
    texts = ["12", "30", "444", "2", "01"]
    flags = ["--max-new-tokens=5", "--beam=4", "--length-penalty=0.9"]
    outputs = pipeline(texts, max_new_tokens=5, num_beams=4, length_penalty=0.9)
    path = tmp_path / "test.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in zip(texts, outputs, strict=True)))
    argv = ["evaluate", "--model", str(tmp_path / "model"), "--data", str(path), "--json"]
    for given, right in ((flags, True), (flags[:1], False)):
        assert main([*argv, *given]) == 0
        assert (json.loads(capsys.readouterr().out)["wer"] == 0) == right


def test_evaluate_by_characters(model_dir, pipeline, tmp_path, capsys):
    path = tmp_path / "test.tsv"
    path.write_text(f"12\t{pipeline(['12'])[0]}!\n")
    argv = ["evaluate", "--model", model_dir, "--data", str(path), "--level=char", "--json"]
    assert main(argv) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["per"] == pytest.approx(100 / (len(pipeline(["12"])[0]) + 1))


def test_interactive(model_dir, pipeline, capsys, monkeypatch):
    lines = iter(["12", "9", "  "])

    def typed(prompt=""):
        assert prompt == ""
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115, PTH123
    assert main(["interactive", "--model", model_dir]) == 0
    sys.stdin.close()
    out = capsys.readouterr().out.splitlines()
    assert out == [pipeline(["12"])[0], pipeline(["9"])[0] + "  (1 unknown symbols)", ""]


def test_interactive_n_best(model_dir, pipeline, capsys, monkeypatch):
    lines = iter(["12"])

    def typed(prompt=""):
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    assert main(["interactive", "--model", model_dir, "--nbest=2", "--scores"]) == 0
    best = pipeline.predict(["12"], num_beams=2, num_return_sequences=2, scores=True)[0].nbest
    out = capsys.readouterr().out.splitlines()
    assert out == [f"12\t{each.text}\t{each.score:.4f}" for each in best]


def test_interrupt_exits_with_130(model_dir, capsys, monkeypatch):
    def interrupted(prompt=""):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert main(["interactive", "--model", model_dir]) == 130
    assert capsys.readouterr().err == "fast-s2s interactive: interrupted\n"


def test_info(model_dir, capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out and "cpu float32: " in out
    assert main(["info", "--model", model_dir]) == 0
    out = capsys.readouterr().out
    size = sum(p.numel() for p in Seq2Seq.from_pretrained(model_dir).parameters())
    assert f"parameters: {size:,} of torch.float32" in out and "bidirectional: True" in out


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
    done = shell("info", "--nonsense")
    assert done.returncode == 2
    assert b"unrecognized arguments: --nonsense" in done.stderr


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
    assert "decoder, in generation: reference (native: no native kernel with layer norm, zo" in out
    usage_error("train", "--train", tsv, "--output", str(tmp_path / "b"), *QUICK, "--norm=batch")
    assert (
        main(["train", "--train", tsv, "--output", str(tmp_path / "c"), *QUICK, "--norm=none"]) == 0
    )
