"""The command `fast-s2s`.

Exit codes: 0 done, 1 failed with one line on stderr, 2 wrong usage, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from fast_s2s import __version__
from fast_s2s.cli import (
    average,
    bench,
    demo,
    evaluate,
    explain,
    export,
    g2p,
    generate,
    info,
    interactive,
    train,
)
from fast_s2s.cli.options import UsageError
from fast_s2s.training import TrainingInterrupted
from fast_s2s.training.processes import launched_main

_COMMANDS = (
    train,
    generate,
    evaluate,
    interactive,
    explain,
    average,
    export,
    g2p,
    info,
    demo,
    bench,
)
_SIGPIPE = 13


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fast-s2s",
        description="LSTM sequence-to-sequence: train a model, and run it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fast-s2s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add_parser(commands)
    for command in commands.choices.values():
        command.set_defaults(parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits with 2, or 0 for --help."""
    _replace_closed_streams()
    args, unknown = build_parser().parse_known_args(argv)
    if unknown:
        # with this command's usage, not that of all
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        with _short_warnings(args.command):
            code: int = args.run(args)
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(args.command, str(error), 2)
    except TrainingInterrupted as error:
        return _fail(args.command, str(error), 128 + error.signal_number)
    except KeyboardInterrupt:
        return _fail(args.command, "interrupted", 130)
    except BrokenPipeError:
        # whoever read our output has left; nothing more can be said there, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + _SIGPIPE
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail(args.command, text, 1)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        return _fail(args.command, str(error), 1)


@contextlib.contextmanager
def _short_warnings(command: str) -> Iterator[None]:
    """Warnings in one line each, without the line of the source that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"fast-s2s {command}: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _replace_closed_streams() -> None:
    """Streams that were closed when the process began, as a daemon's are: Python has None there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # open until the process ends
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _fail(command: str, message: str, code: int) -> int:
    # of several processes one speaks for all; the launcher tells which other one failed
    if not launched_main() and code != 1:
        return code
    print(f"fast-s2s {command}: {message}", file=sys.stderr)
    return code
