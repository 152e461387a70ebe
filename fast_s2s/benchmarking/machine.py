"""What the figures were measured on, and what that machine can do at best."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fast_s2s
from fast_s2s import backends

# of the checkout, if it is one
_ROOT = Path(__file__).parent.parent.parent
# mean number of cores busy with something else, above which figures are no evidence
DISTURBED = 0.1
_CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
_ARM_FLAGS = ("asimd", "asimddp", "bf16", "i8mm", "sve")


def describe() -> dict[str, Any]:
    """The machine, the build and the moment, as JSON."""
    facts = _cpu_facts()
    build = backends.extension.build_info() if backends.extension else {}
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": _cpu_flags(facts),
        "mhz": facts.get("cpu MHz"),
        "caches": _caches(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": build.get("cpu isa", backends.extension_reason),
        "build": dict(build),
        "package": _package(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load": load(),
    }


def _package() -> str:
    """Where the measured package lies: below this checkout, or somewhere else."""
    folder = Path(fast_s2s.__file__).parent
    return str(folder.relative_to(_ROOT) if folder.is_relative_to(_ROOT) else folder)


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """The GPU's name, its driver's and libraries' versions, and its clocks, as JSON."""
    query = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        values = done.stdout.splitlines()[device.index or 0].split(", ")
        found = dict(zip(query, values, strict=True))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        found = {}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton_version": _version("triton"),
        **found,
    }


def line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    gpu = f"{machine['gpu']} ({_gpu_versions(machine)}), " if "gpu" in machine else ""
    clock = f" at {float(machine['mhz']):.0f} MHz" if machine.get("mhz") else ""
    return (
        f"{gpu}{machine['cpu']}{clock}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['isa']}, torch {machine['torch']}, commit {machine['commit']}, "
        f"{machine['date']}, load {machine['load'][0]:.2f}"
    )


def _gpu_versions(machine: dict[str, Any]) -> str:
    """Of a GPU's line: what is known of driver, libraries and clocks."""
    names = {
        "driver_version": "driver",
        "cuda": "CUDA",
        "cudnn": "cuDNN",
        "triton_version": "triton",
    }
    known = [f"{name} {machine[key]}" for key, name in names.items() if machine.get(key)]
    if "clocks.sm" in machine:
        known.append(f"{machine['clocks.sm']} of {machine['clocks.max.sm']}")
    return ", ".join(known)


def slug(machine: dict[str, Any]) -> str:
    """The name of the GPU, else of the CPU, as part of a file name."""
    name = machine.get("gpu", machine["cpu"])
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "cpu"


def load() -> list[float]:
    """Load average over 1, 5 and 15 minutes; zeros where the system has none."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return [0.0, 0.0, 0.0]


class OthersMeter:
    """How much the processors did for others, or were taken away, since the meter was made."""

    def __init__(self) -> None:
        self._before = self._clocks()

    def cores(self) -> float | None:
        """Mean number of cores busy with something else than this process and its children; None
        where the system does not tell.
        """
        if self._before is None or (now := self._clocks()) is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._before, now, strict=True))
        return max(0.0, round((busy - own) / max(wall, 1e-9), 3))

    @staticmethod
    def _clocks() -> tuple[float, float, float] | None:
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()
            ticks = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, AttributeError):
            return None
        user, nice, system, _, _, irq, soft, steal = (int(value) for value in fields[1:9])
        busy = (user + nice + system + irq + soft + steal) / ticks
        own = sum(os.times()[:4]) + _running_children_s(ticks)
        return time.perf_counter(), busy, own


def _running_children_s(ticks: float) -> float:
    """Processor time of child processes, which `os.times` counts only after their end."""
    total = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        # a thread or a child may end meanwhile
        with suppress(OSError):
            for child in listed.read_text(encoding="ascii").split():
                stat = Path("/proc", child, "stat").read_text(encoding="utf-8")
                # after the name in parentheses; user, system, and both of its ended children
                total += sum(int(value) for value in stat.rpartition(")")[2].split()[11:15])
    return total / ticks


def commit() -> str:
    """Short hash of the checked out commit, `+changes` if files differ, else "unknown"."""
    root = _ROOT
    # an installed package may lie within a repository of something else
    if not (root / ".git").exists():
        return "unknown"
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def gpu_ceilings(device: torch.device) -> dict[str, Any]:
    """As `ceilings`, of a GPU: a product in bfloat16, and copying."""
    size, megabytes = 8192, 1024
    a = torch.randn(size, size, device=device).bfloat16()
    data = torch.randn(megabytes * 2**20 // 8, device=device)
    out = torch.empty_like(data)

    def timed(call: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        begin.record()
        for _ in range(10):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e4

    return {
        "gemm_gflops": 2 * size**3 / timed(lambda: torch.mm(a, a)) / 1e9,
        "gemm": f"torch.mm bfloat16 {size}x{size}x{size}",
        "stream_gbs": {str(megabytes): 2 * data.nbytes / timed(lambda: out.copy_(data)) / 1e9},
        "stream": "copying, reads and writes",
        "other_cores": None,
    }


def ceilings(quick: bool = False) -> dict[str, Any]:
    """Best of repeated runs: GEMM in GFLOP/s, reading in GB/s by the number of megabytes read."""
    repeat_s, meter = 0.2 if quick else 1.0, OthersMeter()
    size = 1024
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    with torch.inference_mode():
        seconds = _best(lambda: torch.mm(a, b, out=out), repeat_s)
        streams = {}
        for megabytes in (4, 16, 256):
            data = torch.randn(megabytes * 2**20 // 4)
            streams[str(megabytes)] = data.nbytes / _best(data.sum, repeat_s) / 1e9
    return {
        "gemm_gflops": 2 * size**3 / seconds / 1e9,
        "gemm": f"torch.mm float32 {size}x{size}x{size}",
        "stream_gbs": streams,
        "stream": "torch.sum float32 over so many MB, again and again",
        "other_cores": meter.cores(),
    }


def stream_ceiling(ceilings: dict[str, Any], size: float) -> tuple[str, float]:
    """The smallest streaming size that holds `size` bytes (in megabytes), and its GB/s."""
    streams = ceilings["stream_gbs"]
    fitting = [key for key in streams if float(key) * 2**20 >= size]
    key = min(fitting, key=float) if fitting else max(streams, key=float)
    return key, streams[key]


def _best(call: Callable[[], object], repeat_s: float) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + repeat_s
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _cpu_facts(file: str = "/proc/cpuinfo") -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path(file).read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (row.partition(":") for row in first.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    return facts if "model name" in facts else _lscpu_name() | facts


def _cpu_flags(facts: dict[str, str]) -> list[str]:
    for key, known in (("flags", _CPU_FLAGS), ("Features", _ARM_FLAGS)):
        if key in facts:
            return [flag for flag in known if flag in facts[key].split()]
    return []


def _lscpu_name() -> dict[str, str]:
    """A processor's name where /proc/cpuinfo has only its number, as on Arm."""
    try:
        done = subprocess.run(["lscpu"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return {}
    found = re.search(r"^Model name: *(.+)$", done.stdout, re.M)
    return {"model name": found[1].strip()} if found else {}


def _caches() -> dict[str, str]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text(encoding="utf-8").strip()
            for name in ("level", "type", "size")
        )
        found[f"L{level} {kind.lower()}"] = size
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
