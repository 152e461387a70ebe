"""`TextPipeline`: text in, text out, over a model and its two tokenizers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fast_s2s.checks import shown
from fast_s2s.ensemble import Ensemble
from fast_s2s.generation import Automaton, GenerateOutput
from fast_s2s.prediction import Hypothesis, Pipeline, Prediction
from fast_s2s.pretrained import SOURCE_TOKENIZER_FILE, TARGET_TOKENIZER_FILE
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.text import load_tokenizer
from fast_s2s.tokenizer import Tokenizer, check_tokenizer


class TextPipeline(Pipeline[list[int]]):
    """A model with the tokenizers of its source and target.

    model: in eval mode, where dropout is off

    Raises TypeError or ValueError naming the argument that does not fit.
    """

    def __init__(
        self,
        model: Seq2Seq | Ensemble,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
    ) -> None:
        check_tokenizers_fit(model, source_tokenizer, target_tokenizer)
        self.model = model
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TextPipeline:
        """Load a folder `Seq2Seq.save_pretrained` wrote with both tokenizers, or a training run's.
        Of several folders, whose tokenizers are the same, an `Ensemble`.

        Raises FileNotFoundError for a missing file, ValueError for a damaged or foreign one; both
        name the file.
        """
        if isinstance(directory, Sequence) and not isinstance(directory, str):
            if len(directory) != 1:
                return cls._ensemble(directory, device, dtype)
            directory = directory[0]
        model = Seq2Seq.from_pretrained(directory, device=device, dtype=dtype)
        source_tokenizer = load_tokenizer(Path(directory) / SOURCE_TOKENIZER_FILE)
        target_tokenizer = load_tokenizer(Path(directory) / TARGET_TOKENIZER_FILE)
        return cls(model, source_tokenizer, target_tokenizer)

    @classmethod
    def _ensemble(
        cls,
        directories: Sequence[str | os.PathLike[str]],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> TextPipeline:
        parts = [cls.from_pretrained(each, device=device, dtype=dtype) for each in directories]
        for directory in directories[1:]:
            for file in (SOURCE_TOKENIZER_FILE, TARGET_TOKENIZER_FILE):
                first, other = Path(directories[0]) / file, Path(directory) / file
                if first.read_bytes() != other.read_bytes():
                    raise ValueError(
                        f"{other}: expected the same tokenizer as {first}; models whose tokenizers "
                        "differ make a RerankingPipeline"
                    )
        model = Ensemble([part.model for part in parts if isinstance(part.model, Seq2Seq)])
        return cls(model, parts[0].source_tokenizer, parts[0].target_tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the inputs, for `predict_ids`, with nothing added.

        Raises TypeError unless `texts` is a sequence of strings.
        """
        check_texts("texts", texts)
        return [self.source_tokenizer.encode(text) for text in texts]

    @torch.inference_mode()
    def predict_ids(
        self,
        rows: Sequence[list[int]],
        *,
        scores: bool = False,
        constraint: Automaton | Sequence[str] | None = None,
        **options: Any,
    ) -> list[Prediction]:
        """`predict` for inputs that `encode` has seen, on another thread perhaps."""
        if not rows:
            return []
        if constraint is not None and not isinstance(constraint, Automaton):
            constraint = self.compile_constraint(constraint)
        src, src_lengths = self._pad(rows)
        output = self._search(src, src_lengths, constraint, options)
        per_row = len(output.lengths) // len(rows)
        log_probabilities: list[float] | list[None] = [None] * len(output.lengths)
        if scores:
            repeated = src.repeat_interleave(per_row, 0), src_lengths.repeat_interleave(per_row)
            log_probabilities = self._scores(*repeated, output).tolist()
        found = [
            Hypothesis(text, score, length)
            for text, length, score in zip(
                self._texts(output), output.lengths.tolist(), log_probabilities, strict=True
            )
        ]
        impossible = output.sequences_scores.isneginf().tolist()
        unknown = self.source_tokenizer.unk_token_id
        predictions = []
        for index, row in enumerate(rows):
            places = range(index * per_row, (index + 1) * per_row)
            # the first is there in any case
            nbest = [found[at] for at in places if at == places[0] or not impossible[at]]
            best = nbest[0]
            predictions.append(
                Prediction(best.text, best.score, best.num_tokens, row.count(unknown), tuple(nbest))
            )
        return predictions

    def compile_constraint(self, texts: Iterable[str]) -> Automaton:
        """An automaton for `constraint`: outputs are among these texts.

        Raises TypeError for what is no iterable of strings, ValueError if a text has symbols that
        the target vocabulary lacks, or there is none.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"constraint: expected texts or an Automaton, got {shown(texts)}")
        sequences = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"constraint[{index}]: expected a str, got {type(text).__name__}")
            ids = self.target_tokenizer.encode(text)
            if self.target_tokenizer.unk_token_id in ids:
                raise ValueError(
                    f"constraint[{index}]: expected symbols of the target vocabulary, "
                    f"got {shown(text)}"
                )
            sequences.append(ids)
        if not sequences:
            raise ValueError("constraint: expected at least one text, got none")
        return Automaton.from_sequences(sequences)

    def compile_decoder(self, dtype: torch.dtype | str | None = None) -> None:
        """As `Seq2Seq.compile_decoder`."""
        self.model.compile_decoder(dtype)

    @torch.inference_mode()
    def propose(
        self, rows: Sequence[list[int]], constraint: Automaton | None = None, **options: Any
    ) -> list[list[str]]:
        """What a search finds for each of the inputs: its possible outputs, those that ended if any
        did. None where nothing is possible. Options as in `predict`.
        """
        output = self._search(*self._pad(rows), constraint, options)
        last = output.sequences.gather(1, output.lengths.unsqueeze(1)).squeeze(1)
        ends = self.model.generation_config.eos_token_id
        ended = torch.isin(last, last.new_tensor([ends] if isinstance(ends, int) else ends))
        per_row = len(output.lengths) // len(rows)
        found: list[list[str]] = []
        impossible = output.sequences_scores.isneginf().tolist()
        each = zip(self._texts(output), impossible, ended.tolist(), strict=True)
        for _ in rows:
            possible = [(text, whole) for text, never, whole in islice(each, per_row) if not never]
            any_ended = any(whole for _, whole in possible)
            found.append([text for text, whole in possible if whole or not any_ended])
        return found

    @torch.inference_mode()
    def score(self, texts: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """Natural logarithm of the probability of each output given the input beside it, its end of
        sequence included, in one batch. A symbol that the target vocabulary lacks counts as the
        unknown one.

        Raises TypeError unless both are sequences of strings, ValueError unless as many.
        """
        check_texts("outputs", outputs)
        rows = self.encode(texts)
        if len(rows) != len(outputs):
            raise ValueError(
                f"outputs: expected {len(rows)}, as there are texts, got {len(outputs)}"
            )
        return self.score_ids(rows, [self.target_tokenizer.encode(text) for text in outputs])

    @torch.inference_mode()
    def score_ids(
        self, rows: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]
    ) -> list[float]:
        """`score` of ids without special tokens, as many of each."""
        if len(rows) != len(outputs):
            raise ValueError(f"outputs: expected {len(rows)}, as of rows, got {len(outputs)}")
        if not rows:
            return []
        src, src_lengths = self._pad(rows)
        tgt, tgt_lengths = self._pad(outputs, self.model.config.eos_token_id)
        return self._log_probabilities(src, src_lengths, tgt, tgt_lengths).tolist()

    def _search(
        self, src: Tensor, lengths: Tensor, constraint: Automaton | None, options: dict[str, Any]
    ) -> GenerateOutput:
        for name in ("return_state", *_WHAT_IS_RETURNED):
            if options.get(name):
                raise ValueError(
                    f"{name}: expected False for a pipeline, which returns texts, got "
                    f"{shown(options[name])}"
                )
        returned = {**options, **_WHAT_IS_RETURNED}
        found = self.model.generate(src, lengths, constraint=constraint, **returned)
        assert isinstance(found, GenerateOutput)
        return found

    def _texts(self, output: GenerateOutput) -> list[str]:
        sequences, lengths = output.sequences.tolist(), output.lengths.tolist()
        return [
            self.target_tokenizer.decode(ids[1 : 1 + length])
            for ids, length in zip(sequences, lengths, strict=True)
        ]

    def _pad(self, rows: Sequence[Sequence[int]], eos: int | None = None) -> tuple[Tensor, Tensor]:
        """Ids (B, S), each row ended by eos as in training, and the lengths (B,)."""
        longest = max(map(len, rows))
        pad = self.model.config.pad_token_id
        eos = self.source_tokenizer.eos_token_id if eos is None else eos
        src = torch.tensor([[*row, eos, *[pad] * (longest - len(row))] for row in rows])
        lengths = torch.tensor([len(row) + 1 for row in rows])
        return src.to(self.model.device), lengths.to(self.model.device)

    def _scores(self, src: Tensor, src_lengths: Tensor, output: GenerateOutput) -> Tensor:
        """Log-probability (N,) of the generated tokens, by one teacher-forced pass over them."""
        tgt = output.sequences[:, 1:]
        if not tgt.size(1):
            return output.sequences_scores
        total = self._log_probabilities(src, src_lengths, tgt, output.lengths)
        return total.masked_fill(output.sequences_scores.isneginf(), -torch.inf)

    def _log_probabilities(
        self, src: Tensor, src_lengths: Tensor, tgt: Tensor, tgt_lengths: Tensor
    ) -> Tensor:
        """(N,) of the target tokens within the lengths, by one teacher-forced pass."""
        logits = self.model(src, tgt, src_lengths, tgt_lengths).logits
        picked = logits.float().log_softmax(-1).gather(2, tgt.unsqueeze(2)).squeeze(2)
        past = torch.arange(tgt.size(1), device=tgt.device) >= tgt_lengths.unsqueeze(1)
        return picked.masked_fill(past, 0.0).sum(1)


# of `generate`, whatever the model's config says
_WHAT_IS_RETURNED = {
    "return_dict_in_generate": True,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
}


def check_texts(name: str, texts: object) -> None:
    """Raises TypeError unless it is a sequence of strings."""
    if (
        isinstance(texts, str)
        or not isinstance(texts, Sequence)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise TypeError(f"{name}: expected a sequence of strings, got {shown(texts)}")


def check_tokenizers_fit(
    model: Seq2Seq | Ensemble, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer
) -> None:
    """Raises TypeError for what is no model or tokenizer, ValueError if sizes or special tokens of
    the tokenizers are not the model's.
    """
    if not isinstance(model, (Seq2Seq, Ensemble)):
        raise TypeError(f"model: expected a Seq2Seq, got {type(model).__name__}")
    check_tokenizer("source_tokenizer", source_tokenizer)
    check_tokenizer("target_tokenizer", target_tokenizer)
    config = model.config
    for name, tokenizer, size in (
        ("source_tokenizer", source_tokenizer, config.src_vocab_size),
        ("target_tokenizer", target_tokenizer, config.tgt_vocab_size),
    ):
        if len(tokenizer) != size:
            raise ValueError(f"{name}: expected the model's {size} tokens, got {len(tokenizer)}")
        if tokenizer.pad_token_id != config.pad_token_id:
            raise ValueError(
                f"{name}: expected the model's pad_token_id {config.pad_token_id}, "
                f"got {tokenizer.pad_token_id}"
            )
    for special in ("bos_token_id", "eos_token_id"):
        ours, theirs = getattr(config, special), getattr(target_tokenizer, special)
        if ours != theirs:
            raise ValueError(
                f"target_tokenizer: expected the model's {special} {ours}, got {theirs}"
            )
