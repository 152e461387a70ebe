"""Faults put into the CUDA kernels, and whether a run in the emulator finds them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import assert_close
from helpers_emulator import MUTANT_NAMESPACE, VARIANTS, Emulator, build_mutant
from helpers_lstm import Case, Inputs, make_inputs, reference_results

FORWARD, BACKWARD = "csrc/lstm/forward_cuda_bf16.cu", "csrc/lstm/backward_cuda_bf16.cu"
SMALL = ["csrc/lstm/lstm_cuda.cu"]
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


def _both_agree(emulator: Emulator, inputs: Inputs) -> None:
    """One launch gives what two do, of the same weights in both directions."""
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, _, lengths, reset, _ = inputs.arguments(
        [t.detach() for t in inputs.tensors]
    )
    weights = [w_ih, w_hh, b_ih, b_hh]
    states = torch.stack((h0, h0)), torch.stack((c0, c0))
    layer = (x, *states, weights, weights, True, lengths, reset, reset)
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


def check(emulator: Emulator, run: Mutation) -> None:
    """Raises an error if the mutation's run does not give what the reference does."""
    torch.manual_seed(0)
    inputs = make_inputs(run.case, run.dtype)
    emulator.configure(only=VARIANTS.index(run.variant), **run.device)
    if run.both:
        _both_agree(emulator, inputs)
        return
    expected = reference_results(inputs)
    # with the gates saved and computed again
    for save in (1, 2):
        for ours, theirs in zip(emulator.run(inputs, save), expected, strict=True):
            assert_close(ours, theirs, run.name)


def distinct_runs(mutations: list[Mutation]) -> list[Mutation]:
    """One mutation of each variant, device, case and so on."""
    runs = {
        (m.variant, tuple(m.device.items()), m.case, m.dtype, m.both): m
        for m in reversed(mutations)
    }
    return [m for m in mutations if m in runs.values()]


def build_chosen(request: pytest.FixtureRequest, folder: str) -> dict[str, Future[Path]]:
    """Name -> library of each mutant that the module's chosen tests need, built two at a time.

    A mutation's file is relative to `folder`.
    """
    tests = [item for item in request.session.items if item.path == request.path]
    parameters = [test.callspec.params for test in tests if hasattr(test, "callspec")]
    chosen = [given["mutation"] for given in parameters if "mutation" in given]

    def build(mutation: Any) -> Path:
        path = os.path.normpath(Path(folder) / mutation.file)
        name = f"{Path(folder).name}-{mutation.name}".replace(" ", "-").replace("'", "")
        return build_mutant(name, path, mutation.old, mutation.new, mutation.recompiled)

    with ThreadPoolExecutor(2) as pool:
        return {mutation.name: pool.submit(build, mutation) for mutation in chosen}


def is_found_out(library: Path, check: Callable[[Emulator], None]) -> bool:
    """Whether the mutant fails, in a process of its own: no library can be unloaded."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_answer, args=(library, check, theirs))
    child.start()
    # so that a crash ends the wait
    theirs.close()
    assert ours.poll(120), "the mutant does not end"
    found = ours.recv()
    child.join()
    return found


def _answer(library: Path, check: Callable[[Emulator], None], pipe: Connection) -> None:
    try:
        check(Emulator(library, MUTANT_NAMESPACE))
        pipe.send(False)
    except (RuntimeError, AssertionError):
        pipe.send(True)
