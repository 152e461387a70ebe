"""`fast-s2s generate`: outputs for arguments, a file or standard input."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from fast_s2s.cli.options import (
    UsageError,
    add_batch_size_option,
    add_model_options,
    load_pipeline,
)
from fast_s2s.pipeline import Prediction, TextPipeline


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "generate",
        help="outputs for arguments, a file or standard input",
        description="Write one output line for each input: each argument, or each line of --input "
        "or of standard input. A batch is written as soon as it is done.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="inputs")
    parser.add_argument("--input", metavar="FILE", help="read inputs here, one a line")
    parser.add_argument("--output", metavar="FILE", help="write outputs here, once all are done")
    parser.add_argument(
        "--scores",
        action="store_true",
        help="after each output, a tab and the natural logarithm of its probability",
    )
    add_batch_size_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.texts and args.input:
        raise UsageError("expected inputs as arguments or in --input FILE, got both")
    if args.output and not Path(args.output).parent.is_dir():
        raise FileNotFoundError(f"--output {args.output}: no such folder")
    pipeline = load_pipeline(args)
    if not args.texts and args.input is None and sys.stdin.isatty():
        print("reading standard input, one input a line; Ctrl-D ends it", file=sys.stderr)
    started = time.monotonic()
    lines = tokens = unknown = unknown_lines = 0
    with contextlib.ExitStack() as stack:
        texts = args.texts or read_lines(args.input)
        out = stack.enter_context(_replaced(Path(args.output))) if args.output else sys.stdout
        for batch in _batches(texts, args.batch_size):
            for prediction in predict_lines(
                pipeline, batch, max_new_tokens=args.max_new_tokens, scores=args.scores
            ):
                lines += 1
                tokens += prediction.num_tokens
                unknown += prediction.unknown
                unknown_lines += prediction.unknown > 0
                out.write(format_prediction(prediction) + "\n")
            out.flush()
    seconds = max(time.monotonic() - started, 1e-9)
    if unknown:
        print(f"{unknown} unknown symbols in {unknown_lines} inputs", file=sys.stderr)
    print(
        f"{lines} inputs, {tokens} tokens in {seconds:.2f} s: {lines / seconds:,.1f} inputs/s, "
        f"{tokens / seconds:,.0f} tokens/s",
        file=sys.stderr,
    )
    return 0


def predict_lines(
    pipeline: TextPipeline,
    lines: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    scores: bool = False,
) -> list[Prediction]:
    """Predictions for a batch of lines; an empty line gets an empty one, so lines stay aligned."""
    texts = [line.strip() for line in lines]
    predictions = iter(
        pipeline.predict(
            [text for text in texts if text], max_new_tokens=max_new_tokens, scores=scores
        )
    )
    empty = Prediction("", 0.0 if scores else None, 0, 0)
    return [next(predictions) if text else empty for text in texts]


def format_prediction(prediction: Prediction) -> str:
    """The output line: the text, and the score if there is one."""
    if prediction.score is None:
        return prediction.text
    return f"{prediction.text}\t{prediction.score:.4f}"


def read_lines(path: str | None) -> Iterator[str]:
    """Lines of a file, or of standard input, without their ends.

    Bytes that are not UTF-8 become U+FFFD, a symbol like any other.
    """
    source: Any = 0 if path is None else path
    with open(source, encoding="utf-8", errors="replace", closefd=path is not None) as file:
        for line in file:
            yield line.rstrip("\r\n")


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file for writing that takes the place of `path` only when all is written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
