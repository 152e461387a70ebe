"""`fast-s2s demo`, on a dictionary of a few hundred words."""

from __future__ import annotations

import functools
import json
import random

import pytest

from fast_s2s import cmudict
from fast_s2s.cli import demo, main, sources
from fast_s2s.pipeline import TextPipeline
from fast_s2s.training import evaluation

SOUNDS = {"a": "AE1", "b": "B", "d": "D", "e": "EH0", "k": "K", "n": "N", "t": "T", "o": "OW2"}


@pytest.fixture
def small_dictionary(tmp_path, monkeypatch):
    rng = random.Random(0)
    words = sorted({"".join(rng.choices(list(SOUNDS), k=rng.randint(3, 8))) for _ in range(300)})
    path = tmp_path / "dictionary"
    path.write_text("".join(f"{w} {' '.join(SOUNDS[c] for c in w)}\n" for w in words))
    small = functools.partial(cmudict.cmudict_splits, dictionary=path)
    monkeypatch.setattr(sources, "cmudict_splits", small)
    return words, path


def test_demo_can_be_run_again(tmp_path, small_dictionary, capsys):
    _, dictionary = small_dictionary
    output = tmp_path / "demo"
    argv = ["demo", "--output", str(output), "--max-updates=60"]
    assert main(argv) == 0
    capsys.readouterr()
    assert main(argv) == 0
    out, err = capsys.readouterr()
    splits = cmudict.cmudict_splits(dictionary=dictionary)
    assert f"cmudict, {splits.name}: {len(splits.train)} entries to train on" in err
    assert f"{len(splits.test)} held out" in err
    assert f"to use it: fast-s2s generate --model {output} hello world" in out
    for name in ("curve.png", "report.md", "run.json", "model.safetensors"):
        assert (output / name).stat().st_size > 0
    # the printed scores are those of the saved model on the held-out words
    pipeline = TextPipeline.from_pretrained(output)
    outputs = evaluation.predict_all(pipeline, [entry.source for entry in splits.test])
    scores = evaluation.score_outputs(outputs, splits.test, "word")
    said = f"PER {scores['per']:.2f} %, WER {scores['wer']:.2f} % on {len(splits.test)} held-out"
    said += f" words of CMUdict, split {splits.name}"
    assert said in out
    report = (output / "report.md").read_text()
    assert f"| PER, held-out words | {scores['per']:.2f} % |" in report
    assert report.count("in no dictionary") == out.count("in no dictionary") == 6
    # words in any case are the same words
    assert main(["generate", "--model", str(output), "BOKEN", "boken"]) == 0
    assert len(set(capsys.readouterr().out.splitlines())) == 1


def test_demo_pronounces_words_it_has_not_seen(small_dictionary):
    words, dictionary = small_dictionary
    splits = cmudict.cmudict_splits(dictionary=dictionary)
    seen = {entry.source for entry in (*splits.train, *splits.dev)}

    def perfect(texts):
        return [" ".join(SOUNDS.get(c, "X").rstrip("012") for c in text) for text in texts]

    pronounced = demo.pronounce(perfect, splits)
    assert len(pronounced) == 12
    assert not seen & {p.word for p in pronounced}
    verdicts = {p.word in words: p.verdict for p in pronounced}
    assert verdicts == {True: "right", False: "in no dictionary"}
    word = next(p for p in pronounced if p.references)
    other = demo.Pronunciation(word.word, "T", ("D", "N"))
    assert other.verdict == "dictionary: D or N"


def test_demo_with_a_list_of_test_words(tmp_path, small_dictionary, capsys):
    words, _ = small_dictionary
    listed = tmp_path / "words.txt"
    listed.write_text("\n".join([*(w.upper() for w in words[:20]), "UNHEARD"]))
    output = tmp_path / "demo"
    argv = ["--test-words", str(listed)]
    assert main(["demo", "--output", str(output), "--max-updates=20", *argv]) == 0
    captured = capsys.readouterr()
    assert "20 held out" in captured.err
    assert "1 listed test words are not in the data: unheard" in captured.err
    argv += ["--dataset", "cmudict"]
    assert main(["evaluate", "--model", str(output), "--json", *argv]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["inputs"] == 20
    assert f"WER, held-out words | {scores['wer']:.2f} %" in (output / "report.md").read_text()
    assert main(["evaluate", "--model", str(output), *argv, "--split=new"]) == 2


def test_demo_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("keep")
    assert main(["demo", "--output", str(tmp_path)]) == 1
    assert "holds something other than a demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_demo_ends_in_time(tmp_path, small_dictionary, capsys):
    argv = ["demo", "--output", str(tmp_path / "demo"), "--max-minutes", "0.001"]
    assert main(argv) == 0
    report = (tmp_path / "demo" / "report.md").read_text()
    assert "ended by max_minutes" in report
    assert "of 3600 updates in 0.001 minutes" in capsys.readouterr().err
