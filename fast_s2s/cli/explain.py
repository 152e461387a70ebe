"""`fast-s2s explain`: pictures of what a model does with its input."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from fast_s2s.cli import generating
from fast_s2s.cli.options import UsageError, add_model_options, positive_int
from fast_s2s.explain import page, save_png, trace
from fast_s2s.pipeline import TextPipeline
from fast_s2s.serialization import atomic_write_text


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "explain",
        help="draw what a model does with an input, step by step",
        description="Write a page, FILE.html, that shows the network unrolled over time for each "
        "input: states, attention, and what else could have come. With matplotlib FILE.png too.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("text", nargs="+", metavar="TEXT", help="inputs, a section for each")
    parser.add_argument(
        "--output",
        metavar="FILE.html",
        default="explain.html",
        help="the page; the picture has the same name (default: %(default)s)",
    )
    parser.add_argument(
        "--top",
        type=positive_int,
        metavar="N",
        default=5,
        help="alternatives of each step (default: %(default)s)",
    )
    generating.add_beam_option(parser)
    generating.add_dtype_option(parser)
    add_model_options(parser, several=False)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if len(args.model) > 1:
        raise UsageError(f"--model: expected one folder, got {' and '.join(args.model)}")
    output = Path(args.output)
    if output.suffix.lower() == ".png":
        raise UsageError(f"--output: expected a name for the page, FILE.html, got {args.output}")
    if output.is_dir():
        raise IsADirectoryError(f"--output {output}: expected a file, got a folder")
    pipeline = generating.load(args)
    # one folder is one model
    assert isinstance(pipeline, TextPipeline)
    options = generating.beam_options(args, pipeline)
    traces = [trace(pipeline, text, top=args.top, **options) for text in args.text]
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output, page(traces))
    print(output)
    if importlib.util.find_spec("matplotlib") is None:
        print('no picture without matplotlib: pip install "fast-s2s[train]"', file=sys.stderr)
        return 0
    picture = output.with_suffix(".png")
    save_png(traces, picture)
    print(picture)
    return 0
