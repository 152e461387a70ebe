"""How a decoder is laid over a GPU: every size has a plan, and the plan fits the device."""

from __future__ import annotations

from itertools import product

import pytest
from test_cuda_plan import DEVICES

from fast_s2s import backends

pytestmark = pytest.mark.skipif(
    backends.extension is None, reason=f"no planner: {backends.extension_reason}"
)


def plan(device="H200", **more):
    sizes = {"weights": "bf16", "layers": 2, "hidden": 512, "vocab": 1000, "inputs": 256, "rows": 1}
    values = {**sizes, "projected": False, "table": False, **DEVICES[device], **more}
    values.setdefault("output", values["hidden"])
    return backends.extension.plan_decode(**values)


@pytest.mark.parametrize("device", DEVICES)
def test_every_size_has_a_plan_that_fits(device):
    limits = DEVICES[device]
    sizes = product((1, 17, 500, 2048), (1, 30, 50_000), (1, 3, 40, 5000), ("fp32", "bf16"), (1, 5))
    for hidden, vocab, rows, weights, width in sizes:
        p = plan(device, hidden=hidden, vocab=vocab, rows=rows, weights=weights, width=width)
        where = f"{device} {weights} H={hidden} V={vocab} B={rows} W={width}: {p}"
        assert p["shared_bytes"] <= limits["shared_bytes"], where
        # every row is somebody's, and no launch is in vain
        per_launch = p["groups"] * p["group_rows"]
        assert (p["launches"] - 1) * per_launch < rows <= p["launches"] * per_launch, where
        assert p["group_rows"] * width <= 1024, where
        # blocks that wait for each other through L2 must be there at once
        if p["variant"] == "grid":
            assert limits.get("cooperative", True), where
            assert p["ranks"] * p["groups"] <= limits["sms"], where
        if p["variant"] == "cluster":
            assert p["ranks"] <= limits["max_cluster"], where
        # the blocks have all of the weights among them
        held = p["ranks"] * (p["resident_bytes"] + p["streamed_bytes"])
        assert held >= p["units"] * 512, where


def test_a_model_of_two_layers_stays_in_the_shared_memory_of_a_large_gpu():
    for weights in ("bf16", "fp32"):
        p = plan(weights=weights, inputs=4 * 512, table=True)
        assert p["streamed_bytes"] == 0 and p["ranks"] > 16, p
    assert plan("RTX 4090", weights="fp32", hidden=2048)["streamed_bytes"] > 0


def test_units_are_the_weights_in_pieces_of_512_bytes():
    # per layer 128 tiles of 4 units; depth 256 + 512, 512 + 512, k-tiles of 8; 63 of V
    assert plan(weights="fp32")["units"] == 128 * (96 + 128) + 63 * 64
    # no input product with a table; k-tiles of 16
    assert plan(table=True, inputs=2048)["units"] == 128 * (32 + 64) + 63 * 32
    # 4 · 512 rows over R = 100 (7 k-tiles), then 7 tiles of 16 outputs over H
    p = plan(projected=True, output=100, layers=1, table=True, inputs=2048)
    assert p["units"] == 128 * 7 + 7 * 32 + 63 * 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "expected sizes of at least 1"),
        ({"weights": "int8"}, "weights: expected fp32 or bf16, got int8"),
        ({"width": 1025}, "width: expected at most 1024 slots"),
        ({"shared_bytes": 1024}, "too little shared memory"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        plan(**change)


def test_explanation():
    assert plan()["explanation"].startswith(("grid: ", "cluster: "))
