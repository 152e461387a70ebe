"""Times the LSTM on the GPU here: Triton's cell against the memory's bandwidth, Triton's step and
sequence kernels and the CUDA kernels against nn.LSTM (cuDNN).

    python -m benchmarks.gpu_lstm --output results.json --budget-s 600

Each pair is timed in turns, after its results passed against the float64 reference; cases come in
order of weight and those for which no time was left are named. Without a GPU the same code runs a
few tiny cases in Triton's interpreter, whose times mean nothing and are marked so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

# before triton is imported
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from torch import Tensor, nn

import fast_s2s
from fast_s2s import backends
from fast_s2s.benchmarking.harness import relative_error
from fast_s2s.kernels import configs
from fast_s2s.kernels.configs import Config

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}
# kernels timed beside the table's own choice
_FORCED = {
    "single": lambda h: Config("single", 16, configs.power_of_2(h, 16), warps=8, ahead=h <= 64),
    "grid": lambda _: Config("grid", 16, 32, 64),
    "step": lambda _: Config("step", 16, 32, 64, stages=3),
}


class Case(NamedTuple):
    """One layer, one direction, `inputs` = H."""

    steps: int
    batch: int
    hidden: int
    dtype: torch.dtype
    train: bool


def cases() -> Iterator[Case]:
    """Those of the targets first: bfloat16, small H and small B."""
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    if DEVICE.type == "cpu":
        yield Case(2, 3, 17, torch.float32, True)
        yield Case(2, 1, 8, torch.bfloat16, False)
        return
    for dtype, train in itertools.product(dtypes, (False, True)):
        for hidden in (128, 512, 64, 256, 1024, 768, 200, 2048):
            for batch in (16, 1, 32, 8, 128, 3, 512):
                yield Case(512, batch, hidden, dtype, train)


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """Microseconds per step of nn.LSTM, of the CUDA kernels, and of Triton's by its table's choice
    and by each kernel that can run the case; instead of a time what went wrong."""
    torch.manual_seed(0)
    theirs = nn.LSTM(case.hidden, case.hidden, device=DEVICE, dtype=case.dtype)
    ours = fast_s2s.from_torch(theirs)
    x = torch.randn(case.steps, case.batch, case.hidden, device=DEVICE).to(case.dtype)
    x.requires_grad_(case.train)
    cotangent = torch.randn_like(x)
    double = nn.LSTM(case.hidden, case.hidden, device=DEVICE, dtype=torch.float64)
    double.load_state_dict(theirs.state_dict())
    expected = _run(double, x.detach().double().requires_grad_(case.train), cotangent.double())
    sides: dict[str, Callable[[], list[Tensor]]] = {}
    errors: dict[str, str] = {}
    accuracy: dict[str, float] = {}
    kernels: dict[str, Config | None] = {"table": None}
    kernels |= {name: make(case.hidden) for name, make in _FORCED.items()}

    def side(
        module: nn.Module, config: Config | None, backend: str = "triton"
    ) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            forced = configs.forced(config, config) if config else nullcontext()
            with fast_s2s.backend(backend), forced:
                return _run(module, x, cotangent)

        return run

    wanted = {"nn.LSTM": side(theirs, None)}
    if DEVICE.type == "cuda":
        wanted["cuda"] = side(ours, None, "native")
    wanted |= {name: side(ours, config) for name, config in kernels.items()}
    for name, run in wanted.items():
        try:
            found = run()
            off = max(map(relative_error, found, expected))
            accuracy[name] = off
            if not off <= _TOLERANCE[case.dtype]:
                raise ValueError(f"wrong: off by {off:.1e}")
            sides[name] = run
        # a kernel that cannot run a case is a result too
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    times = _in_turns(sides, seconds)
    return {
        "case": {**case._asdict(), "dtype": str(case.dtype).removeprefix("torch.")},
        "us_per_step": {k: statistics.median(v) * 1e6 / case.steps for k, v in times.items()},
        "rounds": len(next(iter(times.values()), [])),
        "relative_error": accuracy,
        "errors": errors,
    }


def _run(module: nn.Module, x: Tensor, cotangent: Tensor) -> list[Tensor]:
    if not x.requires_grad:
        with torch.no_grad():
            return [module(x)[0]]
    y = module(x)[0]
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], cotangent)]


def _in_turns(sides: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    end = time.monotonic() + seconds
    while sides and (len(next(iter(times.values()))) < 3 or time.monotonic() < end):
        for name, run in sides.items():
            times[name].append(_seconds(run))
        if len(next(iter(times.values()))) >= 50:
            break
    return times


def _seconds(run: Callable[[], Any]) -> float:
    if DEVICE.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def cell_bandwidth(elements: int) -> dict[str, Any]:
    """Bytes per second of the cell kernel alone, and of a copy of as many bytes."""
    from fast_s2s.kernels import cell

    batch, hidden = max(elements // 1024, 1), min(elements, 1024)
    gates = [torch.randn(batch, 4 * hidden, device=DEVICE) for _ in range(2)]
    c = torch.randn(batch, hidden, device=DEVICE)
    h = torch.empty_like(c)
    block_b, block_u = configs.cell_tile(hidden)
    grid = (configs.cdiv(batch, block_b), configs.cdiv(hidden, block_u))

    def run() -> None:
        cell.cell_forward[grid](
            gates[0], *gates[0].stride(), gates[1], *gates[1].stride(), None,
            c, *c.stride(), None, None, h, None, None, 0, 1, batch, hidden,
            BLOCK_B=block_b, BLOCK_U=block_u,
        )  # fmt: skip

    # two gates' products and c in, c and h out
    moved = (2 * 4 + 1 + 2) * c.numel() * 4
    source = torch.randn(moved // 8, device=DEVICE)
    target = torch.empty_like(source)
    times = _in_turns({"cell": run, "copy": lambda: target.copy_(source)}, 1.0)
    best = {name: moved / min(found) for name, found in times.items()}
    return {"elements": elements, "bytes": moved, "bytes_per_s": best,
            "of_copy": best["cell"] / best["copy"]}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Writes the results after every case; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, default=600)
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.budget_s
    gpu = DEVICE.type == "cuda"
    document: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if gpu else "none: Triton's interpreter",
        "times_mean_something": gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "triton": backends.triton_reason,
        "cuda kernels": backends.cuda_reason,
        "cell": [],
        "lstm": [],
        "not_reached": [],
    }
    for elements in (4 << 20, 16 << 20) if gpu else (1 << 12,):
        document["cell"].append(cell_bandwidth(elements))
    for case in cases():
        if time.monotonic() > end:
            document["not_reached"].append(f"{case}")
            continue
        document["lstm"].append(measure(case, 0.5 if gpu else 0.0))
        options.output.write_text(json.dumps(document, indent=1) + "\n")
        print(json.dumps(document["lstm"][-1]), flush=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
