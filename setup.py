"""Builds the compiled extensions only; everything else is in pyproject.toml."""

import os
import re
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from torch.utils import cpp_extension

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
import build_cuda

VERSION = re.search(r'^version = "(.+)"$', Path("pyproject.toml").read_text(), re.M)[1]
# the oldest torch whose stable ABI has what we use; one build then serves every later torch
TORCH_TARGET_VERSION = "0x020a000000000000"
# for -fsanitize=, as `make sanitize` sets it
SANITIZERS = os.environ.get("FAST_S2S_SANITIZE", "")
CUDA_LIBRARY = "fast_s2s._cuda"


def cpu_extension() -> Extension:
    kernels = [str(p) for p in sorted(Path("csrc").glob("*/*.cpp")) if "_cuda" not in p.name]
    sources = ["csrc/module.cpp", "csrc/ops.cpp", *kernels]
    flags = [
        "-std=c++17",
        "-O3",
        "-g0",
        "-fopenmp",
        "-ffp-contract=fast",
        # all copies of a product are to be rounded alike: g++ 13 and later would leave those with
        # one sum, on AVX2, without fused additions
        "--param=avoid-fma-max-bits=0",
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


class BuildExtensions(cpp_extension.BuildExtension):
    """torch's builder, and the CUDA library, which torch's cannot build against a CPU torch."""

    def finalize_options(self) -> None:
        """Keep objects of an editable build, else made in a folder of /tmp and all over again."""
        super().finalize_options()
        if self.editable_mode:
            self.build_temp = str(Path("build", f"editable-{sys.implementation.cache_tag}"))

    def build_extensions(self) -> None:
        """Build the CUDA library, then leave the rest to torch."""
        everything = self.extensions
        for extension in everything:
            if extension.name == CUDA_LIBRARY:
                self._build_cuda(Path(self.get_ext_fullpath(extension.name)))
        self.extensions = [e for e in everything if e.name != CUDA_LIBRARY]
        super().build_extensions()
        self.extensions = everything

    def _build_cuda(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            build_cuda.build_library(target, Path(self.build_temp) / "cuda", TORCH_TARGET_VERSION)
        except build_cuda.CannotBuild as error:
            raise SystemExit(str(error)) from None


os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
extensions = [cpu_extension()]
if build_cuda.wanted():
    # no Python module, but one to setuptools, which so puts it in its place
    extensions.append(Extension(CUDA_LIBRARY, sources=[]))
setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtensions.with_options(no_python_abi_suffix=False)},
)
