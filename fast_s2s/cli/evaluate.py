"""`fast-s2s evaluate`: score a model on pairs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fast_s2s.cli import generating, sources
from fast_s2s.cli.options import (
    UsageError,
    add_batch_size_option,
    add_model_options,
)
from fast_s2s.data import Entry, group_references
from fast_s2s.training import evaluation

_LABELS = {"per": "PER %", "wer": "WER %", "exact_match": "exact match %", "bleu": "BLEU"}


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "evaluate",
        help="score a model on pairs",
        description="Score a model's outputs. An output is right if it equals any target of its "
        "source; WER is the percentage of the others. PER is the edit distance to the closest "
        "target, summed over all outputs, in percent of these targets' summed lengths. Capitals "
        "count unless the target's tokenizer lower-cases.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--data", metavar="FILE", help="TSV lines: source, tab, target")
    parser.add_argument("--source", metavar="FILE", help="or: lines of the sources")
    parser.add_argument("--target", metavar="FILE", help="and lines of their targets")
    sources.add_dataset_options(parser)
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="of the data set: train, dev, test or an extra one (default: test)",
    )
    parser.add_argument(
        "--level",
        choices=["char", "word"],
        help="what outputs are scored by (default: as the target vocabulary)",
    )
    parser.add_argument("--metric", choices=["bleu"], help="also compute this one")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    generating.add_beam_option(parser)
    generating.add_hypotheses_options(parser)
    generating.add_dtype_option(parser)
    add_batch_size_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    label, entries = _entries(args)
    entries = group_references(entries)
    pipeline = generating.load(args)
    outputs = evaluation.predict_all(
        pipeline,
        [entry.source for entry in entries],
        batch_size=args.batch_size,
        **generating.beam_options(args, pipeline),
    )
    level = args.level or evaluation.scoring_level(pipeline.target_tokenizer)
    scores = evaluation.score_outputs(
        outputs,
        entries,
        level,
        with_bleu=args.metric == "bleu",
        tokenizer=pipeline.target_tokenizer,
    )
    if args.json:
        model = args.model if len(args.model) > 1 else args.model[0]
        print(json.dumps({"model": model, "data": label, "inputs": len(entries), **scores}))
        return 0
    print(f"{label}: {len(entries)} inputs")
    for name, value in scores.items():
        print(f"{_LABELS[name]:14} {value:6.2f}")
    return 0


def _entries(args: argparse.Namespace) -> tuple[str, list[Entry]]:
    """A label of the data, and the pairs."""
    options = vars(args)
    sources.check_one_kind("data", options, "data", "source", "target")
    if options.get("dataset") is None:
        if options.get("test_words") is not None:
            raise UsageError("--test-words: expected only with --dataset cmudict")
        if args.split is not None:
            raise UsageError(f"--split: expected only with --dataset, got {args.split}")
        if args.data is None and not (args.source and args.target):
            raise UsageError("expected both or neither of --source and --target")
        return args.data or args.source, sources.read_pairs(args.data, args.source, args.target)
    splits = sources.load_splits(options)
    sets = {"train": splits.train, "dev": splits.dev, "test": splits.test, **splits.extra}
    split = args.split or "test"
    if split not in sets:
        raise UsageError(f"--split: expected one of {', '.join(sets)}, got {split}")
    return f"{args.dataset} {split}, {splits.name}", sets[split]
