"""Inputs for the LSTM op tests, and the float64 reference they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fast_s2s import ops, reference

NAMES = ("y", "h_n", "c_n")
GRADS = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


@dataclass(frozen=True)
class Case:
    """One LSTM op call. `projection` 0 means none."""

    steps: int
    batch: int
    hidden: int
    projection: int = 0
    inputs: int = 5
    bias: bool = True
    lengths: bool = False
    reset: bool = False
    reverse: bool = False

    def __str__(self) -> str:
        flags = [name for name in ("lengths", "reset", "reverse") if getattr(self, name)]
        sizes = f"T{self.steps}B{self.batch}I{self.inputs}H{self.hidden}"
        sizes += f"P{self.projection}" if self.projection else ""
        return "-".join([sizes, *flags, *([] if self.bias else ["no-bias"])])


@dataclass
class Inputs:
    """Tensors in the order of the op's arguments."""

    tensors: list[Tensor]  # those there are of x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr
    names: list[str]
    lengths: Tensor | None
    reset: Tensor | None
    reverse: bool
    cotangents: list[Tensor]

    def to(self, dtype: torch.dtype) -> Inputs:
        cast = [t.detach().to(dtype).requires_grad_() for t in self.tensors]
        cotangents = [t.to(dtype) for t in self.cotangents]
        return Inputs(cast, self.names, self.lengths, self.reset, self.reverse, cotangents)

    def arguments(self, tensors=None) -> tuple:
        named = dict(zip(self.names, self.tensors if tensors is None else tensors, strict=True))
        return (*(named.get(name) for name in GRADS), self.lengths, self.reset, self.reverse)

    def run(self, forward=ops.lstm_forward, save=reference.SAVE_GATES) -> list[Tensor]:
        """y, h_n, c_n and the gradient of every tensor for the cotangents."""
        outputs = forward(*self.arguments(), save)[:3]
        return [*outputs, *torch.autograd.grad(outputs, self.tensors, self.cotangents)]


def make_inputs(case: Case, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Inputs:
    """Random inputs, all representable in `dtype`; lengths cover 0 and T, given the rows."""
    t, b, h, i = case.steps, case.batch, case.hidden, case.inputs
    r = case.projection or h
    named = {
        "x": scale * torch.randn(t, b, i),
        "h0": torch.randn(b, r),
        "c0": torch.randn(b, h),
        "w_ih": torch.randn(4 * h, i),
        "w_hh": torch.randn(4 * h, r) / r**0.5,
    }
    if case.bias:
        named |= {"b_ih": torch.randn(4 * h), "b_hh": torch.randn(4 * h)}
    if case.projection:
        named["w_hr"] = torch.randn(r, h) / h**0.5
    lengths = None
    if case.lengths:
        lengths = torch.randint(1, t + 1, (b,))
        lengths[0] = t
        if b > 1:
            lengths[-1] = 0
    reset = torch.rand(t, b) < 0.3 if case.reset else None
    cotangents = [torch.randn(t, b, r), torch.randn(b, r), torch.randn(b, h)]
    tensors = list(named.values())
    return Inputs(tensors, list(named), lengths, reset, case.reverse, cotangents).to(dtype)


def reference_results(inputs: Inputs) -> list[Tensor]:
    """The same in float64 on the reference, from the very numbers `inputs` holds."""
    return inputs.to(torch.float64).run(reference.lstm_forward)


def compare(
    inputs: Inputs,
    actual: list[Tensor],
    assert_close,
    dtype: torch.dtype | None = None,
    what: str = "",
) -> None:
    """Values and every gradient with those of the float64 reference, as close as of `dtype`."""
    names = (*NAMES, *(f"d {name}" for name in inputs.names))
    for name, ours, theirs in zip(names, actual, reference_results(inputs), strict=True):
        assert_close(ours.cpu(), theirs, f"{what} {name}", dtype)


def arguments_with(**changes: object) -> list:
    """The forward op's, of a small LSTM of zeros, but for these."""
    t, b, i, h = 3, 2, 5, 4
    arguments = {
        "x": torch.zeros(t, b, i),
        "h0": torch.zeros(b, h),
        "c0": torch.zeros(b, h),
        "w_ih": torch.zeros(4 * h, i),
        "w_hh": torch.zeros(4 * h, h),
        **dict.fromkeys(("b_ih", "b_hh", "w_hr", "lengths", "reset")),
        "reverse": False,
        "save": 0,
    }
    return list({**arguments, **changes}.values())


def activation_error(activation: str, dtype: torch.dtype) -> float:
    """Largest error of the kernels' "sigmoid" or "tanh", in units of the last place."""
    values = torch.cat((torch.linspace(-20, 20, 40001), torch.logspace(-30, 1, 4001))).to(dtype)
    values = torch.cat((values, -values))
    gate = {"sigmoid": 0, "tanh": 2}[activation]
    # one unit, one row for each value, which reaches the gate unchanged
    w_ih = torch.zeros(4, 1, dtype=dtype)
    w_ih[gate] = 1
    zeros, w_hh = torch.zeros(len(values), 1, dtype=dtype), torch.zeros(4, 1, dtype=dtype)
    gates = ops.lstm_forward(
        values.reshape(1, -1, 1), zeros, zeros, w_ih, w_hh, save=reference.SAVE_GATES
    )[3]
    ours = gates[0, :, gate].numpy()
    # 64 bits of mantissa where the processor has them: enough for float64 too
    wide = values.numpy().astype(np.longdouble)
    exact = np.tanh(wide) if activation == "tanh" else 1 / (1 + np.exp(-wide))
    ulp = np.spacing(np.abs(exact).astype(ours.dtype)).astype(np.longdouble)
    return float((np.abs(ours - exact) / ulp).max())
