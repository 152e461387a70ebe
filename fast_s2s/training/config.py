"""What a training run is told: every setting, its default and its meaning, in one place."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from fast_s2s.checks import shown

Metric = Literal["loss", "per", "wer", "exact_match", "bleu"]

_WARMUP_UPDATES = 200

# of two dev scores the higher one is better; of the others the lower one
HIGHER_IS_BETTER = frozenset({"exact_match", "bleu"})


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a `Trainer`.

    max_updates:        end after this many updates of the weights
    max_epochs:         end after this many passes over the training data; None: no such limit
    max_minutes:        end after this many minutes of updates and evaluations, the saving of
                        checkpoints not counted; the linear schedule then reaches zero by that
                        time, if that is before max_updates. None: no such limit
    max_tokens:         size of a batch: rows times the longer of padded source and target
    accumulation_steps: batches whose gradients make one update
    max_length:         drop training pairs whose source or target has more tokens; None: keep all
    optimizer:          adam, or adamw, which has weight decay
    learning_rate:      the highest learning rate, reached after the warm-up
    adam_beta1:         decay of Adam's mean of gradients
    adam_beta2:         decay of Adam's mean of squared gradients
    adam_epsilon:       Adam's epsilon
    weight_decay:       weight decay, for adamw only
    schedule:           the learning rate after the warm-up: constant; linear: to zero at
                        max_updates; inverse_sqrt: of the update; plateau: lower whenever the dev
                        score stands still, which takes dev entries
    warmup_updates:     updates over which the learning rate rises from zero; None: 200, with the
                        linear schedule half of max_updates at most
    plateau_factor:     plateau: what the learning rate is multiplied by
    plateau_patience:   plateau: evaluations without a better dev score until that happens
    clip_norm:          largest norm of the gradient; None: no clipping
    ema:                decay of an exponential moving average of the weights, 0.999 say, which is
                        then what is evaluated and saved; None: no average
    scheduled_sampling: highest probability that the decoder reads a token of its own instead of
                        the target's, for each token by itself; 0: teacher forcing throughout
    scheduled_sampling_schedule: how that probability rises from zero: linear, exponential or
                        inverse_sigmoid, after Bengio et al. 2015; or constant
    scheduled_sampling_updates: updates that the rise takes; None: max_updates
    scheduled_sampling_passes: passes that find the decoder's own tokens: as many as there are steps
                        find what a loop would; one costs least
    distillation_weight: how much of the loss is the distance to the teacher's probabilities, where
                        there is a teacher; the rest is that of the targets
    distillation_temperature: what the logits of both are divided by for that distance
    precision:          fp32, or bf16: forward and backward under autocast, the weights stay fp32
    seed:               seed of new weights, the order of batches and dropout
    evaluate_every:     updates between evaluations on the dev set
    dev_metric:         the dev score that picks the best model: loss, per, wer, exact_match, bleu
    dev_size:           evaluate on this many dev entries, spread evenly over the set; None: all
    patience:           end after this many evaluations without a better dev score, which takes dev
                        entries; None: never
    checkpoint_every:   updates between checkpoints
    keep_checkpoints:   how many of the newest checkpoints to keep
    eval_batch_size:    rows decoded at once in an evaluation
    max_new_tokens:     longest output in an evaluation; None: the model's own limit
    tensorboard:        write TensorBoard logs into the folder tensorboard

    Raises TypeError or ValueError naming the field that does not fit.
    """

    max_updates: int = 10_000
    max_epochs: int | None = None
    max_minutes: float | None = None
    max_tokens: int = 4096
    accumulation_steps: int = 1
    max_length: int | None = None
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 2e-3
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "inverse_sqrt", "plateau"] = "linear"
    warmup_updates: int | None = None
    plateau_factor: float = 0.5
    plateau_patience: int = 2
    clip_norm: float | None = 1.0
    ema: float | None = None
    scheduled_sampling: float = 0.0
    scheduled_sampling_schedule: Literal["constant", "linear", "exponential", "inverse_sigmoid"] = (
        "linear"
    )
    scheduled_sampling_updates: int | None = None
    scheduled_sampling_passes: int = 1
    distillation_weight: float = 0.5
    distillation_temperature: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 1
    evaluate_every: int = 500
    dev_metric: Metric = "per"
    dev_size: int | None = 1000
    patience: int | None = None
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    eval_batch_size: int = 256
    max_new_tokens: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), hints[field.name])
        for names, low, strict in _LOWER_BOUNDS:
            for name in names:
                _check_bound(name, getattr(self, name), low, strict)
        if self.seed >= 2**63:
            raise ValueError(f"seed: expected below 2^63, got {self.seed}")
        for name in ("adam_beta1", "adam_beta2", "plateau_factor", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name}: expected between 0 and 1, got {value}")
        if not 0 <= self.scheduled_sampling <= 1:
            raise ValueError(f"scheduled_sampling: expected in 0..1, got {self.scheduled_sampling}")
        if not 0 < self.distillation_weight <= 1:
            raise ValueError(
                "distillation_weight: expected above 0 and at most 1, got "
                f"{self.distillation_weight}"
            )
        linear = self.schedule == "linear"
        if self.warmup_updates is None:
            most = self.max_updates // 2 if linear else _WARMUP_UPDATES
            object.__setattr__(self, "warmup_updates", min(_WARMUP_UPDATES, most))
        elif linear and self.warmup_updates >= self.max_updates:
            raise ValueError(
                f"warmup_updates: expected fewer than max_updates = {self.max_updates} with the "
                f"linear schedule, got {self.warmup_updates}"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(
                f"weight_decay: expected 0 with optimizer {self.optimizer!r}, since only adamw "
                f"has it, got {self.weight_decay}"
            )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the numbers of a run, which a resumed run must therefore keep.

        How long to train is not among them, unless the schedule depends on it.
        """
        free = set(_FREE_ON_RESUME)
        rises_to_the_end = self.scheduled_sampling > 0 and self.scheduled_sampling_updates is None
        if self.schedule != "linear" and not rises_to_the_end:
            free |= {"max_updates", "max_minutes"}
        settings = dataclasses.asdict(self)
        return {name: value for name, value in settings.items() if name not in free}


# names, their lower bound, and whether it is itself out of bounds
_LOWER_BOUNDS: tuple[tuple[tuple[str, ...], int, bool], ...] = (
    (("max_updates", "max_epochs", "max_tokens", "accumulation_steps", "max_length"), 1, False),
    (("plateau_patience", "evaluate_every", "dev_size", "patience", "checkpoint_every"), 1, False),
    (("keep_checkpoints", "eval_batch_size", "max_new_tokens"), 1, False),
    (("scheduled_sampling_updates", "scheduled_sampling_passes"), 1, False),
    (("warmup_updates", "weight_decay", "seed"), 0, False),
    (("learning_rate", "adam_epsilon", "clip_norm", "max_minutes"), 0, True),
    (("distillation_temperature",), 0, True),
)

_FREE_ON_RESUME = (
    "max_epochs",
    "patience",
    "checkpoint_every",
    "keep_checkpoints",
    "eval_batch_size",
    "tensorboard",
)


def _check_bound(name: str, value: float | None, low: int, strict: bool) -> None:
    if value is None or (math.isfinite(value) and (value > low or (value == low and not strict))):
        return
    raise ValueError(f"{name}: expected {'above' if strict else 'at least'} {low}, got {value}")


def _check_type(name: str, value: object, hint: Any) -> None:
    """Of the annotated type: a plain class, a Literal, or a plain class or None."""
    options = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is Literal:
        if value not in options:
            raise ValueError(f"{name}: expected one of {', '.join(options)}, got {shown(value)}")
        return
    # to isinstance a bool is an int, and an int no float
    is_bool = isinstance(value, bool)
    good = isinstance(value, options) or (float in options and isinstance(value, int))
    if not good or (is_bool and bool not in options):
        expected = " or ".join("None" if k is type(None) else k.__name__ for k in options)
        raise TypeError(f"{name}: expected {expected}, got {shown(value)}")
