"""Trainer: the numbers, the limits, and what it writes."""

from __future__ import annotations

import io
import json
import math
import shutil

import pytest
import torch
from helpers_training import (
    numbers,
    toy_entries,
    toy_model,
    toy_tokenizers,
    toy_trainer,
)
from torch import nn

from fast_s2s.data import Entry, PairDataset, TokenBatches
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.training import Trainer, TrainingConfig, evaluation
from fast_s2s.training.checkpoint import latest_checkpoint
from fast_s2s.training.curve import plot_learning_curve
from fast_s2s.training.gradients import accumulate_gradients
from fast_s2s.training.progress import Progress
from fast_s2s.training.run_folder import RunFolder, TrainLog
from fast_s2s.training.schedule import Schedule


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_updates": 0}, ValueError, "max_updates: expected at least 1, got 0"),
        ({"max_updates": 1.5}, TypeError, "max_updates: expected int, got 1.5"),
        ({"max_updates": True}, TypeError, "max_updates: expected int, got True"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate: expected above 0, got 0.0"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate: expected above 0, got nan"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate: expected float, got '1e-3'"),
        ({"clip_norm": -1}, ValueError, "clip_norm: expected above 0, got -1"),
        ({"patience": 0}, ValueError, "patience: expected at least 1, got 0"),
        ({"patience": "x"}, TypeError, "patience: expected int or None, got 'x'"),
        ({"adam_beta2": 1.0}, ValueError, "adam_beta2: expected between 0 and 1, got 1.0"),
        ({"schedule": "cosine"}, ValueError, "schedule: expected one of constant, linear"),
        ({"dev_metric": "f1"}, ValueError, "dev_metric: expected one of loss, per"),
        ({"tensorboard": 1}, TypeError, "tensorboard: expected bool, got 1"),
        ({"warmup_updates": 10_000}, ValueError, "warmup_updates: expected fewer than max_up"),
        ({"weight_decay": 0.1}, ValueError, "weight_decay: expected 0 with optimizer 'adam'"),
    ],
)
def test_config_refuses(settings, error, message):
    with pytest.raises(error, match=message):
        TrainingConfig(**settings)


def test_config_accepts_an_int_for_a_float():
    assert TrainingConfig(clip_norm=2, learning_rate=1).clip_norm == 2


def rates(updates, **settings):
    schedule = Schedule(TrainingConfig(learning_rate=0.1, **settings))
    return [schedule.rate(update) for update in updates]


def test_schedules():
    updates = [1, 5, 10, 11, 40, 100]
    rise = [0.01, 0.05, 0.1]
    same = {"warmup_updates": 10, "max_updates": 100}
    constant = rates(updates, schedule="constant", **same)
    assert constant == pytest.approx([*rise, 0.1, 0.1, 0.1])
    linear = rates(updates, schedule="linear", **same)
    assert linear == pytest.approx([*rise, 0.1 * 90 / 90, 0.1 * 61 / 90, 0.1 * 1 / 90])
    inverse = rates(updates, schedule="inverse_sqrt", **same)
    expected = [*rise, 0.1 * (10 / 11) ** 0.5, 0.1 * 0.5, 0.1 * 0.1**0.5]
    assert inverse == pytest.approx(expected)
    assert rates([1, 2], schedule="constant", warmup_updates=0) == [0.1, 0.1]
    assert rates([1, 4], schedule="inverse_sqrt", warmup_updates=0) == pytest.approx([0.1, 0.05])


def test_linear_schedule_ends_with_the_time():
    config = TrainingConfig(learning_rate=1.0, warmup_updates=10, max_updates=110, max_minutes=1.0)
    schedule = Schedule(config)
    assert schedule.rate(30, time_used=0.1) == schedule.rate(30)
    # half of the time is gone, so half of the updates count as gone
    assert schedule.rate(30, time_used=0.5) == pytest.approx(0.5 * 1.1)
    assert schedule.rate(30, time_used=1.5) == 0.0


def test_plateau_schedule_falls_when_the_score_stands_still():
    config = TrainingConfig(
        schedule="plateau", warmup_updates=0, learning_rate=1.0, plateau_patience=2
    )
    schedule, seen = Schedule(config), []
    for score in (5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.0, 3.0, 3.0):
        schedule.observe(score)
        seen.append(schedule.rate(100))
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    copy = Schedule(config)
    copy.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    for each in (schedule, copy):
        each.observe(3.0)
        each.observe(3.0)
    assert copy.rate(1) == schedule.rate(1) == 0.0625


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_accumulated_gradient_is_that_of_one_batch(assert_close, label_smoothing):
    dataset = PairDataset(toy_entries(23, longest=9), *toy_tokenizers())
    models = [
        toy_model(dtype=torch.float64, bidirectional=True, label_smoothing=label_smoothing)
        for _ in range(2)
    ]
    parts = [dataset.collate(rows) for rows in (range(3), range(3, 16), range(16, 23))]
    loss, tokens = accumulate_gradients(models[0], parts)
    whole, all_tokens = accumulate_gradients(models[1], [dataset.collate(range(23))])
    assert tokens == all_tokens == dataset.target_tokens
    assert loss == pytest.approx(whole, rel=1e-12)
    expected = gradients(models[1])
    for name, grad in gradients(models[0]).items():
        assert_close(grad, expected[name], name)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_fit_is_the_plain_loop(tmp_path, optimizer):
    """The same weights, to the bit, as a loop of torch's own parts."""
    entries, accumulation, n, warmup = toy_entries(60), 2, 9, 3
    decay = 0.05 if optimizer == "adamw" else 0.0
    trainer = toy_trainer(
        tmp_path / "run",
        toy_model(dropout=0.2),
        max_updates=n,
        warmup_updates=warmup,
        accumulation_steps=accumulation,
        learning_rate=0.01,
        clip_norm=0.5,
        optimizer=optimizer,
        weight_decay=decay,
        seed=3,
    )
    trainer.fit(entries)

    model = toy_model(dropout=0.2).train()
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    optim = kind(model.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=decay)
    batches = TokenBatches(PairDataset(entries, *toy_tokenizers()), 64, 3)
    torch.manual_seed(3)
    update = epoch = 0
    while update < n:
        indices = batches.batches(epoch)
        for start in range(0, len(indices), accumulation):
            group = [batches.collate(i) for i in indices[start : start + accumulation]]
            if update == n:
                break
            update += 1
            rate = 0.01 * min(update / warmup, (n - update + 1) / (n - warmup))
            optim.param_groups[0]["lr"] = rate
            optim.zero_grad()
            total = sum(int(batch.tgt_lengths.sum()) for batch in group)
            for src, src_lengths, tgt, tgt_lengths in group:
                loss = model(src, tgt, src_lengths, tgt_lengths).loss
                (loss * (int(tgt_lengths.sum()) / total)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optim.step()
        epoch += 1
    for (name, expected), actual in zip(
        model.state_dict().items(), trainer.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, msg=name)
    saved = Seq2Seq.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(saved[k], v) for k, v in trainer.model.state_dict().items())


def test_clipping_bounds_the_gradient(tmp_path):
    for clip_norm, bounded in ((0.01, True), (None, False)):
        trainer = toy_trainer(tmp_path / str(clip_norm), max_updates=3, clip_norm=clip_norm)
        trainer.fit(toy_entries(20))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients(trainer.model).values()))
        assert (norm <= 0.0101) == bounded


def test_learns_and_keeps_the_best_model(tmp_path):
    train, dev = toy_entries(200, longest=2), toy_entries(40, seed=1, longest=2)
    model = toy_model(hidden_size=32, bidirectional=True)
    trainer = toy_trainer(
        tmp_path / "run",
        model,
        max_updates=250,
        max_tokens=256,
        learning_rate=0.02,
        evaluate_every=50,
        checkpoint_every=50,
    )
    result = trainer.fit(train, dev)
    records = TrainLog(tmp_path / "run" / "train_log.jsonl").records()
    assert [record["update"] for record in records] == [50, 100, 150, 200, 250]
    assert result.stop_reason == "max_updates"
    assert result.best_score == min(record["per"] for record in records) < 5
    assert records[-1]["dev_loss"] < 0.5 * records[0]["dev_loss"]
    best = TextPipeline.from_pretrained(tmp_path / "run")
    grouped = evaluation.spread(dev, None)
    outputs = evaluation.predict_all(best, [entry.source for entry in grouped])
    assert evaluation.score_outputs(outputs, grouped, "word")["per"] == result.best_score
    assert best(["0", "12"])[0].split() == ["nil"]
    assert (tmp_path / "run" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_logged_losses_are_means_over_tokens(tmp_path):
    """The first line's training loss by hand; the dev loss without label smoothing."""
    entries, dev = toy_entries(30), toy_entries(10, seed=1)
    model = toy_model(label_smoothing=0.3)
    trainer = toy_trainer(tmp_path / "run", model, max_updates=3, evaluate_every=1)
    before = toy_model(label_smoothing=0.3)
    trainer.fit(entries, dev)
    first, *_, last = TrainLog(tmp_path / "run" / "train_log.jsonl").records()
    batches = trainer._batches._all
    batch = batches.collate(batches.batches(0)[0])
    expected = before.train()(batch.src, batch.tgt, batch.src_lengths, batch.tgt_lengths).loss
    assert first["train_loss"] == pytest.approx(expected.item(), rel=1e-5)
    data = PairDataset(evaluation.spread(dev, None), *toy_tokenizers())
    batch = data.collate(range(len(data)))
    loss = trainer.model.eval()(batch.src, batch.tgt, batch.src_lengths, batch.tgt_lengths).loss
    assert last["dev_loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_epochs": 2}, "max_epochs"),
        ({"max_minutes": 1e-4}, "max_minutes"),
        ({"patience": 2, "learning_rate": 1e-30, "max_updates": 100}, "patience"),
    ],
)
def test_limits(tmp_path, settings, reason):
    entries = toy_entries(30)
    trainer = toy_trainer(tmp_path / "run", **{"max_updates": 1000, **settings})
    result = trainer.fit(entries, entries)
    assert result.stop_reason == reason
    assert result.updates < 100
    if reason == "max_epochs":
        assert result.epochs == 2.0
        assert result.tokens == 2 * trainer._dataset.target_tokens
    if reason == "patience":
        # evaluations at 4 (the best, since nothing changes), 8 and 12
        assert (result.updates, result.best_update) == (12, 4)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["finished"] and manifest["result"]["stop_reason"] == reason


def test_dev_metric_that_rises(tmp_path):
    trainer = toy_trainer(tmp_path / "run", dev_metric="exact_match")
    trainer._schedule = Schedule(trainer.config)
    assert [trainer._take_note(score) for score in (10.0, 20.0, 15.0, 30.0)] == [1, 1, 0, 1]
    assert trainer.state.best_score == 30.0


def test_bf16_trains_in_fp32_weights(tmp_path):
    entries = toy_entries(40)
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = toy_trainer(tmp_path / precision, precision=precision)
        trainer.fit(entries)
        assert trainer.model.dtype == torch.float32
        losses[precision] = [r["train_loss"] for r in trainer._log.records()]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_longer_pairs_are_dropped_and_counted(tmp_path):
    entries = [*toy_entries(20, longest=3), Entry("01234", ("one",)), Entry("1", ("two " * 8,))]
    result = toy_trainer(tmp_path / "run", max_length=5).fit(entries)
    assert result.dropped == 2


def test_loss_that_is_not_finite(tmp_path):
    model = toy_model()
    with torch.no_grad():
        model.output_projection.bias.fill_(math.nan)
    with pytest.raises(RuntimeError, match="loss of update 1 is nan"):
        toy_trainer(tmp_path / "run", model).fit(toy_entries(5))


def test_wrong_arguments(tmp_path):
    config, tokenizers = TrainingConfig(), toy_tokenizers()
    with pytest.raises(TypeError, match="model: expected a Seq2Seq, got Linear"):
        Trainer(nn.Linear(1, 1), *tokenizers, config, tmp_path)
    with pytest.raises(TypeError, match="config: expected a TrainingConfig, got dict"):
        Trainer(toy_model(), *tokenizers, {}, tmp_path)
    small = type(tokenizers[0])("01", level="char")
    with pytest.raises(ValueError, match="source_tokenizer: expected the model's 9 tokens, got 6"):
        Trainer(toy_model(), small, tokenizers[1], config, tmp_path)
    with pytest.raises(ValueError, match="entries: expected at least one"):
        toy_trainer(tmp_path / "run").fit([])


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
    half_written = tmp_path / ".train_log.jsonl.tmp"
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


def test_half_written_things_do_not_matter(tmp_path):
    entries, dev = toy_entries(30), toy_entries(8, seed=1)
    for name in ("whole", "broken"):
        toy_trainer(tmp_path / name).fit(entries, dev)
    run = tmp_path / "broken"
    shutil.rmtree(run / "checkpoints" / "step-12")
    (run / "checkpoints" / ".tmp-step-12").mkdir()
    (run / "checkpoints" / ".tmp-step-12" / "model.safetensors").write_bytes(b"half")
    (run / ".run.json.0123.tmp").write_text("{")
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


def test_spread_takes_from_the_whole_set():
    entries = [Entry(str(i), ("a",)) for i in range(10)]
    assert [entry.source for entry in evaluation.spread(entries, 4)] == ["0", "2", "5", "7"]
    assert len(evaluation.spread(entries, 99)) == 10
    double = [Entry("x", ("a",)), Entry("x", ("b",))]
    assert evaluation.spread(double, None) == [Entry("x", ("a", "b"))]


def test_predict_all_keeps_the_order():
    pipeline = TextPipeline(toy_model().eval(), *toy_tokenizers())
    texts = [entry.source for entry in toy_entries(17)]
    one_by_one = [pipeline([text])[0] for text in texts]
    assert evaluation.predict_all(pipeline, texts, batch_size=4) == one_by_one
    assert len(set(one_by_one)) > 1


def test_prediction_scores_are_log_probabilities():
    """Against a step-by-step loop."""
    model = toy_model(bidirectional=True).eval()
    pipeline = TextPipeline(model, *toy_tokenizers())
    for text in ("0", "4321", "0x0"):
        (prediction,) = pipeline.predict([text, "123"], max_new_tokens=6, scores=True)[:1]
        state = model.encode(torch.tensor([[*pipeline.source_tokenizer.encode(text), 2]]))
        token, total, count = torch.tensor([1]), 0.0, 0
        while count < 6 and int(token) != 2:
            logits, state = model.step(token, state)
            token = logits.index_fill(1, torch.tensor([0, 1]), -torch.inf).argmax(1)
            total += logits.log_softmax(1)[0, int(token)].item()
            count += 1
        assert prediction.num_tokens == count
        assert prediction.score == pytest.approx(total, abs=1e-5)
        assert prediction.unknown == text.count("x")


def test_pipeline_refuses():
    pipeline = TextPipeline(toy_model().eval(), *toy_tokenizers())
    assert pipeline([]) == []
    for texts in ("abc", [1], [None]):
        with pytest.raises(TypeError, match="texts: expected a sequence of strings"):
            pipeline(texts)
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1, got 0"):
        next(pipeline.stream(["1"], batch_size=0))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RECORD = {"update": 3, "epoch": 0.5, "train_loss": 1.25, "per": 7.5, "wer": 30.0, "seconds": 4.0}
RECORD |= {"tokens_per_second": 1234.5}


def test_progress_on_a_terminal_is_a_bar():
    stream = Terminal()
    progress = Progress(10, 2, stream=stream)
    progress.evaluation(RECORD, "per", True)
    progress.update(1.5, 2000.0)
    progress.message("a note")
    progress.close()
    shown = stream.getvalue()
    assert "3/10" in shown and "loss 1.500" in shown and "2,000 tok/s" in shown
    assert "dev per 7.50 (best)" in shown and "a note" in shown


def test_progress_elsewhere_is_a_line_per_evaluation():
    stream = io.StringIO()
    progress = Progress(10, 0, stream=stream)
    for _ in range(5):
        progress.update(1.5, 2000.0)
    progress.evaluation(RECORD, "per", True)
    progress.close()
    line = "update 3/10  epoch 0.50  train_loss 1.250  per 7.50  wer 30.00  1,234 tok/s  4 s  best"
    assert stream.getvalue() == line + "\n"


def test_curve_of_little(tmp_path):
    for records in ([], [RECORD]):
        plot_learning_curve(records, tmp_path / "curve.png")
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_holds_the_losses(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    trainer = toy_trainer(tmp_path / "run", max_updates=5, tensorboard=True)
    trainer.fit(toy_entries(10), toy_entries(5, seed=1))
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    logged = [event.value for event in events.Scalars("dev/per")]
    records = TrainLog(tmp_path / "run" / "train_log.jsonl").records()
    assert logged == pytest.approx([record["per"] for record in records])
