"""Loss and scores on held-out entries, for the dev set while training as for a test set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fast_s2s import metrics
from fast_s2s.data import Entry, PairDataset, TokenBatches, group_references
from fast_s2s.extras import require
from fast_s2s.pipeline import TextPipeline
from fast_s2s.prediction import Pipeline
from fast_s2s.text import Level, Tokenizer, Vocabulary
from fast_s2s.tokenizer import normalize
from fast_s2s.training.config import TrainingConfig
from fast_s2s.training.processes import Processes


def scoring_level(target_tokenizer: Tokenizer) -> Level:
    """What outputs are scored by: characters for a vocabulary of characters, else words."""
    return "char" if getattr(target_tokenizer, "level", "word") == "char" else "word"


def spread(entries: Sequence[Entry], size: int | None) -> list[Entry]:
    """At most `size` entries with their references grouped, spread evenly over the set."""
    grouped = group_references(entries)
    if size is None or size >= len(grouped):
        return grouped
    return [grouped[index * len(grouped) // size] for index in range(size)]


def predict_all(
    pipeline: Pipeline[Any],
    texts: Sequence[str],
    *,
    batch_size: int = 256,
    **options: Any,
) -> list[str]:
    """Outputs in order, decoded in batches of similar length; options as in `predict`."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    batches: Iterable = pipeline.stream(
        (texts[index] for index in order), batch_size=batch_size, **options
    )
    outputs = [""] * len(texts)
    predictions = (prediction for batch in batches for prediction in batch)
    for index, prediction in zip(order, predictions, strict=True):
        outputs[index] = prediction.text
    return outputs


def score_outputs(
    outputs: Sequence[str],
    entries: Sequence[Entry],
    level: Level,
    *,
    with_bleu: bool = False,
    tokenizer: Tokenizer | None = None,
) -> dict[str, float]:
    """PER, WER, exact match and BLEU in percent, over entries with grouped references. Where the
    target's tokenizer is given and lower-cases, they are compared in lower case.
    """
    references = [entry.targets for entry in entries]
    if tokenizer is not None and _lowercases(tokenizer, references):
        references = [tuple(normalize(t.lower()) for t in targets) for targets in references]
    scores = metrics.score(outputs, references, level=level)
    result = {"per": scores.per, "wer": scores.wer, "exact_match": scores.exact_match}
    if with_bleu:
        result["bleu"] = metrics.bleu(outputs, references)
    return result


def _lowercases(tokenizer: Tokenizer, references: Sequence[Sequence[str]]) -> bool:
    """Whether the tokenizer can say texts like the references in lower case only."""
    if isinstance(tokenizer, Vocabulary):
        return tokenizer.lowercase
    # other kinds do not tell, but a word with capitals comes back without them
    words = {word for targets in references for target in targets for word in target.split()}
    capitals = (word for word in words if word != word.lower())
    return any(tokenizer.decode(tokenizer.encode(w)).strip() == w.lower() for w in capitals)


def require_scorers(config: TrainingConfig) -> None:
    """Raises ModuleNotFoundError now for a package that `dev_scores` would miss later."""
    require("rapidfuzz.distance")
    if config.dev_metric == "bleu":
        require("sacrebleu")


def dev_scores(
    pipeline: TextPipeline, dev: Sequence[Entry], config: TrainingConfig, processes: Processes
) -> dict[str, float]:
    """Loss and scores on the dev set, of which each process does a share; none without one. The
    model is left in eval mode.
    """
    if not dev:
        return {}
    pipeline.model.eval()
    mine = processes.share(dev)
    outputs = [""] * len(dev)
    shares = processes.gather(
        predict_all(
            pipeline,
            [entry.source for entry in mine],
            batch_size=config.eval_batch_size,
            max_new_tokens=config.max_new_tokens,
        )
    )
    for rank, share in enumerate(shares):
        outputs[rank :: processes.size] = share
    sums = loss_sum(pipeline, mine, config.max_tokens) if mine else (0.0, 0)
    loss, tokens = processes.gather_numbers(*sums).sum(0).tolist()
    tokenizer = pipeline.target_tokenizer
    scores = score_outputs(
        outputs,
        dev,
        scoring_level(tokenizer),
        with_bleu=config.dev_metric == "bleu",
        tokenizer=tokenizer,
    )
    return {"dev_loss": loss / tokens, **scores}


@torch.inference_mode()
def loss_sum(
    pipeline: TextPipeline, entries: Sequence[Entry], max_tokens: int
) -> tuple[float, int]:
    """Cross entropy in nats, summed over the target tokens of all references, without label
    smoothing; and the number of these tokens.
    """
    dataset = PairDataset(entries, pipeline.source_tokenizer, pipeline.target_tokenizer)
    batches = TokenBatches(dataset, max_tokens, shuffle=False)
    losses, tokens = [], 0
    for indices in batches.batches():
        batch = batches.collate(indices)
        count = int(batch.tgt_lengths.sum())
        src, src_lengths, tgt, tgt_lengths = batch.to(pipeline.model.device)
        losses.append(pipeline.model(src, tgt, src_lengths, tgt_lengths).loss.double() * count)
        tokens += count
    return math.fsum(loss.item() for loss in losses), tokens
