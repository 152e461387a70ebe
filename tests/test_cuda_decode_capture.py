"""That one call of the CUDA decode launches and nothing else: no value on the device is looked at
by the host, which a graph's capture would not survive.

In the emulator, with the op's inputs on pages that only kernels may touch.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import signal
from collections.abc import Callable
from typing import Any

import helpers_emulator
import pytest
import torch
from helpers_attention import Case, Shape, make_case
from helpers_decode import EOS, Size
from helpers_emulator import MUTANT_NAMESPACE, Emulator

import fast_s2s
from fast_s2s.decoding import DecodeOptions, decode
from fast_s2s.decoding.contract import Keep, join_state
from fast_s2s.decoding.options import op_numbers, op_rules

STEPS = 3
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"prefix": torch.tensor([[4], [5]])},
    "sample": {"do_sample": True, "seed": torch.tensor([1, 2]), "num_return_sequences": 2},
    "beam": {"num_beams": 3, "num_return_sequences": 3, "repetition_penalty": 1.1},
    "drawn": {"num_beams": 3, "do_sample": True, "seed": torch.tensor([1, 2]), "keep": Keep(7)},
}


def guarded_run(emulator: Emulator, case: Case, options: DecodeOptions) -> list[torch.Tensor]:
    """The op's results, all its tensors out of the host's reach."""
    state = case.state(options)
    rules = op_rules(case.decoder, options, state.slots.position.numel())
    packed = emulator.decode_pack(*case.decoder.pack_arguments())
    parts = [packed], join_state(state.slots, state.hypotheses), list(state.memory), list(rules)
    with emulator.guarded([tensor for part in parts for tensor in part]) as copies:
        lists = []
        for part in parts:
            lists.append(copies[: len(part)])
            del copies[: len(part)]
        [packed], *rest = lists
        numbers = op_numbers(options)
        return emulator.decode(packed, case.decoder.header, *rest, *numbers, STEPS)


def _compared(emulator: Emulator, kind: str) -> bool:
    torch.manual_seed(0)
    shape = Shape(additive=True, feeding=True)
    options = DecodeOptions(max_new_tokens=STEPS, eos_token_id=EOS, **KINDS[kind])
    with fast_s2s.backend("reference"):
        case = make_case(Size(layers=2, hidden=9, vocab=20), shape, 2, torch.float32)
        expected = decode(case.decoder, case.state(options), options, STEPS)
    tokens = guarded_run(emulator, case, options)[2]
    return torch.equal(
        tokens[:, : expected.state.slots.tokens.size(1)], expected.state.slots.tokens
    )


def _look(emulator: Emulator, _: str) -> bool:
    with emulator.guarded([torch.ones(3)]) as (ones,):
        return ones.sum().item() == 3


def _mutant(emulator: Emulator, kind: str) -> bool:
    library = helpers_emulator.build_mutant(
        "decode-looks-at-the-device",
        "csrc/decode/decode_ops_cuda.cpp",
        "  call.packed = input(packed);\n",
        "  call.packed = input(packed);\n"
        "  call.max_steps -= *static_cast<const volatile char*>(call.packed) == 1;\n",
        ["csrc/decode/decode_ops_cuda.cpp"],
    )
    return _compared(Emulator(library, MUTANT_NAMESPACE), kind)


def _in_a_process(
    f: Callable[[Emulator, str], bool], emulator: Emulator, kind: str
) -> tuple[int | None, bool]:
    """Its exit code, and what f gives if it lives."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def answer() -> None:
        faulthandler.disable()
        theirs.send(f(emulator, kind))

    child = context.Process(target=answer)
    child.start()
    theirs.close()
    child.join(120)
    try:
        return child.exitcode, ours.recv()
    except EOFError:
        return child.exitcode, False


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_looks_at_nothing_on_the_device(emulator, kind):
    assert _in_a_process(_compared, emulator, kind) == (0, True)


@pytest.mark.parametrize("look", [_look, _mutant], ids=["a test", "a mutant"])
def test_who_looks_does_not_live(emulator, look):
    assert _in_a_process(look, emulator, "greedy") == (-signal.SIGSEGV, False)
