"""`fast-s2s interactive`: type a line, see its output."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fast_s2s.cli.generate import format_prediction, predict_lines
from fast_s2s.cli.options import add_model_options, load_pipeline


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "interactive",
        help="type a line, see its output",
        description="Answer line by line. Ctrl-D leaves.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--scores", action="store_true", help="show the outputs' log-probabilities")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    pipeline = load_pipeline(args)
    prompt = ""
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
        (prediction,) = predict_lines(
            pipeline, [line], max_new_tokens=args.max_new_tokens, scores=args.scores
        )
        note = f"  ({prediction.unknown} unknown symbols)" if prediction.unknown else ""
        print(format_prediction(prediction) + note, flush=True)
