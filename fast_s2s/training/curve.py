"""The learning curve as a picture."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fast_s2s.extras import require
from fast_s2s.serialization import atomic_write_bytes

# exact match is the mirror image of WER
_LABELS = {"per": "PER %", "wer": "WER %", "bleu": "BLEU"}


def plot_learning_curve(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw losses and dev scores over updates, from lines of train_log.jsonl, into a PNG.

    Raises ModuleNotFoundError without matplotlib.
    """
    # a figure of its own needs no window system and leaves nothing open
    figure = require("matplotlib.figure").Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    updates = [record["update"] for record in records]
    for key, label in (("train_loss", "training"), ("dev_loss", "dev")):
        _draw(left, updates, records, key, label)
    for key, label in _LABELS.items():
        _draw(right, updates, records, key, f"dev {label}")
    left.set_ylabel("loss, nats per token")
    right.set_ylabel("dev score")
    for axes in (left, right):
        axes.set_xlabel("update")
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    atomic_write_bytes(path, picture.getvalue())


def plot_where_possible(records: Sequence[dict[str, Any]], path: Path, *, stacklevel: int) -> None:
    """`plot_learning_curve`, but without matplotlib only a warning. `stacklevel`: of this call."""
    try:
        plot_learning_curve(records, path)
    except ModuleNotFoundError as error:
        warnings.warn(f"no {path.name}: {error}", RuntimeWarning, stacklevel=stacklevel + 1)


def _draw(
    axes: Any, updates: Sequence[int], records: Sequence[dict[str, Any]], key: str, label: str
) -> None:
    points = [(u, r[key]) for u, r in zip(updates, records, strict=True) if key in r]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
