"""Where the device has no room for all of a plan's blocks at once: another plan, or an error."""

from __future__ import annotations

import pytest
import torch
from helpers_cuda_decode import VARIANTS as DECODE_VARIANTS
from helpers_cuda_decode import emulated
from helpers_decode import Size, make
from helpers_decode import run as run_decode
from helpers_emulator import VARIANTS
from helpers_lstm import Case, compare, make_inputs

from fast_s2s import reference
from fast_s2s.decoding import DecodeOptions

CASE = Case(4, 11, 150, lengths=True, reset=True)


def run(emulator, case=CASE, assert_close=None, **device):
    emulator.configure(**device)
    torch.manual_seed(0)
    inputs = make_inputs(case, torch.bfloat16)
    actual = emulator.run(inputs, reference.SAVE_GATES)
    if assert_close is not None:
        compare(inputs, actual, assert_close, what=str(device))
    return actual


@pytest.mark.parametrize("asked", [True, False], ids=["known", "found by the launch"])
@pytest.mark.parametrize("resident", [1, 2, 5])
@pytest.mark.parametrize("variant", ["cluster", "grid", "stream"])
def test_another_plan_runs_with_the_same_bits(emulator, variant, resident, asked, assert_close):
    if variant == "cluster" and (resident == 1 or not asked):
        pytest.skip("no cluster is left, or the launch itself does not refuse one")
    expected = run(emulator, only=VARIANTS.index(variant))
    occupancy = 0 if asked else 99
    device = {"only": VARIANTS.index(variant), "resident": resident, "occupancy": occupancy}
    actual = run(emulator, assert_close=assert_close, **device)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_without_room_for_a_cluster_any_other_variant_may_run(emulator, assert_close):
    free = {"max_cluster": 8, "cooperative": 0, "shared_bytes": 30_000}
    run(emulator, assert_close=assert_close, resident=1, **free)


def test_a_projection_runs_in_whatever_room_there_is(emulator, assert_close):
    case = Case(4, 11, 150, projection=70, lengths=True, reset=True)
    expected = run(emulator, case)
    for device in ({"resident": 1}, {"resident": 3, "occupancy": 99}):
        actual = run(emulator, case, assert_close, **device)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_what_only_fits_a_larger_device_says_so(emulator):
    device = {"only": VARIANTS.index("cluster"), "resident": 1}
    with pytest.raises(RuntimeError, match="plan: the variant asked for does not fit the device"):
        run(emulator, **device)


@pytest.mark.parametrize("asked", [True, False], ids=["known", "found by the launch"])
@pytest.mark.parametrize("resident", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beam"])
@pytest.mark.parametrize("variant", ["cluster", "grid"])
def test_a_generation_is_planned_again_with_the_same_bits(
    emulator, variant, options, resident, asked
):
    if variant == "cluster" and (resident == 1 or not asked):
        pytest.skip("no cluster is left, or the launch itself does not refuse one")
    made = emulated(make(Size(hidden=40, vocab=50), 9, torch.bfloat16), emulator)
    wanted = DecodeOptions(max_new_tokens=4, **options)
    only = {"only": DECODE_VARIANTS[variant]}
    emulator.configure(**only)
    expected = run_decode(made, wanted)
    emulator.configure(**only, resident=resident, occupancy=0 if asked else 99)
    actual = run_decode(made, wanted)
    for ours, theirs in zip(actual.state.slots, expected.state.slots, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(actual.tokens, expected.tokens)
    assert torch.equal(actual.scores, expected.scores)


def test_without_room_for_one_block_a_generation_runs_where_none_must_be_resident(emulator):
    made = emulated(make(Size(hidden=40, vocab=50), 3, torch.bfloat16), emulator)
    wanted = DecodeOptions(max_new_tokens=4)
    expected = run_decode(made, wanted)
    emulator.configure(only=DECODE_VARIANTS["cluster"], resident=1)
    with pytest.raises(RuntimeError, match="plan: the variant asked for does not fit the device"):
        run_decode(made, wanted)
    emulator.configure(max_cluster=8, resident=1)
    assert torch.equal(run_decode(made, wanted).tokens, expected.tokens)
