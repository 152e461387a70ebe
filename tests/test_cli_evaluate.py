"""`fast-s2s evaluate`: scores of hand-made targets, with beams, by characters."""

from __future__ import annotations

import json

import pytest
import torch
from helpers_training import toy_model, toy_tokenizers

from fast_s2s.cli import main
from fast_s2s.pipeline import TextPipeline


def test_evaluate(model_dir, toy_pipeline, tmp_path, capsys):
    """Scores of hand-made targets: all right but one, which lacks its last token of three."""
    texts = ["12", "30", "444", "2"]
    outputs = toy_pipeline(texts)
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


def test_evaluate_by_characters(model_dir, toy_pipeline, tmp_path, capsys):
    path = tmp_path / "test.tsv"
    path.write_text(f"12\t{toy_pipeline(['12'])[0]}!\n")
    argv = ["evaluate", "--model", model_dir, "--data", str(path), "--level=char", "--json"]
    assert main(argv) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["per"] == pytest.approx(100 / (len(toy_pipeline(["12"])[0]) + 1))
