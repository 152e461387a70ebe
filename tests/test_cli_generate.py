"""`fast-s2s generate` and `interactive`: outputs beside the pipeline's own, files, pipes, flags."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest
from helpers_cli import assert_wrong_usage
from helpers_training import NAMES, toy_entries, toy_tokenizers

from fast_s2s.cli import main
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq


def test_generate_arguments(model_dir, toy_pipeline, capsys):
    texts = ["123", "0 2", "x1x", "44", ""]
    argv = ["generate", "--model", model_dir, "--batch-size=2", "--scores", *texts]
    assert main([*argv, "--max-new-tokens=7"]) == 0
    captured = capsys.readouterr()
    rows = [line.split("\t") for line in captured.out.splitlines()]
    for row, text in zip(rows[:4], texts, strict=False):
        (expected,) = toy_pipeline.predict([text], max_new_tokens=7, scores=True)
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


def test_generate_n_best(model_dir, toy_pipeline, capsys):
    texts = ["123", "", "44"]
    rows = generated(capsys, model_dir, "--beam=4", "--nbest=3", "--scores", "--", *texts)
    options = {"num_beams": 4, "num_return_sequences": 3, "scores": True}
    expected = [
        [text, best.text, f"{best.score:.4f}"]
        for text in ("123", "44")
        for best in toy_pipeline.predict([text], **options)[0].nbest
    ]
    assert len(expected) == 6
    expected.insert(3, ["", "", "0.0000"])
    assert rows == expected
    # as many beams as outputs, unless told otherwise
    assert len(generated(capsys, model_dir, "--nbest=2", "12")) == 2


def test_generate_with_beams(model_dir, toy_pipeline, capsys):
    flags = ["--beam=3", "--length-penalty=0", "--max-new-tokens=5"]
    options = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 5}
    assert generated(capsys, model_dir, *flags, "12") == [[toy_pipeline(["12"], **options)[0]]]


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


def test_beams_by_chance_on_the_command_line(model_dir, toy_pipeline, capsys):
    flags = ["--beam=3", "--seed=4", "--nbest=2", "--temperature=2"]
    rows = generated(capsys, model_dir, *flags, "123", "44")
    seeds = toy_pipeline.seeds({"seed": 4})(2)
    expected = toy_pipeline.predict(
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
        (["--temperature=0"], "--temperature: expected a number in [1e-06, "),
        (["--top-p=2"], "--top-p: expected a number in [0, 1]"),
        (["--seed=-1"], "--seed: expected an integer >= 0"),
        (["--dtype=int4"], "--dtype: invalid choice"),
        (["--length-penalty=inf"], "--length-penalty: expected a number in"),
    ):
        for command in ("generate", "interactive"):
            assert_wrong_usage(command, "--model", model_dir, *flags)
            assert message in capsys.readouterr().err


def test_generate_file_to_file(model_dir, toy_pipeline, tmp_path, capsys):
    texts = [entry.source for entry in toy_entries(10)]
    (tmp_path / "in.txt").write_bytes("\r\n".join(texts).encode())
    files = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")]
    assert main(["generate", "--model", model_dir, "--batch-size=3", *files]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "out.txt").read_text().splitlines() == toy_pipeline(texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def test_byte_order_marks_are_no_symbols(model_dir, toy_pipeline, tmp_path, capsys):
    texts, known = tmp_path / "texts.txt", tmp_path / "known.txt"
    texts.write_bytes(b"\xef\xbb\xbf12\r\n3\r\n")
    known.write_bytes(("\ufeff" + "\r\n".join(NAMES)).encode())
    argv = ["generate", "--model", model_dir, "--input", str(texts)]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == toy_pipeline(["12", "3"])
    assert "unknown" not in captured.err
    assert main([*argv, "--constrain", str(known)]) == 0


def test_output_that_is_a_folder_is_named(model_dir, tmp_path, capsys):
    assert main(["generate", "--model", model_dir, "--output", str(tmp_path), "12"]) == 1
    assert f"--output {tmp_path}: expected a file, got a folder" in capsys.readouterr().err


def test_output_to_a_link_or_a_pipe(model_dir, tmp_path, toy_pipeline):
    """Neither is replaced by a file."""
    argv = ["generate", "--model", model_dir, "12", "--output"]
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    assert main([*argv, str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().splitlines() == toy_pipeline(["12"])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        assert main([*argv, str(pipe)]) == 0
        assert reader.communicate(timeout=60)[0].splitlines() == toy_pipeline(["12"])
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 3


def test_closed_streams_are_empty(model_dir):
    command = shlex.join([sys.executable, "-m", "fast_s2s", "generate", "--model", model_dir])
    for line in (f"{command} <&-", f"{command} 12 >&-", f"{command} 12 2>&-"):
        done = subprocess.run(line, shell=True, capture_output=True, timeout=120)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_generate_streams(model_dir, toy_pipeline):
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
    assert first == toy_pipeline(["12", "\ufffd3"])
    assert rest == toy_pipeline(["4"])
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


def test_interactive(model_dir, toy_pipeline, capsys, monkeypatch):
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
    assert out == [toy_pipeline(["12"])[0], toy_pipeline(["9"])[0] + "  (1 unknown symbols)", ""]


def test_interactive_reads_what_is_not_utf_8(model_dir):
    argv = [sys.executable, "-m", "fast_s2s", "interactive", "--model", model_dir, "--nbest", "1"]
    # as in a locale of UTF-8; in the C locale Python never refuses
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(argv, input=b"1\xff\n", capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("1\ufffd\t".encode()), done.stderr


def test_interactive_n_best(model_dir, toy_pipeline, capsys, monkeypatch):
    lines = iter(["12"])

    def typed(prompt=""):
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    assert main(["interactive", "--model", model_dir, "--nbest=2", "--scores"]) == 0
    best = toy_pipeline.predict(["12"], num_beams=2, num_return_sequences=2, scores=True)[0].nbest
    out = capsys.readouterr().out.splitlines()
    assert out == [f"12\t{each.text}\t{each.score:.4f}" for each in best]


def test_interrupt_exits_with_130(model_dir, capsys, monkeypatch):
    def interrupted(prompt=""):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert main(["interactive", "--model", model_dir]) == 130
    assert capsys.readouterr().err == "fast-s2s interactive: interrupted\n"
