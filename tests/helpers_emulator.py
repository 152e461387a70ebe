"""Builds the emulator of the CUDA kernels, and runs ops in it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import helpers_lstm
import torch
from helpers_lstm import Inputs
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "emulator"
EMULATOR = ROOT / "tests" / "emulator"
# as in csrc/lstm/plan.h
VARIANTS = ("block", "cluster", "grid", "stream")
NAMESPACE, MUTANT_NAMESPACE = "fast_s2s_emulator", "fast_s2s_mutant"
_PRECISIONS = ("bf16", "fp16", "tf32", "fp32")
_FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-parameter"),
    *("-DFAST_S2S_EMULATE", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
]
KERNELS = [
    "csrc/lstm/lstm_cuda.cu",
    "csrc/cuda/device.cu",
    *(
        f"csrc/lstm/{kind}_cuda_{p}.cu"
        for kind in ("forward", "backward", "projected_forward", "projected_backward")
        for p in _PRECISIONS
    ),
    "csrc/decode/decode_cuda.cu",
    "csrc/decode/decode_cuda_bf16.cu",
    "csrc/decode/decode_cuda_fp16.cu",
    "csrc/decode/decode_cuda_fp32.cu",
    "csrc/decode/decode_cuda_int8.cu",
]
SOURCES = [
    *KERNELS,
    "csrc/lstm/plan.cpp",
    "csrc/lstm/layer_cuda.cpp",
    "csrc/decode/decode_plan.cpp",
    "csrc/decode/decode_ops_cuda.cpp",
    "csrc/decode/decode_pack_cuda.cpp",
    "csrc/lstm/lstm_ops_cuda.cpp",
    "csrc/lstm/precision_cuda.cpp",
    "csrc/lstm/sequence_launch_cuda.cpp",
    *(
        f"tests/emulator/{name}.cpp"
        for name in ("access", "context", "machine", "memory", "products")
    ),
    "tests/emulator/ops.cpp",
    "tests/emulator/primitive_kernels.cpp",
]


def _digest(paths: Iterable[Path]) -> str:
    texts = hashlib.sha256(" ".join((*_FLAGS, torch.__version__)).encode())
    for path in sorted(paths):
        texts.update(path.read_bytes())
    return texts.hexdigest()[:16]


def _closure(source: Path) -> set[Path]:
    """The source and what it includes of ours, directly or not."""
    found, pending = set(), [source.resolve()]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        for name in re.findall(r'^ *#include "([^"]+)"', path.read_text(), re.M):
            folders = [path.parent, EMULATOR, ROOT / "csrc", ROOT / "csrc/cuda"]
            existing = [folder / name for folder in folders if (folder / name).exists()]
            pending += [path.resolve() for path in existing[:1]]
    return found


def _object(source: str, *defines: str) -> Path:
    """Of one of our sources as it is; compiled only after a change of what it is made of."""
    path = ROOT / source
    return _compile(path, ROOT, BUILD / "objects" / _digest(_closure(path)), *defines)


def _compile(source: Path, root: Path, out: Path, *defines: str) -> Path:
    target = out / f"{source.name}{''.join(defines)}.o"
    if target.exists():
        return target
    out.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(f".{os.getpid()}-{threading.get_ident()}.o")
    folders = [root / "tests/emulator", root / "csrc", root / "csrc/cuda", *include_paths()]
    command = ["g++", "-x", "c++", *_FLAGS, *defines, *(f"-I{folder}" for folder in folders)]
    # torch's headers are not ours to warn about
    command = [c.replace("-I", "-isystem", 1) if "site-packages" in c else c for c in command]
    done = subprocess.run(
        [*command, "-c", str(source), "-o", str(scratch)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{source.name} does not compile:\n{done.stderr}"
    assert "warning:" not in done.stderr, done.stderr
    scratch.rename(target)
    return target


def _link(objects: list[Path], target: Path) -> Path:
    libraries = Path(torch.__file__).parent / "lib"
    scratch = target.with_suffix(f".{os.getpid()}.so")
    command = ["g++", "-shared", *map(str, objects), "-o", str(scratch), f"-L{libraries}"]
    subprocess.run([*command, "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    scratch.rename(target)
    return target


def build() -> Path:
    """The emulator of the kernels as they are; compiled only after a change."""
    sources = set().union(*(_closure(ROOT / source) for source in SOURCES))
    out = BUILD / _digest(sources)
    target = out / "emulator.so"
    if target.exists():
        return target
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(_object, SOURCES))
    # those of sources that are no more
    kept = {out, BUILD / "objects"}
    stale = [path for path in BUILD.iterdir() if path not in kept]
    stale += {path.parent for path in BUILD.glob("objects/*/*.o")} - {o.parent for o in objects}
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    out.mkdir(exist_ok=True)
    return _link(objects, target)


def build_mutant(name: str, path: str, old: str, new: str, recompiled: list[str]) -> Path:
    """The emulator with `old`, found once in a kernel's source, replaced by `new`."""
    original = build().parent
    text = (ROOT / path).read_text()
    assert text.count(old) == 1, f"{name}: expected once in {path}, found {text.count(old)} times"
    out = original / "mutants" / name
    # includes are relative, so a copy of the tree is read as a whole
    for folder in ("csrc", "tests/emulator"):
        for source in (ROOT / folder).rglob("*"):
            if source.suffix in (".h", ".cuh", ".cu", ".cpp"):
                copy = out / source.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(source.read_bytes())
    (out / path).write_text(text.replace(old, new))
    # run for a moment only: what compiles fastest
    mutated = {s: _compile(out / s, out, out, "-O0") for s in recompiled}
    rename = f"-DEMULATOR_NAMESPACE={MUTANT_NAMESPACE}"
    renamed = "tests/emulator/ops.cpp"
    mutated[renamed] = _object(renamed, rename)
    # of an inline function that several have, the linker takes the first
    rest = [_object(s) for s in SOURCES if s not in mutated]
    return _link([*mutated.values(), *rest], out / "mutant.so")


class Emulator:
    """A loaded emulator library."""

    # a small device on which a few hundred units already need every variant
    DEFAULTS: Mapping[str, int] = {
        "seed": 1,
        "sms": 8,
        "shared_bytes": 227 * 1024,
        "max_cluster": 8,
        "cooperative": 1,
        "weight_registers": 128,
        "only": -1,
        "row_tiles": 0,
        "resident": 0,
        "occupancy": 0,
    }

    def __init__(self, library: Path, namespace: str = NAMESPACE) -> None:
        torch.ops.load_library(str(library))
        self.library = ctypes.CDLL(str(library))
        ops = getattr(torch.ops, namespace)
        self.lstm_forward = ops.lstm_forward
        self.lstm_backward = ops.lstm_backward
        self.lstm_forward_both = ops.lstm_forward_both
        self.lstm_backward_both = ops.lstm_backward_both
        self.decode_pack, self.decode = ops.decode_pack, ops.decode
        self.configure()

    def configure(self, **properties: int) -> None:
        """Set the device's properties and the scheduler's seed; the others as in `DEFAULTS`."""
        values = {**self.DEFAULTS, **properties}
        assert values.keys() == self.DEFAULTS.keys(), properties
        seed, *rest = values.values()
        self.library.emulator_set(ctypes.c_uint64(seed), *rest)

    def counts(self) -> dict[str, int]:
        """Launches, threads, matrix products and barriers so far."""
        out = (ctypes.c_uint64 * 4)()
        self.library.emulator_counts(out)
        return dict(zip(("launches", "threads", "products", "barriers"), out, strict=True))

    @contextlib.contextmanager
    def guarded(self, tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        """Copies of these tensors that only kernels may touch: the process ends with SIGSEGV where
        host code does, inside the block.
        """
        pages, copies = [], []
        for tensor in tensors:
            page = mmap.mmap(-1, (tensor.nbytes // mmap.PAGESIZE + 1) * mmap.PAGESIZE)
            copy = torch.frombuffer(page, dtype=tensor.dtype, count=max(1, tensor.numel()))
            copy = copy[: tensor.numel()].view(tensor.shape)
            copies.append(copy.copy_(tensor))
            pages.append((copy.data_ptr(), len(page)))
        at, size = zip(*pages, strict=True)
        count = len(pages)
        self.library.emulator_guard(
            (ctypes.c_void_p * count)(*at), (ctypes.c_uint64 * count)(*size), count
        )
        try:
            yield copies
        finally:
            self.library.emulator_guard(None, None, 0)

    def run(self, inputs: Inputs, save: int) -> list[torch.Tensor]:
        """Outputs, saved tensors and gradients, in the order of `helpers_lstm.Inputs.run`."""
        tensors = [t.detach() for t in inputs.tensors]
        arguments = inputs.arguments(tensors)
        y, h_n, c_n, *saved = self.lstm_forward(*arguments, save)
        d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_bias, d_w_hr = self.lstm_backward(
            *inputs.cotangents, *arguments, y, *saved, True, True
        )
        found = [d_x, d_h0, d_c0, d_w_ih, d_w_hh]
        found += [d_bias, d_bias] if "b_ih" in inputs.names else []
        return [y, h_n, c_n, *found, *([d_w_hr] if "w_hr" in inputs.names else [])]


def compare(
    emulator: Emulator,
    inputs: Inputs,
    assert_close,
    save: int = 1,
    dtype: torch.dtype | None = None,
) -> None:
    """As `helpers_lstm.compare`, of the CUDA kernels."""
    helpers_lstm.compare(inputs, emulator.run(inputs, save), assert_close, dtype)


@contextlib.contextmanager
def tf32_allowed() -> Iterator[None]:
    """torch's switch for float32 products on, inside the block."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def why_not() -> str | None:
    """Why the emulator cannot be built here; None if it can."""
    if sysconfig.get_platform().split("-")[0] != "linux":
        return "the emulator is built on Linux only"
    return None
