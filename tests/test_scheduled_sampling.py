"""Scheduled sampling: which tokens a decoder reads, how often its own, and when."""

from __future__ import annotations

import math

import pytest
import torch
from helpers_training import toy_entries, toy_model, toy_trainer

from fast_s2s.scheduled_sampling import mixed_inputs
from fast_s2s.training import TrainingConfig
from fast_s2s.training.fingerprint import check_fingerprint
from fast_s2s.training.schedule import sampling_probability

SRC = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0], [5, 5, 2, 0]])
# long enough for what is drawn to depend on many draws before
TGT = torch.randint(3, 9, (3, 14), generator=torch.Generator().manual_seed(1))
TGT[1, 3:] = 0


def by_hand(model, probability, steps):
    """What is read, step after step, with the same tosses: Bengio's loop."""
    own = torch.rand(3, steps) < probability
    chance = torch.rand(3, steps, dtype=torch.float64)
    state, token = model.encode(SRC), torch.ones(3, dtype=torch.int64)
    inputs = [token]
    for t in range(steps - 1):
        logits, state = model.step(token, state)
        drawn = []
        for row, each in zip(logits.double().softmax(1), chance[:, t], strict=True):
            below = 0.0
            for index, part in enumerate(row.tolist()):
                below += part
                if below >= each or index == len(row) - 1:
                    drawn.append(index)
                    break
        # the toss of a token is that of the place where it is read
        token = torch.where(own[:, t + 1], torch.tensor(drawn), TGT[:, t])
        inputs.append(token)
    return torch.stack(inputs, 1)


@pytest.mark.parametrize("kind", [{}, {"attention": "dot", "input_feeding": True}], ids=str)
def test_as_many_passes_as_steps_are_the_loop(kind, assert_close):
    model = toy_model(dtype=torch.float64, **kind).train()
    # so that what is drawn depends much on what was drawn before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    torch.manual_seed(5)
    inputs = by_hand(model, 0.95, TGT.size(1))
    assert (inputs[:, 1:] != TGT[:, :-1]).sum() > 4
    torch.manual_seed(5)
    output = model(SRC, TGT, sampling_probability=0.95, sampling_passes=TGT.size(1))
    # rows of full length: their logits follow from what was read
    state = model.encode(SRC)
    for t in range(TGT.size(1)):
        logits, state = model.step(inputs[:, t], state)
        for row in (0, 2):
            assert_close(output.logits[row, t], logits[row], f"step {t}")
    found = torch.autograd.grad(output.loss, list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in found)


def test_probability_of_each_token():
    """Tossed token by token, drawn from the distribution; nothing before the first."""
    inputs = torch.full((4000, 5), 6)
    distribution = torch.tensor([0.1, 0.0, 0.6, 0.3, 0.0, 0.0, 0.0])
    seen = []

    def decode(given):
        seen.append(given)
        return distribution.log().expand(*given.shape, 7)

    mixed = mixed_inputs(inputs, decode, 0.25, 2)
    assert len(seen) == 2 and torch.equal(seen[0], inputs)
    assert (mixed[:, 0] == 6).all() and (inputs == 6).all()
    for column in mixed[:, 1:].t():
        shares = column.bincount(minlength=7) / len(column)
        assert shares[6].item() == pytest.approx(0.75, abs=0.03)
        torch.testing.assert_close(shares[:4], 0.25 * distribution[:4], rtol=0, atol=0.03)
    # rows and steps differ
    assert len({tuple(row) for row in (mixed == 6).tolist()}) == 16


def test_off_and_on_in_the_model():
    model = toy_model().eval()
    plain = model(SRC, TGT).logits
    state = torch.get_rng_state()
    assert torch.equal(model(SRC, TGT, sampling_probability=0.0).logits, plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model(SRC, TGT, sampling_probability=1.0).logits, plain)
    with pytest.raises(ValueError, match="sampling_probability: expected a number in"):
        model(SRC, TGT, sampling_probability=1.5)
    with pytest.raises(ValueError, match="sampling_passes: expected an integer >= 1"):
        model(SRC, TGT, sampling_probability=0.5, sampling_passes=0)


def test_schedules():
    def probabilities(schedule, updates=200):
        config = TrainingConfig(
            scheduled_sampling=0.5,
            scheduled_sampling_schedule=schedule,
            scheduled_sampling_updates=updates,
        )
        return [sampling_probability(config, update) for update in (1, 101, 201, 999)]

    assert probabilities("linear") == [0, 0.25, 0.5, 0.5]
    assert probabilities("constant") == [0.5] * 4
    assert probabilities("exponential") == pytest.approx([0, 0.45, 0.5, 0.5])
    first, middle, *last = probabilities("inverse_sigmoid")
    assert 0 < first < 0.02 and middle == pytest.approx(0.25) and last == [0.5, 0.5]
    # k ln k = 100 by hand: Bengio's formula at a quarter of the way
    k = 29.5366
    assert k * math.log(k) == pytest.approx(100, abs=0.01)
    config = TrainingConfig(
        scheduled_sampling=1.0,
        scheduled_sampling_schedule="inverse_sigmoid",
        scheduled_sampling_updates=200,
    )
    expected = 1 - k / (k + math.exp(50 / k))
    assert sampling_probability(config, 51) == pytest.approx(expected, abs=1e-4)
    assert sampling_probability(TrainingConfig(), 5000) == 0
    assert sampling_probability(TrainingConfig(scheduled_sampling=0.4), 5001) == 0.2


def test_trainer_asks_for_it(tmp_path, monkeypatch):
    """Rising with the updates, in training only; the length of the run is then decisive."""
    settings = {"scheduled_sampling": 0.8, "scheduled_sampling_passes": 2, "schedule": "constant"}
    trainer = toy_trainer(tmp_path, max_updates=4, evaluate_every=2, **settings)
    seen = []
    forward = type(trainer.model).forward

    def spy(model, *args, **options):
        seen.append((model.training, options))
        return forward(model, *args, **options)

    monkeypatch.setattr(type(trainer.model), "forward", spy)
    trainer.fit(toy_entries(20), toy_entries(4, seed=1))
    asked = [options["sampling_probability"] for training, options in seen if training]
    assert asked == pytest.approx([0, 0.2, 0.4, 0.6])
    assert all(options["sampling_passes"] == 2 for training, options in seen if training)
    assert all(not options for training, options in seen if not training)
    assert "max_updates" in trainer.config.decisive()
    assert "max_updates" not in TrainingConfig(schedule="constant").decisive()
    with pytest.raises(ValueError, match="scheduled_sampling: expected in 0..1"):
        TrainingConfig(scheduled_sampling=1.5)


def test_a_run_from_before_a_setting_was_there_goes_on(tmp_path):
    entries = toy_entries(20)
    trainer = toy_trainer(tmp_path, max_updates=4, schedule="constant")
    trainer.fit(entries)
    current = trainer._fingerprint
    older = {**current, "settings": dict(current["settings"])}
    for name in ("scheduled_sampling", "norm", "zoneout_cell", "ema"):
        older["settings"].pop(name)
    check_fingerprint(older, current)
    other = {**current, "settings": {**current["settings"], "zoneout_cell": 0.1}}
    with pytest.raises(ValueError, match="zoneout_cell was 0.0, is 0.1"):
        check_fingerprint(older, other)
