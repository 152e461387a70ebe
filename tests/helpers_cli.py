"""Running `fast-s2s` in this process."""

from __future__ import annotations

from fast_s2s.cli import main

# of a training that takes no second
QUICK = [
    "--max-updates=6",
    "--warmup-updates=2",
    "--evaluate-every=3",
    "--max-tokens=64",
    "--hidden-size=8",
    "--embedding-size=4",
    "--quiet",
]


def assert_wrong_usage(*argv: str) -> None:
    """argparse or we refuse the command, with exit code 2."""
    try:
        code = main(argv)
    except SystemExit as error:
        code = error.code
    assert code == 2
