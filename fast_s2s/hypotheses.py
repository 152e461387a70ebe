"""`HypothesisList`: what another system proposes for each input, for models to choose from."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

from fast_s2s.checks import check_mapping, shown


class HypothesisList:
    """Outputs of any other system for each input, with probabilities: an n-best list.

    hypotheses: for each input its outputs, each with the natural logarithm of its probability, up
                to a number that is the same for all outputs of an input: they are made to add up
                to 1. So joint probabilities and negated costs will do. -inf is as if it were not
                there

    Inputs are the same if they are so in Unicode's form NFC without white space around them.

    Raises TypeError or ValueError naming what does not fit.
    """

    def __init__(self, hypotheses: Mapping[str, Mapping[str, float]]) -> None:
        check_mapping("hypotheses", hypotheses)
        found: dict[str, dict[str, float]] = {}
        for text, outputs in hypotheses.items():
            name = f"hypotheses[{text!r}]"
            if not isinstance(text, str) or not isinstance(outputs, Mapping):
                raise TypeError(
                    f"{name}: expected a mapping of a str to a mapping, got {shown(outputs)}"
                )
            ours = found.setdefault(_key(text), {})
            for output, score in outputs.items():
                _check(f"{name}[{output!r}]", output, score)
                add_to(ours, output, float(score))
        self._of_input = {text: _normalised(outputs) for text, outputs in found.items() if outputs}

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> HypothesisList:
        """Read lines of input, tab, output, tab, logarithm: as `fast-s2s generate --nbest N
        --scores` writes them. Of the same pair twice the probabilities are added. Bytes that are
        not UTF-8 become U+FFFD.

        Raises FileNotFoundError for a missing file, ValueError naming the line that does not fit.
        """
        found: dict[str, dict[str, float]] = {}
        with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                parts = line.rstrip("\r\n").split("\t")
                try:
                    source, output, score = parts[0].strip(), parts[1].strip(), float(parts[2])
                except (IndexError, ValueError):
                    score, parts = math.nan, []
                if len(parts) != 3 or math.isnan(score) or score == math.inf:
                    raise ValueError(
                        f"{path}, line {number}: expected input, tab, output, tab, the natural "
                        f"logarithm of its probability, got {shown(line.rstrip())}"
                    )
                add_to(found.setdefault(source, {}), output, score)
        if not found:
            raise ValueError(f"{path}: expected at least one line, got none")
        return cls(found)

    def __len__(self) -> int:
        """Inputs."""
        return len(self._of_input)

    def outputs(self, text: str) -> Mapping[str, float]:
        """Log-probabilities of what is proposed for this input, none where it is not listed."""
        return self._of_input.get(_key(text), {})


def score_listed(listed: Mapping[str, float], outputs: Sequence[str]) -> list[float]:
    """Log-probability of each output. One that is not listed is held for e times less probable
    than all that are; where nothing is listed, all get 0.
    """
    unlisted = min(listed.values(), default=1.0) - 1.0
    return [listed.get(output, unlisted) for output in outputs]


def _check(name: str, output: object, score: object) -> None:
    if not isinstance(output, str):
        raise TypeError(f"{name}: expected a str, got {type(output).__name__}")
    if isinstance(score, bool) or not isinstance(score, Real):
        raise TypeError(f"{name}: expected a number, got {type(score).__name__}")
    if math.isnan(score) or score == math.inf:
        raise ValueError(f"{name}: expected a number below infinity, got {score}")


def add_to(outputs: dict[str, float], output: str, score: float) -> None:
    """Adds a probability, by its logarithm, to that of this output."""
    other = outputs.get(output)
    if other is not None:
        score = max(score, other) + math.log1p(math.exp(-abs(score - other)))
    if score > -math.inf:
        outputs[output] = score


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _normalised(outputs: Mapping[str, float]) -> dict[str, float]:
    top = max(outputs.values())
    total = top + math.log(math.fsum(math.exp(score - top) for score in outputs.values()))
    return {output: score - total for output, score in outputs.items()}
