"""What a run remembers of its data."""

from __future__ import annotations

import hashlib

import pytest
from helpers_training import toy_entries, toy_model, toy_tokenizers

from fast_s2s.data import Entry, PairDataset
from fast_s2s.training import TrainingConfig
from fast_s2s.training import fingerprint as module


def digest(dataset):
    return module.fingerprint(TrainingConfig(), toy_model(), dataset, [])["training data"]


@pytest.mark.parametrize("at_once", [1, 100, 2**20])
def test_the_digest_is_that_of_earlier_versions(monkeypatch, at_once):
    """Which padded 4096 pairs at a time, so that their runs can go on."""
    monkeypatch.setattr(module, "_IDS_AT_ONCE", at_once)
    long = Entry("0" * 300, ("one " * 50,))
    dataset = PairDataset([*toy_entries(200), long, *toy_entries(4000)], *toy_tokenizers())
    expected = hashlib.sha256()
    for rows in (range(4096), range(4096, 4201)):
        for tensor in dataset.collate(rows):
            expected.update(tensor.numpy().tobytes())
    assert digest(dataset) == expected.hexdigest()


def test_one_long_line_does_not_take_memory_for_all():
    dataset = PairDataset([*toy_entries(999), Entry("0" * 20_000, ("one",))], *toy_tokenizers())
    peaks = []

    def padded(side, rows, width=None):
        ids, lengths = plain(side, rows, width)
        peaks.append(ids.numel())
        return ids, lengths

    plain = type(dataset.sides[0]).padded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(dataset.sides[0]), "padded", padded)
        digest(dataset)
    assert max(peaks) <= 2**20 < 1000 * 20_000
