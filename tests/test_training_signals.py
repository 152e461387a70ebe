"""Signals while training: what is saved, what not is waited for, how the run goes on."""

from __future__ import annotations

import signal

import pytest
import torch
from helpers_training import numbers, toy_entries, toy_model, toy_trainer

from fast_s2s.serialization import load_tensors
from fast_s2s.training import TrainingInterrupted
from fast_s2s.training.interrupt import SignalCatcher


def entries():
    return toy_entries(40), toy_entries(8, seed=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without a break, whose end is no regular evaluation."""
    path = tmp_path_factory.mktemp("whole")
    trainer = toy_trainer(path, toy_model(dropout=0.3), max_updates=14)
    return trainer, trainer.fit(*entries())


@pytest.mark.parametrize("update", [8, 14])
def test_a_signal_does_not_wait_for_an_evaluation(tmp_path, whole, update):
    expected, result = whole
    trainer = toy_trainer(tmp_path, toy_model(dropout=0.3), max_updates=14)
    plain_update = trainer._update

    def interrupted():
        plain_update()
        if trainer.state.update == update:
            signal.raise_signal(signal.SIGTERM)

    trainer._update = interrupted
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.fit(*entries())
    assert caught.value.signal_number == signal.SIGTERM
    assert caught.value.checkpoint == tmp_path / "checkpoints" / f"step-{update}"
    assert caught.value.checkpoint.is_dir()
    logged = [record["update"] for record in trainer._log.records()]
    assert logged == [step for step in (4, 8, 12, 14) if step < update]
    again = toy_trainer(tmp_path, toy_model(seed=5, dropout=0.3), max_updates=14)
    found = again.fit(*entries(), resume=True)
    assert numbers(again._log.records()) == numbers(expected._log.records())
    assert (found.best_score, found.best_update) == (result.best_score, result.best_update)
    assert (found.epochs, found.updates) == (result.epochs, 14)
    models = [load_tensors(t.folder.path / "model.safetensors") for t in (again, expected)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])


def test_a_finished_run_still_knows_its_epochs(tmp_path):
    first = toy_trainer(tmp_path, max_updates=7).fit(*entries())
    assert first.epochs % 1
    again = toy_trainer(tmp_path, max_updates=7).fit(*entries(), resume=True)
    assert again.epochs == first.epochs


def test_only_a_second_sigint_forces_the_exit():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    told = []
    # a shell starts what runs in its background with SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: told.append("as always"))
    try:
        with pytest.raises(KeyboardInterrupt), SignalCatcher() as signals:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert signals.received == signal.SIGTERM
            signal.raise_signal(signal.SIGINT)
            assert signals.received == signal.SIGINT
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == signal.SIGTERM and not told
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert told == ["as always"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
