"""Faults put into the CUDA kernels, and whether a run in the emulator finds them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from conftest import assert_close
from helpers_emulator import MUTANT_NAMESPACE, VARIANTS, Emulator
from helpers_lstm import Case, make_inputs, reference_results

FORWARD, BACKWARD = "csrc/lstm/forward_cuda_bf16.cu", "csrc/lstm/backward_cuda_bf16.cu"
SMALL = ["csrc/lstm/lstm_cuda.cu"]
PROJECTED = ["csrc/lstm/projected_cuda_bf16.cu"]
FP32 = ["csrc/lstm/forward_cuda_fp32.cu", "csrc/lstm/backward_cuda_fp32.cu"]


class Mutation(NamedTuple):
    """`old`, once in the file, becomes `new`; found by running `variant` on `device`."""

    name: str
    file: str
    old: str
    new: str
    variant: str = "block"
    device: dict = {}
    recompiled: list = [FORWARD]
    dtype: torch.dtype = torch.bfloat16
    case: Case = Case(5, 11, 150, lengths=True, reset=True)
    # both directions in one launch, instead of one
    both: bool = False


def _both_agree(emulator: Emulator, inputs) -> bool:
    """Whether one launch gives what two do, of the same weights in both directions."""
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, _, lengths, reset, _ = inputs.arguments(
        [t.detach() for t in inputs.tensors]
    )
    weights = [w_ih, w_hh, b_ih, b_hh]
    states = torch.stack((h0, h0)), torch.stack((c0, c0))
    layer = (x, *states, weights, weights, True, lengths, reset, reset)
    try:
        y, h_n, c_n, *saved = emulator.lstm_forward_both(*layer, 1)
        grads = [torch.cat([inputs.cotangents[0]] * 2, dim=2)]
        grads += [torch.stack((g, g)) for g in inputs.cotangents[1:]]
        d_x, *_ = emulator.lstm_backward_both(
            *grads,
            x,
            *states,
            weights,
            weights,
            True,
            lengths,
            reset,
            reset,
            y,
            *saved,
            True,
            False,
        )
        d_x_alone = 0
        for i, reverse in enumerate((False, True)):
            arguments = (x, h0, c0, *weights, None, lengths, reset, reverse)
            one_y, one_h, one_c, *one_saved = emulator.lstm_forward(*arguments, 1)
            assert_close(y.chunk(2, dim=2)[i], one_y, "y")
            assert_close(h_n[i], one_h, "h_n")
            assert_close(c_n[i], one_c, "c_n")
            found = emulator.lstm_backward(
                *inputs.cotangents, *arguments, one_y, *one_saved, True, False
            )
            d_x_alone = d_x_alone + found[0]
        assert_close(d_x, d_x_alone, "d x")
    except (RuntimeError, AssertionError):
        return False
    return True


def survives(library: Path, namespace: str, mutation: Mutation) -> bool:
    torch.manual_seed(0)
    only = VARIANTS.index(mutation.variant)
    inputs = make_inputs(mutation.case, mutation.dtype)
    expected = reference_results(inputs)
    emulator = Emulator(library, namespace)
    emulator.configure(only=-1 if mutation.case.projection else only, **mutation.device)
    if mutation.both:
        return _both_agree(emulator, inputs)
    try:
        # with the gates saved and computed again
        for save in (1, 2):
            for ours, theirs in zip(emulator.run(inputs, save), expected, strict=True):
                assert_close(ours, theirs, mutation.name)
    except (RuntimeError, AssertionError):
        return False
    return True


def answer(library: Path, mutation: Mutation, pipe) -> None:
    """Into the pipe: whether the mutant survives its run."""
    pipe.send(survives(library, MUTANT_NAMESPACE, mutation))
