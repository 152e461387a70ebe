"""The table of what each CUDA kernel takes: registers, stack, spills, shared memory, instructions.

`python csrc/cuda_resources.py` compiles the sources that changed since the table was written, for
every architecture, and writes cuda_resources.json; `--all` compiles all of them (a quarter of an
hour on two cores). Tests hold the table against the sources.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import build_cuda

TABLE = build_cuda.CSRC / "cuda_resources.json"
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
# matrix products, ldmatrix, local memory, cluster barriers, barriers, stores to peers, async copies
_INSTRUCTIONS = ("HMMA", "LDSM", "LDL", "STL", "UCGABAR_ARV", "UCGABAR_WAIT", "BAR", "LDGSTS")
_PTXAS = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)
_VARIANTS = ("block", "cluster", "grid", "stream")


def closure(source: Path) -> list[Path]:
    """The source and what it includes of ours, directly or not."""
    found = {source.resolve()}
    pending = [source.resolve()]
    while pending:
        path = pending.pop()
        for name in re.findall(r'^ *#include "([^"]+)"', path.read_text(), re.M):
            included = (path.parent / name).resolve()
            # the emulator's headers are in its own folder
            if included.exists() and included not in found:
                found.add(included)
                pending.append(included)
    return sorted(found)


def digest(source: Path) -> str:
    """Of everything the kernels of this source are compiled from."""
    text = hashlib.sha256(" ".join(build_cuda.NVCC_FLAGS).encode())
    for path in closure(source):
        text.update(path.read_bytes())
    return text.hexdigest()


def name_of(source: Path) -> str:
    """As the table names it: `lstm/lstm_cuda.cu`."""
    return source.relative_to(build_cuda.CSRC).as_posix()


def kernels(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Architecture -> kernel -> what it takes, of all sources together."""
    found: dict[str, dict[str, Any]] = {arch: {} for arch in ARCHITECTURES}
    for source in table["sources"].values():
        for arch, of_source in source["kernels"].items():
            found[arch].update(of_source)
    return found


def find_cuobjdump() -> Path | None:
    """cuobjdump of the toolkit, or the one that comes with triton."""
    nvcc = build_cuda.find_nvcc()
    triton = importlib.util.find_spec("triton")
    folders = [nvcc.parent] if nvcc else []
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    found = [folder / "cuobjdump" for folder in folders if (folder / "cuobjdump").exists()]
    on_path = shutil.which("cuobjdump")
    return found[0] if found else Path(on_path) if on_path else None


def toolkit() -> str:
    """The version of nvcc."""
    out = build_cuda.run([build_cuda.require_nvcc(), "--version"])
    return re.search(r"V(\d+\.\d+\.\d+)", out)[1]  # type: ignore[index]


def readable(mangled: str) -> str:
    """A kernel's name as in the sources: `lstm_forward_kernel<Bf16, cluster, 1>`."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    name = re.sub(r"\(fast_s2s::\w+(<.*?>)?\)\s*$", "", name.strip())
    name = re.sub(r"\(fast_s2s::Variant\)(\d)", lambda m: _VARIANTS[int(m[1])], name)
    return name.removeprefix("void ").replace("fast_s2s::", "").replace("Operand", "")


def measure(source: Path, architecture: str, cuobjdump: Path | None) -> dict[str, Any]:
    """Kernel -> what it takes, of one source compiled for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        flags = [flag for flag in build_cuda.NVCC_FLAGS if "fPIC" not in flag]
        flags.remove("-Xcompiler")
        target = ["-cubin", f"-arch={architecture}", "-Xptxas", "-v", source, "-o", cubin]
        log = build_cuda.run([build_cuda.require_nvcc(), *flags, *target])
        counts = instructions(cubin, cuobjdump) if cuobjdump else {}
    found = {}
    for match in _PTXAS.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[readable(match["name"])] = {
            "registers": int(match["registers"]),
            "stack": int(match["stack"]),
            "spills": int(match["stores"]) + int(match["loads"]),
            "static_shared": int(shared[1]) if shared else 0,
            "instructions": counts.get(match["name"], {}),
        }
    return found


def instructions(cubin: Path, cuobjdump: Path) -> dict[str, dict[str, int]]:
    """Mangled name -> how often each of the instructions we look for occurs."""
    found: dict[str, dict[str, int]] = {}
    for part in build_cuda.run([cuobjdump, "-sass", cubin]).split("Function : ")[1:]:
        name, text = part.split("\n", 1)
        opcodes = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", text))
        found[name.strip()] = {op: opcodes[op] for op in _INSTRUCTIONS if opcodes[op]}
    return found


def write(table: dict[str, Any]) -> None:
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def update(table: dict[str, Any], source: Path, cuobjdump: Path | None) -> None:
    """Compile one source for every architecture, and put it into the table."""
    before = digest(source)
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda arch: measure(source, arch, cuobjdump), ARCHITECTURES)
        found = dict(zip(ARCHITECTURES, results, strict=True))
    if digest(source) != before:
        sys.exit(f"{name_of(source)} changed meanwhile: once more, please")
    table["sources"][name_of(source)] = {"digest": before, "kernels": found}


def main() -> None:
    """Bring the table up to date."""
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        sys.exit("cuobjdump: found neither in the CUDA toolkit nor in triton (pip install triton)")
    table = json.loads(TABLE.read_text())
    version = toolkit()
    if "--all" in sys.argv[1:] or table["nvcc"] != version:
        table = {"nvcc": version, "sources": {}}
    sources = {name_of(source): source for source in build_cuda.KERNELS}
    table["sources"] = {n: found for n, found in table["sources"].items() if n in sources}
    for name, source in sources.items():
        if table["sources"].get(name, {}).get("digest") != digest(source):
            sys.stdout.write(f"{name}\n")
            update(table, source, cuobjdump)
            # what is done is kept, should the rest be interrupted
            write(table)
    write(table)


if __name__ == "__main__":
    main()
