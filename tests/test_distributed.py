"""Training in two processes, by torchrun and gloo, gives the numbers of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers_distributed import toy_teacher, train
from helpers_training import numbers, toy_entries, toy_tsv

from fast_s2s.cli import main
from fast_s2s.serialization import load_tensors
from fast_s2s.training.checkpoint import checkpoint_steps, latest_checkpoint
from fast_s2s.training.run_folder import RunFolder, TrainLog

TESTS = Path(__file__).parent
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


def environment():
    # gloo looks for an address by the machine's name, which need not have one
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return {**os.environ, "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def test_two_processes_give_the_numbers_of_one(tmp_path, assert_close):
    """From the start, and where a run goes on with more or fewer of them."""
    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "one_then_two", 6)
    command = [*LAUNCH, str(TESTS / "helpers_distributed.py"), str(tmp_path)]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    options = {"check": True, "timeout": 300, "stdout": subprocess.PIPE, "text": True}
    found = subprocess.run(command, env=environment(), **options)
    assert found.stdout.count("refused: output_dir") == 2
    # one that outlived the group could abort its process at its end
    assert found.stdout.count("gloo's threads: 0") == 2
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]
    train(tmp_path / "two_then_one", 12, resume=True)
    taught = train(tmp_path / "taught_by_one", 4, teacher=toy_teacher())
    checkpoint = latest_checkpoint(tmp_path / "taught" / "checkpoints")
    for key, weight in taught.model.state_dict().items():
        assert_close(checkpoint.model[key], weight, f"taught: {key}")
    expected = TrainLog(tmp_path / "whole" / "train_log.jsonl").records()
    for name in ("one_then_two", "two_then_one"):
        checkpoint = latest_checkpoint(tmp_path / name / "checkpoints")
        assert checkpoint.state["training"]["update"] == 12
        for key, weight in whole.model.state_dict().items():
            assert_close(checkpoint.model[key], weight, f"{name}: {key}")
        for key, weight in whole._average.model.state_dict().items():
            assert_close(checkpoint.average[key], weight, f"{name}: average {key}")
        records = {r["update"]: r for r in TrainLog(tmp_path / name / "train_log.jsonl").records()}
        for record in expected:
            found = records[record["update"]]
            # the part that ended at 6 began a new mean of the training loss there
            same = ("dev_loss", "per", "wer", "tokens", "epoch")
            assert {k: found[k] for k in same} == pytest.approx({k: record[k] for k in same})
    # each process draws dropout of its own from the first on, and finds it again
    random = load_tensors(tmp_path / "dropout" / "checkpoints" / "step-0" / "random.safetensors")
    assert set(random) == {"cpu", "rank1.cpu"}
    assert not torch.equal(random["cpu"], random["rank1.cpu"])


@pytest.fixture
def flags(tmp_path):
    train_file = toy_tsv(tmp_path / "train.tsv", toy_entries(60))
    dev_file = toy_tsv(tmp_path / "dev.tsv", toy_entries(11, seed=1))
    flags = ["--train", train_file, "--dev", dev_file, "--device=cpu", "--threads=1"]
    flags += ["--hidden-size=16", "--embedding-size=8", "--max-tokens=64", "--evaluate-every=5"]
    return [*flags, "--checkpoint-every=5", "--warmup-updates=2", "--schedule=constant"]


def launch(*arguments):
    command = [*LAUNCH, "-m", "fast_s2s", "train", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(), **pipes)


def test_command_line(tmp_path, flags, assert_close, capsys):
    """The numbers of one process; one voice; SIGTERM saves, and one process goes on from there."""
    run = RunFolder(tmp_path / "two")
    process = launch("--output", run.path, *flags, "--max-updates=100000")
    deadline = time.monotonic() + 120
    while not (run.checkpoints.is_dir() and len(checkpoint_steps(run.checkpoints)) > 1):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert err.count("entries to train on") == err.count("to go on: ") == 1
    assert err.count("interrupted; the run is saved in") == 1 and "epoch" in err
    done = checkpoint_steps(run.checkpoints)[-1]
    ends = f"--max-updates={done + 5}"
    assert main(["train", "--resume", "--output", str(run.path), ends, "--quiet"]) == 0
    assert main(["train", "--output", str(tmp_path / "one"), *flags, ends, "--quiet"]) == 0
    logs = [
        {r["update"]: r for r in numbers(TrainLog(tmp_path / name / "train_log.jsonl").records())}
        for name in ("one", "two")
    ]
    common = sorted(logs[0].keys() & logs[1].keys())[:4]
    assert common[0] == 5
    for update in common:
        assert logs[1][update]["train_loss"] == pytest.approx(logs[0][update]["train_loss"], 1e-4)
        assert logs[1][update]["dev_loss"] == pytest.approx(logs[0][update]["dev_loss"], 1e-4)
    assert json.loads(run.manifest_file.read_text())["finished"]


def test_device_of_each_process(monkeypatch, capsys, tmp_path, flags):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    flags = [flag for flag in flags if not flag.startswith("--device")]
    code = main(["train", "--output", str(tmp_path / "a"), *flags, "--device=cuda:1"])
    assert code == 2 and "each of which takes a GPU of its own" in capsys.readouterr().err
