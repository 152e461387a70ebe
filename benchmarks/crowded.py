"""Programs that share the cores: `python -m benchmarks.crowded --processes 2`.

Starts so many processes at once, each of which calls an LSTM on all threads as fast as it can, as
workers of a server do, and counts their calls per second, beside those of one process alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

SIDES = ("fast_s2s", "nn.LSTM")
SHAPES = [(64, 1, 256), (64, 8, 64), (16, 32, 256)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; the exit code is 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowded", description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument(
        "--shape", type=int, nargs=3, action="append", metavar=("T", "B", "H"), default=[]
    )
    options = parser.parse_args(arguments)
    for steps, batch, hidden in options.shape or SHAPES:
        print(f"T={steps} B={batch} H={hidden}, forward, calls per second\n")
        print(f"| side | 1 process | {options.processes} processes, the sum |\n|---|---|---|")
        for side in SIDES:
            what = (side, str(steps), str(batch), str(hidden), str(options.threads))
            rates = [sum(_rates(count, options.seconds, what)) for count in (1, options.processes)]
            print("| " + " | ".join([side, *(f"{rate:.0f}" for rate in rates)]) + " |")
        print(flush=True)
    return 0


def _rates(count: int, seconds: float, what: Sequence[str]) -> list[float]:
    """Calls per second of each of `count` processes that run at the same time."""
    command = [sys.executable, "-m", "benchmarks.crowded", "--worker", str(seconds), *what]
    workers = [
        subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(count)
    ]
    pipes = [(worker.stdin, worker.stdout) for worker in workers]
    # all are ready before any begins
    for _, out in pipes:
        assert out is not None and out.readline() == b"ready\n"
    for given, _ in pipes:
        assert given is not None
        given.write(b"go\n")
        given.flush()
    return [float(worker.communicate()[0]) for worker in workers]


def _work(seconds: float, side: str, shape: Sequence[int], threads: int) -> None:
    import fast_s2s

    torch.set_num_threads(threads)
    steps, batch, hidden = shape
    kind = fast_s2s.LSTM if side == "fast_s2s" else torch.nn.LSTM
    lstm, x = kind(hidden, hidden).eval(), torch.randn(steps, batch, hidden)
    calls = 0
    with torch.inference_mode():
        lstm(x)
        print("ready", flush=True)
        sys.stdin.readline()
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            lstm(x)
            calls += 1
    print(calls / (time.perf_counter() - begin))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, seconds, side, *numbers = sys.argv
        *shape, threads = map(int, numbers)
        _work(float(seconds), side, shape, threads)
        sys.exit(0)
    sys.exit(main())
