"""One scoring rule for every system.

A word is correct if its hypothesis equals any of its references: WER is the share of the others.
PER is the sum of the edit distances to the closest references over the sum of those references'
lengths. The closest reference has the smallest edit distance (insertions, deletions and
substitutions count 1); among equals the first is taken. The rule of Bisani & Ney 2008,
"Joint-sequence models for grapheme-to-phoneme conversion", for several references.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fast_s2s.checks import check_sequence, shown
from fast_s2s.extras import require

Text = str | Sequence[str]


@dataclass(frozen=True)
class Scores:
    """Result of `score`; rates in percent. "Word" is one item scored, "token" one symbol of it.

    per:          100 · token_errors / token_total, the phoneme error rate where tokens are phonemes
    wer:          share of words that equal none of their references
    exact_match:  100 - wer
    words:        number of words scored
    token_errors: sum of edit distances to the closest references
    token_total:  sum of those references' lengths
    """

    per: float
    wer: float
    exact_match: float
    words: int
    token_errors: int
    token_total: int


def score(
    hypotheses: Sequence[Text],
    references: Sequence[Sequence[Text]],
    *,
    level: Literal["word", "char"] = "word",
) -> Scores:
    """Score every hypothesis against its own references.

    hypotheses: one str, or sequence of tokens, per word
    references: for each hypothesis one or more of the same
    level:      "word" splits a str at white space, "char" into characters, after Unicode NFC

    Raises ValueError where the two do not match in length, a word has no reference, or there is
    nothing to score; TypeError for what is no sequence of texts, one str among them.
    """
    _check_pairs(hypotheses, references)
    if level not in ("word", "char"):
        raise ValueError(f"level: expected 'word' or 'char', got {level!r}")
    distance = require("rapidfuzz.distance").Levenshtein.distance
    wrong = errors = total = 0
    for i, (hypothesis, candidates) in enumerate(zip(hypotheses, references, strict=True)):
        tokens = _tokens(f"hypotheses[{i}]", hypothesis, level)
        targets = [_tokens(f"references[{i}]", candidate, level) for candidate in candidates]
        distances = [distance(tokens, target) for target in targets]
        closest = distances.index(min(distances))
        wrong += distances[closest] > 0
        errors += distances[closest]
        total += len(targets[closest])
    if total == 0:
        raise ValueError("references: expected at least one token, got empty references only")
    wer = 100 * wrong / len(hypotheses)
    return Scores(
        per=100 * errors / total,
        wer=wer,
        exact_match=100 - wer,
        words=len(hypotheses),
        token_errors=errors,
        token_total=total,
    )


def bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: str = "13a"
) -> float:
    """Corpus BLEU in percent, by sacrebleu with its defaults.

    references: for each hypothesis one or more; their number may vary
    tokenize:   sacrebleu's tokenizer: "13a", "intl", "char", ..., or "none" for texts whose tokens
                are separated by spaces already

    Raises TypeError or ValueError as `score` does, ValueError for an unknown `tokenize`.
    """
    _check_pairs(hypotheses, references)
    for name, texts in (("hypotheses", [hypotheses]), ("references", references)):
        for text in itertools.chain.from_iterable(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name}: expected texts, got {shown(text)}")
    sacrebleu = require("sacrebleu")
    # first references of all sentences, then second ones...; None where a sentence has fewer
    streams = list(itertools.zip_longest(*references))
    try:
        metric = sacrebleu.BLEU(tokenize=tokenize, force=True)
    except KeyError as error:
        raise ValueError(
            f"tokenize: expected a tokenizer of sacrebleu, got {tokenize!r}"
        ) from error
    result: float = metric.corpus_score(list(hypotheses), streams).score
    return result


def _check_pairs(hypotheses: Sequence[Text], references: Sequence[Sequence[Text]]) -> None:
    for name, value in (("hypotheses", hypotheses), ("references", references)):
        check_sequence(name, value, "items, one per word")
    if len(hypotheses) != len(references):
        raise ValueError(
            f"references: expected one item for each of {len(hypotheses)} hypotheses,"
            f" got {len(references)}"
        )
    if not hypotheses:
        raise ValueError("hypotheses: expected at least one, got none")
    for i, candidates in enumerate(references):
        check_sequence(f"references[{i}]", candidates, "references")
        if not candidates:
            raise ValueError(f"references[{i}]: expected at least one reference, got none")


def _tokens(name: str, text: Text, level: str) -> Sequence[str]:
    if not isinstance(text, str):
        if not isinstance(text, Sequence) or not all(isinstance(token, str) for token in text):
            raise TypeError(f"{name}: expected a str or a sequence of them, got {shown(text)}")
        return [unicodedata.normalize("NFC", token) for token in text]
    text = unicodedata.normalize("NFC", text)
    return text.split() if level == "word" else list(text)
