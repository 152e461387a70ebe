"""The first call, in a process of its own: imports, then one call, compilation included."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from benchmarks import processes


def first_call(name: str, workload: Any, limit_s: float) -> dict[str, Any]:
    """Of the side `name` in a fresh process: {"imports", "seconds", "errors"}.

    Raises Unavailable, WrongResult, or RuntimeError with the process's last words.
    """
    return processes.answer("benchmarks.cold", name, workload, limit_s)


def main() -> None:
    """The measured process: prints its answer as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    processes.add_arguments(parser)
    options = parser.parse_args()
    begin = time.perf_counter()
    import torch

    # a user of torch alone does not pay for ours
    if options.name.startswith("fast_s2s"):
        import fast_s2s  # noqa: F401
    imports = time.perf_counter() - begin
    torch.set_num_threads(options.threads)
    print(json.dumps(processes.caught(lambda: _measure(options, imports))))


def _measure(options: argparse.Namespace, imports: float) -> dict[str, Any]:
    from benchmarks import peers
    from fast_s2s.benchmarking.harness import gate
    from fast_s2s.benchmarking.workloads import Problem, Workload

    problem = Problem(Workload(**options.workload))
    side = peers.PEERS[options.name](problem)
    with side.around():
        begin = time.perf_counter()
        side.call()
        seconds = time.perf_counter() - begin
    errors = gate(side, problem.expected, problem.tolerance)
    return {"imports": imports, "seconds": seconds, "errors": errors}


if __name__ == "__main__":
    main()
