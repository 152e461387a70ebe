"""Inputs for the LSTM op tests, and the float64 reference they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fast_s2s import ops, reference

NAMES = ("y", "h_n", "c_n")
GRADS = ("gates_x", "h0", "c0", "w_hh", "w_hr")


@dataclass(frozen=True)
class Case:
    """One LSTM op call. `projection` 0 means none."""

    steps: int
    batch: int
    hidden: int
    projection: int = 0
    lengths: bool = False
    reset: bool = False
    reverse: bool = False

    def __str__(self) -> str:
        flags = [name for name in ("lengths", "reset", "reverse") if getattr(self, name)]
        projection = f"P{self.projection}" if self.projection else ""
        return "-".join([f"T{self.steps}B{self.batch}H{self.hidden}{projection}", *flags])


@dataclass
class Inputs:
    """Tensors in the order of the op's arguments."""

    tensors: list[Tensor]  # gates_x, h0, c0, w_hh and, with a projection, w_hr
    lengths: Tensor | None
    reset: Tensor | None
    reverse: bool
    cotangents: list[Tensor]

    def to(self, dtype: torch.dtype) -> Inputs:
        cast = [t.detach().to(dtype).requires_grad_() for t in self.tensors]
        return Inputs(
            cast, self.lengths, self.reset, self.reverse, [t.to(dtype) for t in self.cotangents]
        )

    def arguments(self) -> tuple:
        w_hr = self.tensors[4] if len(self.tensors) == 5 else None
        return (*self.tensors[:4], w_hr, self.lengths, self.reset, self.reverse)

    def run(self, forward=ops.lstm_forward) -> list[Tensor]:
        """y, h_n, c_n and the gradient of every tensor for the cotangents."""
        outputs = forward(*self.arguments(), reference.SAVE_GATES)[:3]
        return [*outputs, *torch.autograd.grad(outputs, self.tensors, self.cotangents)]


def make_inputs(case: Case, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Inputs:
    """Random inputs, all representable in `dtype`; lengths cover 0 and T, given the rows."""
    t, b, h, r = case.steps, case.batch, case.hidden, case.projection or case.hidden
    tensors = [
        scale * torch.randn(t, b, 4 * h),
        torch.randn(b, r),
        torch.randn(b, h),
        torch.randn(4 * h, r) / r**0.5,
    ]
    if case.projection:
        tensors.append(torch.randn(r, h) / h**0.5)
    lengths = None
    if case.lengths:
        lengths = torch.randint(1, t + 1, (b,))
        lengths[0] = t
        if b > 1:
            lengths[-1] = 0
    reset = torch.rand(t, b) < 0.3 if case.reset else None
    cotangents = [torch.randn(t, b, r), torch.randn(b, r), torch.randn(b, h)]
    return Inputs(tensors, lengths, reset, case.reverse, cotangents).to(dtype)


def reference_results(inputs: Inputs) -> list[Tensor]:
    """The same in float64 on the reference, from the very numbers `inputs` holds."""
    return inputs.to(torch.float64).run(reference.lstm_forward)
