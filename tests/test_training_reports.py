"""What training shows and draws: the bar and the lines, the curve, tensorboard."""

from __future__ import annotations

import io

import pytest
from helpers_training import toy_entries, toy_trainer

from fast_s2s.training.curve import plot_learning_curve
from fast_s2s.training.progress import Progress
from fast_s2s.training.run_folder import TrainLog


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RECORD = {
    "update": 3,
    "epoch": 0.5,
    "train_loss": 1.25,
    "per": 7.5,
    "wer": 30.0,
    "seconds": 4.0,
    "tokens_per_second": 1234.5,
}


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
