"""Peak memory of one call, measured in a process of its own.

The figure is how far the resident set grew at most (VmHWM of Linux, reset before) over two calls,
above what the process held with libraries warm, weights and inputs there. It sees every allocation,
whoever made it, which a hook in torch's allocator does not: not the buffers of oneDNN or of our
kernels. glibc is told to return each large block to the system when it is freed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers, processes
from fast_s2s.benchmarking.harness import Unavailable, gate
from fast_s2s.benchmarking.workloads import Problem, Workload

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# freed blocks go back at once, so the resident set is what is in use
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_bytes(name: str, workload: Workload, limit_s: float) -> dict[str, Any]:
    """Peak of the side `name` in a fresh process: {"bytes", "errors"}.

    Raises Unavailable, WrongResult, or RuntimeError with the process's last words.
    """
    return processes.answer("benchmarks.memory", name, workload, limit_s, _ENVIRONMENT)


def main() -> None:
    """The measured process: prints its answer as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    processes.add_arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    workload = Workload(**options.workload)
    print(json.dumps(processes.caught(lambda: _measure(options.name, workload))))


def _measure(name: str, workload: Workload) -> dict[str, Any]:
    small = dataclasses.replace(workload, steps=2, batch=2, hidden=16)
    warm = peers.PEERS[name](Problem(small))
    with warm.around():
        warm.call()
    problem = Problem(workload)
    side = peers.PEERS[name](problem)
    before = _reset_peak()
    with side.around():
        for _ in range(2):
            side.call()
    peak = _status_bytes("VmHWM")
    errors = gate(side, problem.expected, problem.tolerance)
    return {"bytes": peak - before, "errors": errors}


def _reset_peak() -> int:
    """Make the peak start from now; bytes resident now."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
        return _status_bytes("VmRSS")
    except OSError as error:
        raise Unavailable(f"peak memory cannot be reset here ({error})") from error


def _status_bytes(field: str) -> int:
    for row in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = row.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise Unavailable(f"{_STATUS} has no {field}")


if __name__ == "__main__":
    main()
