"""gpu.sh, beside programs that only say how they were called."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

# of the benchmark's processes the first loses the GPU, the second hangs in a row. All refuse
# what was measured earlier
_PYTHON = """#!/usr/bin/env bash
echo "$*" | tr '\\n' ' ' >> {folder}/calls && echo >> {folder}/calls
case "$*" in
  *is_available*) echo 1 9.0a 1 ;;
  *"-m pytest"*test_cuda*) echo "FAILED tests/x.py::y" && exit 1 ;;
  *"-m benchmarks gpu"*)
    if grep -q earlier "$5" 2> /dev/null; then
      echo "--resume: commit was 'a' and is now 'b'" && exit 1
    fi
    echo rows > "$5"
    tries=$(grep -c "benchmarks gpu" {folder}/calls)
    [ $tries = 1 ] && exit 75
    running="${{5%.json}}.running"
    if [ $tries = 2 ]; then echo "a row" > "$running" && kill -9 $$; fi
    rm -f "$running" ;;
esac
"""
_SANITIZER = """#!/usr/bin/env bash
echo "sanitizer $* $PYTORCH_NO_CUDA_MEMORY_CACHING" >> {folder}/calls
"""
_TIMEOUT = """#!/usr/bin/env bash
echo "$5 ${{@:6}}" >> {folder}/limits
"${{@:6}}"
"""
_SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.sh"
_FILES = {"gpu.json", "latency.json", "variants.json", "cell.json", "logs.tgz", "gpu.running"}


class Script:
    """gpu.sh beside programs that only say how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        named = {"python": _PYTHON, "compute-sanitizer": _SANITIZER, "timeout": _TIMEOUT}
        for name, text in named.items():
            path = folder / name
            path.write_text(text.format(folder=folder))
            path.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHON": str(folder / "python"),
            "OUT": str(self.out),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        for name in ("calls", "limits"):
            (self.folder / name).unlink(missing_ok=True)
        environment = {**self.environment, **environment}
        command = ["bash", _SCRIPT, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert {path.name for path in self.out.iterdir()} <= _FILES
        return done

    @property
    def calls(self) -> list[str]:
        calls = (self.folder / "calls").read_text().splitlines()
        return [call for call in calls if not call.startswith("-c ")]

    @property
    def limits(self) -> list[tuple[int, str]]:
        path = self.folder / "limits"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(limit), called) for limit, called in (line.split(" ", 1) for line in lines)]

    @property
    def logs(self) -> dict[str, str]:
        with tarfile.open(self.out / "logs.tgz") as archive:
            files = {Path(m.name).name: archive.extractfile(m) for m in archive if m.isfile()}
            return {name: file.read().decode() for name, file in files.items() if file}


@pytest.fixture
def script(tmp_path) -> Script:
    return Script(tmp_path)


def test_the_gpu_script_takes_its_steps_and_goes_on_behind_what_fails(script):
    done = script.run()
    assert "FAILED tests/x.py::y" in done.stdout
    # a test failed; the GPU was lost and a row hung, which a third process made good
    assert done.returncode == 1
    assert "smoke: exit 1, tests: exit 1, exchanges: exit 0, timing: exit 0" in done.stdout
    calls = script.calls
    beginnings = [
        "setup.py --quiet build_ext --inplace",
        "-m pytest",
        "-m benchmarks.latency",
        "-m benchmarks.variants",
        *["-m benchmarks gpu --resume"] * 3,
        "-m benchmarks.gpu_cell",
        "-m pytest",
        "-m pytest",
        *(f"sanitizer --tool {tool}" for tool in ("memcheck", "racecheck", "synccheck")),
    ]
    assert all(map(str.startswith, calls, beginnings)) and len(calls) == len(beginnings), calls
    assert all("-p no:benchmark" in call for call in calls if "-m pytest" in call)
    assert "test_saved_tensors" in calls[1] and "every_variant" in calls[1]
    assert "-n 8" in calls[8] and "--timeout 120" in calls[8] and "test_cuda_gpu.py" in calls[8]
    assert "test_triton_gpu.py" in calls[9] and "-n 8" not in calls[-1] and calls[-1].endswith("1")
    assert {"build.txt", "smoke.txt", "gpu.txt", "tests.txt", "sanitizer-memcheck.txt"} <= set(
        script.logs
    )
    assert not (script.out / "gpu.running").exists()


@pytest.mark.parametrize("seconds", [540, 240])
def test_no_step_of_the_gpu_script_takes_what_later_ones_need(script, seconds):
    script.run(str(seconds))
    # nothing takes any time here
    build, smoke, latency, variants, measuring, *_ = (limit for limit, _ in script.limits)
    needed = [needed * seconds // 540 for needed in (200, 45, 30, 30)]
    assert 5 <= build <= min(300, seconds - 10 - sum(needed))
    assert 5 <= smoke <= 60 and 5 <= latency <= 60
    assert 5 <= variants <= min(90, seconds - 10 - needed[0])
    assert measuring >= 0.6 * seconds - 25


def test_the_gpu_script_uses_what_is_built_and_one_step_has_all_of_the_time(script):
    done = script.run("500", "latency", BUILD="0")
    assert done.returncode == 0 and len(script.calls) == 1 and "latency" in script.calls[0]
    assert script.limits[0][0] == 60 and done.stderr == ""
    done = script.run("12", "bench", BUILD="0")
    assert done.returncode == 1 and "timing: exit 124" in done.stdout and not script.limits
    done = script.run("500", "bench", BUILD="0")
    assert done.returncode == 0 and script.limits[0][0] > 450, script.limits


def test_the_gpu_script_goes_on_from_an_earlier_result_or_without(script, tmp_path):
    earlier = tmp_path / "earlier.json"
    earlier.write_text("earlier rows")
    done = script.run("500", "bench", BUILD="0", RESUME=str(earlier))
    # refused, and so measured from the beginning
    assert done.returncode == 0 and "--resume: commit was" in script.logs["gpu.txt"]
    assert script.logs["gpu.json"] == earlier.read_text() == "earlier rows"
    assert (script.out / "gpu.json").read_text() == "rows\n"
    done = script.run("500", "bench", BUILD="0", RESUME=str(tmp_path / "none.json"))
    assert done.returncode == 1 and "none.json" in done.stderr
