"""`fast-s2s demo`: train a small grapheme-to-phoneme model on CMUdict, and show what it can do."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fast_s2s import backends
from fast_s2s.cli import sources
from fast_s2s.cli.options import UsageError, add_device_options, positive_int
from fast_s2s.cli.train import train
from fast_s2s.data import DatasetSplits, Entry
from fast_s2s.pipeline import TextPipeline
from fast_s2s.serialization import atomic_write_text
from fast_s2s.training import TrainingResult, evaluation
from fast_s2s.training.run_folder import RunFolder

# chosen for the lowest word error rate after about three minutes on two cores
_SETTINGS: dict[str, Any] = {
    "embedding_size": 96,
    "hidden_size": 256,
    "bidirectional": True,
    "max_tokens": 1024,
    "max_updates": 3600,
    "max_minutes": 4.5,
    "learning_rate": 2e-3,
    "warmup_updates": 100,
    "schedule": "linear",
    "dev_metric": "wer",
    "dev_size": 1000,
}
_EVALUATIONS = 10
_INVENTED = ("blorptastic", "zindlewick", "fraxomere", "quennifer", "snarglebee", "thrimbology")
_HELD_OUT_SHOWN = 6


@dataclass(frozen=True)
class Pronunciation:
    """A word the demo pronounced; `references` are empty for a word that is in no dictionary."""

    word: str
    phonemes: str
    references: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """How it compares with the dictionary."""
        if not self.references:
            return "in no dictionary"
        right = self.phonemes in self.references
        return "right" if right else f"dictionary: {' or '.join(self.references)}"


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "demo",
        help="train a small pronunciation model, in about three minutes",
        description="Train a small model from spelling to pronunciation on CMUdict, score it on "
        "words it has not seen, and pronounce a dozen. Can be run again.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    sources.add_test_words_option(parser)
    parser.add_argument(
        "--output", metavar="DIR", default="runs/g2p-demo", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--max-updates",
        type=positive_int,
        metavar="N",
        default=_SETTINGS["max_updates"],
        help="length of the training (default: %(default)s)",
    )
    parser.add_argument(
        "--max-minutes",
        type=float,
        metavar="X",
        default=_SETTINGS["max_minutes"],
        help="end the training after this time on a slow machine (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        default=1,
        help="of new weights, the order of batches and dropout (default: %(default)s)",
    )
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    started = time.monotonic()
    output = Path(args.output)
    _check_output(RunFolder(output))
    options = _options(args)
    data = sources.load_training_data(options)
    splits = data.splits
    assert splits is not None
    result, pipeline = train(options, data, output, overwrite=RunFolder(output).path.exists())
    if result.stop_reason == "max_minutes":
        print(
            f"the machine was slow or busy: {result.updates} of {args.max_updates} updates in "
            f"{args.max_minutes:g} minutes; --max-minutes allows more",
            file=sys.stderr,
        )
    print(f"scoring {len(splits.test)} held-out words", file=sys.stderr)
    outputs = evaluation.predict_all(pipeline, [entry.source for entry in splits.test])
    scores = evaluation.score_outputs(outputs, splits.test, "word")
    pronounced = pronounce(pipeline, splits)
    minutes = (time.monotonic() - started) / 60
    report = write_report(result, pipeline, splits, scores, pronounced, output, minutes)
    atomic_write_text(output / "report.md", report)
    _print_summary(scores, pronounced, splits, output, minutes)
    return 0


def pronounce(pipeline: TextPipeline, splits: DatasetSplits) -> list[Pronunciation]:
    """A dozen words the model has not seen: some of the test set, some invented."""
    known: dict[str, tuple[str, ...]] = {}
    everything = (splits.train, splits.dev, splits.test, *splits.extra.values())
    for entries in everything:
        known |= {entry.source: entry.targets for entry in entries}
    words = [entry.source for entry in _held_out(splits.test)]
    words += _INVENTED
    return [
        Pronunciation(word, phonemes, known.get(word, ()))
        for word, phonemes in zip(words, pipeline(words), strict=True)
    ]


def write_report(
    result: TrainingResult,
    pipeline: TextPipeline,
    splits: DatasetSplits,
    scores: dict[str, float],
    pronounced: Sequence[Pronunciation],
    output: Path,
    minutes: float,
) -> str:
    """The report in Markdown."""
    model = pipeline.model
    size = sum(parameter.numel() for parameter in model.parameters())
    choice = backends.select(model.device.type, model.dtype)
    table = "\n".join(f"| {p.word} | {p.phonemes} | {p.verdict} |" for p in pronounced)
    return f"""# Spelling to pronunciation, trained on CMUdict

| | |
|---|---|
| PER, held-out words | {scores["per"]:.2f} % |
| WER, held-out words | {scores["wer"]:.2f} % |
| held-out words | {len(splits.test)} |
| split | {splits.name} |
| words trained on | {len(splits.train)} |
| parameters | {size:,} |
| training | {result.updates} updates, {result.epochs:.1f} epochs, {result.seconds:.0f} s, \
ended by {result.stop_reason} |
| whole demo | {minutes:.1f} min |
| machine | {platform.machine()}, {os.cpu_count()} CPUs, {model.device}, \
torch {torch.__version__}, backend {choice.backend} |

A word is right if it equals any pronunciation in the dictionary, stress left out.

![learning curve](curve.png)

| word, not seen in training | pronounced | |
|---|---|---|
{table}

To use it: `fast-s2s generate --model {output} hello world`
"""


def _check_output(folder: RunFolder) -> None:
    """The demo replaces runs of its own, nothing else."""
    if not folder.path.is_dir() or not any(folder.path.iterdir()):
        return
    if not (folder.manifest_file.exists() and folder.manifest().get("options", {}).get("demo")):
        raise FileExistsError(
            f"{folder.path} holds something other than a demo; choose another --output"
        )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `train` for the demo."""
    if not args.max_minutes > 0:
        raise UsageError(f"--max-minutes: expected above 0, got {args.max_minutes}")
    updates = args.max_updates
    test_words = getattr(args, "test_words", None)
    return {
        **_SETTINGS,
        "demo": True,
        "dataset": "cmudict",
        "test_words": None if test_words is None else str(Path(test_words).resolve()),
        "max_updates": updates,
        "max_minutes": args.max_minutes,
        "warmup_updates": min(_SETTINGS["warmup_updates"], updates // 10),
        "evaluate_every": max(1, updates // _EVALUATIONS),
        "checkpoint_every": max(1, updates // _EVALUATIONS),
        "seed": args.seed,
        "device": args.device,
        "threads": args.threads,
    }


def _held_out(test: Sequence[Entry]) -> list[Entry]:
    """Some words of the test set, spread over the alphabet; names with apostrophes left out."""
    plain = [entry for entry in test if entry.source.isalpha() and len(entry.source) > 4]
    return evaluation.spread(plain, _HELD_OUT_SHOWN)


def _print_summary(
    scores: dict[str, float],
    pronounced: Sequence[Pronunciation],
    splits: DatasetSplits,
    output: Path,
    minutes: float,
) -> None:
    print(f"\nPER {scores['per']:.2f} %, WER {scores['wer']:.2f} % on {len(splits.test)} ", end="")
    print(f"held-out words of CMUdict, split {splits.name}\n")
    width = max(len(p.word) for p in pronounced)
    for p in pronounced:
        print(f"  {p.word:{width}}  {p.phonemes}   ({p.verdict})")
    print(f"\nmodel, curve.png and report.md in {output}, after {minutes:.1f} minutes")
    print(f"to use it: fast-s2s generate --model {output} hello world")
