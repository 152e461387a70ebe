"""Where a run stands, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrainingState:
    """Where a run stands. With weights, optimiser, schedule and random states it decides the rest.

    epoch, batch:  passes over the data completed, and batches used of the current one
    tokens:        target tokens trained on, `seconds` the time that took, evaluations included,
                   the saving of checkpoints not
    window_loss:   sum of the loss over the `window_tokens` target tokens since the last evaluation
    evaluated_at:  update of the last evaluation
    best_score:    best dev score, at update `best_update`, `evaluations_since_best` ago
    log_position:  bytes of the log written so far
    """

    update: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    seconds: float = 0.0
    window_loss: float = 0.0
    window_tokens: int = 0
    evaluated_at: int = 0
    best_score: float | None = None
    best_update: int = 0
    evaluations_since_best: int = 0
    log_position: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    stop_reason: the setting that ended it: max_updates, max_epochs, max_minutes or patience
    best_score:  dev score (`dev_metric`) of the saved model; None without dev entries
    dropped:     training pairs left out for their length
    """

    updates: int
    epochs: float
    seconds: float
    tokens: int
    stop_reason: str
    best_score: float | None
    best_update: int
    dropped: int
