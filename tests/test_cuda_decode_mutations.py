"""That the tests of the CUDA decode bite: each of these faults in it must make a run fail."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import helpers_emulator
import pytest
import torch
from conftest import assert_close
from helpers_cuda_decode import emulated
from helpers_decode import EOS, Size, make, run
from helpers_emulator import MUTANT_NAMESPACE, Emulator

import fast_s2s
from fast_s2s.decoding import DecodeOptions

KERNEL = "csrc/decode/decode_cuda_fp32.cu"


class Mutation(NamedTuple):
    """`old`, once in the file, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "blocks do not wait for the choice",
        "decode_cuda.cuh",
        "    barrier_.wait();\n    network_.swap_states();",
        "    network_.swap_states();",
    ),
    Mutation(
        "sums read before they are there",
        "network_cuda.cuh",
        "put_partial(sums);\n        sync_threads();",
        "put_partial(sums);",
    ),
    Mutation(
        "states of a slot's place, not of its parent's",
        "network_cuda.cuh",
        "hidden(0, layer, live_.parent(i)); };",
        "hidden(0, layer, i); };",
    ),
    Mutation(
        "no low parts of the states",
        "network_cuda.cuh",
        "    mma_tf32(d, high, b.low);\n",
        "",
    ),
    Mutation(
        "a continuation taken again and again",
        "beam_cuda.cuh",
        "better(last, found) && ",
        "",
    ),
    Mutation(
        "tokens of a slot's place, not of its parent's",
        "beam_cuda.cuh",
        "sequence(row.turn, slot_of(row, i)), sequence(1 - row.turn, slot)",
        "sequence(row.turn, slot), sequence(1 - row.turn, slot)",
    ),
]
OPTIONS = {
    "greedy": {},
    "beam": {"num_beams": 3, "num_return_sequences": 3},
}


def fails(emulator: Emulator) -> str | None:
    """What goes wrong in a few runs; None if all is well."""
    torch.manual_seed(0)
    emulator.configure(only=2, sms=3)
    made = make(Size(hidden=20, vocab=30), 4, torch.float32, sharpness=3)
    for name, kind in OPTIONS.items():
        options = DecodeOptions(max_new_tokens=6, eos_token_id=[EOS, 3, 4], **kind)
        with fast_s2s.backend("reference"):
            expected = run(made, options)
        try:
            actual = run(emulated(made, emulator), options)
            assert torch.equal(actual.tokens, expected.tokens), name
            for ours, theirs in zip(actual.state, expected.state, strict=True):
                if ours is not None:
                    assert_close(ours.h, theirs.h, name)
                    assert_close(ours.c, theirs.c, name)
        except (RuntimeError, AssertionError) as error:
            return str(error)
    return None


def _child(library: Path, answer) -> None:
    answer.send(fails(Emulator(library, MUTANT_NAMESPACE)))


@pytest.fixture(scope="module")
def mutants(_emulator_library) -> dict[str, Future[Path]]:
    """All mutants, built two at a time."""

    def build(mutation: Mutation) -> Path:
        name = "decode-" + mutation.name.replace(" ", "-").replace("'", "")
        path = f"csrc/decode/{mutation.file}"
        return helpers_emulator.build_mutant(name, path, mutation.old, mutation.new, [KERNEL])

    with ThreadPoolExecutor(2) as pool:
        return {mutation.name: pool.submit(build, mutation) for mutation in MUTATIONS}


def test_the_kernel_as_it_is_passes(emulator):
    assert fails(emulator) is None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_mutant_is_found_out(emulator, mutants, mutation):
    # a library cannot be unloaded: each mutant gets a process of its own
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(mutants[mutation.name].result(), theirs))
    child.start()
    assert ours.poll(120), "the mutant does not end"
    found = ours.recv()
    child.join()
    assert found is not None, f"no test would notice: {mutation.name}"
