"""What one call asks of the GPU: launches, kernels, copies, memory, and time with a cold cache."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fast_s2s.benchmarking.harness import Side

# of the runtime and of the driver: cudaLaunchKernelExC, cuLaunchCooperativeKernel, cudaGraphLaunch
_LAUNCH = re.compile(r"cu(da)?(Launch\w*Kernel|GraphLaunch)")
_CALLS = 3
_FLUSHED_CALLS = 9
# a tenth of a millisecond at 5 TB/s
_WRITTEN_BYTES = 2**29


def of(side: Side) -> dict[str, Any]:
    """Per call: `count`, "peak_bytes" that it allocates at most, and "flushed_seconds" that it
    takes where nothing that it reads lies in L2. {"failure"} if the profiler fails; empty for a
    side that is not timed on a GPU.
    """
    if not side.cuda:
        return {}
    try:
        with side.around():
            side.call()
            torch.cuda.synchronize()
            peak = _peak_bytes(side)
            flushed = _flushed_seconds(side)
            with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
                for _ in range(_CALLS):
                    side.call()
                torch.cuda.synchronize()
    # no permission for the counters, or another profiler: no reason to lose the timing
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        return {"failure": f"{type(error).__name__}: {first}"}
    counted = count(profiler.events(), _CALLS)
    return {**counted, "peak_bytes": peak, "flushed_seconds": flushed}


def count(events: Iterable[Any], calls: int) -> dict[str, float]:
    """Of `calls` calls' events, as torch.profiler lists them, the number for one of them.

    launches: what the host started, a CUDA graph counting once
    kernels, copies, fills: what the GPU ran
    """
    found = dict.fromkeys(("launches", "kernels", "copies", "fills"), 0)
    for event in events:
        kind = _kind(event)
        if kind:
            found[kind] += 1
    return {kind: number / calls for kind, number in found.items()}


def _kind(event: Any) -> str | None:
    if event.device_type == DeviceType.CPU:
        return "launches" if _LAUNCH.match(event.name) else None
    # ranges that a program names appear beside the kernels within them
    if event.device_type != DeviceType.CUDA or event.is_user_annotation:
        return None
    for start, kind in (("Memcpy", "copies"), ("Memset", "fills")):
        if event.name.startswith(start):
            return kind
    return "kernels"


def _peak_bytes(side: Side) -> int:
    """By torch's allocator, which cuDNN asks too. A CUDA graph has taken its own before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    side.call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _flushed_seconds(side: Side) -> float:
    """Median of single calls, each after twice as many bytes as L2 holds were written at least.

    The call is launched while the GPU still writes, so that launching it does not count unless it
    takes longer than that.
    """
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    size = max(2 * cache, _WRITTEN_BYTES)
    room = torch.empty(size, dtype=torch.uint8, device="cuda")
    seconds = []
    for _ in range(_FLUSHED_CALLS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        room.fill_(len(seconds))
        start.record()
        side.call()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)
