"""Settings of training, and the learning rate of each update."""

from __future__ import annotations

import json
import math

import pytest

from fast_s2s.training import TrainingConfig
from fast_s2s.training.schedule import Schedule


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_updates": 0}, ValueError, "max_updates: expected at least 1, got 0"),
        ({"max_updates": 1.5}, TypeError, "max_updates: expected int, got 1.5"),
        ({"max_updates": True}, TypeError, "max_updates: expected int, got True"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate: expected above 0, got 0.0"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate: expected above 0, got nan"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate: expected float, got '1e-3'"),
        ({"clip_norm": -1}, ValueError, "clip_norm: expected above 0, got -1"),
        ({"patience": 0}, ValueError, "patience: expected at least 1, got 0"),
        ({"patience": "x"}, TypeError, "patience: expected int or None, got 'x'"),
        ({"adam_beta2": 1.0}, ValueError, "adam_beta2: expected between 0 and 1, got 1.0"),
        ({"schedule": "cosine"}, ValueError, "schedule: expected one of constant, linear"),
        ({"dev_metric": "f1"}, ValueError, "dev_metric: expected one of loss, per"),
        ({"tensorboard": 1}, TypeError, "tensorboard: expected bool, got 1"),
        ({"warmup_updates": 10_000}, ValueError, "warmup_updates: expected fewer than max_up"),
        ({"weight_decay": 0.1}, ValueError, "weight_decay: expected 0 with optimizer 'adam'"),
    ],
)
def test_config_refuses(settings, error, message):
    with pytest.raises(error, match=message):
        TrainingConfig(**settings)


def test_config_accepts_an_int_for_a_float():
    assert TrainingConfig(clip_norm=2, learning_rate=1).clip_norm == 2


def test_the_default_warm_up_fits_any_run():
    assert TrainingConfig().warmup_updates == TrainingConfig(max_updates=400).warmup_updates == 200
    assert TrainingConfig(max_updates=100).warmup_updates == 50
    assert TrainingConfig(max_updates=1).warmup_updates == 0
    # which may go on to a later end
    assert TrainingConfig(max_updates=100, schedule="constant").warmup_updates == 200


def rates(updates, **settings):
    schedule = Schedule(TrainingConfig(learning_rate=0.1, **settings))
    return [schedule.rate(update) for update in updates]


def test_schedules():
    updates = [1, 5, 10, 11, 40, 100]
    rise = [0.01, 0.05, 0.1]
    same = {"warmup_updates": 10, "max_updates": 100}
    constant = rates(updates, schedule="constant", **same)
    assert constant == pytest.approx([*rise, 0.1, 0.1, 0.1])
    linear = rates(updates, schedule="linear", **same)
    assert linear == pytest.approx([*rise, 0.1 * 90 / 90, 0.1 * 61 / 90, 0.1 * 1 / 90])
    inverse = rates(updates, schedule="inverse_sqrt", **same)
    expected = [*rise, 0.1 * (10 / 11) ** 0.5, 0.1 * 0.5, 0.1 * 0.1**0.5]
    assert inverse == pytest.approx(expected)
    assert rates([1, 2], schedule="constant", warmup_updates=0) == [0.1, 0.1]
    assert rates([1, 4], schedule="inverse_sqrt", warmup_updates=0) == pytest.approx([0.1, 0.05])


def test_linear_schedule_ends_with_the_time():
    config = TrainingConfig(learning_rate=1.0, warmup_updates=10, max_updates=110, max_minutes=1.0)
    schedule = Schedule(config)
    assert schedule.rate(30, time_used=0.1) == schedule.rate(30)
    # half of the time is gone, so half of the updates count as gone
    assert schedule.rate(30, time_used=0.5) == pytest.approx(0.5 * 1.1)
    assert schedule.rate(30, time_used=1.5) == 0.0


def test_plateau_schedule_falls_when_the_score_stands_still():
    config = TrainingConfig(
        schedule="plateau", warmup_updates=0, learning_rate=1.0, plateau_patience=2
    )
    schedule, seen = Schedule(config), []
    for score in (5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.0, 3.0, 3.0):
        schedule.observe(score)
        seen.append(schedule.rate(100))
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    copy = Schedule(config)
    copy.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    for each in (schedule, copy):
        each.observe(3.0)
        each.observe(3.0)
    assert copy.rate(1) == schedule.rate(1) == 0.0625
