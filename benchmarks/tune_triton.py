"""Times the Triton kernels' configurations on the GPU here and writes a table of the fastest.

    python -m benchmarks.tune_triton --output table.json
    FAST_S2S_TRITON_CONFIGS=table.json python ...        uses it
    python -m benchmarks.tune_triton --dry-run           lists what would be timed, on any machine

A configuration is timed only after its results passed against the float64 reference. The rows of
the default table follow the written ones, for sizes that were not timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from fast_s2s import reference
from fast_s2s.benchmarking.harness import relative_error
from fast_s2s.kernels import configs
from fast_s2s.kernels.configs import DIRECTIONS, Config, Row, Sizes

HIDDEN = (16, 32, 64, 128, 256, 512, 1024, 2048)
BATCH = (1, 16, 64, 256)
STEPS = 100
# relative to the largest value; gradients are sums over all steps
_TOLERANCE = {"bfloat16": 3e-2, "float16": 1e-2, "float32": 1e-4, "tf32": 1e-2}
Timer = Callable[[str, Config, Sizes], float]


class Refused(Exception):
    """A configuration that does not run here, or not rightly; the message says why."""


def candidates(sizes: Sizes) -> list[Config]:
    """Every configuration worth timing for these sizes."""
    found = [Config("cell", 0, 0)]
    hidden = configs.power_of_2(sizes.hidden, least=16)
    if hidden <= 128:
        found += [
            Config("single", 16, hidden, warps=warps, ahead=ahead)
            for warps in (2, 4, 8)
            for ahead in (True, False)
        ]
    for units, warps in ((16, 2), (16, 4), (32, 4), (32, 8), (64, 8)):
        if hidden <= 512:
            found.append(Config("grid", 16, units, resident=True, warps=warps))
        for terms in (32, 64, 128):
            found.append(Config("grid", 16, units, terms, warps=warps))
        for rows in (16, 32, 64) if sizes.batch > 16 else (16,):
            found.append(Config("step", rows, units, 64, warps=warps, stages=3))
    return [c for c in found if configs.why_not(c, sizes) is None]


def tune(
    all_sizes: Iterable[Sizes], seconds: Timer, say: Callable[[str], None]
) -> dict[str, list[Row]]:
    """The table of the fastest configuration for each of these sizes, and below it the default
    rows. Sizes come with H and within it B rising, for the first row that fits is taken."""
    rows: dict[str, list[Row]] = {direction: [] for direction in DIRECTIONS}
    for sizes in all_sizes:
        for direction in DIRECTIONS:
            best: tuple[float, Config] | None = None
            for config in candidates(sizes):
                try:
                    took = seconds(direction, config, sizes)
                except Refused as reason:
                    say(f"{direction} {sizes} {config}: {reason}")
                    continue
                if best is None or took < best[0]:
                    best = took, config
            if best is None:
                continue
            say(f"{direction} {sizes}: {best[0] * 1e6 / sizes.steps:.2f} µs a step, {best[1]}")
            limits = {"max_hidden": sizes.hidden, "max_batch": sizes.batch}
            rows[direction].append(Row(best[1], (sizes.type,), **limits))
    return {d: found + configs.table()[d] for d, found in rows.items()}


def all_sizes(
    types: Iterable[str], hidden: Iterable[int], batch: Iterable[int], multiprocessors: int
) -> list[Sizes]:
    """All combinations, in the order `tune` needs."""
    return [
        Sizes(kind, STEPS, rows, units, multiprocessors=multiprocessors)
        for kind in types
        for units in sorted(hidden)
        for rows in sorted(batch)
    ]


class Stopwatch:
    """Seconds that a configuration takes, its results checked once; see `Timer`."""

    def __init__(self, device: torch.device, repeats: int = 10) -> None:
        self.device, self.repeats = device, repeats

    def __call__(self, direction: str, config: Config, sizes: Sizes) -> float:
        torch.backends.cuda.matmul.fp32_precision = "tf32" if sizes.type == "tf32" else "ieee"
        dtype = getattr(torch, sizes.type if sizes.type != "tf32" else "float32")
        arguments, cotangents = _problem(sizes, dtype, self.device)
        try:
            with configs.forced(**{direction: config}):
                run = _call(direction, arguments, cotangents)
                _check(run(), direction, arguments, cotangents, _TOLERANCE[sizes.type])
                return min(self._once(run) for _ in range(self.repeats))
        except Refused:
            raise
        # whatever the compiler or the driver makes of a configuration, the next one may do
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error

    def _once(self, run: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def _problem(
    sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    t, b, h = sizes.steps, sizes.batch, sizes.hidden
    shapes = [(t, b, h), (b, h), (b, h), (4 * h, h), (4 * h, h), (4 * h,), (4 * h,)]
    scales = [1, 1, 1, h**-0.5, h**-0.5, 1, 1]
    tensors = [s * torch.randn(n, device=device) for n, s in zip(shapes, scales, strict=True)]
    cotangents = [torch.randn(n, device=device, dtype=dtype) for n in shapes[:3]]
    return [t.to(dtype) for t in tensors], cotangents


def _call(
    direction: str, arguments: list[Tensor], cotangents: list[Tensor]
) -> Callable[[], tuple[Tensor, ...]]:
    from fast_s2s.kernels import lstm as kernels

    rest = (None, None, None, False)

    def forward() -> tuple[Tensor, ...]:
        return kernels.lstm_forward(*arguments, *rest, reference.SAVE_GATES)

    if direction == "forward":
        return forward
    y, _, _, gates, cells = forward()
    return lambda: kernels.lstm_backward(
        *cotangents, *arguments, *rest, y, gates, cells, True, True
    )


def _check(
    found: tuple[Tensor, ...],
    direction: str,
    arguments: list[Tensor],
    cotangents: list[Tensor],
    tolerance: float,
) -> None:
    double = [t.double().requires_grad_() for t in arguments]
    outputs = reference.lstm_forward(*double, None, None, None, False, reference.SAVE_NONE)[:3]
    expected = outputs
    if direction == "backward":
        expected = torch.autograd.grad(outputs, double, [c.double() for c in cotangents])[:6]
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=False)):
        error = relative_error(ours, theirs)
        if not error <= tolerance:
            raise Refused(f"wrong: result {index} is off by {error:.1e}, allowed {tolerance:.0e}")


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or 1 where there is no GPU to time on."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("triton_configs.json"))
    parser.add_argument("--types", nargs="+", choices=configs.TYPES, default=configs.TYPES)
    parser.add_argument("--hidden", nargs="+", type=int, default=HIDDEN, help="H to time")
    parser.add_argument("--batch", nargs="+", type=int, default=BATCH, help="B to time")
    parser.add_argument("--dry-run", action="store_true", help="list what would be timed")
    options = parser.parse_args(arguments)
    if options.dry_run:
        total = 0
        for sizes in all_sizes(options.types, options.hidden, options.batch, 132):
            found = candidates(sizes)
            total += len(found)
            print(f"{sizes.type} H={sizes.hidden} B={sizes.batch}: {len(found)} configurations")
        print(f"{total} configurations for each direction, on a GPU of 132 multiprocessors")
        return 0
    if not torch.cuda.is_available():
        print("no GPU here: configurations can only be timed on one (--dry-run lists them)")
        return 1
    device = torch.device("cuda")
    count = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = all_sizes(options.types, options.hidden, options.batch, count)
    table = tune(wanted, Stopwatch(device), print)
    options.output.write_text(configs.dump(table))
    print(f"wrote {options.output}; use it by FAST_S2S_TRITON_CONFIGS={options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
