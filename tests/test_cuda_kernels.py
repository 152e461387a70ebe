"""The CUDA kernels, executed by the emulator, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from helpers_emulator import VARIANTS, Emulator, compare, tf32_allowed
from helpers_lstm import NAMES, Case, make_inputs, reference_results
from helpers_native import needs_native

from fast_s2s import backends, reference

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SAVES = (reference.SAVE_GATES, reference.SAVE_CELLS)
CASES = [
    Case(1, 1, 1),
    Case(1, 3, 17),
    Case(2, 40, 5),
    Case(7, 3, 17, lengths=True),
    Case(7, 3, 17, reset=True),
    Case(7, 3, 17, reverse=True),
    Case(63, 3, 17, lengths=True, reset=True, reverse=True),
    Case(63, 1, 33),
    Case(4, 20, 64),
    Case(4, 13, 100, lengths=True, reset=True),
    Case(5, 11, 40, inputs=1, bias=False, reverse=True),
    Case(3, 9, 150, lengths=True, reset=True, reverse=True),
]
# what each variant is to meet: few rows at once and many; W in registers alone, also in shared
# memory, also in L2; ranks without units; tiles of rows without rows; several launches
LITTLE = {"weight_registers": 8, "shared_bytes": 60_000}
DEVICES = {
    "block": [{}, {"row_tiles": 4}, {**LITTLE, "shared_bytes": 90_000}],
    "cluster": [{}, {"sms": 2, "max_cluster": 2}, {**LITTLE, "max_cluster": 4}],
    "grid": [{}, {"row_tiles": 4}, {**LITTLE, "sms": 3}],
    "stream": [
        {},
        {"cooperative": 0},
        {"cooperative": 0, "sms": 1},
        {**LITTLE, "shared_bytes": 45_000, "sms": 3},
    ],
}
LAYOUTS = [
    pytest.param(VARIANTS.index(variant), device, id=f"{variant}-{index}")
    for variant, devices in DEVICES.items()
    for index, device in enumerate(devices)
]


VARIANT_CASES = [
    Case(5, 11, 150, lengths=True, reset=True),
    Case(5, 11, 150, lengths=True, reset=True, reverse=True),
    Case(3, 40, 70, lengths=True),
    Case(3, 1, 9),
]


def plan(case, precision, backward, variant, device):
    values = {**Emulator.DEFAULTS, **device}
    for name in ("seed", "resident", "occupancy"):
        del values[name]
    values["only"] = VARIANTS[variant]
    sizes = {"precision": precision, "hidden": case.hidden, "batch": case.batch}
    return backends.extension.plan_lstm(**sizes, backward=backward, **values)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(emulator, case, dtype, assert_close):
    inputs = make_inputs(case, dtype)
    for save in SAVES:
        compare(emulator, inputs, assert_close, save)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("variant", "device"), LAYOUTS)
@pytest.mark.parametrize("case", VARIANT_CASES, ids=str)
def test_every_variant(emulator, case, variant, device, dtype, assert_close):
    if variant == VARIANTS.index("cluster") and case.hidden < 16:
        pytest.skip("one strip of units has nothing to share")
    emulator.configure(only=variant, **device)
    compare(emulator, make_inputs(case, dtype), assert_close)


@needs_native
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_runs_of_a_variant_meet_all_it_has(name, precision, backward):
    layouts = [
        plan(case, precision, backward, VARIANTS.index(name), device)
        for device in DEVICES[name]
        for case in VARIANT_CASES
        if case.hidden >= 16
    ]
    assert {p["variant"] for p in layouts} == {name}
    assert {p["row_tiles"] for p in layouts} == {1, 4}
    assert {p["k_groups"] > 1 for p in layouts} >= {True}
    for part in ("register_bytes", "resident_bytes", "streamed_bytes"):
        assert any(p[part] > 0 for p in layouts), part
    assert any(p["tiles"] > 1 or p["launches"] > 1 for p in layouts)
    if name == "cluster":
        assert any(p["ranks"] * p["strips_per_block"] > p["strips"] for p in layouts)
    if name == "stream":
        assert {p["stepwise"] for p in layouts} == {False, True}


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_500_units(emulator, variant, assert_close):
    emulator.configure(only=VARIANTS.index(variant))
    inputs = make_inputs(Case(3, 3, 500, lengths=True, reset=True), torch.bfloat16)
    compare(emulator, inputs, assert_close)


def test_500_units_in_float32(emulator, assert_close):
    compare(emulator, make_inputs(Case(2, 3, 500, reverse=True)), assert_close)


@pytest.mark.parametrize("row_tiles", [1, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tf32_follows_torchs_switch(emulator, variant, row_tiles, assert_close):
    emulator.configure(only=VARIANTS.index(variant), row_tiles=row_tiles)
    inputs = make_inputs(Case(3, 11, 70, lengths=True, reset=True))
    with tf32_allowed():
        # tf32 has float16's ten bits
        compare(emulator, inputs, assert_close, dtype=torch.float16)
        rough = emulator.run(inputs, reference.SAVE_GATES)[0]
    assert not torch.equal(rough, emulator.run(inputs, reference.SAVE_GATES)[0])


@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_order_of_threads_gives_the_same_bits(emulator, variant, seed):
    inputs = make_inputs(Case(4, 3, 70, lengths=True, reset=True), torch.bfloat16)
    emulator.configure(only=VARIANTS.index(variant))
    expected = emulator.run(inputs, reference.SAVE_GATES)
    emulator.configure(only=VARIANTS.index(variant), seed=seed)
    actual = emulator.run(inputs, reference.SAVE_GATES)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_every_variant_gives_the_same_bits(emulator):
    inputs = make_inputs(Case(4, 11, 150, lengths=True, reset=True), torch.bfloat16)
    expected = emulator.run(inputs, reference.SAVE_GATES)
    for variant, devices in DEVICES.items():
        for device in devices:
            emulator.configure(only=VARIANTS.index(variant), **device)
            actual = emulator.run(inputs, reference.SAVE_GATES)
            assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True)), variant


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_the_others(emulator, dtype):
    inputs = make_inputs(Case(6, 11, 50, lengths=True, reset=True), dtype)
    arguments = inputs.arguments([t.detach() for t in inputs.tensors])
    x, h0, c0, *weights = arguments[:8]
    everything = emulator.lstm_forward(*arguments, reference.SAVE_GATES)
    for row in range(11):
        pick = slice(row, row + 1)
        # as torch computes it for all rows: a product of one row may round otherwise
        rows = x[:, pick].expand(-1, 11, -1).contiguous()
        lengths, reset = inputs.lengths[pick].expand(11), inputs.reset[:, pick].expand(-1, 11)
        states = (h0[pick].expand(11, -1), c0[pick].expand(11, -1))
        alone = emulator.lstm_forward(
            rows, *states, *weights, lengths.contiguous(), reset, False, reference.SAVE_GATES
        )
        assert torch.equal(alone[0][:, 0], everything[0][:, row])
        assert torch.equal(alone[1][0], everything[1][row])
        assert torch.equal(alone[2][0], everything[2][row])


@pytest.mark.parametrize("save", [*SAVES, reference.SAVE_NONE])
def test_saved_tensors(emulator, save, assert_close):
    inputs = make_inputs(Case(5, 3, 17, lengths=True, reset=True), torch.bfloat16)
    arguments = inputs.arguments([t.detach() for t in inputs.tensors])
    actual = emulator.lstm_forward(*arguments, save)[3:]
    expected = reference.lstm_forward(*inputs.to(torch.float64).arguments(), save)[3:]
    for name, ours, theirs in zip(("gates", "cells"), actual, expected, strict=True):
        assert_close(ours, theirs, name, torch.bfloat16)
        past = torch.arange(5).unsqueeze(1) >= inputs.lengths
        assert ours.numel() == 0 or (ours[past] == 0).all()


@pytest.mark.parametrize("wanted", range(3), ids=NAMES)
def test_gradients_of_one_output_alone(emulator, wanted, assert_close):
    inputs = make_inputs(Case(5, 3, 17, lengths=True))
    arguments = inputs.arguments([t.detach() for t in inputs.tensors])
    y, _, _, *saved = emulator.lstm_forward(*arguments, reference.SAVE_GATES)
    cotangents = [g if i == wanted else None for i, g in enumerate(inputs.cotangents)]
    actual = emulator.lstm_backward(*cotangents, *arguments, y, *saved, True, False)
    double = inputs.to(torch.float64)
    outputs = reference.lstm_forward(*double.arguments(), reference.SAVE_NONE)
    tensors, cotangent = double.tensors[:3], double.cotangents[wanted]
    expected = torch.autograd.grad(outputs[wanted], tensors, cotangent)
    for name, ours, theirs in zip(inputs.names[:3], actual[:3], expected, strict=True):
        assert_close(ours, theirs, name)
    assert all(actual[index].numel() == 0 for index in (3, 4, 6))


def test_saturated_gates(emulator, assert_close):
    inputs = make_inputs(Case(6, 3, 17), scale=30.0)
    outputs = zip(NAMES, emulator.run(inputs, 1)[:3], reference_results(inputs)[:3], strict=True)
    for name, ours, theirs in outputs:
        assert_close(ours, theirs, name)


def test_nan_and_infinite_inputs_stay_in_their_row(emulator):
    inputs = make_inputs(Case(4, 5, 17))
    tensors = [t.detach().clone() for t in inputs.tensors]
    clean = emulator.lstm_forward(*inputs.arguments(tensors), 0)[0]
    tensors[0][1, 2, 3] = float("nan")
    tensors[0][0, 4, 0] = float("inf")
    y = emulator.lstm_forward(*inputs.arguments(tensors), 0)[0]
    assert y[2, 2].isnan().all()
    assert torch.equal(y[:, [0, 1, 3]], clean[:, [0, 1, 3]])
    assert y[:, 4].isfinite().all()


@pytest.mark.parametrize("save", [reference.SAVE_GATES, reference.SAVE_CELLS])
@pytest.mark.parametrize("projection", [0, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_lies_past_a_rows_length_does_not_matter(
    emulator, reverse, projection, save, assert_close
):
    case = Case(5, 4, 17, lengths=True, projection=projection, reverse=reverse)
    inputs = make_inputs(case)
    expected = reference_results(inputs)
    with torch.no_grad():
        for row, length in enumerate(inputs.lengths.tolist()):
            inputs.tensors[0][length:, row] = float("nan")
            inputs.cotangents[0][length:, row] = float("nan")
    names = (*NAMES, *(f"d {name}" for name in inputs.names))
    for name, ours, theirs in zip(names, emulator.run(inputs, save), expected, strict=True):
        assert_close(ours, theirs, name)


def test_lengths_out_of_range_are_taken_as_the_nearest_in_it(emulator):
    inputs = make_inputs(Case(4, 3, 9, lengths=True))
    arguments = list(inputs.arguments([t.detach() for t in inputs.tensors]))
    arguments[8] = torch.tensor([4, 2, 0])
    expected = emulator.lstm_forward(*arguments, reference.SAVE_GATES)
    arguments[8] = torch.tensor([9, 2, -3])
    actual = emulator.lstm_forward(*arguments, reference.SAVE_GATES)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("batch", [1, 8, 11, 33])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_step_runs_one_kernel_up_to_32_rows(emulator, batch, dtype, assert_close):
    inputs = make_inputs(Case(1, batch, 17, inputs=70), dtype)
    arguments = inputs.arguments([t.detach() for t in inputs.tensors])
    before = emulator.counts()
    emulator.lstm_forward(*arguments, reference.SAVE_GATES)
    after = emulator.counts()
    assert after["launches"] - before["launches"] == (1 if batch <= 32 else 2)
    assert (after["products"] == before["products"]) == (batch <= 32)
    compare(emulator, inputs, assert_close)


def test_no_write_to_the_weights_goes_unseen(emulator, assert_close):
    # as a moving average writes them: the version counter does not move
    inputs = make_inputs(Case(3, 3, 17))
    weights = inputs.tensors[inputs.names.index("w_hh")]
    compare(emulator, inputs, assert_close)
    version = weights._version
    weights.data.mul_(-0.5)
    assert weights._version == version
    compare(emulator, inputs, assert_close)


def test_empty_batch(emulator):
    inputs = make_inputs(Case(3, 0, 5))
    y, h_n, c_n, *gradients = emulator.run(inputs, reference.SAVE_GATES)
    assert (y.shape, h_n.shape, c_n.shape) == ((3, 0, 5), (0, 5), (0, 5))
    assert [g.shape for g in gradients] == [t.shape for t in inputs.tensors]
    assert all((g == 0).all() for g in gradients)


def test_bad_arguments(emulator):
    def arguments(**changes):
        named = dict(
            zip(
                ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "lengths", "reset"),
                (torch.zeros(3, 2, 5), *[torch.zeros(2, 4)] * 2, torch.zeros(16, 5)),
                strict=False,
            )
        )
        defaults = dict.fromkeys(("b_ih", "b_hh", "w_hr", "lengths", "reset"))
        return [*({**named, "w_hh": torch.zeros(16, 4), **defaults, **changes}).values(), False, 0]

    emulator.lstm_forward(*arguments())
    for changes, message in [
        ({"x": torch.zeros(3, 2)}, "x: expected .T, B, I., got 2 dimensions"),
        ({"x": torch.zeros(2**31, 0, 5)}, r"x: expected at most 2\^31 - 1 steps, got 2147483648"),
        ({"x": torch.zeros(3, 2, 5).double()}, "x: expected dtype Float, BFloat16 or Half, got Do"),
        ({"h0": torch.zeros(2, 5)}, r"h0: expected shape \(2,4,\), got \(2,5,\)"),
        ({"w_hh": torch.zeros(15, 4)}, "w_hh: expected a first dimension 4H, got 15"),
        ({"w_hh": torch.zeros(16, 3)}, "w_hh: expected .4H, H. without w_hr, got .16, 3."),
        ({"lengths": torch.tensor([1])}, "lengths: expected shape"),
        ({"lengths": torch.tensor([1.0, 2.0])}, "lengths: expected dtype Long, got Float"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            emulator.lstm_forward(*arguments(**changes))


def test_what_a_kernel_finds_wrong_becomes_an_error(emulator):
    emulator.configure(only=VARIANTS.index("grid"), shared_bytes=1024)
    inputs = make_inputs(Case(2, 2, 40))
    with pytest.raises(RuntimeError, match="plan: the variant asked for does not fit the device"):
        emulator.run(inputs, reference.SAVE_GATES)
