"""What `Trainer.fit` is given, checked before anything is done with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fast_s2s.checks import check_bool, check_mapping
from fast_s2s.data import Entry, check_entries


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
