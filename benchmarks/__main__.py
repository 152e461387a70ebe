"""`python -m benchmarks COMMAND`: measure, report, compare."""

from __future__ import annotations

import importlib
import sys

# imported when they run: some need what others do without
COMMANDS = {
    "lstm": ("bench_lstm", "the LSTM on the CPU beside its peers"),
    "decode": ("bench_decode", "whole generations on the CPU beside their peers"),
    "norm": ("bench_norm", "the LSTM with layer norm on the CPU beside loops"),
    "forecast": ("bench_forecast", "paths of time series on the CPU beside loops"),
    "gpu": ("bench_gpu", "the LSTM and generation on the GPU here"),
    "report": ("page", "docs/performance.md and its pictures from the committed results"),
    "compare": ("compare", "what became slower or faster from one result to another"),
}


def main() -> int:
    """The command's exit status; 2 for none of these."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        lines = (f"  {name:8} {text}" for name, (_, text) in COMMANDS.items())
        print("usage: python -m benchmarks COMMAND [--help]", *lines, sep="\n")
        return 0 if name in ("-h", "--help") else 2
    module, _ = COMMANDS[name]
    return importlib.import_module(f"benchmarks.{module}").main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
