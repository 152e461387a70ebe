"""What `Trainer.fit` is given, checked before anything is done with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fast_s2s.checks import check_bool, check_mapping
from fast_s2s.data import Entry, check_entries
from fast_s2s.training import evaluation
from fast_s2s.training.config import TrainingConfig


def check_arguments(
    train_entries: Sequence[Entry],
    dev_entries: Sequence[Entry],
    resume: bool,
    overwrite: bool,
    options: Mapping[str, Any],
) -> None:
    """Raises TypeError or ValueError naming the argument that does not fit."""
    check_entries("train_entries", train_entries)
    check_entries("dev_entries", dev_entries)
    check_bool("resume", resume)
    check_bool("overwrite", overwrite)
    check_mapping("options", options)
    try:
        json.dumps(dict(options))
    except TypeError as error:
        raise TypeError(f"options: expected JSON values: {error}") from error


def check_dev_entries(config: TrainingConfig, dev_entries: Sequence[Entry]) -> None:
    """Before the first update, what the evaluations will need.

    Raises ValueError for a setting that waits for dev scores where there are none,
    ModuleNotFoundError for a package that scoring needs.
    """
    if dev_entries:
        evaluation.require_scorers(config)
        return
    waiting = {"patience": config.patience is not None, "schedule": config.schedule == "plateau"}
    for name, waits in waiting.items():
        if waits:
            raise ValueError(
                f"{name}: expected dev entries with {name}={getattr(config, name)!r}, which goes "
                "by their scores, got none"
            )
