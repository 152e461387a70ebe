"""What the Triton kernels need on each GPU, read from the compiled code; needs no GPU.

    python -m benchmarks.triton_resources            compare with kernels/resources.json
    python -m benchmarks.triton_resources --quick    the same, each configuration for one target
    python -m benchmarks.triton_resources --write    write it; takes some minutes

Compiles every configuration of the table for every target and reads registers, spills, shared
memory and tensor-core instructions out of the machine code. The file also holds a digest of the
kernels' source, so that a change of theirs without `--write` is seen without compiling.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fast_s2s.kernels import configs, variant_lstm
from fast_s2s.kernels.configs import Config

TARGETS = (80, 90, 100)
# the most shared memory one program may have, in bytes: CUDA programming guide, compute
# capabilities
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
REGISTERS_PER_MULTIPROCESSOR = 65536
# sizes for rows of the table without an upper limit
_LARGE = 1024
RESOURCES = configs.TABLE.with_name("resources.json")
# of the kernels' arguments; all other pointers have the type of x
_ACC = {"gates_x", "gates_h", "bias", "c", "c0", "c_prev", "cells", "dh", "dc"}
_ACC |= {"product", "projected", "norm_hh", "norm_c", "norm_c_bias", "carried", "sent"}
_ACC |= {"d_unprojected", "d_norm_hh", "d_norm_c", "d_norm_c_bias"}
_OTHER = {"lengths": "*i64", "reset": "*i1", "counters": "*i32"}
_OTHER |= {"kept_hidden": "*i1", "kept_cell": "*i1"}
_SIZES = {"t", "T", "B", "H", "R"}
# of the kernels of another formula: what they do, and widths whose launches differ
_VARIANT = ("forward", "settle", "receive", "backward")
_VARIANT_WIDTHS = (128, _LARGE, 2048)
_IO = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32", "tf32": "*fp32"}


class Job(NamedTuple):
    """A kernel to compile."""

    direction: str
    config: Config
    hidden: int
    type: str
    target: int

    def name(self) -> str:
        """Its key in the file."""
        c = self.config
        tile = "x".join(str(n) for n in (c.block_b, c.block_u, c.block_k) if n)
        flags = " resident" * c.resident + " ahead" * (c.ahead and c.variant == "single")
        launch = f"{tile}{flags} warps={c.warps} stages={c.stages}"
        return f"{c.variant}_{self.direction} {launch} H={self.hidden} {self.type} sm_{self.target}"


class Usage(NamedTuple):
    """Of one kernel: registers per thread, bytes of stack and instructions that spill, bytes of
    shared memory, tensor-core instructions."""

    registers: int
    stack: int
    spills: int
    shared: int
    tensor_core: int


def jobs() -> list[Job]:
    """Every configuration of the table at the largest H it is meant for, the cell kernels, and
    those of another formula.
    """
    found = []
    for direction, rows in configs.table().items():
        for row in rows:
            hidden = min(row.max_hidden, _LARGE)
            for kind in row.types:
                # float16 compiles to the same code as bfloat16 but for the name of an instruction
                targets = TARGETS if kind != "float16" else TARGETS[:1]
                found += [Job(direction, row.config, hidden, kind, target) for target in targets]
        block_b, block_u = configs.cell_tile(_LARGE)
        cell = Config("cell", block_b, block_u)
        for kind in ("bfloat16", "float32"):
            found += [Job(direction, cell, _LARGE, kind, target) for target in TARGETS]
    for direction in _VARIANT:
        for hidden in _VARIANT_WIDTHS:
            tile = variant_lstm.tile(hidden)
            config = Config("variant", *tile, warps=variant_lstm.warps(tile[1]))
            targets = TARGETS if hidden == _LARGE else TARGETS[1:2]
            for kind in ("bfloat16", "float32"):
                found += [Job(direction, config, hidden, kind, target) for target in targets]
    return list(dict.fromkeys(found))


def one_for_each(wanted: list[Job]) -> list[Job]:
    """Each configuration for one type and one target, the targets in turn."""
    found: dict[tuple, list[Job]] = {}
    for job in wanted:
        alike = found.setdefault((job.direction, job.config), [])
        # of its first type
        if not alike or alike[0].type == job.type:
            alike.append(job)
    return [alike[index % len(alike)] for index, alike in enumerate(found.values())]


def digest() -> str:
    """Of all that is compiled: the kernels' code without comments, docstrings and layout; the same
    under every Python."""
    found = hashlib.sha256()
    words = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
    names = ("cell", "exchange", "products", "sequence", "step", "variant", "variant_gradient")
    for name in names:
        with tokenize.open(configs.TABLE.with_name(f"{name}.py")) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type in words and not token.string.startswith('"""'):
                    found.update(token.string.encode() + b" ")
    return found.hexdigest()[:16]


def complaints(job: Job, usage: Usage) -> list[str]:
    """What is wrong with a kernel, whatever the compiler's version."""
    found = []
    if usage.spills or usage.stack:
        found.append(f"spills: {usage.spills} instructions, {usage.stack} bytes of stack")
    if usage.shared > SHARED_LIMIT[job.target]:
        found.append(f"shared memory: {usage.shared} > {SHARED_LIMIT[job.target]} bytes")
    wanted = job.config.variant not in ("cell", "variant") and job.type != "float32"
    if wanted and not usage.tensor_core:
        found.append("no tensor-core instructions")
    if job.type == "float32" and usage.tensor_core:
        found.append("float32 is multiplied by tensor cores, which round it")
    threads = 32 * job.config.warps * job.config.per_sm
    if usage.registers * threads > REGISTERS_PER_MULTIPROCESSOR:
        found.append(f"{job.config.per_sm} programs do not fit one multiprocessor's registers")
    if usage.shared * job.config.per_sm > SHARED_LIMIT[job.target]:
        found.append(f"{job.config.per_sm} programs do not fit one multiprocessor's shared memory")
    return found


def measure(job: Job) -> Usage:
    """Compiles a kernel and reads its machine code."""
    import triton
    from triton.backends.compiler import GPUTarget

    from fast_s2s.kernels import cell, launch, sequence, step, variant, variant_gradient

    name = f"{job.config.variant}_{job.direction}"
    modules = (cell, step, sequence, variant, variant_gradient)
    kernel = next(k for k in (getattr(m, name, None) for m in modules) if k)
    constants = launch.constants(job.config, job.direction, job.hidden, job.type)
    if job.config.variant != "cell":
        constants["REVERSE"] = False
    if job.config.variant == "variant":
        # without a projection, which leaves the larger half to another kernel
        others = {"ZONEOUT_HIDDEN": 0.0, "ZONEOUT_CELL": 0.1}
        others |= {"unprojected": None, "d_unprojected": None}
        constants |= {k: v for k, v in others.items() if k in kernel.arg_names}
    signature, attributes = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        signature[argument] = _type(argument, job.type, constants)
        aligned = argument in ("H", "R", "saved_row") and job.hidden % 16 == 0
        anywhere = kernel.params[index].do_not_specialize_on_alignment
        if aligned or (signature[argument].startswith("*") and not anywhere):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", job.target, 32)
    compiled = triton.compile(source, target=target, options=launch.options(job.config, 2))
    return _read(compiled.asm["cubin"], compiled.metadata.shared)


def _type(argument: str, kind: str, constants: dict) -> str:
    if argument in constants:
        return "constexpr"
    if argument in _SIZES or argument.endswith(("_row", "_col")):
        return "i32"
    return "*fp32" if argument in _ACC else _OTHER.get(argument, _IO[kind])


def _read(cubin: bytes, shared: int) -> Usage:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def dump(option: str) -> str:
            command = [str(tool), option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        used, code = dump("--dump-resource-usage"), dump("-sass")
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", used).groups()
    return Usage(
        int(registers),
        int(stack),
        len(re.findall(r"\b(?:LDL|STL)\b", code)),
        shared,
        len(re.findall(r"\b(?:HMMA|HGMMA|UTCHMMA|UTCQMMA)\b", code)),
    )


def compare(stored: dict, wanted: list[Job]) -> list[str]:
    """What is wrong with a file without compiling: it must hold all of `wanted` and no more, made
    from this source, and nothing in it may be beyond a limit."""
    wrong = [] if stored["source"] == digest() else ["the kernels changed since it was written"]
    kernels = stored["kernels"]
    names = {job.name(): job for job in wanted}
    wrong += [f"{name}: not in the file" for name in names if name not in kernels]
    wrong += [f"{name}: in the file, not in the table" for name in kernels if name not in names]
    for name, job in names.items():
        if name in kernels:
            wrong += [f"{name}: {c}" for c in complaints(job, Usage(**kernels[name]))]
    return wrong


def compare_compiled(stored: dict, found: dict[Job, Usage], version: str) -> list[str]:
    """What was compiled and is beyond a limit, or by the same compiler other than in the file."""
    wrong = [f"{job.name()}: {c}" for job, usage in found.items() for c in complaints(job, usage)]
    if stored["triton"] != version:
        return wrong
    for job, usage in found.items():
        was = stored["kernels"].get(job.name())
        if was != usage._asdict():
            wrong.append(f"{job.name()}: {usage._asdict()}, in the file {was}")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 where all is well, 1 after a list of what is not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write {RESOURCES.name}")
    parser.add_argument("--quick", action="store_true", help="each configuration for one target")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("TRITON_INTERPRET=1 is set, with which nothing is compiled; unset it")
        return 1
    import triton

    everything = jobs()
    wanted = one_for_each(everything) if options.quick and not options.write else everything
    with ProcessPoolExecutor(options.workers) as pool:
        found = dict(zip(wanted, pool.map(measure, wanted), strict=True))
    if options.write:
        kernels = {job.name(): usage._asdict() for job, usage in found.items()}
        content = {"triton": triton.__version__, "source": digest(), "kernels": kernels}
        text = json.dumps(content, indent=1)
        # one line for each kernel
        text = re.sub(r"\{\n\s+(\"registers.*?)\n\s+\}", _on_one_line, text, flags=re.DOTALL)
        RESOURCES.write_text(text + "\n")
    stored = json.loads(RESOURCES.read_text())
    wrong = compare(stored, everything) + compare_compiled(stored, found, triton.__version__)
    for line in wrong:
        print(line)
    print(f"{len(found)} kernels compiled by triton {triton.__version__}, {len(wrong)} complaints")
    return 1 if wrong else 0


def _on_one_line(match: re.Match) -> str:
    return "{" + re.sub(r"\n\s+", " ", match[1]) + "}"


if __name__ == "__main__":
    sys.exit(main())
