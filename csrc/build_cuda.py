"""Compiles the CUDA library by nvcc, against any build of torch, also one for the CPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

CSRC = Path(__file__).parent
KERNELS = sorted(CSRC.glob("*/*.cu"))
HOST = [
    CSRC / "ops_cuda.cpp",
    CSRC / "lstm" / "plan.cpp",
    CSRC / "decode" / "decode_plan.cpp",
    *sorted(CSRC.glob("*/*_cuda.cpp")),
]
DEFAULT_ARCHITECTURES = "8.0;9.0a;10.0+PTX"
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
_HOST_FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-DUSE_CUDA"]


class CannotBuild(Exception):
    """Why there is no CUDA library, and what to do."""


def find_nvcc() -> Path | None:
    """nvcc of CUDA_HOME, of /usr/local/cuda or on the PATH, with its headers beside it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    candidates = [Path(home) / "bin" / "nvcc"] if home else []
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    candidates += [Path(on_path).resolve()] if on_path else []
    header = Path("include") / "cuda_runtime_api.h"
    return next((p for p in candidates if p.exists() and (p.parent.parent / header).exists()), None)


def wanted() -> bool:
    """FAST_S2S_CUDA, or by default whether there are nvcc and a CUDA build of torch."""
    setting = os.environ.get("FAST_S2S_CUDA")
    if setting not in (None, "0", "1"):
        raise SystemExit(f"FAST_S2S_CUDA: expected 0 or 1, got {setting!r}")
    if setting is None:
        return torch.version.cuda is not None and find_nvcc() is not None
    return setting == "1"


def architecture_flags(architectures: str) -> list[str]:
    """nvcc's flags for a list like TORCH_CUDA_ARCH_LIST's: "8.0;9.0a;10.0+PTX"."""
    flags = []
    for name in re.split(r"[;, ]+", architectures.strip()):
        match = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", name)
        if match is None:
            raise CannotBuild(
                f"TORCH_CUDA_ARCH_LIST: expected versions such as 9.0a or 10.0+PTX, got {name!r}"
            )
        if int(match[1]) < 8:
            raise CannotBuild(f"TORCH_CUDA_ARCH_LIST: the kernels need 8.0 or later, got {name!r}")
        number = match[1] + match[2] + match[3]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def run(command: Iterable[str]) -> str:
    """The command's output; its errors, should it fail, in a `CannotBuild`."""
    command = list(map(str, command))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(command)}\nfailed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def require_nvcc() -> Path:
    """nvcc's path; raises `CannotBuild` if there is none."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise CannotBuild(
            "FAST_S2S_CUDA=1 needs nvcc 12.8 or later, which was found neither in CUDA_HOME, nor "
            "on the PATH, nor in /usr/local/cuda. Install the CUDA toolkit, or set "
            "FAST_S2S_CUDA=0 to build without CUDA kernels."
        )
    return nvcc


def build_library(target: Path, scratch: Path, target_version: str) -> None:
    """Compile and link everything into `target`; raises `CannotBuild`."""
    nvcc = require_nvcc()
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES
    gencode = architecture_flags(architectures)
    scratch.mkdir(parents=True, exist_ok=True)
    toolkit = nvcc.parent.parent
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    includes.append(f"-isystem{toolkit / 'include'}")

    def compiled(source: Path) -> Path:
        target = scratch / f"{source.stem}{source.suffix.replace('.', '_')}.o"
        if source.suffix == ".cu":
            run([nvcc, *NVCC_FLAGS, *gencode, "-c", source, "-o", target])
        else:
            define = f"-DTORCH_TARGET_VERSION={target_version}"
            prefix = f"-ffile-prefix-map={CSRC.parent.resolve()}/="
            run(["g++", *_HOST_FLAGS, prefix, define, *includes, "-c", source, "-o", target])
        return target

    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ThreadPoolExecutor(jobs) as pool:
        # the slowest first
        sources = sorted([*KERNELS, *HOST], key=lambda p: "_cuda_" not in p.name)
        objects = list(pool.map(compiled, sources))
    libraries = [Path(torch.__file__).parent / "lib"]
    if not (libraries[0] / "libtorch_cuda.so").exists():
        libraries.append(_stub(scratch))
    run(
        [
            "g++",
            "-shared",
            *objects,
            "-o",
            target,
            *(f"-L{path}" for path in (*libraries, toolkit / "lib64", toolkit / "lib")),
            "-lcudart_static",
            "-ldl",
            "-lrt",
            "-lpthread",
            "-ltorch",
            "-ltorch_cpu",
            # ours is the only name of it, and it is needed to find the current stream
            "-Wl,--no-as-needed",
            "-ltorch_cuda",
        ]
    )


def _stub(scratch: Path) -> Path:
    """A folder with an empty library of torch's name, where torch has no CUDA: enough to link."""
    folder = scratch / "stub"
    folder.mkdir(exist_ok=True)
    source = folder / "empty.cpp"
    source.write_text("")
    soname = "libtorch_cuda.so"
    run(["g++", "-shared", f"-Wl,-soname,{soname}", source, "-o", folder / soname])
    return folder
