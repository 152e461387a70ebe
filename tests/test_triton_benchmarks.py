"""The tools that tune and time the Triton kernels; only their figures need a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from fast_s2s import backends

if not backends.triton_found:
    pytest.skip(f"no Triton: {backends.triton_reason}", allow_module_level=True)

from benchmarks import latency, tune_triton
from fast_s2s.kernels import configs
from fast_s2s.kernels.configs import Config, Sizes

ROOT = Path(__file__).parent.parent


def test_the_table_written_by_the_tuner_holds_the_fastest(tmp_path):
    wanted = tune_triton.all_sizes(["bfloat16"], [512, 64], [64, 1], 132)
    fast = Config("step", 16, 64, 64, warps=8, stages=3)
    said = []

    def seconds(direction, config, sizes):
        if config.variant == "single":
            raise tune_triton.Refused("wrong: result 0 is off")
        if sizes.hidden == 512 and sizes.batch == 64 and config == fast:
            return 1.0
        return 2.0 if config.variant == "grid" else 3.0

    path = tmp_path / "table.json"
    path.write_text(configs.dump(tune_triton.tune(wanted, seconds, said.append)))
    table = configs.table(str(path))
    for direction in configs.DIRECTIONS:
        best = {(r.max_hidden, r.max_batch): r.config for r in table[direction][:4]}
        assert list(best) == [(64, 1), (64, 64), (512, 1), (512, 64)]
        assert best[512, 64] == fast and best[64, 1].variant == "grid"
        assert table[direction][4:] == configs.table()[direction]
    assert any("wrong: result 0 is off" in line for line in said)


def test_candidates_can_run_and_are_few():
    for sizes in tune_triton.all_sizes(configs.TYPES, tune_triton.HIDDEN, tune_triton.BATCH, 132):
        found = tune_triton.candidates(sizes)
        assert all(configs.why_not(config, sizes) is None for config in found)
        assert 3 < len(set(found)) == len(found) < 50


def test_the_stopwatch_refuses_wrong_results(monkeypatch):
    stopwatch = tune_triton.Stopwatch(torch.device("cpu"), repeats=1)
    sizes = Sizes("float32", 2, 2, 5)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for direction in configs.DIRECTIONS:
            assert stopwatch(direction, Config("single", 16, 16), sizes) > 0
            with pytest.raises(tune_triton.Refused, match="cannot run"):
                stopwatch(direction, Config("single", 16, 4), sizes)
            monkeypatch.setitem(tune_triton._TOLERANCE, "float32", 0.0)
            with pytest.raises(tune_triton.Refused, match="wrong: result 0 is off by"):
                stopwatch(direction, Config("single", 16, 16), sizes)
            monkeypatch.setitem(tune_triton._TOLERANCE, "float32", 1e-4)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tuning_without_a_gpu_says_so(tmp_path):
    command = [sys.executable, "-m", "benchmarks.tune_triton"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "no GPU here" in done.stdout, done.stderr
    assert tune_triton.main(["--dry-run", "--hidden", "64", "--types", "bfloat16"]) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it by hand")
def test_the_gpu_script_runs_short_without_a_gpu(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "400"],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times mean nothing" in done.stdout
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["complete"] and "gpu" not in results["machine"]
    rows = {(row["shape"], row["peer"]): row for row in results["rows"]}
    status = {key: row["status"] for key, row in rows.items()}
    # the rest needs a GPU, and says so
    needs = ("CUDA graph", "repaired", "fast_s2s cuda", "FlashRNN cuda_fused")
    for (shape, peer), found in status.items():
        assert (found == "unavailable") == peer.endswith(needs), rows[shape, peer]
    assert {peer for _, peer in rows} >= {
        f"fast_s2s triton {k}" for k in ("single", "grid", "step")
    }
    assert all(row["errors"]["ours"] for row in rows.values())
    assert json.loads((tmp_path / "cell.json").read_text())[0]["of_copy"] > 0
    exchanges = json.loads((tmp_path / "latency.json").read_text())
    assert exchanges["times_mean_something"] is False
    assert {probe["name"] for probe in exchanges["probes"]} >= {
        "L2 load",
        "grid exchange",
        "cluster barrier",
        "cluster exchange",
        "cluster exchange after stores",
        "clusters at once",
    }
    found = [probe for probe in exchanges["probes"] if "clusters" in probe]
    assert [probe["cluster"] for probe in found] == [2, 4, 8]
    assert all(probe["clusters"] * probe["cluster"] == probe["blocks"] for probe in found)
    assert not any("failure" in probe for probe in exchanges["probes"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "gpu.json",
        "latency.json",
        "cell.json",
        "logs.tgz",
    }
    with tarfile.open(tmp_path / "logs.tgz") as archive:
        log = archive.extractfile("./tests.txt")
        assert log is not None and " passed" in log.read().decode()


def test_what_a_probe_printed_before_another_failed_is_kept():
    printed = '[\n  {"name": "a", "ns": 1.5},\n  {"name": "b", "blocks": 2, '
    assert latency.parsed(printed) == [{"name": "a", "ns": 1.5}]
    assert len(latency.parsed(printed + '"ns": 2.0}\n]\n')) == 2


def test_a_probe_that_hangs_is_ended_and_what_was_printed_before_is_kept():
    printed, failure = latency.answer(["sh", "-c", "echo first; exec sleep 30"], 0.5)
    assert (printed, failure) == ("first\n", "the program took more than 0.5 s here")
    assert latency.answer(["sh", "-c", "echo all"]) == ("all\n", "")
    assert latency.answer(["sh", "-c", "exit 3"]) == ("", "the program ended with 3 here")


_SPECIALIZED = """
from fast_s2s.kernels import cell, sequence, step
found = {}
for module in (cell, sequence, step):
    for name, kernel in vars(module).items():
        for p in getattr(kernel, "params", ()):
            if p.name in ("t", "T", "B") and name.split("_")[-1] in ("forward", "backward"):
                found.setdefault(name, []).append(p.do_not_specialize)
assert len(found) == 8 and all(all(flags) and len(flags) >= 2 for flags in found.values()), found
"""


def test_no_kernel_is_compiled_for_one_length_or_batch():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _SPECIALIZED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
