"""The instruction sets that the CPU kernels of the LSTM run on here, and how to run on one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fast_s2s import backends

AVAILABLE = (
    backends.extension.build_info()["cpu isas available"].split() if backends.extension else []
)


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """The LSTM's kernels for this one, as after FAST_S2S_ISA=name."""
    before = backends.extension.build_info()["cpu isa"]
    backends.extension.set_isa(name)
    try:
        yield
    finally:
        backends.extension.set_isa(before)
