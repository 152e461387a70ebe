"""A call of an LSTM layer of another formula, and what the reference makes of it."""

from __future__ import annotations

import torch
from helpers_lstm import NAMES, Case, make_inputs
from helpers_variants import NORMS, random_variant

from fast_s2s import ops_variant, reference
from fast_s2s.reference import SAVE_GATES

KINDS = [("norm",), ("recurrent",), ("zones",), ("expected",), ("norm", "recurrent", "zones")]
ALL = KINDS[-1]


class Call:
    """A call with a variant, of random values that `dtype` represents."""

    def __init__(self, case: Case, dtype: torch.dtype, kinds=ALL) -> None:
        self.inputs, self.dtype = make_inputs(case, dtype), dtype
        size = case.projection or case.hidden
        variant = random_variant(kinds, case.steps, case.batch, case.hidden, size)
        floats = {
            name: value.to(dtype).requires_grad_(name in NORMS)
            for name, value in variant._asdict().items()
            if isinstance(value, torch.Tensor) and value.dtype != torch.bool
        }
        self.variant = variant._replace(**floats)
        self.norms = [name for name in NORMS if name in floats]
        self.names = [*NAMES, *self.inputs.names, *self.norms]

    def tensors(self) -> list[torch.Tensor]:
        return [*self.inputs.tensors, *(getattr(self.variant, name) for name in self.norms)]

    def in_double(self) -> Call:
        other = object.__new__(Call)
        other.__dict__ |= self.__dict__
        other.inputs, other.dtype = self.inputs.to(torch.float64), torch.float64
        floats = {
            name: value.detach().double().requires_grad_(name in NORMS)
            for name, value in self.variant._asdict().items()
            if isinstance(value, torch.Tensor) and value.dtype != torch.bool
        }
        other.variant = self.variant._replace(**floats)
        return other

    def run(self, forward=ops_variant.lstm_variant, save=SAVE_GATES) -> list[torch.Tensor]:
        """y, h_n, c_n and the gradients for the cotangents."""
        extra = () if forward is reference.lstm_variant else (save,)
        outputs = forward(*self.inputs.arguments(), self.variant, *extra)
        gradients = torch.autograd.grad(
            outputs, self.tensors(), self.inputs.cotangents, materialize_grads=True
        )
        return [*outputs, *gradients]

    def compare(self, actual, assert_close) -> None:
        expected = self.in_double().run(reference.lstm_variant)
        for name, ours, theirs in zip(self.names, actual, expected, strict=True):
            assert_close(ours, theirs, name, self.dtype)

    def arguments(self, save: int = SAVE_GATES) -> list:
        """Those of the op itself."""
        norms = ops_variant._norms(self.variant, reference.accumulate_dtype(self.dtype))
        masks = ops_variant._masks(self.variant, self.dtype)
        return [*self.inputs.arguments(), *norms, *masks, save]
