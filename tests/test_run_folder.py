"""The folder of a run: whom it belongs to, how a run goes on in it, what a crash leaves behind."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers_training import numbers, toy_entries, toy_model, toy_trainer

from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.training import checkpoint
from fast_s2s.training.checkpoint import checkpoint_steps, latest_checkpoint
from fast_s2s.training.run_folder import RunFolder, TrainLog


def test_a_damaged_line_of_the_log_is_named(tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_bytes(b'{"update": 4}\n{"update: \xff}\n')
    with pytest.raises(ValueError, match=r"train_log\.jsonl:2: expected JSON"):
        TrainLog(path).records()


def test_two_runs_do_not_share_a_folder(tmp_path):
    toy_trainer(tmp_path, max_updates=4).fit(toy_entries(20))
    # as another process holds it, here on a descriptor of its own
    other = RunFolder(tmp_path)
    other.open(resume=True, overwrite=False)
    half_written = tmp_path / ".run.json.0123456789ab.tmp"
    half_written.touch()
    before = sorted(tmp_path.rglob("*"))
    for how in ({"resume": True}, {"overwrite": True}, {}):
        with pytest.raises(FileExistsError, match="another process is training in"):
            toy_trainer(tmp_path, max_updates=8).fit(toy_entries(20), **how)
    assert sorted(tmp_path.rglob("*")) == before
    other.close()
    toy_trainer(tmp_path, max_updates=4).fit(toy_entries(20), resume=True)
    assert not half_written.exists()
    # and one that failed holds nothing either
    with pytest.raises(FileExistsError, match="holds a finished training run"):
        toy_trainer(tmp_path).fit(toy_entries(20))
    other.open(resume=True, overwrite=False)
    other.close()


def test_a_run_is_not_overwritten_unasked(tmp_path):
    entries = toy_entries(10)
    toy_trainer(tmp_path / "run").fit(entries)
    with pytest.raises(FileExistsError, match=r"holds a finished training run.*--resume"):
        toy_trainer(tmp_path / "run").fit(entries)
    (tmp_path / "run" / "mine.txt").write_text("keep")
    toy_trainer(tmp_path / "run", max_updates=4).fit(entries, overwrite=True)
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"
    assert [r["update"] for r in TrainLog(tmp_path / "run" / "train_log.jsonl").records()] == [4]
    with pytest.raises(ValueError, match="overwrite: expected False with resume=True"):
        toy_trainer(tmp_path / "run").fit(entries, resume=True, overwrite=True)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("keep")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match="not a training run"):
            toy_trainer(tmp_path).fit(toy_entries(5), **how)
    with pytest.raises(FileExistsError, match="expected a folder, got the file"):
        toy_trainer(tmp_path / "thesis.tex").fit(toy_entries(5))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


OTHERS = (".notes.tmp", ".said.tsv.4711.tmp", ".thesis.tex.0123456789ab.tmp", ".run.json.tmp")


@pytest.mark.parametrize("name", OTHERS)
def test_temporary_files_of_others_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("keep")
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match="not a training run"):
            toy_trainer(tmp_path).fit(toy_entries(5), **how)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_its_own_temporary_files_go(tmp_path):
    ours = [
        tmp_path / f".{name}.0123456789ab.tmp"
        for name in ("run.json", "model.safetensors", "curve.png")
    ]
    # a process killed before it had written anything else
    ours[0].touch()
    toy_trainer(tmp_path, max_updates=4).fit(toy_entries(5))
    assert not ours[0].exists()
    for how in ({"resume": True}, {"overwrite": True}):
        for path in (*ours, *(tmp_path / name for name in OTHERS)):
            path.touch()
        toy_trainer(tmp_path, max_updates=4).fit(toy_entries(5), **how)
        assert sorted(path.name for path in tmp_path.glob(".*")) == sorted(OTHERS)


def test_resume_of_a_shorter_run_gives_the_longer_run(tmp_path):
    train, dev = toy_entries(60), toy_entries(15, seed=1)
    same = {"schedule": "plateau", "plateau_patience": 1, "learning_rate": 0.05}

    def run(name, max_updates, **how):
        model = toy_model(dropout=0.3, num_layers=2)
        trainer = toy_trainer(tmp_path / name, model, max_updates=max_updates, **same)
        trainer.fit(train, dev, **how)
        return trainer

    whole = run("whole", 30)
    run("parts", 7)
    run("parts", 18, resume=True)
    # torch's generator and the weights of a fresh model must not matter
    torch.rand(5)
    parts = run("parts", 30, resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], tensor), name
    # the shorter runs ended with an evaluation of their own, and so began a new mean of the loss
    logs = [
        {record["update"]: (record["per"], record["dev_loss"]) for record in trainer._log.records()}
        for trainer in (whole, parts)
    ]
    assert list(logs[0]) == [4, 8, 12, 16, 20, 24, 28, 30]
    assert list(logs[1]) == [4, 7, 8, 12, 16, 18, 20, 24, 28, 30]
    assert all(logs[1][update] == scores for update, scores in logs[0].items())
    assert whole._schedule.state_dict() == parts._schedule.state_dict()
    assert whole._schedule.state_dict()["scale"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.002, is 0.5"),
        ({"seed": 9}, "seed was 1, is 9"),
        ({"max_updates": 20}, "max_updates was 12, is 20"),
        ({"model": {"dropout": 0.5}}, "dropout was 0.0, is 0.5"),
        ({"entries": toy_entries(11)}, "training data changed"),
        ({"dev": toy_entries(3)}, "dev data changed"),
    ],
)
def test_resume_with_other_numbers_is_refused(tmp_path, change, message):
    entries = toy_entries(10)
    toy_trainer(tmp_path / "run").fit(entries)
    model = toy_model(**change.pop("model", {}))
    data = (change.pop("entries", entries), change.pop("dev", ()))
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ValueError, match=f"resume: expected the data and settings.*{message}"):
        toy_trainer(tmp_path / "run", model, **change).fit(*data, resume=True)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_two_newest_checkpoints_are_kept_and_a_damaged_one_passed_over(tmp_path):
    entries = toy_entries(10)
    toy_trainer(tmp_path / "run").fit(entries)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-12", "step-8"]
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json"}
    (folder / "step-12" / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.warns(RuntimeWarning, match=r"passed over: .*step-12/optimizer.safetensors"):
        assert latest_checkpoint(folder).path.name == "step-8"
    (folder / "step-8" / "state.json").unlink()
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match="none of its 2 checkpoints can be read"),
    ):
        latest_checkpoint(folder)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_goes_on_from_before_a_damaged_checkpoint(tmp_path, keep):
    """And its own next checkpoints are the newest."""
    entries, settings = toy_entries(30), {"schedule": "constant", "keep_checkpoints": keep}
    toy_trainer(tmp_path, max_updates=20, **{**settings, "keep_checkpoints": 3}).fit(entries)
    folder = tmp_path / "checkpoints"
    for step in (16, 20):
        (folder / f"step-{step}" / "state.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.warns(RuntimeWarning, match="passed over"),
        pytest.raises(ValueError, match="seed was 1, is 9"),
    ):
        toy_trainer(tmp_path, seed=9, **settings).fit(entries, resume=True)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.warns(RuntimeWarning, match="passed over"):
        toy_trainer(tmp_path, max_updates=14, **settings).fit(entries, resume=True)
    assert latest_checkpoint(folder).path.name == "step-14"
    assert checkpoint_steps(folder)[-1] == 14
    again = toy_trainer(tmp_path, max_updates=18, **settings)
    again.fit(entries, resume=True)
    assert latest_checkpoint(folder).path.name == "step-18"


@pytest.mark.parametrize("old", ["cuda", "cuda.0", "cuda.3"])
@pytest.mark.parametrize("rank", [0, 1, 11])
def test_a_run_goes_on_on_another_gpu(monkeypatch, old, rank):
    """Its generator is in the state in which the first one's was; checkpoints of before too."""
    states = {2: torch.tensor([7], dtype=torch.uint8), 0: torch.tensor([1], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device.index])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update({device.index: state})
    )
    saved = checkpoint.random_states(torch.device("cuda", 2))
    assert set(saved) == {"cpu", "cuda"}
    prefix = f"rank{rank}." if rank else ""
    others = {f"rank{other}.{key}": torch.zeros(1) for other in (1, 11) for key in ("cpu", "cuda")}
    ours = {f"{prefix}cpu": saved["cpu"], f"{prefix}{old}": saved["cuda"]}
    if old != "cuda":
        others.pop(f"{prefix}cuda", None)
    checkpoint._restore_random({**others, **ours}, rank, torch.device("cuda", 0))
    assert states[0].tolist() == [7]


def test_half_written_things_do_not_matter(tmp_path):
    entries, dev = toy_entries(30), toy_entries(8, seed=1)
    for name in ("whole", "broken"):
        toy_trainer(tmp_path / name).fit(entries, dev)
    run = tmp_path / "broken"
    shutil.rmtree(run / "checkpoints" / "step-12")
    (run / "checkpoints" / ".tmp-step-12").mkdir()
    (run / "checkpoints" / ".tmp-step-12" / "model.safetensors").write_bytes(b"half")
    (run / ".run.json.0123456789ab.tmp").write_text("{")
    with (run / "train_log.jsonl").open("a") as file:
        file.write('{"update": 1')
    again = toy_trainer(run, toy_model(seed=5))
    again.fit(entries, dev, resume=True)
    assert numbers(again._log.records()) == numbers(
        TrainLog(tmp_path / "whole" / "train_log.jsonl").records()
    )
    models = [Seq2Seq.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "broken")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not list(run.rglob(".*"))


def test_a_log_shorter_than_its_checkpoint_is_an_error(tmp_path):
    entries = toy_entries(10)
    toy_trainer(tmp_path / "run").fit(entries)
    (tmp_path / "run" / "train_log.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"train_log.jsonl: expected at least \d+ bytes, found 0"):
        toy_trainer(tmp_path / "run").fit(entries, resume=True)
