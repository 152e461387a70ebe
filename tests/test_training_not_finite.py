"""Losses, gradients and dev scores that are not finite numbers."""

from __future__ import annotations

import math

import pytest
import torch
from helpers_training import numbers, toy_entries, toy_model, toy_trainer

from fast_s2s.pipeline import TextPipeline
from fast_s2s.serialization import load_tensors
from fast_s2s.training import evaluation
from fast_s2s.training.run_folder import RunFolder


def test_loss_that_is_not_finite(tmp_path):
    model = toy_model()
    with torch.no_grad():
        model.output_projection.bias.fill_(math.nan)
    with pytest.raises(RuntimeError, match="loss of update 1 is nan"):
        toy_trainer(tmp_path / "run", model).fit(toy_entries(5))


@pytest.mark.parametrize("clip_norm", [1.0, None])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_that_is_not_finite(tmp_path, clip_norm, value):
    """The loss is; nothing takes the update, and a resumed run may do better."""
    settings = {"clip_norm": clip_norm, "ema": 0.9}
    entries = toy_entries(40), toy_entries(8, seed=1)
    backwards = []

    def fault(gradient):
        backwards.append(gradient)
        return gradient * value if len(backwards) == 7 else gradient

    model = toy_model()
    model.output_projection.bias.register_hook(fault)
    trainer = toy_trainer(tmp_path / "run", model, **settings)
    with pytest.raises(RuntimeError, match=r"norm of the gradient of update 7 is (nan|inf)"):
        trainer.fit(*entries)
    six = toy_trainer(tmp_path / "six", **settings)
    six._stop_reason = lambda: "max_updates" if six.state.update == 6 else None
    six.fit(*entries)
    for ours, theirs in ((trainer.model, six.model), (trainer._average, six._average)):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    assert sorted(path.name for path in RunFolder(tmp_path / "run").checkpoints.iterdir()) == [
        "step-0",
        "step-4",
    ]
    again = toy_trainer(tmp_path / "run", **settings)
    again.fit(*entries, resume=True)
    whole = toy_trainer(tmp_path / "whole", **settings)
    whole.fit(*entries)
    assert numbers(again._log.records()) == numbers(whole._log.records())


def test_a_score_that_is_not_finite_is_the_worst(tmp_path, monkeypatch):
    scores = iter([3.0, math.nan, 2.0, math.nan, math.inf, math.nan])
    monkeypatch.setattr(evaluation, "dev_scores", lambda *_: {"dev_loss": next(scores)})
    settings = {"dev_metric": "loss", "patience": 3, "max_updates": 100}
    trainer = toy_trainer(tmp_path, keep_checkpoints=9, schedule="plateau", **settings)
    result = trainer.fit(toy_entries(20), toy_entries(4, seed=1))
    assert (result.best_score, result.best_update) == (2.0, 12)
    assert (result.stop_reason, result.updates) == ("patience", 24)
    # after two of them the learning rate falls
    assert trainer._schedule.state_dict() == {"scale": 0.5, "best": 2.0, "stale": 1}
    saved = load_tensors(tmp_path / "model.safetensors")
    best = load_tensors(tmp_path / "checkpoints" / "step-12" / "model.safetensors")
    assert all(torch.equal(saved[name], best[name]) for name in saved)


def test_until_a_score_is_finite_the_latest_model_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "dev_scores", lambda *_: {"per": math.nan})
    trainer = toy_trainer(tmp_path, max_updates=100, patience=2)
    result = trainer.fit(toy_entries(20), toy_entries(4, seed=1))
    assert (result.best_score, result.best_update, result.updates) == (None, 0, 8)
    saved = TextPipeline.from_pretrained(tmp_path)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(saved.model.state_dict()[name], tensor), name
