"""What a training run begins with: a new model, or one that has been trained before."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fast_s2s.cli import sources
from fast_s2s.cli.options import UsageError, build_settings
from fast_s2s.cli.sources import TrainingData
from fast_s2s.data import PairDataset
from fast_s2s.ensemble import Ensemble
from fast_s2s.pipeline import TextPipeline
from fast_s2s.pretrained import SOURCE_TOKENIZER_FILE, TARGET_TOKENIZER_FILE
from fast_s2s.seq2seq import Seq2Seq, Seq2SeqConfig
from fast_s2s.text import Tokenizer, load_tokenizer

# fields of the model that follow from the tokenizers, or have one value only
MODEL_SKIP = (
    "decoder_dtype",
    "src_vocab_size",
    "tgt_vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
# flags that would give other tokens than those of the model of --init-from, or of the teacher
_TEXT_OPTIONS = (
    "source_level",
    "target_level",
    "source_tokenizer",
    "target_tokenizer",
    "lowercase",
    "reverse_target",
    "min_count",
    "max_vocab_size",
)
# fields that act in training only, and so need not be those of the model of --init-from
_OF_TRAINING = (
    "dropout",
    "variational_dropout",
    "recurrent_dropout",
    "weight_dropout",
    "label_smoothing",
)


def build_model(
    options: Mapping[str, Any], data: TrainingData, device: torch.device, seed: int
) -> tuple[Seq2Seq, Tokenizer, Tokenizer]:
    """The model with which training begins, and its tokenizers of source and target.

    Raises UsageError for options that do not fit, also to the model of --init-from.
    """
    torch.manual_seed(seed)
    given = {name: value for name, value in options.items() if name not in MODEL_SKIP}
    if options.get("init_from") is not None:
        return _trained(_existing(options["init_from"], "--init-from"), given, device)
    source, target = _tokenizers(options, data)
    config = build_settings(
        Seq2SeqConfig,
        given,
        src_vocab_size=len(source),
        tgt_vocab_size=len(target),
        pad_token_id=target.pad_token_id,
        bos_token_id=target.bos_token_id,
        eos_token_id=target.eos_token_id,
    )
    return Seq2Seq(config, device=device), source, target


def _tokenizers(options: Mapping[str, Any], data: TrainingData) -> tuple[Tokenizer, Tokenizer]:
    """Those of the teacher, if there is one."""
    if not options.get("teacher"):
        return sources.build_tokenizers(options, data)
    _check_no_text_options(options, "--teacher, whose tokens the new model has")
    folder = _existing(options["teacher"][0], "--teacher")
    return (
        load_tokenizer(folder / SOURCE_TOKENIZER_FILE),
        load_tokenizer(folder / TARGET_TOKENIZER_FILE),
    )


def load_teacher(
    options: Mapping[str, Any], source: Tokenizer, target: Tokenizer, device: torch.device
) -> Seq2Seq | Ensemble | None:
    """The model of --teacher, or what several make together.

    Raises UsageError where its tokenizers are not those of the model.
    """
    folders = options.get("teacher")
    if not folders:
        return None
    for folder in folders:
        _existing(folder, "--teacher")
    pipeline = TextPipeline.from_pretrained(folders, device=device)
    for side, ours, theirs in (
        ("source", source, pipeline.source_tokenizer),
        ("target", target, pipeline.target_tokenizer),
    ):
        if _file_of(theirs) != _file_of(ours):
            raise UsageError(
                f"--teacher: expected the {side} tokenizer of the model that is trained, got "
                f"another in {folders[0]}"
            )
    return pipeline.model


def _file_of(tokenizer: Tokenizer) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(path)
        return path.read_bytes()


def get_to_know(model: Seq2Seq, pairs: PairDataset, *, new: bool) -> list[str]:
    """What to tell about the pairs that a model is about to learn. Outputs of a new one may be as
    long as the longest target.
    """
    notes = []
    sides = [
        f"{unknown} of {tokens - len(pairs)} in the {side}s"
        for side, unknown, tokens in (
            ("source", pairs.source_unknown, pairs.source_tokens),
            ("target", pairs.target_unknown, pairs.target_tokens),
        )
        if unknown
    ]
    if sides:
        notes.append(f"unknown symbols to train on: {', '.join(sides)}")
    longest, limit = int(pairs.target_lengths.max()), model.generation_config.max_new_tokens
    if longest > limit and new:
        model.generation_config = dataclasses.replace(
            model.generation_config, max_new_tokens=longest
        )
    elif longest > limit:
        notes.append(f"targets of up to {longest} tokens, but the model's outputs end at {limit}")
    return notes


def check_not_removed(options: Mapping[str, Any], output: Path, *, overwrite: bool) -> None:
    """Raises UsageError where a new run would remove, from its folder, what it begins with: killed
    early, it would leave neither.
    """
    output = output.resolve()
    begun = options.get("init_from")
    for flag, folders in (
        ("--init-from", [] if begun is None else [begun]),
        ("--teacher", options.get("teacher") or []),
    ):
        if any(Path(folder).resolve() == output for folder in folders):
            raise UsageError(f"{flag}: expected another folder than --output, got {output}")
    removed = [output / SOURCE_TOKENIZER_FILE, output / TARGET_TOKENIZER_FILE]
    for name in ("source_tokenizer", "target_tokenizer"):
        path = options.get(name)
        if overwrite and path is not None and Path(path).resolve() in removed:
            raise UsageError(
                f"--{name.replace('_', '-')}: expected a file that --overwrite does not remove, "
                f"got {path}"
            )


def _trained(
    folder: Path, given: Mapping[str, Any], device: torch.device
) -> tuple[Seq2Seq, Tokenizer, Tokenizer]:
    """The model in the folder, in float32, with the options that act in training only."""
    _check_no_text_options(given, "--init-from, whose model has tokens of its own")
    pipeline = TextPipeline.from_pretrained(folder, device=device)
    trained = pipeline.model
    assert isinstance(trained, Seq2Seq)
    _check_same_meaning(given, trained.config)
    # a model that was rounded to int8 is trained on as what it is in float32
    own = dataclasses.asdict(trained.config) | {"decoder_dtype": None}
    model = Seq2Seq(build_settings(Seq2SeqConfig, own | dict(given)), device=device)
    model.load_state_dict(trained.state_dict())
    model.generation_config = trained.generation_config
    return model, pipeline.source_tokenizer, pipeline.target_tokenizer


def _existing(folder: str | Path, flag: str) -> Path:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{flag} {folder}: no such folder")
    return Path(folder)


def _check_no_text_options(given: Mapping[str, Any], reason: str) -> None:
    for name in _TEXT_OPTIONS:
        if given.get(name) is not None:
            raise UsageError(f"--{name.replace('_', '-')}: expected not with {reason}")


def _check_same_meaning(given: Mapping[str, Any], config: Seq2SeqConfig) -> None:
    """Raises UsageError for an option with which a trained model's weights would mean another."""
    layers = {
        "encoder_layers": config.num_encoder_layers,
        "decoder_layers": config.num_decoder_layers,
    }
    for field in dataclasses.fields(config):
        name = field.name
        if name not in given or name in _OF_TRAINING:
            continue
        expected, value = layers.get(name, getattr(config, name)), given[name]
        if name in layers and value is None:
            value = given.get("num_layers", config.num_layers)
        if value != expected:
            raise UsageError(
                f"--{name.replace('_', '-')}: expected {expected}, as the model of --init-from "
                f"has, got {value}"
            )
