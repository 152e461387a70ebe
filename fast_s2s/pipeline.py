"""`TextPipeline`: text in, text out, over a model and its two tokenizers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from fast_s2s.checks import check_integer
from fast_s2s.pretrained import SOURCE_TOKENIZER_FILE, TARGET_TOKENIZER_FILE
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.text import Tokenizer, check_tokenizer, load_tokenizer


@dataclass(frozen=True)
class Prediction:
    """What the model made of one input.

    text:       the output
    score:      natural logarithm of its probability, the end of sequence included if it was
                reached; None if not asked for
    num_tokens: tokens generated, the end of sequence included
    unknown:    symbols of the input that the source vocabulary lacks
    """

    text: str
    score: float | None
    num_tokens: int
    unknown: int


class TextPipeline:
    """A model with the tokenizers of its source and target.

    model: in eval mode, where dropout is off

    Raises TypeError or ValueError naming the argument that does not fit.
    """

    def __init__(
        self, model: Seq2Seq, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer
    ) -> None:
        check_tokenizers_fit(model, source_tokenizer, target_tokenizer)
        self.model = model
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TextPipeline:
        """Load a folder `Seq2Seq.save_pretrained` wrote with both tokenizers, or a training run's.

        Raises FileNotFoundError for a missing file, ValueError for a damaged or foreign one; both
        name the file.
        """
        model = Seq2Seq.from_pretrained(directory, device=device, dtype=dtype)
        source_tokenizer = load_tokenizer(Path(directory) / SOURCE_TOKENIZER_FILE)
        target_tokenizer = load_tokenizer(Path(directory) / TARGET_TOKENIZER_FILE)
        return cls(model, source_tokenizer, target_tokenizer)

    def __call__(self, texts: Sequence[str], *, max_new_tokens: int | None = None) -> list[str]:
        """The outputs of one batch of inputs, in order."""
        predictions = self.predict(texts, max_new_tokens=max_new_tokens)
        return [prediction.text for prediction in predictions]

    @torch.inference_mode()
    def predict(
        self, texts: Sequence[str], *, max_new_tokens: int | None = None, scores: bool = False
    ) -> list[Prediction]:
        """Outputs and counts of one batch of inputs, in order.

        max_new_tokens: longest output, the end of sequence included; default the model's own
        scores:         also compute the outputs' log-probabilities, by one more pass

        Raises TypeError unless `texts` is a sequence of strings.
        """
        if (
            isinstance(texts, str)
            or not isinstance(texts, Sequence)
            or not all(isinstance(text, str) for text in texts)
        ):
            raise TypeError(f"texts: expected a sequence of strings, got {texts!r}")
        if not texts:
            return []
        rows = [self.source_tokenizer.encode(text) for text in texts]
        src, src_lengths = self._pad(rows)
        generated = self.model.generate(src, src_lengths, max_new_tokens=max_new_tokens)
        assert isinstance(generated, Tensor)
        tgt = generated[:, 1:]
        lengths = (tgt != self.model.config.pad_token_id).sum(1)
        log_probabilities: list[float] | list[None] = [None] * len(texts)
        if scores:
            log_probabilities = self._scores(src, src_lengths, tgt, lengths).tolist()
        unknown = self.source_tokenizer.unk_token_id
        return [
            Prediction(
                self.target_tokenizer.decode(ids[:length]), score, length, row.count(unknown)
            )
            for row, ids, length, score in zip(
                rows, tgt.tolist(), lengths.tolist(), log_probabilities, strict=True
            )
        ]

    def stream(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 64,
        max_new_tokens: int | None = None,
        scores: bool = False,
    ) -> Iterator[list[Prediction]]:
        """Predictions batch by batch, in order, reading no further ahead than one batch.

        Raises TypeError or ValueError naming the argument that does not fit.
        """
        check_integer("batch_size", batch_size, 1)
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"texts: expected an iterable of strings, got {texts!r}")
        source = iter(texts)
        batches = iter(lambda: list(islice(source, batch_size)), [])
        return (
            self.predict(batch, max_new_tokens=max_new_tokens, scores=scores) for batch in batches
        )

    def _pad(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids (B, S), each row ended by eos as in training, and the lengths (B,)."""
        ended = [torch.tensor([*row, self.source_tokenizer.eos_token_id]) for row in rows]
        pad = float(self.model.config.pad_token_id)
        src = nn.utils.rnn.pad_sequence(ended, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in ended])
        return src.to(self.model.device), lengths.to(self.model.device)

    def _scores(self, src: Tensor, src_lengths: Tensor, tgt: Tensor, lengths: Tensor) -> Tensor:
        """Log-probability (B,) of the generated tokens, by one teacher-forced pass over them."""
        logits = self.model(src, tgt, src_lengths, lengths).logits
        picked = logits.float().log_softmax(-1).gather(2, tgt.unsqueeze(2)).squeeze(2)
        return picked.masked_fill(tgt == self.model.config.pad_token_id, 0.0).sum(1)


def check_tokenizers_fit(
    model: Seq2Seq, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer
) -> None:
    """Raises TypeError for what is no model or tokenizer, ValueError if sizes or special tokens of
    the tokenizers are not the model's.
    """
    if not isinstance(model, Seq2Seq):
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
