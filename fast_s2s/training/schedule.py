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
        self._scale = 1.0
        self._best = math.inf
        self._stale = 0

    def rate(self, update: int, time_used: float = 0.0) -> float:
        """The learning rate of update 1, 2, …

        time_used: the fraction of `max_minutes` spent so far
        """
        warmup = self.config.warmup_updates
        rise = update / warmup if warmup else 1.0
        return self.config.learning_rate * min(rise, self._factor(update, time_used))

    def _factor(self, update: int, time_used: float) -> float:
        warmup, last = self.config.warmup_updates, self.config.max_updates
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
