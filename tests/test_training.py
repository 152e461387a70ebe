"""Trainer: the numbers of a run, its limits, how outputs are scored."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers_training import toy_entries, toy_model, toy_tokenizers, toy_trainer
from torch import nn

from fast_s2s.data import Entry, PairDataset, TokenBatches
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.training import evaluation
from fast_s2s.training.gradients import accumulate_gradients
from fast_s2s.training.run_folder import TrainLog
from fast_s2s.training.schedule import Schedule


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
    assert float(loss) == pytest.approx(float(whole), rel=1e-12)
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
