"""Options of commands that generate, and what becomes of them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fast_s2s.cli.options import UsageError, load_pipelines, positive_int, positive_number
from fast_s2s.configuration import DECODER_DTYPES, GenerationConfig
from fast_s2s.prediction import Hypothesis, Pipeline, Prediction, Row
from fast_s2s.reranking import RerankingPipeline

# options that only mean something when choosing by chance: they switch it on
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")


def add_beam_option(parser: argparse._ActionsContainer) -> None:
    """--beam and --length-penalty."""
    parser.add_argument(
        "--beam",
        type=positive_int,
        metavar="N",
        help="beam search with so many beams (default: the model's own)",
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        metavar="X",
        help="of beams: the sum of log-probabilities is divided by length to this power",
    )


def add_dtype_option(
    parser: argparse._ActionsContainer, what: str = "the decoder's weights"
) -> None:
    """--dtype, the type of `what`."""
    parser.add_argument(
        "--dtype",
        choices=DECODER_DTYPES,
        help=f"type of {what}; float16 is for GPUs (default: the model's own)",
    )


def add_hypotheses_options(parser: argparse._ActionsContainer) -> None:
    """--hypotheses and --hypotheses-weight."""
    parser.add_argument(
        "--hypotheses",
        action="append",
        metavar="FILE",
        help="outputs of another system to choose from too: lines of input, tab, output, tab, "
        "natural logarithm of its probability; can be given several times",
    )
    parser.add_argument(
        "--hypotheses-weight",
        type=positive_number,
        metavar="X",
        help="what that system's probabilities count for, where each model counts 1 (default: 1)",
    )


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Everything about how outputs are chosen."""
    group = parser.add_argument_group("generation")
    add_beam_option(group)
    add_hypotheses_options(group)
    group.add_argument(
        "--nbest",
        type=positive_int,
        metavar="N",
        help="show so many outputs: the best of the beams (default: N beams), or samples",
    )
    group.add_argument("--sample", action="store_true", help="choose by chance")
    for flag, kind, text in (
        ("--temperature", float, "sample; below 1 closer to the most probable"),
        ("--top-k", int, "sample among the N most probable tokens; 0: all"),
        ("--top-p", float, "sample among the fewest tokens that have this probability"),
        ("--min-p", float, "sample among tokens at least so probable, beside the best"),
        ("--seed", int, "sample; the same seed gives the same outputs"),
    ):
        group.add_argument(flag, type=kind, metavar="N" if kind is int else "X", help=text)
    group.add_argument(
        "--constrain", metavar="FILE", help="outputs are among the lines of this file"
    )
    group.add_argument(
        "--scores",
        action="store_true",
        help="after each output, a tab and the natural logarithm of its probability",
    )
    add_dtype_option(group)


def load(args: argparse.Namespace) -> Pipeline[Any]:
    """What --model and --hypotheses name, decoders in the type of --dtype."""
    pipeline = load_pipelines(args)
    if args.dtype is not None:
        pipeline.compile_decoder(args.dtype)
    return pipeline


def beam_options(args: argparse.Namespace, pipeline: Pipeline[Any]) -> dict[str, Any]:
    """Options of `predict` that --beam, --length-penalty and --max-new-tokens ask for.

    Raises UsageError for numbers that make no sense.
    """
    options = {
        "max_new_tokens": args.max_new_tokens,
        "num_beams": args.beam,
        "length_penalty": args.length_penalty,
    }
    return _checked({name: v for name, v in options.items() if v is not None}, pipeline)


def with_options(args: argparse.Namespace, pipeline: Pipeline[Any]) -> GenerationConfig:
    """The model's generation config with what `beam_options` gives."""
    return dataclasses.replace(pipeline.model.generation_config, **beam_options(args, pipeline))


def generation_options(args: argparse.Namespace, pipeline: Pipeline[Any]) -> dict[str, Any]:
    """Options of `predict` that all flags ask for; lines of --constrain are read.

    Raises UsageError for flags that do not go together, ValueError for a line that the model cannot
    write.
    """
    options = beam_options(args, pipeline)
    given = {name: getattr(args, name) for name in _SAMPLING if getattr(args, name) is not None}
    sampling = args.sample or bool(given)
    if sampling and isinstance(pipeline, RerankingPipeline):
        flag = "sample" if args.sample else next(iter(given)).replace("_", "-")
        raise UsageError(
            f"--{flag}: expected models with the same tokenizers and no --hypotheses; others "
            "choose among the beams"
        )
    if sampling:
        options |= {"do_sample": True, "num_beams": args.beam or 1, **given}
    if args.nbest is not None:
        options["num_return_sequences"] = args.nbest
        if not sampling or (args.beam or 1) > 1:
            beams = args.beam or max(args.nbest, pipeline.model.generation_config.num_beams)
            if beams < args.nbest:
                raise UsageError(f"--nbest {args.nbest}: expected at most --beam {args.beam}")
            options["num_beams"] = beams
    options = {**_checked(options, pipeline), "scores": args.scores}
    if args.constrain is not None:
        options["constraint"] = _constraint(args.constrain, pipeline)
    return options


def predict_lines(
    pipeline: Pipeline[Row],
    lines: Sequence[str],
    rows: Sequence[Row],
    options: dict[str, Any],
) -> list[Prediction]:
    """Predictions for a batch of lines; an empty line gets an empty one, so lines stay aligned.

    rows: the ids of the lines that are not empty
    """
    predictions = iter(pipeline.predict_ids(rows, **options))
    empty = Prediction("", 0.0 if options.get("scores") else None, 0, 0)
    return [next(predictions) if line.strip() else empty for line in lines]


def encode_lines(pipeline: Pipeline[Row], lines: Sequence[str]) -> list[Row]:
    """Ids of the lines that are not empty."""
    return pipeline.encode([line.strip() for line in lines if line.strip()])


def format_prediction(prediction: Prediction, source: str | None = None) -> str:
    """The output's line: its text, and the score if there is one.

    source: the input; then a line for each of the n best: input, tab, output
    """
    if source is None:
        return _line(prediction)
    best = prediction.nbest or (prediction,)
    return "\n".join(f"{source}\t{_line(each)}" for each in best)


def _line(found: Prediction | Hypothesis) -> str:
    return found.text if found.score is None else f"{found.text}\t{found.score:.4f}"


def _checked(options: dict[str, Any], pipeline: Pipeline[Any]) -> dict[str, Any]:
    try:
        dataclasses.replace(pipeline.model.generation_config, **options)
    except (TypeError, ValueError) as error:
        name, _, rest = str(error).partition(":")
        flag = {"num_beams": "beam", "num_return_sequences": "nbest"}.get(name, name)
        raise UsageError(f"--{flag.replace('_', '-')}:{rest}") from error
    return options


def _constraint(path: str, pipeline: Pipeline[Any]) -> Any:
    with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
        texts = [line.strip() for line in file]
    try:
        return pipeline.compile_constraint([text for text in texts if text])
    except ValueError as error:
        raise ValueError(f"--constrain {path}: {error}") from error
