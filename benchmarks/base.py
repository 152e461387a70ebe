"""Two commits in turns: `--base REF`.

The other commit is checked out and built below build/base. Each commit has a process that waits
while the other's works; the harness, cases and checks of both are this commit's, so that only the
package differs.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def cases(all_cases: list[Any], ref: str) -> list[Any]:
    """The timed cases, each once, with our own side of `ref` as their only peer."""
    from fast_s2s.benchmarking.cases import Versus

    return [
        dataclasses.replace(case, peers=(Versus(f"{case.ours} at {ref}"),))
        for case in all_cases
        if case.kind == "time"
    ]


def checkout(ref: str) -> Path:
    """The folder of `ref`, built in place. Raises SystemExit if that cannot be."""
    done = _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
    if done.returncode:
        raise SystemExit(f"--base: expected a commit, got {ref!r}")
    folder = ROOT / "build" / "base" / done.stdout.strip()[:12]
    if not folder.exists():
        _git("worktree", "prune")
        _git("worktree", "add", "--detach", str(folder), ref)
    if not list((folder / "fast_s2s").glob("_C*.so")):
        print(f"building {ref} in {folder}: some minutes", file=sys.stderr, flush=True)
        built = subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=folder,
            env={**os.environ, "FAST_S2S_CUDA": "0"},
            capture_output=True,
            text=True,
        )
        if built.returncode:
            raise SystemExit(f"--base: {ref} does not build: {built.stderr.strip()[-500:]}")
    return folder


class Worker:
    """The process of one commit: `package` is its folder."""

    def __init__(self, suite: str, package: Path, threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks.base", suite, str(package), str(threads)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        # it may be in the middle of a block
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        # a process that ended has closed its end
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended: exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Remote:
    """A side that was prepared in another process."""

    worker: Worker


class Pair:
    """Both commits' processes."""

    def __init__(self, suite: str, ref: str, threads: int) -> None:
        self._arguments = (suite, checkout(ref), threads)

    def __enter__(self) -> Pair:
        suite, folder, threads = self._arguments
        with ExitStack() as stack:
            self._ours = stack.enter_context(Worker(suite, ROOT, threads))
            self._peer = stack.enter_context(Worker(suite, folder, threads))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows(self, case: Any, settings: Any) -> Iterator[dict[str, Any]]:
        """As `suite.case_rows`."""
        from fast_s2s.benchmarking.harness import compare
        from fast_s2s.benchmarking.rows import failed, head, measured, observed

        (versus,) = case.peers
        errors: dict[str, Any] = {}
        side = "ours"
        with observed() as load:
            try:
                for side, worker in (("ours", self._ours), ("peer", self._peer)):
                    answer = worker.ask(prepare=_key(case), limit_s=settings.limit_s)
                    errors[side] = answer["errors"].get("ours", answer["errors"])
                    if "status" in answer:
                        outcome = {**answer, "side": side}
                        break
                else:
                    sides = Remote(self._ours), Remote(self._peer)
                    outcome = measured(case, versus, compare(*sides, settings.plan, remote_block))
            except RuntimeError as error:
                outcome = failed(error, side)
        yield {**head(case, versus), **outcome, "errors": errors, "load": load.facts}


def remote_block(side: Remote, calls: int, settle_s: float) -> float:
    """`harness.time_block` of a side in another process."""
    answer = side.worker.ask(calls=calls, settle_s=settle_s)
    if "failed" in answer:
        raise RuntimeError(answer["failed"])
    return float(answer["seconds"])


def _key(case: Any) -> list[str]:
    return [case.group, str(case.workload), case.ours]


class _Finder:
    """Finds the package in `folder`, and what measures it here."""

    def __init__(self, folder: Path) -> None:
        self._places = {
            "fast_s2s": folder / "fast_s2s",
            "fast_s2s.kernels": folder / "kernels",
            "fast_s2s.benchmarking": ROOT / "fast_s2s" / "benchmarking",
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        place = self._places.get(name)
        if place is None:
            return None
        return spec_from_file_location(
            name, place / "__init__.py", submodule_search_locations=[str(place)]
        )


def main() -> None:
    """A worker: answers questions, a line of JSON each, until there are no more."""
    name, folder, threads = sys.argv[1:]
    # answers go to stdout; nothing else may
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.meta_path.insert(0, _Finder(Path(folder)))
    import torch

    from benchmarks import suite

    torch.set_num_threads(int(threads))
    module = importlib.import_module(f"benchmarks.bench_{name}")
    known = {tuple(_key(case)): case for case in module.SUITE.cases()}
    side = None
    for line in sys.stdin:
        question = json.loads(line)
        if "prepare" in question:
            case = known[tuple(question["prepare"])]
            side, answer = _prepared(suite, case, question["limit_s"])
        else:
            answer = _timed(side, question)
        print(json.dumps(answer), file=answers, flush=True)


def _prepared(suite: Any, case: Any, limit_s: float) -> tuple[Any, dict[str, Any]]:
    from fast_s2s.benchmarking.harness import Plan
    from fast_s2s.benchmarking.rows import failed, prepared

    kind = suite.kind_of(case, suite.Settings(Plan(), {}))
    try:
        side, errors = prepared(case.ours, kind.problem(case.workload), kind, limit_s)
    except Exception as error:
        return None, failed(error, "ours")
    return side, {"errors": errors}


def _timed(side: Any, question: dict[str, Any]) -> dict[str, Any]:
    from fast_s2s.benchmarking.harness import no_garbage_collection, time_block

    try:
        with no_garbage_collection():
            return {"seconds": time_block(side, question["calls"], question["settle_s"])}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def _git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True)


if __name__ == "__main__":
    main()
