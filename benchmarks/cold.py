"""The first call, in a process of its own: imports, then one call, compilation included.

What compilers keep on disk is not found: everything is compiled as on a user's first day.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import processes


def first_call(name: str, workload: Any, limit_s: float, device: str = "cpu") -> dict[str, Any]:
    """Of the side `name` in a fresh process: {"imports", "seconds", "errors"}.

    Raises Unavailable, WrongResult, or RuntimeError with the process's last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {variable: str(Path(folder, variable)) for variable in _CACHES}
        arguments = ("--device", device)
        return processes.answer("benchmarks.cold", name, workload, limit_s, environment, arguments)


_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def main() -> None:
    """The measured process: prints its answer as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    processes.add_arguments(parser)
    parser.add_argument("--device", default="cpu")
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
    import torch

    from benchmarks import peers
    from fast_s2s.benchmarking.harness import gate
    from fast_s2s.benchmarking.workloads import Problem, Workload

    problem = Problem(Workload(**options.workload), options.device)
    side = peers.PEERS[options.name](problem)
    with side.around():
        begin = time.perf_counter()
        side.call()
        if side.cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    errors = gate(side, problem.expected, problem.tolerance)
    return {"imports": imports, "seconds": seconds, "errors": errors}


if __name__ == "__main__":
    main()
