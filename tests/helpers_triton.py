"""Where the Triton kernels run in tests, and small configurations for odd shapes."""

from __future__ import annotations

import dataclasses

import helpers_lstm
import torch
from helpers_lstm import Inputs
from helpers_variant_call import Call

from fast_s2s import reference
from fast_s2s.kernels.configs import Config

# on a GPU the kernels are compiled for it; elsewhere they run in the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# (forward, backward). 32 units at once and terms in blocks of 16: two trips for 17 units, one tile
# for all, as the interpreter, which runs one program after another, needs it of "grid"
VARIANTS = {
    "cell": (Config("cell", 0, 0),) * 2,
    "step": (Config("step", 16, 16, 16),) * 2,
    "single": (Config("single", 16, 32),) * 2,
    "single-not-ahead": (Config("single", 16, 32, ahead=False),) * 2,
    "grid": (Config("grid", 16, 32, 16),) * 2,
    "grid-resident": (Config("grid", 16, 32, resident=True),) * 2,
}


def on_device(inputs: Inputs) -> Inputs:
    """The same inputs on `DEVICE`."""

    def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        return tensor.detach().to(DEVICE).requires_grad_(tensor.requires_grad)

    return dataclasses.replace(
        inputs,
        tensors=[move(t) for t in inputs.tensors],
        lengths=move(inputs.lengths),
        reset=move(inputs.reset),
        cotangents=[move(t) for t in inputs.cotangents],
    )


def call_on_device(call: Call) -> Call:
    """The same call of another formula on `DEVICE`."""
    other = object.__new__(Call)
    other.__dict__ |= call.__dict__
    other.inputs = on_device(call.inputs)
    parts = {
        name: value.detach().to(DEVICE).requires_grad_(value.requires_grad)
        for name, value in call.variant._asdict().items()
        if isinstance(value, torch.Tensor)
    }
    other.variant = call.variant._replace(**parts)
    return other


def compare(inputs: Inputs, assert_close, save: int = reference.SAVE_GATES) -> None:
    """Values and every gradient on the chosen backend with those of the float64 reference."""
    helpers_lstm.compare(inputs, on_device(inputs).run(save=save), assert_close)
