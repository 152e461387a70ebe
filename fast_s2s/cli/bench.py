"""`fast-s2s bench`: how fast is it here, beside what torch has?"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import Any

from fast_s2s.benchmarking import headline, machine
from fast_s2s.cli.options import add_device_options, choose_device

_DTYPES = ("float32", "bfloat16", "float16")


def add_parser(commands: Any) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "bench",
        help="how fast it is on this machine, beside torch.nn.LSTM",
        description="Time a few typical cases beside torch's own LSTM, in turns, after both were "
        "checked against float64. Ctrl-C keeps what was measured. For evidence rather than a look, "
        "see docs/benchmarks.md.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=60.0,
        metavar="N",
        help="about how long (default: %(default)g)",
    )
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="only cases with TEXT in their name"
    )
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="float32",
        help="of the LSTM cases; generation is in float32 (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command: 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    device = choose_device(args.device, args.threads)
    text = args.filter.casefold()
    cases = headline.select(
        headline.headline_cases(args.dtype), lambda name: text in name.casefold()
    )
    if not cases:
        names = ", ".join(repr(case.group) for case in headline.headline_cases())
        raise ValueError(f"--filter: expected a part of a name, {names}; got {args.filter!r}")
    document = headline.new_document(device, args.dtype)
    rows = document["rows"]
    _say(machine.line(document["machine"]))
    progress = _Progress(sum(len(case.peers) for case in cases), args.seconds)
    try:
        for row in headline.measure(cases, device, args.seconds):
            rows.append(row)
            progress.step(row)
        document["complete"] = True
    except KeyboardInterrupt:
        _say("interrupted; what was measured is kept")
    finally:
        progress.close()
    _report(args, document)
    if not document["complete"]:
        return 130
    return int(any(row["status"] in ("refused", "failed") for row in rows))


def _report(args: argparse.Namespace, document: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(document, indent=1))
        return
    for row in document["rows"]:
        print(headline.said(row))
        if row["status"] == "measured":
            print(f"    relative error against float64: {headline.error_line(row)}")
            if disturbance := headline.disturbance(row):
                print(f"    {disturbance}")


class _Progress:
    """A bar on a terminal that has tqdm, else a line for each row; on stderr."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count, self._done, self._begin = count, 0, time.perf_counter()
        self._bar: Any = None
        _say(f"{count} comparisons, about {seconds:.0f} s")
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=count, unit="comparison", dynamic_ncols=True, file=sys.stderr)

    def step(self, row: dict[str, Any]) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(row["group"], refresh=False)
            self._bar.update()
            return
        elapsed = time.perf_counter() - self._begin
        left = elapsed / self._done * (self._count - self._done)
        text = f"{row['group']} beside {row['peer']}"
        _say(f"[{self._done}/{self._count}] {text}: {row['status']} (about {left:.0f} s left)")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < 1e6:
            return value
    raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
