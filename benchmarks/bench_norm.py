"""`python -m benchmarks norm`: the LSTM with layer norm on the CPU, beside loops over steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command, norm_sides
from benchmarks.norm_sides import NormWorkload
from fast_s2s.benchmarking.cases import Case, Versus


def norm_cases() -> list[Case]:
    """Every case, in the order of its table."""
    peers = tuple(
        Versus(name) for name in (norm_sides.LOOP, norm_sides.SCRIPT, norm_sides.COMPILED)
    )
    sizes = ((64, 1, 64), (64, 1, 256), (64, 8, 512), (64, 32, 256), (64, 32, 512))
    return [
        Case("layer norm", NormWorkload(steps, batch, hidden, training=training), peers)
        for training in (False, True)
        for steps, batch, hidden in sizes
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    return command.main(SUITE, arguments)


SUITE = command.Suite("norm", __doc__, lambda: norm_cases(), slow=norm_sides.SLOW)


if __name__ == "__main__":
    sys.exit(main())
