"""Builds the compiled extension only; everything else is in pyproject.toml."""

import os
import re
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from torch.utils import cpp_extension

VERSION = re.search(r'^version = "(.+)"$', Path("pyproject.toml").read_text(), re.M)[1]
# the oldest torch whose stable ABI has what we use; one build then serves every later torch
TORCH_TARGET_VERSION = "0x020a000000000000"
# for -fsanitize=, as `make sanitize` sets it
SANITIZERS = os.environ.get("FAST_S2S_SANITIZE", "")


def cpu_extension() -> Extension:
    sources = ["csrc/module.cpp", "csrc/ops.cpp", *sorted(map(str, Path("csrc").glob("*/*.cpp")))]
    flags = [
        "-std=c++17",
        "-O3",
        "-g0",
        "-fopenmp",
        "-ffp-contract=fast",
        "-fvisibility=hidden",
        "-Wall",
    ]
    # error messages name the source file: relative, not as laid out where it was built
    flags.append(f"-ffile-prefix-map={Path.cwd()}/=")
    macros = [
        ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
        ("FAST_S2S_VERSION", f'"{VERSION}"'),
    ]
    link_flags = ["-fopenmp"]
    if SANITIZERS:
        flags += ["-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
        flags += [f"-fsanitize={SANITIZERS}"]
        link_flags += [f"-fsanitize={SANITIZERS}"]
        macros += [("FAST_S2S_SANITIZERS", f'"{SANITIZERS}"')]
    return cpp_extension.CppExtension(
        "fast_s2s._C",
        sources,
        # before torch's folder: its own copy of pybind11 refuses the stable ABI
        include_dirs=[pybind11.get_include()],
        define_macros=macros,
        extra_compile_args=flags,
        extra_link_args=link_flags,
        depends=[str(path) for path in Path("csrc").rglob("*.h")],
    )


def check_cuda_setting() -> None:
    """There are no CUDA sources yet; a build that insists on them must not pass without a word."""
    setting = os.environ.get("FAST_S2S_CUDA", "0")
    if setting not in ("0", "1"):
        raise SystemExit(f"FAST_S2S_CUDA: expected 0 or 1, got {setting!r}")
    if setting == "1":
        raise SystemExit(
            "FAST_S2S_CUDA=1: this version of fast_s2s has no CUDA ops to build; unset it. "
            "On CUDA tensors the reference backend runs."
        )


os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
check_cuda_setting()
setup(
    ext_modules=[cpu_extension()],
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=False)},
)
