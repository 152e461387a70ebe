"""Scores of models whose target tokenizer lower-cases: references are compared in its own case."""

from __future__ import annotations

import json

import pytest
from helpers_cli import QUICK
from helpers_training import NAMES, toy_entries, toy_model, toy_tokenizers, toy_tsv

from fast_s2s.cli import main
from fast_s2s.data import Entry
from fast_s2s.pipeline import TextPipeline
from fast_s2s.text import HuggingFaceTokenizer, Vocabulary
from fast_s2s.training import evaluation


def capitals(entries):
    return [Entry(entry.source, tuple(t.title() for t in entry.targets)) for entry in entries]


def hugging_face(*, lowercase: bool) -> HuggingFaceTokenizer:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "<s>", "</s>", "<unk>", *NAMES]
    level = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(level)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if lowercase:
        tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    return HuggingFaceTokenizer(tokenizer)


TARGETS = {
    "vocabulary": lambda: Vocabulary(NAMES, level="word", lowercase=True),
    "hugging face": lambda: hugging_face(lowercase=True),
}


def evaluated(folder, target, outputs_to_references, tmp_path, capsys) -> dict[str, float]:
    """Scores of a model on references made of its own outputs."""
    toy_model().save_pretrained(folder, toy_tokenizers()[0], target)
    texts = ["12", "30", "444", "2"]
    outputs = TextPipeline.from_pretrained(folder)(texts, max_new_tokens=6)
    assert all(outputs)
    lines = [f"{s}\t{outputs_to_references(o)}\n" for s, o in zip(texts, outputs, strict=True)]
    path = tmp_path / "test.tsv"
    path.write_text("".join(lines))
    argv = ["evaluate", "--model", str(folder), "--data", str(path), "--max-new-tokens=6"]
    assert main([*argv, "--json", "--metric=bleu"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", TARGETS)
def test_evaluate_compares_in_the_case_of_the_tokenizer(kind, tmp_path, capsys):
    scores = evaluated(tmp_path / "model", TARGETS[kind](), str.upper, tmp_path, capsys)
    assert scores["wer"] == 0 and scores["per"] == 0
    assert scores["bleu"] == pytest.approx(100)


@pytest.mark.parametrize("kind", TARGETS)
def test_unknown_symbols_stay_in_the_reference(kind, tmp_path, capsys):
    def beside(output):
        return f"Unheard {output.upper()}"

    scores = evaluated(tmp_path / "model", TARGETS[kind](), beside, tmp_path, capsys)
    assert scores["wer"] == 100
    assert 0 < scores["per"] < 100


@pytest.mark.parametrize("kind", ["vocabulary", "hugging face"])
def test_capitals_are_errors_for_others(kind, tmp_path, capsys):
    plain = {
        "vocabulary": lambda: toy_tokenizers()[1],
        "hugging face": lambda: hugging_face(lowercase=False),
    }
    scores = evaluated(tmp_path / "model", plain[kind](), str.upper, tmp_path, capsys)
    assert scores["wer"] == 100 and scores["per"] == 100


def test_dev_scores_of_a_run(tmp_path, monkeypatch):
    tsv = toy_tsv(tmp_path / "train.tsv", capitals(toy_entries(40)))
    right = {e.source: e.targets[0].lower() for e in capitals(toy_entries(40))}
    monkeypatch.setattr(
        evaluation, "predict_all", lambda pipeline, texts, **options: [right[t] for t in texts]
    )
    run = tmp_path / "run"
    argv = ["train", "--train", tsv, "--dev", tsv, "--lowercase", "--output", str(run), *QUICK]
    assert main(argv) == 0
    last = json.loads((run / "train_log.jsonl").read_text().splitlines()[-1])
    assert (last["per"], last["wer"]) == (0, 0)
