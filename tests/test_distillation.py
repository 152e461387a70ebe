"""A teacher's probabilities beside the targets: the loss, the trainer, and `train --teacher`."""

from __future__ import annotations

import json

import pytest
import torch
from helpers_cli import QUICK, assert_wrong_usage
from helpers_training import (
    NAMES,
    numbers,
    toy_entries,
    toy_model,
    toy_tokenizers,
    toy_trainer,
    toy_tsv,
)

from fast_s2s import Ensemble, Seq2Seq
from fast_s2s.cli import main
from fast_s2s.data import Entry, PairDataset
from fast_s2s.text import Vocabulary
from fast_s2s.training import TrainingConfig
from fast_s2s.training.distillation import Distillation
from fast_s2s.training.run_folder import TrainLog

WIDE = {"dtype": torch.float64}


def toy_batch(count=7):
    data = PairDataset(toy_entries(count), *toy_tokenizers())
    return data.collate(range(len(data)))


def by_hand(model, teachers, batch, weight, temperature):
    """Row by row and token by token, with probabilities instead of their logarithms."""
    losses, distances = [], []
    for row in range(len(batch.src)):
        src = batch.src[row : row + 1, : batch.src_lengths[row]]
        tgt = batch.tgt[row : row + 1, : batch.tgt_lengths[row]]
        own = model(src, tgt).logits[0]
        told = [teacher(src, tgt).logits[0].softmax(-1) for teacher in teachers]
        told = (torch.stack(told).mean(0).log() / temperature).softmax(-1).detach()
        losses.append(-own.log_softmax(-1).gather(1, tgt.T)[:, 0])
        said = (own / temperature).softmax(-1)
        distances.append((told * (told / said).log()).sum(-1))
    distance = torch.cat(distances).mean()
    return (1 - weight) * torch.cat(losses).mean() + weight * temperature**2 * distance


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (1.0, 2.5), (0.3, 0.7)])
@pytest.mark.parametrize("teachers", [1, 3])
def test_loss_and_gradients(weight, temperature, teachers, assert_close):
    model = toy_model(**WIDE)
    each = [toy_model(5 + i, attention="dot", hidden_size=8 + i, **WIDE) for i in range(teachers)]
    teacher = each[0] if teachers == 1 else Ensemble(each)
    config = TrainingConfig(distillation_weight=weight, distillation_temperature=temperature)
    batch = toy_batch()
    parameters = dict(model.named_parameters())
    expected = by_hand(model, each, batch, weight, temperature)
    wanted = torch.autograd.grad(expected, list(parameters.values()))
    distillation = Distillation(teacher, model, config)
    src, src_lengths, tgt, tgt_lengths = batch
    found = distillation.loss(model(src, tgt, src_lengths, tgt_lengths), batch)
    assert_close(found, expected, "loss")
    found.backward()
    for (name, parameter), gradient in zip(parameters.items(), wanted, strict=True):
        assert_close(parameter.grad, gradient, name)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_is_in_eval_mode_and_stays_as_it_is(tmp_path):
    teacher = toy_model(3, dropout=0.5).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = toy_trainer(tmp_path, teacher=teacher, precision="bf16")
    trainer.fit(toy_entries(20))
    assert not teacher.training
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    weights = Seq2Seq.from_pretrained(tmp_path).state_dict()
    # and it counts: without it the weights become others
    toy_trainer(tmp_path / "alone", precision="bf16").fit(toy_entries(20))
    alone = Seq2Seq.from_pretrained(tmp_path / "alone").state_dict()
    assert any(not torch.equal(value, alone[name]) for name, value in weights.items())


def test_a_model_learns_what_its_teacher_knows(tmp_path):
    """And not the targets, which are wrong. Of one token, since it is asked after theirs."""
    entries = toy_entries(60, longest=1)
    teacher = toy_model(hidden_size=24)
    settings = {"max_updates": 150, "learning_rate": 0.02, "evaluate_every": 150}
    toy_trainer(tmp_path / "teacher", teacher, **settings).fit(entries)
    wrong = [Entry(entry.source, (NAMES[int(entry.source) - 1],)) for entry in entries]
    wer = {}
    for weight in (0.05, 1.0):
        run = toy_trainer(
            tmp_path / str(weight),
            toy_model(7, hidden_size=24),
            teacher=teacher,
            distillation_weight=weight,
            dev_metric="wer",
            **settings,
        )
        wer[weight] = run.fit(wrong, entries).best_score
    assert wer == {0.05: 100.0, 1.0: 0.0}


def test_a_resumed_run_ends_in_the_same_numbers(tmp_path):
    teacher, entries, dev = toy_model(3, attention="dot"), toy_entries(40), toy_entries(6, seed=1)
    more = {"teacher": Ensemble([teacher, toy_model(4)]), "schedule": "constant"}
    toy_trainer(tmp_path / "whole", max_updates=8, **more).fit(entries, dev)
    toy_trainer(tmp_path / "parts", max_updates=4, **more).fit(entries, dev)
    toy_trainer(tmp_path / "parts", max_updates=8, **more).fit(entries, dev, resume=True)
    whole, parts = (TrainLog(tmp_path / name / "train_log.jsonl") for name in ("whole", "parts"))
    assert numbers(whole.records()) == numbers(parts.records())
    with torch.no_grad():
        teacher.output_projection.bias[0] += 1e-3
    for other, message in (
        (more["teacher"], "teacher changed"),
        (None, "teacher changed"),
        (more["teacher"], "distillation_weight was 0.5, is 0.25; teacher changed"),
    ):
        changed = {"distillation_weight": 0.25} if "was 0.5" in message else {}
        again = toy_trainer(
            tmp_path / "parts", max_updates=9, **{**more, "teacher": other}, **changed
        )
        with pytest.raises(ValueError, match=message):
            again.fit(entries, dev, resume=True)


def sharing(model):
    other = toy_model(3)
    other.encoder = model.encoder
    return other


def test_what_does_not_fit(tmp_path):
    teacher = toy_model(3)
    model = toy_model()
    for given, settings, message in (
        (teacher, {"scheduled_sampling": 0.5}, "teacher: expected none with scheduled_sampling"),
        (None, {"distillation_weight": 0.7}, "distillation_weight: expected a teacher with it"),
        (None, {"distillation_temperature": 2.0}, "distillation_temperature: expected a teacher"),
        (model, {}, "teacher: expected no parameters of the model that is trained"),
        (sharing(model), {}, "teacher: expected no parameters of the model that is trained"),
        (Ensemble([teacher, model]), {}, "teacher: expected no parameters of the model"),
        (
            Seq2Seq(src_vocab_size=9, tgt_vocab_size=10),
            {},
            "teacher: expected tgt_vocab_size 9, as the model has, got 10",
        ),
        (toy_model().to("meta"), {}, "teacher: expected on cpu, got meta"),
    ):
        with pytest.raises(ValueError, match=message):
            toy_trainer(tmp_path, model, teacher=given, **settings)
    with pytest.raises(TypeError, match="teacher: expected a Seq2Seq or an Ensemble, got 'runs/a'"):
        toy_trainer(tmp_path, teacher="runs/a")
    for name, value, message in (
        ("distillation_weight", 0.0, "expected above 0 and at most 1, got 0.0"),
        ("distillation_weight", 1.5, "expected above 0 and at most 1, got 1.5"),
        ("distillation_temperature", 0.0, "expected above 0, got 0.0"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            TrainingConfig(**{name: value})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tsv(tmp_path):
    return toy_tsv(tmp_path / "train.tsv", toy_entries(40))


@pytest.fixture
def teachers(tmp_path):
    folders = []
    for index, fields in enumerate(({"attention": "general"}, {"hidden_size": 10})):
        folders.append(str(tmp_path / f"teacher{index}"))
        toy_model(index, **fields).save_pretrained(folders[-1], *toy_tokenizers())
    return folders


def test_by_the_command(tmp_path, tsv, teachers, monkeypatch, capsys):
    """Paths in a file and as flags, a new model, and a run that goes on from another folder."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text("teacher: [teacher0, teacher1]\ndistillation-weight: 0.8\n")
    begun = ["train", "--train", tsv, "--dev", tsv, *QUICK, "--schedule=constant"]
    flags = ["--teacher", "teacher0", "--teacher", "teacher1", "--distillation-weight=0.8"]
    assert main([*begun, "--config", str(config), "--output", "from_file"]) == 0
    assert main([*begun, *flags, "--output", "from_flags", "--max-updates=3"]) == 0
    options = json.loads((tmp_path / "from_flags" / "run.json").read_text())["options"]
    assert options["teacher"] == teachers
    for side in ("source", "target"):
        file = f"{side}_tokenizer.json"
        assert (tmp_path / "from_flags" / file).read_bytes() == (
            tmp_path / "teacher0" / file
        ).read_bytes()
    monkeypatch.chdir("/")
    on = ["train", "--resume", "--output", str(tmp_path / "from_flags"), "--quiet"]
    assert main([*on, "--max-updates=6"]) == 0
    logs = [TrainLog(tmp_path / name / "train_log.jsonl") for name in ("from_file", "from_flags")]
    assert numbers(logs[0].records()) == numbers(logs[1].records())
    capsys.readouterr()
    assert main([*on, "--max-updates=7", "--teacher", teachers[0]]) == 1
    assert "teacher changed" in capsys.readouterr().err


@pytest.mark.parametrize("none", ["", "null", "[null]"])
def test_no_teacher_in_a_file(tmp_path, tsv, none):
    config = tmp_path / "config.yaml"
    config.write_text(f"teacher: {none}\n")
    run = str(tmp_path / "run")
    begun = ["train", "--train", tsv, *QUICK, "--config", str(config), "--output", run]
    if none == "[null]":
        assert_wrong_usage(*begun)
    else:
        assert main(begun) == 0


def test_a_teacher_of_a_model_that_has_been_trained(tmp_path, tsv, teachers, capsys):
    begun = ["train", "--train", tsv, "--init-from", teachers[0], *QUICK[:4], "--quiet"]
    run = str(tmp_path / "on")
    assert main([*begun, "--teacher", *teachers[:1], "--output", run]) == 0
    letters, names = toy_tokenizers()
    other = str(tmp_path / "other")
    toy_model().save_pretrained(other, Vocabulary("43210"), names)
    assert_wrong_usage(*begun, "--teacher", other, "--output", run, "--overwrite")
    message = "--teacher: expected the source tokenizer of the model that is trained, got another"
    assert message in capsys.readouterr().err


def test_wrong_commands(tmp_path, tsv, teachers, capsys):
    begun = ["train", "--train", tsv, *QUICK]
    first, run = ["--teacher", teachers[0]], ["--output", str(tmp_path / "on")]
    for flags, message in (
        ([*first, *run, "--lowercase"], "--lowercase: expected not with --teacher, whose tokens"),
        ([*first, "--output", teachers[0]], "--teacher: expected another folder than --output"),
    ):
        assert_wrong_usage(*begun, *flags)
        assert message in capsys.readouterr().err
    for flags, message in (
        (["--teacher", str(tmp_path / "none")], f"--teacher {tmp_path / 'none'}: no such folder"),
        (["--distillation-weight=0.9"], "distillation_weight: expected a teacher with it, got 0.9"),
    ):
        assert main([*begun, *flags, *run]) == 1
        assert message in capsys.readouterr().err
