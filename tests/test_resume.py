"""A killed and resumed run, in a process of its own, ends with the numbers of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers_training import numbers, toy_entries, toy_tsv

from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.training.checkpoint import latest_checkpoint
from fast_s2s.training.run_folder import RunFolder, TrainLog

SETTINGS = {
    "hidden-size": 16,
    "embedding-size": 8,
    "num-layers": 2,
    "dropout": 0.2,
    "label-smoothing": 0.1,
    "max-updates": 200,
    "warmup-updates": 20,
    "max-tokens": 128,
    "accumulation-steps": 2,
    "evaluate-every": 25,
    # often, so that a kill at a random moment is likely to hit one being written
    "checkpoint-every": 3,
    "threads": 1,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train = toy_tsv(folder / "train.tsv", toy_entries(300))
    return train, toy_tsv(folder / "dev.tsv", toy_entries(30, seed=1))


class Run:
    """A training process that has said what it trains on, which it does just before it begins."""

    def __init__(self, output, files, *, resume=False):
        flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
        flags += ["--train", files[0], "--dev", files[1]]
        if resume and RunFolder(output).manifest_file.exists():
            # the folder knows the rest, once the run has begun
            flags = []
        self.checkpoints = RunFolder(output).checkpoints
        self.stderr_file = output.with_suffix(".stderr")
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fast_s2s", "train", "--output", str(output), *flags]
                + ["--resume"] * resume,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        while "entries to train on" not in self.said():
            assert self.process.poll() is None, self.said()
            time.sleep(0.005)

    def said(self):
        return self.stderr_file.read_text()

    def wait_for_update(self, update):
        """Until the checkpoint of this update or a later one is there, however long that takes."""
        while not any(int(path.name[5:]) >= update for path in self.checkpoints.glob("step-*")):
            assert self.process.poll() is None, self.said()
            time.sleep(0.002)

    def end(self, signal_number=None):
        """The exit code, after a signal or by itself."""
        if signal_number is not None:
            self.process.send_signal(signal_number)
        return self.process.wait(timeout=120)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, files):
    """The folder of a run without a break."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run = Run(output, files)
    assert run.end() == 0, run.said()
    return output


def assert_same_run(output, expected):
    checkpoints = [latest_checkpoint(RunFolder(path).checkpoints) for path in (output, expected)]
    for part in ("model", "optimizer", "random"):
        ours, theirs = (getattr(checkpoint, part) for checkpoint in checkpoints)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part
    best = [Seq2Seq.from_pretrained(path).state_dict() for path in (output, expected)]
    assert all(torch.equal(best[0][name], tensor) for name, tensor in best[1].items())
    logs = [numbers(TrainLog(RunFolder(path).log_file).records()) for path in (output, expected)]
    assert logs[0] == logs[1]
    assert [record["update"] for record in logs[0]] == list(range(25, 201, 25))
    assert not list(RunFolder(output).checkpoints.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(tmp_path, files, uninterrupted, seed):
    rng = random.Random(seed)
    output = tmp_path / "run"
    for part in range(4):
        run = Run(output, files, resume=True)
        run.wait_for_update(rng.randint(40 * part, 40 * part + 30))
        # a checkpoint may be half written by then
        time.sleep(rng.uniform(0.0, 0.02))
        assert run.end(signal.SIGKILL) == -signal.SIGKILL
    run = Run(output, files, resume=True)
    assert run.end() == 0, run.said()
    assert_same_run(output, uninterrupted)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, files, uninterrupted):
    output = tmp_path / "run"
    run = Run(output, files)
    run.wait_for_update(25)
    assert run.end(signal.SIGINT) == 130, run.said()
    said = run.said()
    assert f"fast-s2s train --resume --output {output}" in said
    assert "Traceback" not in said
    checkpoint = latest_checkpoint(RunFolder(output).checkpoints)
    assert 0 < checkpoint.state["training"]["update"] < 200
    assert f"the run is saved in {checkpoint.path}" in said
    run = Run(output, files, resume=True)
    assert run.end() == 0, run.said()
    assert_same_run(output, uninterrupted)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_further(uninterrupted, files):
    before = RunFolder(uninterrupted).log_file.read_bytes()
    run = Run(uninterrupted, files, resume=True)
    assert run.end() == 0, run.said()
    assert RunFolder(uninterrupted).log_file.read_bytes() == before
    assert RunFolder(uninterrupted).manifest()["result"]["updates"] == 200
