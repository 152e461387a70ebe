"""The CPU kernels in C++: whether there are any here, and the instruction sets they run on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fast_s2s import backends

needs_native = pytest.mark.skipif(
    backends.extension is None, reason=f"no native ops: {backends.extension_reason}"
)

AVAILABLE = (
    backends.extension.build_info()["cpu isas available"].split() if backends.extension else []
)
ISAS = ("generic", "avx2", "avx512", "avx512_bf16", "amx", "neon_dot", "neon_bf16")
EMULATED_ISAS = ("amx_emulated", "neon_emulated")


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """The LSTM's kernels for this one, as after FAST_S2S_ISA=name."""
    before = backends.extension.build_info()["cpu isa"]
    backends.extension.set_isa(name)
    try:
        yield
    finally:
        backends.extension.set_isa(before)


def run_with(name: str, code: str) -> None:
    """Run it in a process of its own, with FAST_S2S_ISA=name."""
    if name not in AVAILABLE:
        pytest.skip(f"this machine has no {name}")
    check = "from fast_s2s.backends import extension\n"
    check += f'assert extension.build_info()["cpu isa"] == "{name}"\n'
    environment = {**os.environ, "FAST_S2S_ISA": name, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", check + code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
