"""`fast-s2s interactive`: type a line, see its output."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

from fast_s2s.cli import generating
from fast_s2s.cli.options import add_model_options


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "interactive",
        help="type a line, see its output",
        description="Answer line by line. Ctrl-D leaves.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    generating.add_generation_options(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    pipeline = generating.load(args)
    options = generating.generation_options(args, pipeline)
    seeds = pipeline.seeds(options)
    prompt = ""
    if isinstance(sys.stdin, io.TextIOWrapper):
        # as `generate` reads them
        sys.stdin.reconfigure(errors="replace")
    if sys.stdin.isatty():
        # line editing and history for input()
        import readline  # noqa: F401

        prompt = "> "
    while True:
        try:
            line = input(prompt)
        except EOFError:
            if prompt:
                print()
            return 0
        rows = generating.encode_lines(pipeline, [line])
        given = {**options, **seeds(len(rows))}
        (prediction,) = generating.predict_lines(pipeline, [line], rows, given)
        note = f"  ({prediction.unknown} unknown symbols)" if prediction.unknown else ""
        source = None if args.nbest is None else line.strip()
        print(generating.format_prediction(prediction, source) + note, flush=True)
