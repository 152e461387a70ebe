"""CUDA kernels of layers with a projection, executed by the emulator, against float64."""

from __future__ import annotations

import pytest
import torch
from helpers_emulator import VARIANTS, Emulator, compare, tf32_allowed
from helpers_lstm import Case, make_inputs
from helpers_native import needs_native

from fast_s2s import backends, reference

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CASES = [
    Case(1, 1, 3, projection=1),
    Case(1, 3, 17, projection=5),
    Case(63, 3, 17, projection=9, lengths=True, reset=True, reverse=True),
    Case(5, 11, 40, projection=33, bias=False),
    Case(4, 13, 100, projection=70, lengths=True, reset=True),
    Case(3, 40, 64, projection=16, lengths=True, reverse=True),
    # torch has no such layer, the op has
    Case(2, 3, 9, projection=12),
]
# of each variant: many blocks or few; W in registers, in shared memory and in L2; many rows at once
LITTLE = {"weight_registers": 8, "shared_bytes": 50_000}
DEVICES = {
    "block": [{}, {"row_tiles": 4}, {**LITTLE, "shared_bytes": 90_000}],
    "cluster": [{}, {"row_tiles": 4}, {**LITTLE, "max_cluster": 4}],
    "grid": [{"sms": 1}, {**LITTLE, "sms": 3}, {"row_tiles": 4, "sms": 32}],
    "stream": [{"sms": 1}, {**LITTLE, "sms": 3}, {"row_tiles": 4, "sms": 32}],
}
LAYOUTS = [
    pytest.param({"only": VARIANTS.index(variant), **device}, id=f"{variant}-{index}")
    for variant, devices in DEVICES.items()
    for index, device in enumerate(devices)
]
VARIED = Case(4, 13, 150, projection=70, lengths=True, reset=True)
# of about as many bytes
VARIED_FLOAT32 = Case(4, 13, 70, projection=37, lengths=True, reset=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(emulator, case, dtype, assert_close):
    inputs = make_inputs(case, dtype)
    for save in (reference.SAVE_GATES, reference.SAVE_CELLS):
        compare(emulator, inputs, assert_close, save)


@pytest.mark.parametrize("device", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_variant(emulator, device, dtype, assert_close):
    emulator.configure(**device)
    case = VARIED_FLOAT32 if dtype == torch.float32 else VARIED
    compare(emulator, make_inputs(case, dtype), assert_close)


@pytest.mark.parametrize("variant", range(4), ids=VARIANTS)
def test_every_variant_in_reverse(emulator, variant, assert_close):
    emulator.configure(only=variant)
    case = Case(3, 9, 17, projection=5, lengths=True, reset=True, reverse=True)
    compare(emulator, make_inputs(case, torch.bfloat16), assert_close)


@pytest.mark.parametrize("variant", range(1, 4), ids=VARIANTS[1:])
def test_500_units(emulator, variant, assert_close):
    emulator.configure(only=variant)
    inputs = make_inputs(Case(2, 3, 500, projection=63, lengths=True), torch.bfloat16)
    compare(emulator, inputs, assert_close)


@needs_native
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_the_devices_meet_all_there_is(variant, backward):
    plans = []
    for device in DEVICES[variant]:
        values = {**Emulator.DEFAULTS, **device, "only": variant}
        for name in ("seed", "resident", "occupancy"):
            del values[name]
        sizes = {"hidden": VARIED.hidden, "projection": VARIED.projection, "batch": VARIED.batch}
        plans.append(
            backends.extension.plan_lstm(precision="bf16", backward=backward, **sizes, **values)
        )
    for part in ("register_bytes", "resident_bytes", "streamed_bytes"):
        assert any(p[part] > 0 for p in plans), part
    for part in ("projection_register_tiles", "projection_shared_tiles"):
        assert any(p[part] > 0 for p in plans), part
    assert any(p["strips_per_block"] > 1 and p["projection_strips_per_block"] > 1 for p in plans)
    # a rank that has no strip of one of the products
    if variant != "block":
        assert any(p["ranks"] > min(p["strips"], p["projection_strips"]) for p in plans)
    assert {p["row_tiles"] for p in plans} == {1, 4}


@pytest.mark.parametrize("variant", range(4), ids=VARIANTS)
def test_tf32(emulator, variant, assert_close):
    emulator.configure(only=variant)
    with tf32_allowed():
        compare(emulator, make_inputs(VARIED), assert_close, dtype=torch.float16)


def test_any_order_of_threads_and_any_device_give_the_same_bits(emulator):
    inputs = make_inputs(VARIED, torch.bfloat16)
    expected = emulator.run(inputs, reference.SAVE_GATES)
    for seed, layout in enumerate((*LAYOUTS, pytest.param({"sms": 5}))):
        emulator.configure(seed=seed + 2, **layout.values[0])
        actual = emulator.run(inputs, reference.SAVE_GATES)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_empty_batch(emulator):
    inputs = make_inputs(Case(3, 0, 5, projection=2))
    y, h_n, c_n, *gradients = emulator.run(inputs, reference.SAVE_GATES)
    assert (y.shape, h_n.shape, c_n.shape) == ((3, 0, 2), (0, 2), (0, 5))
    assert [g.shape for g in gradients] == [t.shape for t in inputs.tensors]


def test_bad_projection(emulator):
    x, h0, c0 = torch.zeros(3, 2, 5), torch.zeros(2, 2), torch.zeros(2, 4)
    weights = torch.zeros(16, 5), torch.zeros(16, 2)
    with pytest.raises(RuntimeError, match=r"w_hr: expected shape \(2,4,\), got \(4,2,\)"):
        emulator.lstm_forward(
            x, h0, c0, *weights, None, None, torch.zeros(4, 2), None, None, False, 0
        )


def test_what_a_block_holds_needs_no_cooperative_launch(emulator, assert_close):
    emulator.configure(cooperative=0, max_cluster=1)
    compare(emulator, make_inputs(Case(2, 2, 40, projection=9)), assert_close)
    emulator.configure(cooperative=0, max_cluster=1, shared_bytes=4096)
    lacks = "a layer with a projection of this size needs cooperative launches"
    with pytest.raises(RuntimeError, match=lacks):
        emulator.run(make_inputs(Case(2, 2, 40, projection=9)), reference.SAVE_GATES)
