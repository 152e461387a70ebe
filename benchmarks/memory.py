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
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import fast_s2s
from benchmarks import peers
from benchmarks.harness import Unavailable, WrongResult, gate
from benchmarks.workloads import TOLERANCE, Problem, Workload

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(name: str, workload: Workload, limit_s: float) -> dict[str, Any]:
    """Peak of the side `name` in a fresh process: {"bytes", "errors"}.

    Raises Unavailable, WrongResult, or RuntimeError with the process's last words.
    """
    shape = json.dumps(dataclasses.asdict(workload))
    arguments = [name, shape, str(torch.get_num_threads())]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", *arguments],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{name} takes more than {limit_s:g} s") from error
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    answer = json.loads(done.stdout)
    if "unavailable" in answer:
        raise Unavailable(answer["unavailable"])
    if "wrong" in answer:
        raise WrongResult(answer["wrong"], answer["errors"])
    return answer


def _environment() -> dict[str, str]:
    # the packages that this process has, wherever it was started
    roots = [str(Path(str(package.__file__)).parent.parent) for package in (fast_s2s, peers)]
    path = [*roots, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        # freed blocks go back at once, so the resident set is what is in use
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }


def main() -> None:
    """The measured process: prints its answer as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=peers.PEERS)
    parser.add_argument("workload", type=json.loads)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        answer = _measure(options.name, Workload(**options.workload))
    except Unavailable as error:
        answer = {"unavailable": str(error)}
    except WrongResult as error:
        answer = {"wrong": str(error), "errors": error.errors}
    print(json.dumps(answer))


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
    errors = gate(side, problem.expected, TOLERANCE[workload.dtype])
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
