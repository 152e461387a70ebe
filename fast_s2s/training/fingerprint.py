"""What must stay the same for a resumed run to give the same numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch

from fast_s2s.configuration import Seq2SeqConfig
from fast_s2s.data import Entry, PairDataset
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.training.config import TrainingConfig
from fast_s2s.training.distillation import Distillation

_ROWS, _IDS_AT_ONCE = 4096, 2**20


def fingerprint(
    config: TrainingConfig,
    model: Seq2Seq,
    train: PairDataset,
    dev: Iterable[Entry],
    distillation: Distillation | None = None,
) -> dict[str, Any]:
    """Settings, architecture and digests of the data, as JSON holds them.

    The training data is taken as ids, and so stands for both tokenizers too.
    """
    settings = {**model.config.to_dict(), **config.decisive()}
    dev_text = json.dumps([(entry.source, entry.targets) for entry in dev])
    return {
        "settings": json.loads(json.dumps(settings)),
        "training data": _digest(train),
        "dev data": hashlib.sha256(dev_text.encode()).hexdigest(),
        "precision of the weights": str(model.dtype),
        "device type": model.device.type,
        "teacher": None if distillation is None else distillation.fingerprint(),
    }


def _digest(train: PairDataset) -> str:
    """Of the tensors of `collate`, 4096 pairs at a time, as runs have always kept it. Of the padded
    ids only a part is in memory at once: one long line pads all 4096.
    """
    digest = hashlib.sha256()
    for rows in torch.arange(len(train)).split(_ROWS):
        for side in train.sides:
            lengths = side.lengths[rows]
            width = int(lengths.max())
            for part in rows.split(max(1, _IDS_AT_ONCE // width)):
                digest.update(side.padded(part, width)[0].numpy().tobytes())
            digest.update(lengths.numpy().tobytes())
    return digest.hexdigest()


def check_same_everywhere(fingerprints: list[dict[str, Any]]) -> None:
    """Raises ValueError unless all processes of a run have the same data and settings."""
    for rank, other in enumerate(fingerprints):
        if other != fingerprints[0]:
            differing = [name for name in other if other[name] != fingerprints[0][name]]
            raise ValueError(
                f"expected the same data and settings in all processes, but process {rank} has "
                f"other {', '.join(differing)} than process 0"
            )


def check_fingerprint(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raises ValueError that lists what has changed since the checkpoint, if anything has."""
    ours, theirs = (dict(part.get("settings", {})) for part in (current, saved))
    # a run of a time before a setting was there had its default
    for kind in (TrainingConfig, Seq2SeqConfig):
        for field in dataclasses.fields(kind):
            if field.name in ours and field.default is not dataclasses.MISSING:
                theirs.setdefault(field.name, field.default)
    changes = [
        f"{name} was {theirs.get(name)!r}, is {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    changes += [
        f"{name} changed"
        for name in current
        if name != "settings" and current[name] != saved.get(name)
    ]
    if changes:
        raise ValueError(
            "resume: expected the data and settings the run began with, but "
            + "; ".join(changes)
            + ". Go on with the old ones, start again with overwrite, or train its model further "
            "in another folder (--init-from)"
        )
