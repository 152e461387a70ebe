"""`RerankingPipeline`: models that cannot vote on each token choose among whole outputs."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fast_s2s.checks import check_sequence
from fast_s2s.ensemble import Ensemble
from fast_s2s.generation import Automaton
from fast_s2s.pipeline import TextPipeline
from fast_s2s.prediction import Hypothesis, Pipeline, Prediction
from fast_s2s.pretrained import SOURCE_TOKENIZER_FILE, TARGET_TOKENIZER_FILE

# options that no vocabulary is needed for, and no chance
_OPTIONS = (
    "num_beams",
    "num_return_sequences",
    "length_penalty",
    "early_stopping",
    "max_new_tokens",
    "min_new_tokens",
    "no_repeat_ngram_size",
)
PathLike = str | os.PathLike[str]


class RerankingPipeline(Pipeline[tuple[list[int], ...]]):
    """Pipelines whose tokenizers may differ: each proposes outputs, all of them choose.

    Each searches as it does alone, by its own generation config where an option is not given, and
    all of its beams are candidates: those that ended, if any did. They are ranked by the weighted
    mean over the pipelines of log p_i(text), each divided by the length in that pipeline's tokens
    to the power of `length_penalty`, the first one's if not given. Right-to-left models beside
    left-to-right ones (`Vocabulary(reverse=True)`) are what it is for: Liu et al. 2016, "Agreement
    on target-bidirectional neural machine translation", https://aclanthology.org/N16-1046.

    pipelines: at least two
    weights:   of each, above 0; by default how many models each has

    Raises TypeError or ValueError naming the argument that does not fit.
    """

    def __init__(
        self, pipelines: Sequence[TextPipeline], *, weights: Sequence[float] | None = None
    ) -> None:
        check_sequence("pipelines", pipelines, "TextPipeline")
        if len(pipelines) < 2:
            raise ValueError(f"pipelines: expected at least two, got {len(pipelines)}")
        for index, pipeline in enumerate(pipelines):
            if not isinstance(pipeline, TextPipeline):
                kind = type(pipeline).__name__
                raise TypeError(f"pipelines[{index}]: expected a TextPipeline, got {kind}")
        self.pipelines = tuple(pipelines)
        self.weights = _shares([_size(each) for each in pipelines] if weights is None else weights)
        if len(self.weights) != len(pipelines):
            raise ValueError(
                f"weights: expected {len(pipelines)}, as there are pipelines, "
                f"got {len(self.weights)}"
            )
        self.model = pipelines[0].model
        self.source_tokenizer = pipelines[0].source_tokenizer
        self.target_tokenizer = pipelines[0].target_tokenizer

    @classmethod
    def from_pretrained(
        cls,
        directories: Sequence[PathLike],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RerankingPipeline:
        """Load folders as `TextPipeline.from_pretrained` does; those whose tokenizers are the same
        make one `Ensemble`.

        Raises FileNotFoundError for a missing file, ValueError for a damaged or foreign one, or if
        all tokenizers are the same.
        """
        check_sequence("directories", directories, "folder")
        groups = group_folders(directories)
        if len(groups) < 2:
            raise ValueError(
                "directories: expected models of at least two vocabularies, whose tokenizers "
                f"differ, got {len(directories)} of one"
            )
        return cls(
            [TextPipeline.from_pretrained(group, device=device, dtype=dtype) for group in groups]
        )

    def encode(self, texts: Sequence[str]) -> list[tuple[list[int], ...]]:
        """Ids of each input, by each of the pipelines. Raises TypeError unless `texts` is a
        sequence of strings.
        """
        return list(zip(*(each.encode(texts) for each in self.pipelines), strict=True))

    def compile_constraint(self, texts: Iterable[str]) -> tuple[Automaton, ...]:
        """An automaton for each of the pipelines: as of `TextPipeline`."""
        known = texts if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
        return tuple(each.compile_constraint(known) for each in self.pipelines)

    def score(self, texts: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """As `TextPipeline.score`: the weighted mean of what the pipelines give."""
        columns = [each.score(texts, outputs) for each in self.pipelines]
        return [
            math.fsum(weight * score for weight, score in zip(self.weights, row, strict=True))
            for row in zip(*columns, strict=True)
        ]

    def compile_decoder(self, dtype: torch.dtype | str | None = None) -> None:
        """As `Seq2Seq.compile_decoder`, for every model."""
        for each in self.pipelines:
            each.compile_decoder(dtype)

    def seeds(self, options: Mapping[str, Any]) -> Callable[[int], dict[str, Tensor]]:
        """Of no use here, where nothing is chosen by chance: no option for any batch."""
        return lambda size: {}

    @torch.inference_mode()
    def predict_ids(
        self,
        rows: Sequence[tuple[list[int], ...]],
        *,
        scores: bool = False,
        constraint: tuple[Automaton, ...] | Sequence[str] | None = None,
        **options: Any,
    ) -> list[Prediction]:
        """`predict` for inputs that `encode` has seen. A prediction's `score` is the weighted mean
        of the log-probabilities of the whole text, its end included, -inf where no pipeline found
        anything possible; `num_tokens` and `unknown` are the first pipeline's.

        options: of a search: num_beams, num_return_sequences, length_penalty, early_stopping; and
                 max_new_tokens, min_new_tokens, no_repeat_ngram_size, which count each pipeline's
                 own tokens

        Raises TypeError or ValueError for an option that does not fit, or is not among these.
        """
        options = self._checked(options)
        wanted = options.pop("num_return_sequences")
        automata = self._automata(constraint)
        if not rows:
            return []
        columns = list(zip(*rows, strict=True))
        candidates = self._candidates(columns, automata, options)
        chosen = self._ranked(columns, candidates, options)
        unknown = self.pipelines[0].source_tokenizer.unk_token_id
        predictions = []
        for row, ranked in zip(rows, chosen, strict=True):
            nbest = tuple(
                each if scores else dataclasses.replace(each, score=None)
                for each in ranked[:wanted]
            )
            best = nbest[0]
            count = row[0].count(unknown)
            predictions.append(Prediction(best.text, best.score, best.num_tokens, count, nbest))
        return predictions

    def _automata(self, constraint: Any) -> Sequence[Automaton | None]:
        """One for each pipeline."""
        count = len(self.pipelines)
        if constraint is None:
            return [None] * count
        automata = isinstance(constraint, Sequence) and any(
            isinstance(each, Automaton) for each in constraint
        )
        if automata and all(isinstance(each, Automaton) for each in constraint):
            if len(constraint) != count:
                raise ValueError(f"constraint: expected {count} automata, got {len(constraint)}")
            return list(constraint)
        if isinstance(constraint, Automaton):
            raise TypeError(
                "constraint: expected texts, or what `compile_constraint` made of them, got one "
                "Automaton for several vocabularies"
            )
        return self.compile_constraint(constraint)

    def _candidates(
        self,
        columns: Sequence[Sequence[list[int]]],
        automata: Sequence[Automaton | None],
        options: dict[str, Any],
    ) -> list[list[str]]:
        """What all pipelines propose, for each row, without repeats."""
        proposed: list[dict[str, None]] = [{} for _ in columns[0]]
        for pipeline, sources, automaton in zip(self.pipelines, columns, automata, strict=True):
            beams = options.get("num_beams", pipeline.model.generation_config.num_beams)
            search = {**options, "num_return_sequences": beams, "do_sample": False}
            found = pipeline.propose(list(sources), automaton, **search)
            for texts, more in zip(proposed, found, strict=True):
                texts.update(dict.fromkeys(more))
        return [list(texts) for texts in proposed]

    def _ranked(
        self,
        columns: Sequence[Sequence[list[int]]],
        candidates: Sequence[Sequence[str]],
        options: dict[str, Any],
    ) -> list[list[Hypothesis]]:
        """The candidates of each row, from the best."""
        texts = [text for row in candidates for text in row]
        of_row = [index for index, row in enumerate(candidates) for _ in row]
        config = self.model.generation_config
        penalty = options.get("length_penalty", config.length_penalty)
        total, rank = [0.0] * len(texts), [0.0] * len(texts)
        first_lengths: list[int] = []
        ends = list(accumulate(map(len, candidates)))
        rows = [range(end - len(row), end) for row, end in zip(candidates, ends, strict=True)]
        for pipeline, weight, sources in zip(self.pipelines, self.weights, columns, strict=True):
            ids = [pipeline.target_tokenizer.encode(text) for text in texts]
            lengths = [len(each) + 1 for each in ids]
            first_lengths = first_lengths or lengths
            scores: list[float] = []
            # no more rows at once than were asked for
            for start in range(0, len(texts), len(candidates)):
                part = slice(start, start + len(candidates))
                given = [sources[index] for index in of_row[part]]
                scores += pipeline.score_ids(given, ids[part])
            for row in rows:
                for at, score in zip(row, _heard([scores[at] for at in row]), strict=True):
                    total[at] += weight * score
                    rank[at] += weight * score / lengths[at] ** penalty
        ranked: list[list[Hypothesis]] = []
        for row in rows:
            order = sorted(row, key=lambda at: -rank[at])
            found = [Hypothesis(texts[at], total[at], first_lengths[at]) for at in order]
            ranked.append(found or [Hypothesis("", -math.inf, 0)])
        return ranked

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options, `num_return_sequences` among them."""
        given = {name: value for name, value in options.items() if value is not None}
        if given.get("do_sample") is False:
            del given["do_sample"]
        for name in given:
            if name not in _OPTIONS:
                raise ValueError(
                    f"{name}: expected one of {', '.join(_OPTIONS)} where models choose among "
                    f"whole outputs, got {given[name]!r}"
                )
        own = self.model.generation_config
        # samples are not beams
        plain = {"do_sample": False} | ({"num_return_sequences": 1} if own.do_sample else {})
        config = dataclasses.replace(own, **(plain | given))
        return {**given, "num_return_sequences": config.num_return_sequences}


def load_pipeline(
    directories: PathLike | Sequence[PathLike], *, device: torch.device | str | None = None
) -> TextPipeline | RerankingPipeline:
    """What one or several folders make: one model, an `Ensemble` of those with the same tokenizers,
    or a `RerankingPipeline` where tokenizers differ. Raises as `TextPipeline.from_pretrained`.
    """
    if isinstance(directories, (str, os.PathLike)):
        directories = [directories]
    if len(directories) > 1 and len(group_folders(directories)) > 1:
        return RerankingPipeline.from_pretrained(directories, device=device)
    return TextPipeline.from_pretrained(directories, device=device)


def group_folders(directories: Sequence[PathLike]) -> list[list[PathLike]]:
    """Folders whose tokenizers are the same, together, in the order of the first of each."""
    groups: dict[tuple[bytes, ...], list[PathLike]] = {}
    for directory in directories:
        files = (Path(directory) / name for name in (SOURCE_TOKENIZER_FILE, TARGET_TOKENIZER_FILE))
        groups.setdefault(tuple(file.read_bytes() for file in files), []).append(directory)
    return list(groups.values())


def _size(pipeline: TextPipeline) -> float:
    return float(len(pipeline.model.models)) if isinstance(pipeline.model, Ensemble) else 1.0


def _heard(scores: list[float]) -> list[float]:
    """Of one row's candidates by one pipeline: what is NaN is impossible, but one that says nothing
    at all leaves the choice to the others.
    """
    if all(map(math.isnan, scores)):
        return [0.0] * len(scores)
    return [-math.inf if math.isnan(score) else score for score in scores]


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights over their sum."""
    for index, weight in enumerate(weights):
        if isinstance(weight, bool) or not isinstance(weight, Real):
            kind = type(weight).__name__
            raise TypeError(f"weights[{index}]: expected a number, got {kind}")
        if not 0 < weight < math.inf:
            raise ValueError(f"weights[{index}]: expected above 0 and finite, got {weight}")
    parts = [float(weight) / float(max(weights)) for weight in weights]
    return tuple(part / math.fsum(parts) for part in parts)
