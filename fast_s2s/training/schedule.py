"""The learning rate as a function of the update."""

from __future__ import annotations

import math
from typing import Any

from fast_s2s.training.config import TrainingConfig


class Schedule:
    """Learning rate of every update: a linear warm-up, then what `config.schedule` says.

    With u the update (from 1), w the warm-up and n max_updates, the highest rate is multiplied by
    the smaller of u / w and
        constant:     1
        linear:       (n - u + 1) / (n - w)
        inverse_sqrt: sqrt(w / u), Vaswani et al. 2017, section 5.3
        plateau:      a factor that falls whenever the dev score stands still
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        # a config has filled it in
        self._warmup = config.warmup_updates or 0
        self._scale = 1.0
        self._best = math.inf
        self._stale = 0

    def rate(self, update: int, time_used: float = 0.0) -> float:
        """The learning rate of update 1, 2, …

        time_used: the fraction of `max_minutes` spent so far
        """
        rise = update / self._warmup if self._warmup else 1.0
        return self.config.learning_rate * min(rise, self._factor(update, time_used))

    def _factor(self, update: int, time_used: float) -> float:
        warmup, last = self._warmup, self.config.max_updates
        if self.config.schedule == "linear":
            left = min((last - update + 1) / last, 1.0 - time_used)
            return max(0.0, left * last / (last - warmup))
        if self.config.schedule == "inverse_sqrt":
            return math.sqrt(max(warmup, 1) / update)
        return self._scale if self.config.schedule == "plateau" else 1.0

    def observe(self, score: float) -> None:
        """Take note of a dev score, lower is better. Only the plateau schedule minds."""
        if score < self._best:
            self._best, self._stale = score, 0
            return
        self._stale += 1
        if self._stale >= self.config.plateau_patience:
            self._scale *= self.config.plateau_factor
            self._stale = 0

    def state_dict(self) -> dict[str, Any]:
        """What `observe` has gathered, as JSON can hold it."""
        best = None if math.isinf(self._best) else self._best
        return {"scale": self._scale, "best": best, "stale": self._stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._scale, self._stale = float(state["scale"]), int(state["stale"])
        self._best = math.inf if state["best"] is None else float(state["best"])


def sampling_probability(config: TrainingConfig, update: int) -> float:
    """That of scheduled sampling in update 1, 2, …

    With u the updates before this one and n those that the rise takes, the highest probability is
    multiplied by, Bengio et al. 2015, section 2.4, but for scale,
        linear:          u / n
        exponential:     1 - k^u,  0.01 being left of it at n
        inverse_sigmoid: 1 - k / (k + exp(u / k)),  a half at n / 2
        constant:        1
    and stays at 1 from n on.
    """
    length = config.scheduled_sampling_updates or config.max_updates
    part = min((update - 1) / length, 1.0)
    if config.scheduled_sampling_schedule == "linear":
        factor = part
    elif config.scheduled_sampling_schedule == "exponential":
        factor = 1.0 if part == 1.0 else 1 - 0.01**part
    elif config.scheduled_sampling_schedule == "inverse_sigmoid":
        k = _sigmoid_constant(length / 2)
        # exp(u / k), u / k being no more than about 2 ln k
        factor = 1.0 if part == 1.0 else 1 - k / (k + math.exp(part * length / k))
    else:
        factor = 1.0
    return config.scheduled_sampling * factor


def _sigmoid_constant(middle: float) -> float:
    """The k with k ln k = middle, by bisection."""
    low, high = 1.0, middle + 3.0
    for _ in range(60):
        k = (low + high) / 2
        low, high = (k, high) if k * math.log(k) < middle else (low, k)
    return high
