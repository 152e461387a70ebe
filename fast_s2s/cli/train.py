"""`fast-s2s train`: train a model, or go on with a run."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fast_s2s.cli import sources
from fast_s2s.cli.beginning import (
    MODEL_SKIP,
    build_model,
    check_not_removed,
    get_to_know,
    load_teacher,
)
from fast_s2s.cli.options import (
    UsageError,
    add_device_options,
    add_settings,
    build_settings,
    choose_device,
    positive_int,
    read_settings_file,
)
from fast_s2s.cli.sources import TrainingData
from fast_s2s.data import PairDataset
from fast_s2s.pipeline import TextPipeline
from fast_s2s.pretrained import CONFIG_FILE
from fast_s2s.seq2seq import Seq2SeqConfig
from fast_s2s.training import (
    Trainer,
    TrainingConfig,
    TrainingInterrupted,
    TrainingResult,
    processes,
)
from fast_s2s.training.run_folder import RunFolder

# how a command was called, not what it trains
_CALL = ("config", "output", "resume", "overwrite", "quiet")
_NOT_SAVED = ("command", "run", "parser", *_CALL)

_PATHS = (
    "train",
    "dev",
    "train_source",
    "train_target",
    "dev_source",
    "dev_target",
    "source_tokenizer",
    "target_tokenizer",
    "test_words",
    "extra_train",
    "init_from",
    "teacher",
)


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "train",
        help="train a model, or go on with a run",
        description="Train a model and keep it, its log, learning curve and checkpoints in one "
        "folder. After any interruption `fast-s2s train --resume --output DIR` goes on.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--output", metavar="DIR", help="folder of the run; needed")
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="settings by their flags' names; flags override them"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the folder, with the options it was begun with",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the run in the folder and begin again"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--init-from",
        metavar="DIR",
        help="begin with the weights, sizes and vocabularies of this trained model",
    )
    parser.add_argument(
        "--teacher",
        action="append",
        metavar="DIR",
        help="learn the probabilities of this trained model too; given several times, those of all "
        "together",
    )
    _add_data_options(parser)
    add_settings(parser, "model", Seq2SeqConfig, MODEL_SKIP)
    add_settings(parser, "training", TrainingConfig)
    add_device_options(parser, argparse.SUPPRESS)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--train", metavar="FILE", help="TSV lines: source, tab, target")
    data.add_argument("--dev", metavar="FILE", help="the same, to choose the best model by")
    for name in ("train", "dev"):
        for side in ("source", "target"):
            data.add_argument(
                f"--{name}-{side}", metavar="FILE", help=f"or: lines of the {name} set's {side}"
            )
    sources.add_dataset_options(data)
    data.add_argument(
        "--extra-train",
        metavar="FILE",
        help="TSV lines to train on too, but for those whose source is in the dev or test set",
    )
    text = parser.add_argument_group("symbols")
    for side, usual in (("source", "char"), ("target", "word")):
        text.add_argument(
            f"--{side}-level",
            choices=["char", "word"],
            help=f"symbols of the {side}: its characters, or what spaces separate "
            f"(default: {usual})",
        )
        text.add_argument(
            f"--{side}-tokenizer",
            metavar="FILE",
            help="instead: a tokenizer.json of Hugging Face, or a saved vocabulary",
        )
    text.add_argument(
        "--lowercase",
        action=argparse.BooleanOptionalAction,
        help="lower-case both sides (default: no; for cmudict the words)",
    )
    text.add_argument(
        "--reverse-target",
        action=argparse.BooleanOptionalAction,
        help="write targets from their end, right to left: such a model errs elsewhere than others "
        "and chooses well beside them (default: no)",
    )
    text.add_argument(
        "--min-count",
        type=positive_int,
        metavar="N",
        help="rarer symbols count as unknown (default: 1)",
    )
    text.add_argument(
        "--max-vocab-size",
        type=positive_int,
        metavar="N",
        help="largest vocabulary (default: no limit)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    given = vars(args)
    if not given.get("output"):
        raise UsageError("expected --output DIR")
    resume, overwrite = bool(given.get("resume")), bool(given.get("overwrite"))
    if resume and overwrite:
        raise UsageError("expected at most one of --resume and --overwrite")
    folder = RunFolder(given["output"])
    options: dict[str, Any] = {}
    if resume and folder.manifest_file.exists():
        options |= folder.manifest().get("options", {})
    elif resume and not _names_data(given):
        raise UsageError(f"--resume: expected a run in {folder.path}, found none")
    if "config" in given:
        options |= _saved(read_settings_file(given["config"], args.parser, _CALL))
    options |= _saved(given)
    if not resume:
        check_not_removed(options, folder.path, overwrite=overwrite)
    if not processes.launched():
        # of several the trainer's first asks, and tells all: one that left here would be waited for
        folder.check(resume=resume, overwrite=overwrite)
    main = processes.launched_main()
    with contextlib.nullcontext() if main else contextlib.redirect_stderr(io.StringIO()):
        data = sources.load_training_data(options)
    result, _ = train(
        options,
        data,
        folder.path,
        resume=resume,
        overwrite=overwrite,
        quiet=bool(given.get("quiet")) or not main,
    )
    if main:
        _print_result(result, options, folder)
    return 0


def train(
    options: Mapping[str, Any],
    data: TrainingData,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> tuple[TrainingResult, TextPipeline]:
    """Train as the options say; the result, and the best model.

    Raises what `Trainer.fit` raises, UsageError for settings that do not fit.
    """
    device = choose_device(_own_device(options.get("device")), options.get("threads"))
    with processes.joined(device):
        return _train(options, data, output, device, resume, overwrite, quiet)


def _own_device(device: str | None) -> str | None:
    """That of this process, of several on a machine."""
    if not processes.launched() or device == "cpu":
        return device
    if device not in (None, "cuda"):
        raise UsageError(
            f"--device: expected cpu or cuda with several processes, each of which takes a GPU of "
            f"its own, got {device}"
        )
    if device is None and not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{processes.local_rank()}"


def _train(
    options: Mapping[str, Any],
    data: TrainingData,
    output: Path,
    device: torch.device,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> tuple[TrainingResult, TextPipeline]:
    config = build_settings(TrainingConfig, options)
    begin = options
    if resume and options.get("init_from") is not None and (output / CONFIG_FILE).exists():
        # all but the weights, which the checkpoint has: the model it began with may be gone
        begin = {**options, "init_from": output}
    model, source_tokenizer, target_tokenizer = build_model(begin, data, device, config.seed)
    pairs = PairDataset(
        data.train, source_tokenizer, target_tokenizer, max_length=config.max_length
    )
    notes = get_to_know(model, pairs, new=options.get("init_from") is None)
    # the trainer makes its own
    del pairs
    teacher = load_teacher(options, source_tokenizer, target_tokenizer, device)
    trainer = Trainer(
        model, source_tokenizer, target_tokenizer, config, output, quiet=quiet, teacher=teacher
    )
    if not quiet:
        size = sum(parameter.numel() for parameter in model.parameters())
        held_out = "" if data.splits is None else f", {len(data.splits.test)} held out"
        print(
            f"{data.label}: {len(data.train)} entries to train on, {len(data.dev)} dev{held_out}; "
            f"vocabularies of {len(source_tokenizer)} and {len(target_tokenizer)}; "
            f"{size:,} parameters on {device}",
            file=sys.stderr,
        )
        for note in notes:
            print(note, file=sys.stderr)
    try:
        result = trainer.fit(
            data.train, data.dev, resume=resume, overwrite=overwrite, options=options
        )
    except TrainingInterrupted:
        if processes.launched_main():
            print(f"to go on: fast-s2s train --resume --output {output}", file=sys.stderr)
        raise
    if not processes.launched_main():
        # the folder may be on another machine
        return result, trainer.pipeline
    if result.dropped:
        print(f"{result.dropped} pairs longer than max_length left out", file=sys.stderr)
    return result, TextPipeline.from_pretrained(output, device=device)


def _names_data(given: Mapping[str, Any]) -> bool:
    """Whether a run could begin with these flags."""
    return any(given.get(name) for name in ("config", "dataset", "train", "train_source"))


def _saved(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a resumed run needs again, with paths that hold from any folder."""
    kept = {name: value for name, value in options.items() if name not in _NOT_SAVED}
    for name in _PATHS:
        if kept.get(name) is not None:
            kept[name] = _resolved(kept[name])
    return kept


def _resolved(path: str | list[str]) -> str | list[str]:
    if isinstance(path, list):
        return [str(Path(each).resolve()) for each in path]
    return str(Path(path).resolve())


def _print_result(result: TrainingResult, options: Mapping[str, Any], folder: RunFolder) -> None:
    metric = options.get("dev_metric", TrainingConfig.dev_metric)
    best = ""
    if result.best_score is not None:
        best = f"; best dev {metric} {result.best_score:.3f} at update {result.best_update}"
    print(
        f"{result.updates} updates, {result.epochs:.1f} epochs in {result.seconds:.0f} s, "
        f"ended by {result.stop_reason}{best}"
    )
    print(f"model: {folder.path}\nto use it: fast-s2s generate --model {folder.path}")
