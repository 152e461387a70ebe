"""`fast-s2s generate`: outputs for arguments, a file or standard input."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from fast_s2s.cli import generating
from fast_s2s.cli.options import UsageError, add_batch_size_option, add_model_options
from fast_s2s.cli.prefetch import prefetch
from fast_s2s.serialization import is_stream, target_of


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "generate",
        help="outputs for arguments, a file or standard input",
        description="Write one output line for each input: each argument, or each line of --input "
        "or of standard input. A batch is written as soon as it is done. With --nbest, a line for "
        "each output: input, tab, output.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="inputs")
    parser.add_argument("--input", metavar="FILE", help="read inputs here, one a line")
    parser.add_argument("--output", metavar="FILE", help="write outputs here, once all are done")
    generating.add_generation_options(parser)
    add_batch_size_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.texts and args.input:
        raise UsageError("expected inputs as arguments or in --input FILE, got both")
    if args.output and not Path(args.output).parent.is_dir():
        raise FileNotFoundError(f"--output {args.output}: no such folder")
    if args.output and Path(args.output).is_dir():
        raise IsADirectoryError(f"--output {args.output}: expected a file, got a folder")
    pipeline = generating.load(args)
    options = generating.generation_options(args, pipeline)
    seeds = pipeline.seeds(options)
    if not args.texts and args.input is None and sys.stdin.isatty():
        print("reading standard input, one input a line; Ctrl-D ends it", file=sys.stderr)
    started = time.monotonic()
    inputs = tokens = unknown = unknown_inputs = 0
    with contextlib.ExitStack() as stack:
        texts = args.texts or read_lines(args.input)
        out = stack.enter_context(_replaced(Path(args.output))) if args.output else sys.stdout
        encoded = (
            (lines, generating.encode_lines(pipeline, lines))
            for lines in _batches(texts, args.batch_size)
        )
        batches = prefetch(encoded)
        stack.callback(batches.close)
        for lines, rows in batches:
            given = {**options, **seeds(len(rows))}
            predictions = generating.predict_lines(pipeline, lines, rows, given)
            for line, prediction in zip(lines, predictions, strict=True):
                inputs += 1
                tokens += sum(each.num_tokens for each in prediction.nbest)
                unknown += prediction.unknown
                unknown_inputs += prediction.unknown > 0
                source = None if args.nbest is None else line.strip()
                out.write(generating.format_prediction(prediction, source) + "\n")
            out.flush()
    seconds = max(time.monotonic() - started, 1e-9)
    if unknown:
        print(f"{unknown} unknown symbols in {unknown_inputs} inputs", file=sys.stderr)
    print(
        f"{inputs} inputs, {tokens} tokens in {seconds:.2f} s: {inputs / seconds:,.1f} inputs/s, "
        f"{tokens / seconds:,.0f} tokens/s",
        file=sys.stderr,
    )
    return 0


def read_lines(path: str | None) -> Iterator[str]:
    """Lines of a file, or of standard input, without their ends and without a byte order mark.

    Bytes that are not UTF-8 become U+FFFD, a symbol like any other.
    """
    source: Any = 0 if path is None else path
    with open(source, encoding="utf-8-sig", errors="replace", closefd=path is not None) as file:
        for line in file:
            yield line.rstrip("\r\n")


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file for writing that takes the place of `path`, or of what it is a link to, only when all
    is written; or a pipe or a device as it is.
    """
    path = target_of(path)
    if is_stream(path):
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
