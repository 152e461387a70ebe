"""How long a step of the CUDA kernels takes by every variant, beside what the plan expects.

    python -m benchmarks.variants --output variants.json

What the plan would not choose is asked for by FAST_S2S_CUDA_VARIANT and FAST_S2S_CUDA_CLUSTER; the
figures are to correct the constants of csrc/lstm/plan.cpp by. All variants must give the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fast_s2s
from fast_s2s import backends, ops, reference

HIDDEN = (64, 128, 256, 512, 768, 1024, 2048)
BATCH = (1, 8, 16, 64)
STEPS = 256
_CALLS = 5


class Form(NamedTuple):
    """A variant, and the most blocks of a cluster."""

    variant: str
    cluster: int = 16

    def __str__(self) -> str:
        return f"{self.variant} {self.cluster}" if self.variant == "cluster" else self.variant


FORMS = (
    Form("block"),
    *(Form("cluster", blocks) for blocks in (2, 4, 8, 16)),
    Form("grid"),
    Form("stream"),
)


@contextmanager
def asked_for(form: Form) -> Iterator[None]:
    """Inside the block the native backend plans no other form."""
    wanted = {
        "FAST_S2S_CUDA_VARIANT": form.variant,
        "FAST_S2S_CUDA_CLUSTER": str(form.cluster),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def expected(form: Form, hidden: int, batch: int, backward: bool, device: Any) -> dict[str, Any]:
    """The plan's blocks and estimate for a form; empty where it has none.

    device: as `torch.cuda.get_device_properties` gives it
    """
    assert backends.extension is not None
    try:
        plan = backends.extension.plan_lstm(
            precision="bf16",
            hidden=hidden,
            batch=batch,
            backward=backward,
            sms=device.multi_processor_count,
            shared_bytes=device.shared_memory_per_block_optin,
            max_cluster=form.cluster,
            only=form.variant,
        )
    except ValueError:
        return {}
    return {"ranks": plan["ranks"], "tiles": plan["tiles"], "expected_ns": plan["estimated_ns"]}


def calls(hidden: int, batch: int, steps: int, backward: bool) -> Callable[[], Tensor]:
    """What is timed; it returns the result that all forms share. With one input, so that there is
    little beside the recurrence."""
    torch.manual_seed(0)
    kind = {"device": "cuda", "dtype": torch.bfloat16}
    x = torch.randn(steps, batch, 1, **kind)
    h0, c0 = torch.randn(batch, hidden, **kind), torch.randn(batch, hidden, **kind)
    w_ih = torch.randn(4 * hidden, 1, **kind)
    w_hh = torch.randn(4 * hidden, hidden, **kind) / hidden**0.5
    arguments = (x, h0, c0, w_ih, w_hh, None, None, None, None, None, False)
    if not backward:
        return lambda: ops.lstm_forward(*arguments, reference.SAVE_NONE)[0]
    y, _, _, gates, cells = ops.lstm_forward(*arguments, reference.SAVE_GATES)
    grad_y = torch.randn_like(y)
    run = torch.ops.fast_s2s.lstm_backward.default
    # the gradient of h0 has been through all steps
    return lambda: run(grad_y, None, None, *arguments, y, gates, cells, False, False)[1]


def seconds(call: Callable[[], Tensor]) -> float:
    """Of a call, by events; the median of some."""
    call()
    found = []
    for _ in range(_CALLS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(found)


def rows(hidden: int, batch: int, backward: bool, device: Any) -> Iterator[dict[str, Any]]:
    """One for each form: ns of a step, free of the launch; or why not."""
    first: Tensor | None = None
    short, long = (calls(hidden, batch, steps, backward) for steps in (STEPS, 2 * STEPS))
    for form in FORMS:
        row = {"hidden": hidden, "batch": batch, "backward": backward, "form": str(form)}
        planned = expected(form, hidden, batch, backward, device)
        if not planned:
            continue
        row |= planned
        with asked_for(form):
            try:
                found = short()
                row["ns"] = (seconds(long) - seconds(short)) / STEPS * 1e9
            except RuntimeError as error:
                yield {**row, "failure": str(error).splitlines()[0]}
                # raises where the error was inside a kernel: this process has no GPU any more
                torch.cuda.synchronize()
                continue
        first = found if first is None else first
        yield {**row, "same_bits": torch.equal(found, first)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the figures; 0 if all forms ran and gave the same bits, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not (torch.cuda.is_available() and backends.cuda_loaded):
        print(f"no GPU with the CUDA library: {backends.cuda_reason}")
        return 1
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    found: list[dict[str, Any]] = []
    with torch.no_grad(), fast_s2s.backend("native"):
        for hidden, batch, backward in product(HIDDEN, BATCH, (False, True)):
            for row in rows(hidden, batch, backward, device):
                found.append(row)
                print(line(row), flush=True)
                document = {"device": device.name, "steps": STEPS, "rows": found}
                options.output.write_text(json.dumps(document, indent=1) + "\n")
    return int(not all(row.get("same_bits") for row in found))


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    what = "backward" if row["backward"] else "forward"
    text = f"{what} H={row['hidden']} B={row['batch']} {row['form']}: "
    if "failure" in row:
        return text + row["failure"]
    text += f"{row['ns']:.0f} ns, {row['expected_ns']:.0f} expected"
    return text if row["same_bits"] else f"{text}, OTHER BITS"


if __name__ == "__main__":
    sys.exit(main())
