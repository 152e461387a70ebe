"""The options of an `LSTM` that torch's has not: regularisation, layer norm, first weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from fast_s2s import backends
from fast_s2s.checks import check_bool, check_finite, check_number
from fast_s2s.functional import Regularization

RECURRENT_INITS = ("uniform", "orthogonal")
# of each layer and direction with norm="layer"
_NORMS = ("norm_weight_ih", "norm_weight_hh", "norm_weight_c", "norm_bias_c")
_OFF = Regularization()


class LSTMOptions(nn.RNNBase):
    """What an `LSTM` does about its options beside running."""

    # class attributes, so that converted and older modules have them too
    norm: str | None = None
    forget_bias: float | None = None
    recurrent_init: str = "uniform"
    # None where all is off
    regularization: Regularization | None = None

    def _weight(self, name: str) -> Any:
        raise NotImplementedError

    def _set_regularization(self, variational: bool, *probabilities: float) -> None:
        check_bool("variational_dropout", variational)
        names = [field.name for field in dataclasses.fields(Regularization)][1:]
        for name, value in zip(names, probabilities, strict=True):
            check_number(name, value, 0.0, 1.0)
        regularization = Regularization(variational, *map(float, probabilities))
        self.regularization = None if regularization == _OFF else regularization

    def _set_initialization(
        self, norm: str | None, forget_bias: float | None, recurrent_init: str
    ) -> None:
        if norm not in (None, "layer"):
            raise ValueError(f"norm: expected None or 'layer', got {norm!r}")
        if recurrent_init not in RECURRENT_INITS:
            expected = " or ".join(map(repr, RECURRENT_INITS))
            raise ValueError(f"recurrent_init: expected {expected}, got {recurrent_init!r}")
        if forget_bias is not None:
            check_finite("forget_bias", forget_bias)
            if not self.bias:
                raise ValueError(f"forget_bias: expected None with bias=False, got {forget_bias}")
        self.norm, self.forget_bias, self.recurrent_init = norm, forget_bias, recurrent_init
        if norm is not None:
            for name, index in self._norm_names():
                size = self.hidden_size * (4 if index < 2 else 1)
                blank = self.weight_hh_l0.new_empty(size)  # type: ignore[operator, union-attr]
                self.register_parameter(name, nn.Parameter(blank))
        self._initialize_options()

    def reset_parameters(self) -> None:
        """As torch does, and then what `norm`, `forget_bias` and `recurrent_init` ask for."""
        super().reset_parameters()
        self._initialize_options()

    @torch.no_grad()
    def _initialize_options(self) -> None:
        # nothing is drawn where there is nothing to fill
        if self._weight("weight_ih_l0").is_meta:
            return
        for names in self._all_weights:
            forget = slice(self.hidden_size, 2 * self.hidden_size)
            if self.recurrent_init == "orthogonal":
                for part in self._weight(names[1]).split(self.hidden_size):
                    # half precision has no decomposition to draw it by
                    wide = torch.promote_types(part.dtype, torch.float32)
                    part.copy_(nn.init.orthogonal_(torch.empty_like(part, dtype=wide)))
            if self.forget_bias is not None:
                self._weight(names[2])[forget] = self.forget_bias
                self._weight(names[3])[forget] = 0.0
        if self.norm is not None:
            for name, index in self._norm_names():
                self._weight(name).fill_(0.0 if index == 3 else 1.0)

    def _norm_names(self) -> list[tuple[str, int]]:
        """The names of all parameters of layer norm, and which of the four each is."""
        suffixes = [names[0].removeprefix("weight_ih") for names in self._all_weights]
        return [(name + s, index) for s in suffixes for index, name in enumerate(_NORMS)]

    @property
    def zoneout(self) -> tuple[float, float]:
        """That of h and that of c, which act in evaluation too."""
        extras = self.regularization or _OFF
        return extras.zoneout_hidden, extras.zoneout_cell

    @property
    def is_plain(self) -> bool:
        """Whether in evaluation this is `torch.nn.LSTM`'s formula."""
        return self.norm is None and not any(self.zoneout)

    def backend_choice(self) -> backends.Choice:
        """Which backend runs this layer in its present mode, and why."""
        extras = self.regularization or _OFF
        parts = {
            "layer norm": self.norm is not None,
            "recurrent dropout": self.training and extras.recurrent_dropout > 0,
            "zoneout": any(self.zoneout),
        }
        variant = ", ".join(name for name, there in parts.items() if there)
        weight = self._weight("weight_ih_l0")
        return backends.current(weight.device.type, weight.dtype, variant)

    def _norms(self) -> list[list[Tensor]] | None:
        if self.norm is None:
            return None
        names = [name for name, _ in self._norm_names()]
        flat = [self._weight(name) for name in names]
        return [flat[first : first + len(_NORMS)] for first in range(0, len(flat), len(_NORMS))]

    def options(self) -> dict[str, Any]:
        """Those that are not the defaults, by name."""
        given = {name: getattr(self, name) for name in ("norm", "forget_bias", "recurrent_init")}
        found = {
            name: value for name, value in given.items() if value != getattr(LSTMOptions, name)
        }
        extras = dataclasses.asdict(self.regularization or _OFF)
        return found | {name: value for name, value in extras.items() if value}

    def own_options(self) -> dict[str, Any]:
        """Those by which this layer, in its present mode, is another than `torch.nn.LSTM`."""
        ever = {"norm", "zoneout_hidden", "zoneout_cell"}
        first_weights = {"forget_bias", "recurrent_init"}
        return {
            name: value
            for name, value in self.options().items()
            if name in ever or (self.training and name not in first_weights)
        }

    @staticmethod
    def _format(options: dict[str, Any]) -> str:
        return "".join(f", {name}={value}" for name, value in options.items())
