"""One side in a fresh process, that answers with one JSON object."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def answer(
    module: str,
    name: str,
    workload: Any,
    limit_s: float,
    environment: Mapping[str, str] = {},
    arguments: Sequence[str] = (),
) -> dict[str, Any]:
    """What `python -m module` says of the side `name`; `arguments` are of that module alone.

    Raises Unavailable, WrongResult, or RuntimeError with the process's last words.
    """
    import torch

    from fast_s2s.benchmarking.harness import Unavailable, WrongResult

    shape = json.dumps(dataclasses.asdict(workload))
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, name, shape, str(torch.get_num_threads()), *arguments],
            env={**os.environ, "PYTHONPATH": python_path(), **environment},
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{name} takes more than {limit_s:g} s") from error
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    if "unavailable" in found:
        raise Unavailable(found["unavailable"])
    if "wrong" in found:
        raise WrongResult(found["wrong"], found["errors"])
    return found


def python_path() -> str:
    """The packages that this process has, wherever it was started."""
    import fast_s2s

    roots = [str(Path(path).parent.parent) for path in (str(fast_s2s.__file__), __file__)]
    return os.pathsep.join(filter(None, [*roots, os.environ.get("PYTHONPATH", "")]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `answer` passes to the module."""
    parser.add_argument("name")
    parser.add_argument("workload", type=json.loads)
    parser.add_argument("threads", type=int)


def caught(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or why not, in the words of `answer`."""
    from fast_s2s.benchmarking.harness import Unavailable, WrongResult

    try:
        return measure()
    except Unavailable as error:
        return {"unavailable": str(error)}
    except WrongResult as error:
        return {"wrong": str(error), "errors": error.errors}
