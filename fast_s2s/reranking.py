"""`RerankingPipeline`: models that cannot vote on each token choose among whole outputs."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast_s2s.checks import check_sequence
from fast_s2s.ensemble import Ensemble
from fast_s2s.generation import Automaton
from fast_s2s.hypotheses import HypothesisList, add_to, score_listed
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


class Source(NamedTuple):
    """An input, and its ids by each of the pipelines."""

    text: str
    ids: tuple[list[int], ...]


class RerankingPipeline(Pipeline[Source]):
    """Pipelines whose tokenizers may differ: each proposes outputs, all of them choose.

    Each searches as it does alone, by its own generation config where an option is not given, and
    all of its beams are candidates: those that ended, if any did. They are ranked by the weighted
    mean over the pipelines of log p_i(text), each divided by the length in that pipeline's tokens
    to the power of `length_penalty`, the first one's if not given. Right-to-left models beside
    left-to-right ones (`Vocabulary(reverse=True)`) are what it is for: Liu et al. 2016, "Agreement
    on target-bidirectional neural machine translation", https://aclanthology.org/N16-1046.

    What other systems propose for the same inputs, `hypotheses`, are candidates too, and their
    probabilities count like those of one more pipeline: so models choose among the n-best lists of
    a speech recognizer, or correct a classical system and are corrected by it. An output that such
    a list lacks is held for e times less probable than all it has; of an input that it lacks it
    says nothing. Outputs with symbols that a target vocabulary lacks are passed over; they need not
    keep to limits of a search such as `max_new_tokens`, but to a `constraint`. Their length is that
    in the first pipeline's tokens.

    pipelines:  at least two, or one beside `hypotheses`
    hypotheses: lists of other systems, none by default
    weights:    of each pipeline, then of each list, above 0; by default how many models a pipeline
                has, and 1 for a list

    Raises TypeError or ValueError naming the argument that does not fit.
    """

    def __init__(
        self,
        pipelines: Sequence[TextPipeline],
        *,
        hypotheses: Sequence[HypothesisList] = (),
        weights: Sequence[float] | None = None,
    ) -> None:
        check_sequence("pipelines", pipelines, "TextPipeline")
        check_sequence("hypotheses", hypotheses, "HypothesisList")
        if len(pipelines) + len(hypotheses) < 2 or not pipelines:
            raise ValueError(
                "pipelines: expected at least two, or one beside hypotheses, "
                f"got {len(pipelines)} beside {len(hypotheses)}"
            )
        for index, pipeline in enumerate(pipelines):
            if not isinstance(pipeline, TextPipeline):
                kind = type(pipeline).__name__
                raise TypeError(f"pipelines[{index}]: expected a TextPipeline, got {kind}")
        for index, listed in enumerate(hypotheses):
            if not isinstance(listed, HypothesisList):
                kind = type(listed).__name__
                raise TypeError(f"hypotheses[{index}]: expected a HypothesisList, got {kind}")
        self.pipelines, self.hypotheses = tuple(pipelines), tuple(hypotheses)
        if weights is None:
            weights = [*map(_size, pipelines), *[1.0] * len(hypotheses)]
        self.weights = _shares(weights)
        if len(self.weights) != len(pipelines) + len(hypotheses):
            raise ValueError(
                f"weights: expected {len(pipelines) + len(hypotheses)}, as there are pipelines and "
                f"hypotheses, got {len(self.weights)}"
            )
        self.model = pipelines[0].model
        self.source_tokenizer = pipelines[0].source_tokenizer
        self.target_tokenizer = pipelines[0].target_tokenizer

    @classmethod
    def from_pretrained(
        cls,
        directories: Sequence[PathLike],
        *,
        hypotheses: Sequence[HypothesisList] = (),
        weights: Sequence[float] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RerankingPipeline:
        """Load folders as `TextPipeline.from_pretrained` does; those whose tokenizers are the same
        make one `Ensemble`, and count as one pipeline, at the place of the first of them.

        Raises FileNotFoundError for a missing file, ValueError for a damaged or foreign one, or if
        all tokenizers are the same and there are no hypotheses beside them.
        """
        check_sequence("directories", directories, "folder")
        check_sequence("hypotheses", hypotheses, "HypothesisList")
        groups = group_folders(directories)
        if len(groups) < 2 and not len(hypotheses):
            raise ValueError(
                "directories: expected models of at least two vocabularies, whose tokenizers "
                f"differ, or hypotheses beside them, got {len(directories)} of one"
            )
        return cls(
            [TextPipeline.from_pretrained(group, device=device, dtype=dtype) for group in groups],
            hypotheses=hypotheses,
            weights=weights,
        )

    def encode(self, texts: Sequence[str]) -> list[Source]:
        """Each input with its ids by each of the pipelines. Raises TypeError unless `texts` is a
        sequence of strings.
        """
        columns = [each.encode(texts) for each in self.pipelines]
        return [Source(text, tuple(ids)) for text, *ids in zip(texts, *columns, strict=True)]

    def compile_constraint(self, texts: Iterable[str]) -> tuple[Automaton, ...]:
        """An automaton for each of the pipelines: as of `TextPipeline`."""
        known = texts if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
        return tuple(each.compile_constraint(known) for each in self.pipelines)

    def score(self, texts: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """As `TextPipeline.score`: the weighted mean of what the pipelines give."""
        columns = [each.score(texts, outputs) for each in self.pipelines]
        for listed in self.hypotheses:
            columns.append([])
            for text, output in zip(texts, outputs, strict=True):
                known = self._written(listed.outputs(text))
                columns[-1] += score_listed(known, [self._as_written(output)])
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
        rows: Sequence[Source],
        *,
        scores: bool = False,
        constraint: tuple[Automaton, ...] | Sequence[str] | None = None,
        **options: Any,
    ) -> list[Prediction]:
        """`predict` for inputs that `encode` has seen. A prediction's `score` is the weighted mean
        of the log-probabilities of the whole text, its end included, -inf where nothing possible
        was found; `num_tokens` and `unknown` are the first pipeline's.

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
        columns = list(zip(*(row.ids for row in rows), strict=True))
        listed = [
            [self._written(each.outputs(row.text)) for row in rows] for each in self.hypotheses
        ]
        candidates = self._candidates(columns, listed, automata, options)
        chosen = self._ranked(columns, listed, candidates, options)
        unknown = self.pipelines[0].source_tokenizer.unk_token_id
        predictions = []
        for row, ranked in zip(rows, chosen, strict=True):
            nbest = tuple(
                each if scores else dataclasses.replace(each, score=None)
                for each in ranked[:wanted]
            )
            best = nbest[0]
            count = row.ids[0].count(unknown)
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
        listed: Sequence[Sequence[dict[str, float]]],
        automata: Sequence[Automaton | None],
        options: dict[str, Any],
    ) -> list[list[str]]:
        """What all pipelines and lists propose, for each row, without repeats."""
        proposed: list[dict[str, None]] = [{} for _ in columns[0]]
        for pipeline, sources, automaton in zip(self.pipelines, columns, automata, strict=True):
            beams = options.get("num_beams", pipeline.model.generation_config.num_beams)
            search = {**options, "num_return_sequences": beams, "do_sample": False}
            found = pipeline.propose(list(sources), automaton, **search)
            for texts, more in zip(proposed, found, strict=True):
                texts.update(dict.fromkeys(more))
        for column in listed:
            for texts, outputs in zip(proposed, column, strict=True):
                texts.update(dict.fromkeys(filter(self._allows(automata[0]), outputs)))
        return [list(texts) for texts in proposed]

    def _written(self, listed: Mapping[str, float]) -> dict[str, float]:
        """Listed outputs as the first pipeline writes them, but for those that one cannot write."""
        ours: dict[str, float] = {}
        for text, score in listed.items():
            tokenizers = [each.target_tokenizer for each in self.pipelines]
            ids = [tokenizer.encode(text) for tokenizer in tokenizers]
            if any(t.unk_token_id in row for t, row in zip(tokenizers, ids, strict=True)):
                continue
            add_to(ours, tokenizers[0].decode(ids[0]), score)
        return ours

    def _as_written(self, text: str) -> str:
        tokenizer = self.pipelines[0].target_tokenizer
        return tokenizer.decode(tokenizer.encode(text))

    def _allows(self, automaton: Automaton | None) -> Callable[[str], bool]:
        tokenizer = self.pipelines[0].target_tokenizer
        return lambda text: automaton is None or automaton.accepts(tokenizer.encode(text))

    def _ranked(
        self,
        columns: Sequence[Sequence[list[int]]],
        listed: Sequence[Sequence[dict[str, float]]],
        candidates: Sequence[Sequence[str]],
        options: dict[str, Any],
    ) -> list[list[Hypothesis]]:
        """The candidates of each row, from the best."""
        texts = [text for row in candidates for text in row]
        config = self.model.generation_config
        penalty = options.get("length_penalty", config.length_penalty)
        total, rank = [0.0] * len(texts), [0.0] * len(texts)
        ends = list(accumulate(map(len, candidates)))
        rows = [range(end - len(row), end) for row, end in zip(candidates, ends, strict=True)]
        ids = [[each.target_tokenizer.encode(text) for text in texts] for each in self.pipelines]
        lengths = [[len(each) + 1 for each in column] for column in ids]
        judgements = [
            self._judged(pipeline, sources, candidates, own)
            for pipeline, sources, own in zip(self.pipelines, columns, ids, strict=True)
        ]
        for column in listed:
            scored = map(score_listed, column, candidates)
            judgements.append([score for row in scored for score in row])
            lengths.append(lengths[0])
        for weight, scores, own in zip(self.weights, judgements, lengths, strict=True):
            for row in rows:
                for at, score in zip(row, _heard([scores[at] for at in row]), strict=True):
                    total[at] += weight * score
                    rank[at] += weight * score / own[at] ** penalty
        ranked: list[list[Hypothesis]] = []
        for row in rows:
            order = sorted(row, key=lambda at: -rank[at])
            found = [Hypothesis(texts[at], total[at], lengths[0][at]) for at in order]
            ranked.append(found or [Hypothesis("", -math.inf, 0)])
        return ranked

    @staticmethod
    def _judged(
        pipeline: TextPipeline,
        sources: Sequence[list[int]],
        candidates: Sequence[Sequence[str]],
        ids: Sequence[list[int]],
    ) -> list[float]:
        """Log-probabilities of all candidates, whose ids are `ids`, by one pipeline."""
        given = [source for source, row in zip(sources, candidates, strict=True) for _ in row]
        scores: list[float] = []
        # no more rows at once than were asked for
        for start in range(0, len(ids), len(sources)):
            part = slice(start, start + len(sources))
            scores += pipeline.score_ids(given[part], ids[part])
        return scores

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
    directories: PathLike | Sequence[PathLike],
    *,
    device: torch.device | str | None = None,
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
