"""What pipelines from text to text share: what they give, and how they are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fast_s2s.checks import check_integer, plain, shown
from fast_s2s.decoding.philox import row_seeds
from fast_s2s.ensemble import Ensemble
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.tokenizer import Tokenizer

Row = TypeVar("Row")


@dataclass(frozen=True)
class Hypothesis:
    """One output of several: fields as in `Prediction`."""

    text: str
    score: float | None
    num_tokens: int


@dataclass(frozen=True)
class Prediction:
    """What the model made of one input.

    text:       the output; the best, or the first sample
    score:      natural logarithm of its probability by the model alone, the end of sequence
                included if it was reached; None if not asked for
    num_tokens: tokens generated, the end of sequence included
    unknown:    symbols of the input that the source vocabulary lacks
    nbest:      with `num_return_sequences` all outputs, this one first: of a beam search from the
                best, as its own score ranks them
    """

    text: str
    score: float | None
    num_tokens: int
    unknown: int
    nbest: tuple[Hypothesis, ...] = ()


class Pipeline(ABC, Generic[Row]):
    """Text in, text out: what pipelines of one model and of several have in common.

    model: of several pipelines the first one's; in eval mode, where dropout is off
    """

    model: Seq2Seq | Ensemble
    target_tokenizer: Tokenizer

    def __call__(self, texts: Sequence[str], **options: Any) -> list[str]:
        """The outputs of one batch of inputs, in order. Options as in `predict`."""
        return [prediction.text for prediction in self.predict(texts, **options)]

    def predict(
        self,
        texts: Sequence[str],
        *,
        scores: bool = False,
        constraint: Any = None,
        **options: Any,
    ) -> list[Prediction]:
        """Outputs and counts of one batch of inputs, in order.

        scores:     also compute the outputs' log-probabilities, by one more pass
        constraint: outputs are among these texts, or what `compile_constraint` made of them
        options:    of `Seq2Seq.generate`: `max_new_tokens`, `num_beams`, `do_sample`, ...

        Raises TypeError unless `texts` is a sequence of strings, TypeError or ValueError for an
        option that does not fit.
        """
        rows = self.encode(texts)
        return self.predict_ids(rows, scores=scores, constraint=constraint, **options)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Row]:
        """Each input as `predict_ids` takes it. Raises TypeError unless `texts` is a sequence of
        strings.
        """

    @abstractmethod
    def predict_ids(
        self, rows: Sequence[Row], *, scores: bool = False, constraint: Any = None, **options: Any
    ) -> list[Prediction]:
        """`predict` for inputs that `encode` has seen, on another thread perhaps."""

    @abstractmethod
    def compile_constraint(self, texts: Iterable[str]) -> Any:
        """What `constraint` takes for outputs among these texts."""

    @abstractmethod
    def compile_decoder(self, dtype: torch.dtype | str | None = None) -> None:
        """Pack the weights of every decoder in this type, as `Seq2Seq.compile_decoder`."""

    def stream(
        self, texts: Iterable[str], *, batch_size: int = 64, **options: Any
    ) -> Iterator[list[Prediction]]:
        """Predictions batch by batch, in order, reading no further ahead than one batch.

        options: as in `predict`. With a `seed` samples do not depend on the batch size

        Raises TypeError or ValueError naming the argument that does not fit.
        """
        check_integer("batch_size", batch_size, 1)
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"texts: expected an iterable of strings, got {shown(texts)}")
        source = iter(texts)
        batches = iter(lambda: list(islice(source, batch_size)), [])
        seeds = self.seeds(options)
        return (self.predict(batch, **{**options, **seeds(len(batch))}) for batch in batches)

    def seeds(self, options: Mapping[str, Any]) -> Callable[[int], dict[str, Tensor]]:
        """For batches of one run: a function of a batch's size that gives its rows' own seeds as
        the option `seed`, or no option where there is no seed in `options` or the model's config.
        """
        seed = plain(options.get("seed", self.model.generation_config.seed))
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            return lambda size: {}
        first = 0

        def next_seeds(size: int) -> dict[str, Tensor]:
            nonlocal first
            first += size
            return {"seed": row_seeds(seed, size, first - size).to(self.model.device)}

        return next_seeds
