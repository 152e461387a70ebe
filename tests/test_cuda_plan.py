"""How an LSTM layer is laid over a GPU: every size has a plan, and the plan fits the device."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from helpers_native import needs_native

from fast_s2s import backends

pytestmark = needs_native

DEVICES = {
    "A100": {"sms": 108, "shared_bytes": 163 * 1024, "max_cluster": 1},
    "RTX 4090": {"sms": 128, "shared_bytes": 99 * 1024, "max_cluster": 1},
    "H200": {"sms": 132, "shared_bytes": 227 * 1024, "max_cluster": 16},
    "B200": {"sms": 148, "shared_bytes": 227 * 1024, "max_cluster": 16},
    "RTX 5090": {"sms": 170, "shared_bytes": 99 * 1024, "max_cluster": 8},
    "a slice of an A100": {"sms": 14, "shared_bytes": 163 * 1024, "max_cluster": 1},
    "nothing resident": {
        "sms": 1,
        "shared_bytes": 48 * 1024,
        "max_cluster": 1,
        "cooperative": False,
    },
}
SIZES = (1, 7, 8, 17, 64, 100, 128, 500, 512, 650, 1000, 1024, 1500, 2048, 4096, 10_000, 65_536)
BATCHES = (1, 3, 8, 9, 20, 32, 100, 128, 1000, 70_000)
PRECISIONS = ("bf16", "fp16", "tf32", "fp32")


def plan(device="H200", precision="bf16", hidden=512, batch=1, **more):
    values = {**DEVICES[device], **more}
    return backends.extension.plan_lstm(precision=precision, hidden=hidden, batch=batch, **values)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_every_size_has_a_plan_that_fits(device, backward):
    limits = DEVICES[device]
    for hidden, batch, precision, directions in product(SIZES, BATCHES, PRECISIONS, (1, 2)):
        p = plan(device, precision, hidden, batch, directions=directions, backward=backward)
        size = 2 if precision in ("bf16", "fp16") else 4
        units = 16 if backward else 8
        where = f"{device} {precision} H={hidden} B={batch} D={directions}: {p}"
        assert p["shared_bytes"] <= limits["shared_bytes"], where
        # every unit and every row is somebody's
        assert p["strips"] * units >= hidden > (p["strips"] - 1) * units, where
        assert p["ranks"] * p["strips_per_block"] >= p["strips"], where
        assert p["launches"] * p["tiles"] * p["rows"] >= batch, where
        assert (p["launches"] - 1) * p["tiles"] * p["rows"] < batch, where
        assert p["rows"] % (8 * p["row_tiles"]) == 0, where
        depth = 4 * p["strips"] * units if backward else hidden
        assert p["k_tiles"] * 32 >= depth * size, where
        # blocks that wait for each other through L2 must be there at once
        if p["variant"] in ("grid", "stream") and not p["stepwise"]:
            assert limits.get("cooperative", True), where
            assert p["ranks"] * p["tiles"] * directions <= limits["sms"], where
        if p["variant"] == "cluster":
            assert p["ranks"] in (2, 4, 8, 16) and p["ranks"] <= limits["max_cluster"], where
        if p["variant"] == "block":
            assert p["ranks"] == 1, where
        # W is read from L2 exactly as far as it is kept nowhere else
        groups = p["rows"] // (8 * p["row_tiles"])
        chunk = -(-p["k_tiles"] // p["k_groups"])
        mine = -(-p["strips_per_block"] // (8 // p["k_groups"])) * chunk
        tile = 512 if backward else 1024
        left = 8 * mine * tile - p["register_bytes"] - p["resident_bytes"]
        assert left >= 0 and p["streamed_bytes"] == left * groups, where
        assert 4 * p["register_tiles"] * (1 if backward else 2) <= 128, where


def test_the_order_of_sums_depends_on_the_depth_alone():
    for hidden, precision, backward in product(SIZES, PRECISIONS, (False, True)):
        groups = {
            plan(device, precision, hidden, batch, directions=d, backward=backward)["k_groups"]
            for device, batch, d in product(DEVICES, BATCHES[::2], (1, 2))
        }
        assert len(groups) == 1, (hidden, precision, backward)


@pytest.mark.parametrize(
    ("device", "hidden", "batch", "variant"),
    [
        ("H200", 32, 1, "block"),
        ("H200", 256, 1, "cluster"),
        ("H200", 512, 8, "cluster"),
        ("H200", 1024, 8, "grid"),
        ("H200", 20_000, 8, "stream"),
        ("A100", 512, 8, "grid"),
        ("nothing resident", 512, 8, "stream"),
    ],
)
def test_choices(device, hidden, batch, variant):
    assert plan(device, "bf16", hidden, batch)["variant"] == variant


@pytest.mark.parametrize(("hidden", "batch"), [(512, 16), (1024, 8)])
def test_weights_stay_on_chip_at_the_sizes_of_the_flagship(hidden, batch):
    assert plan("H200", "bf16", hidden, batch)["streamed_bytes"] == 0


def test_a_device_without_cooperative_launches_gets_one_launch_a_step():
    p = plan("A100", hidden=2048, cooperative=False)
    assert p["stepwise"] and p["register_bytes"] == p["resident_bytes"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "hidden: expected at least 1"),
        ({"hidden": 2**24 + 1}, "hidden: expected at most 2.24"),
        ({"batch": 0}, "batch: expected at least 1"),
        ({"directions": 3}, "directions: expected 1 or 2"),
        ({"precision": "fp8"}, "precision: expected bf16, fp16, tf32 or fp32, got fp8"),
        ({"only": "warp"}, "only: expected block, cluster, grid or stream, got warp"),
        ({"sms": 0}, "sms: expected at least 1"),
        ({"shared_bytes": 100}, "too little shared memory"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**changes)


def test_explanation():
    properties = SimpleNamespace(
        major=9, multi_processor_count=132, shared_memory_per_block_optin=227 * 1024
    )
    text = backends.explain_cuda(properties, torch.bfloat16, 1024, 8)
    assert text.startswith("grid: 128 blocks to a copy of the weights, 1 x 8 rows; a block has 128")
    assert backends.explain_cuda(properties, torch.bfloat16, 32, 8).startswith("block: 1 block to")


@pytest.mark.parametrize("device", [name for name in DEVICES if name != "nothing resident"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_every_projection_has_a_plan_that_fits(device, backward):
    limits = DEVICES[device]
    sizes = ((1, 1), (3, 1), (17, 5), (512, 128), (1024, 512), (2048, 1024), (4096, 512), (5, 700))
    for (hidden, outputs), batch, precision in product(sizes, (1, 8, 33, 1000), PRECISIONS):
        p = plan(device, precision, hidden, batch, projection=outputs, backward=backward)
        where = f"{device} {precision} H={hidden} R={outputs} B={batch}: {p}"
        size = 2 if precision in ("bf16", "fp16") else 4
        assert not p["stepwise"], where
        assert p["shared_bytes"] <= limits["shared_bytes"], where
        if p["variant"] in ("grid", "stream"):
            assert p["ranks"] * p["tiles"] <= limits["sms"], where
        if p["variant"] == "cluster":
            assert p["ranks"] in (2, 4, 8, 16) and p["ranks"] <= limits["max_cluster"], where
        if p["variant"] == "block":
            assert p["ranks"] == 1, where
        assert p["launches"] * p["tiles"] * p["rows"] >= batch, where
        # every row of both matrices is somebody's, and all of their depth is multiplied
        rows, per_strip, depth = (outputs, 16, 4 * hidden) if backward else (hidden, 8, outputs)
        assert p["strips"] * per_strip >= rows > (p["strips"] - 1) * per_strip, where
        assert p["ranks"] * p["strips_per_block"] >= p["strips"], where
        assert p["k_tiles"] * 32 >= depth * size, where
        rows, depth = (hidden, outputs) if backward else (outputs, hidden)
        assert p["projection_strips"] * 16 >= rows > (p["projection_strips"] - 1) * 16, where
        blocks = p["ranks"] * p["projection_strips_per_block"]
        assert blocks >= p["projection_strips"], where
        assert p["projection_k_tiles"] * 32 >= depth * size, where


@pytest.mark.parametrize(
    ("hidden", "outputs", "variant"),
    [(17, 5, "block"), (512, 128, "cluster"), (1024, 512, "grid"), (65_536, 64, "stream")],
)
def test_choices_with_a_projection(hidden, outputs, variant):
    assert plan("H200", "bf16", hidden, 8, projection=outputs)["variant"] == variant


def test_a_projection_too_large_for_a_block_needs_cooperative_launches():
    assert plan("nothing resident", hidden=17, projection=5)["variant"] == "block"
    lacks = "a layer with a projection of this size needs cooperative launches"
    with pytest.raises(ValueError, match=lacks):
        plan("nothing resident", projection=64)
    with pytest.raises(ValueError, match="projection: expected 0 for none, at most 2.24"):
        plan(projection=-1)


@pytest.mark.parametrize(("hidden", "precision"), [(640, "bf16"), (1024, "bf16"), (384, "fp32")])
def test_backward_gives_a_deep_strip_to_the_whole_block(hidden, precision):
    assert plan("H200", precision, hidden, 8, backward=True)["k_groups"] == 8
    assert plan("H200", "bf16", 512, 8, backward=True)["k_groups"] == 4
