"""What a run needs for its dev scores is asked for before its first update."""

from __future__ import annotations

import sys

import pytest
from helpers_training import toy_entries, toy_trainer


@pytest.mark.parametrize(
    ("package", "metric"), [("rapidfuzz.distance", "per"), ("sacrebleu", "bleu")]
)
def test_a_missing_scorer_is_noticed_before_the_first_update(
    tmp_path, monkeypatch, package, metric
):
    monkeypatch.setitem(sys.modules, package, None)
    entries = toy_entries(10)
    with pytest.raises(ModuleNotFoundError, match=f"{package} is not installed: pip install"):
        toy_trainer(tmp_path / "run", dev_metric=metric).fit(entries, toy_entries(4, seed=1))
    assert not (tmp_path / "run").exists()
    # where nothing is scored it is not needed
    toy_trainer(tmp_path / "run", dev_metric=metric, max_updates=4).fit(entries)


def test_bleu_is_asked_for_only_where_it_is_the_metric(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    trainer = toy_trainer(tmp_path / "run", max_updates=4)
    assert trainer.fit(toy_entries(10), toy_entries(4, seed=1)).updates == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 3}, "patience: expected dev entries with patience=3"),
        ({"schedule": "plateau"}, "schedule: expected dev entries with schedule='plateau'"),
    ],
)
def test_settings_that_wait_for_dev_scores(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        toy_trainer(tmp_path / "run", **settings).fit(toy_entries(10))
    assert not (tmp_path / "run").exists()
