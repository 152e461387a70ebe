"""`fast-s2s average`: one model from the weights of several."""

from __future__ import annotations

import argparse
from typing import Any

from fast_s2s.cli.options import positive_int
from fast_s2s.training.average import average_models


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "average",
        help="one model from the weights of several",
        description="Average the weights of models of one architecture: the last checkpoints of a "
        "run, most often. Their architecture and tokenizers must be the same.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="CHECKPOINT",
        help="folders of models, or checkpoints of runs: RUN/checkpoints/step-N",
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="folder of the new model")
    parser.add_argument(
        "--last",
        type=positive_int,
        metavar="N",
        help="average the last N checkpoints of the run whose folder is CHECKPOINT",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    files = average_models(args.sources, args.output, last=args.last)
    for file in files:
        print(file)
    print(f"average of {len(files)}: {args.output}")
    return 0
