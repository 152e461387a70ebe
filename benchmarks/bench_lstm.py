"""`python -m benchmarks lstm`: the LSTM on the CPU beside its peers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks import command, peers
from benchmarks.cases import lstm_cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 for success, 1 if a result was wrong or a call failed, 130 after Ctrl-C."""
    return command.main(SUITE, arguments)


SUITE = command.Suite("lstm", __doc__, lambda: lstm_cases(), slow=peers.SLOW)


if __name__ == "__main__":
    sys.exit(main())
