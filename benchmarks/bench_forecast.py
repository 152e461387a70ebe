"""`python -m benchmarks forecast`: paths of time series on the CPU, beside loops over modules."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command
from benchmarks.forecast_sides import Paths
from fast_s2s.benchmarking.cases import Case, Versus
from fast_s2s.benchmarking.sides import OURS


def forecast_cases() -> list[Case]:
    """Every case, in the order of its table."""
    cases = []
    for paths in (
        Paths(2, 40, 1, 0),
        Paths(2, 40, 1, 100),
        Paths(2, 40, 32, 100),
        Paths(2, 128, 1, 100),
    ):
        peers = (Versus("nn.LSTM loop"), Versus("LSTMCell loop"))
        cases.append(Case("forecast", paths, peers))
        cases.append(Case("forecast", paths, (Versus(OURS),), f"{OURS} int8"))
    return cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    return command.main(SUITE, arguments)


SUITE = command.Suite("forecast", __doc__, lambda: forecast_cases())


if __name__ == "__main__":
    sys.exit(main())
