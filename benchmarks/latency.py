"""How long one exchange takes on the GPU: compiles and runs latency.cu.

    python -m benchmarks.latency --output latency.json

Where there is no GPU or nvcc the emulator of the tests runs it, with few steps: its times mean
nothing and are marked so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "csrc"))
import build_cuda  # noqa: E402

_SOURCES = ("benchmarks/latency.cu", "csrc/cuda/device.cu")
_EMULATOR = ("access", "context", "machine", "memory", "products")
_INCLUDES = ("csrc", "csrc/cuda", "tests/emulator")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the figures; 0 if every exchange was right, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    gpu = torch.cuda.is_available() and build_cuda.find_nvcc() is not None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "latency"
        subprocess.run(command(gpu, program), check=True)
        sizes = [] if gpu else ["3", "2"]
        printed, failure = answer([str(program), *sizes])
    probes = parsed(printed)
    if failure:
        probes.append({"name": "the rest", "blocks": 0, "cluster": 1, "failure": failure})
    name = torch.cuda.get_device_name() if gpu else "none: the emulator"
    document = {"device": name, "times_mean_something": gpu, "probes": probes}
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    for probe in probes:
        print("{name}, {blocks} blocks, clusters of {cluster}:".format(**probe), end=" ")
        print(said(probe))
    return int(any("failure" in probe for probe in probes))


def answer(called: list[str], most_s: float = 40.0) -> tuple[str, str]:
    """What the program printed, and how it failed, if it did: in a kernel that hangs, too."""
    with subprocess.Popen(called, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed, _ = process.communicate(timeout=most_s)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            return printed, f"the program took more than {most_s:g} s here"
    status = process.returncode
    return printed, f"the program ended with {status} here" if status else ""


def said(probe: dict[str, Any]) -> str:
    """What was found: ns, how many clusters, or why neither."""
    if "clusters" in probe:
        return str(probe["clusters"])
    return f"{probe['ns']:.0f} ns" if "ns" in probe else probe["failure"]


def parsed(printed: str) -> list[dict[str, Any]]:
    """The probes that the program came to print: a failure inside a kernel ends it."""
    lines = (line.strip().removesuffix(",") for line in printed.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def command(gpu: bool, program: Path, arch: str | None = None) -> list[str]:
    """Compiles the program for the GPU here (or `arch`), or for the emulator."""
    sources = [str(ROOT / source) for source in _SOURCES]
    includes = [f"-I{ROOT / folder}" for folder in _INCLUDES]
    if gpu:
        if arch is None:
            major, minor = torch.cuda.get_device_capability()
            arch = f"sm_{major}{minor}{'a' * (major == 9)}"
        host = [str(ROOT / "csrc" / name) for name in ("lstm/plan.cpp", "cuda/launch_cuda.cpp")]
        flags = ["-std=c++17", "-O3", f"-arch={arch}", "-o", str(program)]
        return [str(build_cuda.require_nvcc()), *flags, *includes, *sources, *host]
    emulator = [str(ROOT / "tests/emulator" / f"{name}.cpp") for name in _EMULATOR]
    flags = ["-std=c++17", "-O1", "-DFAST_S2S_EMULATE", "-Wno-unknown-pragmas", "-o", str(program)]
    compiled = ["-x", "c++", *sources, str(ROOT / "csrc/lstm/plan.cpp"), *emulator]
    return [shutil.which("g++") or "c++", *flags, *includes, *compiled]


if __name__ == "__main__":
    sys.exit(main())
