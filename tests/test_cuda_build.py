"""What nvcc makes of the kernels: the checked-in table, and that it is that of these sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
sys.path.insert(0, str(CSRC))
import build_cuda  # noqa: E402
import cuda_resources  # noqa: E402

TABLE = json.loads(cuda_resources.TABLE.read_text())
KERNELS = cuda_resources.kernels(TABLE)
SEQUENCES = [
    (arch, name)
    for arch in cuda_resources.ARCHITECTURES
    for name in KERNELS[arch]
    if name.startswith(("lstm_forward", "lstm_backward"))
]
needs_nvcc = pytest.mark.skipif(build_cuda.find_nvcc() is None, reason="no nvcc here")


def test_the_table_is_that_of_these_sources():
    current = {cuda_resources.name_of(s): cuda_resources.digest(s) for s in build_cuda.KERNELS}
    recorded = {name: source["digest"] for name, source in TABLE["sources"].items()}
    assert recorded == current, "run `make cuda-table`"


def test_a_change_of_a_header_changes_the_digests_of_those_that_include_it():
    folder = build_cuda.CSRC / "lstm"
    small, forward = folder / "lstm_cuda.cu", folder / "forward_cuda_bf16.cu"
    included = {path.name for path in cuda_resources.closure(forward)}
    assert included >= {"forward_cuda.cuh", "primitives_ptx.cuh", "lstm_math.h", "plan.h"}
    # what only the one includes is compiled for the one alone
    assert "cell_cuda.cuh" in {path.name for path in cuda_resources.closure(small)} - included


def test_the_table_has_every_kernel():
    # 4 precisions, 4 variants, 1 and 4 tiles of rows, with and without a projection, both passes
    assert len(SEQUENCES) == len(cuda_resources.ARCHITECTURES) * 4 * 4 * 2 * 2 * 2
    others = {name.split("<")[0] for name in KERNELS["sm_90a"]}
    assert others >= {"lstm_cell_kernel", "pack_kernel", "previous_hidden_kernel"}


@pytest.mark.parametrize("arch", cuda_resources.ARCHITECTURES)
def test_nothing_spills_and_nothing_is_on_the_stack(arch):
    for name, taken in KERNELS[arch].items():
        assert taken["spills"] == taken["stack"] == 0, name
        assert not taken["instructions"].keys() & {"LDL", "STL"}, name
        # shared memory is the launch's to give
        assert taken["static_shared"] == 0, name
        assert taken["registers"] <= 255, name


@pytest.mark.parametrize(("arch", "name"), SEQUENCES)
def test_sequence_kernels_have_the_instructions_they_must(arch, name):
    found = KERNELS[arch][name]["instructions"]
    if "cluster" in name and arch == "sm_80":
        # there are no clusters: the kernel is a trap, and plans never choose it
        return
    assert found.get("HMMA", 0) > 0
    assert ("LDSM" in found) == ("stream" not in name)
    assert ("LDGSTS" in found) == ("grid" in name)
    assert ("UCGABAR_ARV" in found and "UCGABAR_WAIT" in found) == ("cluster" in name)
    assert found.get("BAR", 0) > 0


@pytest.mark.parametrize("arch", cuda_resources.ARCHITECTURES)
def test_decode_kernels_have_the_instructions_they_must(arch):
    names = [name for name in KERNELS[arch] if name.startswith("decode_kernel")]
    assert len(names) == 8
    for name in names:
        found = KERNELS[arch][name]["instructions"]
        assert found.get("HMMA", 0) > 0 and found.get("BAR", 0) > 0, name
        # all variants are one kernel; below sm_90 clusters are a trap that plans never choose
        assert ("UCGABAR_ARV" in found and "UCGABAR_WAIT" in found) == (arch != "sm_80"), name


@needs_nvcc
@pytest.mark.parametrize("arch", cuda_resources.ARCHITECTURES)
def test_compiling_gives_what_the_table_says(arch):
    # of the small kernels; `make cuda-table` compiles all of them
    if cuda_resources.toolkit() != TABLE["nvcc"]:
        pytest.skip(f"the table is of nvcc {TABLE['nvcc']}, here is {cuda_resources.toolkit()}")
    cuobjdump = cuda_resources.find_cuobjdump()
    found = cuda_resources.measure(CSRC / "lstm" / "lstm_cuda.cu", arch, cuobjdump)
    assert found
    for name, taken in found.items():
        expected = KERNELS[arch][name]
        if cuobjdump is None:
            expected = {**expected, "instructions": {}}
        assert taken == expected, name


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("8.0", ["-gencode=arch=compute_80,code=sm_80"]),
        (
            "9.0a;10.0+PTX",
            [
                "-gencode=arch=compute_90a,code=sm_90a",
                "-gencode=arch=compute_100,code=sm_100",
                "-gencode=arch=compute_100,code=compute_100",
            ],
        ),
    ],
)
def test_architectures(text, flags):
    assert build_cuda.architecture_flags(text) == flags


@pytest.mark.parametrize(
    ("text", "message"),
    [("Hopper", "expected versions such as 9.0a"), ("7.5", "the kernels need 8.0 or later")],
)
def test_architectures_that_are_not(text, message):
    with pytest.raises(build_cuda.CannotBuild, match=message):
        build_cuda.architecture_flags(text)


def test_a_build_that_insists_on_cuda_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(build_cuda, "find_nvcc", lambda: None)
    with pytest.raises(build_cuda.CannotBuild, match="FAST_S2S_CUDA=1 needs nvcc"):
        build_cuda.build_library(tmp_path / "x.so", tmp_path, "0x020a000000000000")


@pytest.mark.parametrize(("setting", "wanted"), [("0", False), ("1", True)])
def test_setting(monkeypatch, setting, wanted):
    monkeypatch.setenv("FAST_S2S_CUDA", setting)
    assert build_cuda.wanted() == wanted


def test_setting_that_is_none(monkeypatch):
    monkeypatch.setenv("FAST_S2S_CUDA", "yes")
    with pytest.raises(SystemExit, match="FAST_S2S_CUDA: expected 0 or 1, got 'yes'"):
        build_cuda.wanted()


_LOAD = """
import ctypes, os, torch, fast_s2s
ctypes.CDLL({library!r}, mode=os.RTLD_LAZY)
OPS = "lstm_forward lstm_backward lstm_forward_both lstm_backward_both decode_pack decode"
for op in OPS.split():
    assert torch._C._dispatch_has_kernel_for_dispatch_key("fast_s2s::" + op, "CUDA"), op
"""


@needs_nvcc
def test_the_library_links_loads_and_registers(tmp_path, monkeypatch):
    # without the kernels of whole sequences and generations, which take minutes to compile; bound
    # lazily, they are not missed
    kernels = [path for path in build_cuda.KERNELS if "_cuda_" not in path.name]
    monkeypatch.setattr(build_cuda, "KERNELS", kernels)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a")
    library, objects = tmp_path / "_cuda.so", tmp_path / "objects"
    build_cuda.build_library(library, objects, "0x020a000000000000")
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True).stdout
    assert "libtorch_cuda.so" in needed
    environment = {**os.environ, "LD_LIBRARY_PATH": str(objects / "stub")}
    code = _LOAD.format(library=str(library))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
