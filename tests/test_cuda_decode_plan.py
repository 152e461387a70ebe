"""How a decoder is laid over a GPU: every size has a plan, and the plan fits the device."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers_native import needs_native
from test_cuda_plan import DEVICES

from fast_s2s import backends
from fast_s2s.decoding.packed import choose_backend
from fast_s2s.decoding.weights import CUDA_DTYPES

pytestmark = needs_native


def plan(device="H200", **more):
    sizes = {"weights": "bf16", "layers": 2, "hidden": 512, "vocab": 1000, "inputs": 256, "rows": 1}
    values = {**sizes, "projected": False, "table": False, **DEVICES[device], **more}
    values.setdefault("output", values["hidden"])
    return backends.extension.plan_decode(**values)


@pytest.mark.parametrize("device", DEVICES)
def test_every_size_has_a_plan_that_fits(device):
    limits = DEVICES[device]
    sizes = product((1, 17, 500, 2048), (1, 30, 50_000), (1, 3, 40, 5000), ("fp32", "int8"), (1, 5))
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
    # attention: the query's 4 tiles over H, 32 tiles of outputs over M = 1024 and H
    attends = {"heads": 2, "keys": 64, "values": 1024, "steps": 50}
    p = plan(**attends, additive=True, table=True, inputs=2048)
    assert p["units"] == 128 * (32 + 64) + 4 * 32 + 32 * (64 + 32) + 63 * 32
    # of int8 weights, k-tiles of 32 and a unit of scales for each tile
    p = plan(weights="int8", output=100, projected=True)
    assert p["units"] == 128 * (8 + 4 + 1 + 4 + 4 + 1) + 2 * 7 * (16 + 1) + 63 * (4 + 1)
    # what is fed: as deep as the states are apart, 112 for R = 100
    p = plan(**attends, feeding=True, layers=1, projected=True, output=100)
    assert p["units"] == 128 * (16 + 7 + 7) + 7 * 32 + 7 * (64 + 7) + 63 * 7


def test_the_memory_counts():
    # so many steps that few blocks would take long to read them
    attends = {"heads": 1, "keys": 256, "values": 512}
    few, many = plan(**attends, steps=10, rows=8), plan(**attends, steps=100_000, rows=8)
    assert plan()["memory_bytes"] == 0
    for p, steps in ((few, 10), (many, 100_000)):
        assert p["memory_bytes"] >= p["group_rows"] * steps * (256 + 512) * 4 // p["ranks"]
    assert many["estimated_ns"] > few["estimated_ns"] > plan(rows=8)["estimated_ns"]
    assert "KiB of the rows' memory" in many["explanation"]
    # beams read their row's memory each for itself
    assert plan(**attends, steps=99, width=5)["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "expected sizes of at least 1"),
        ({"weights": "int4"}, "weights: expected fp32, bf16, fp16 or int8, got int4"),
        ({"width": 1025}, "width: expected at most 1024 slots"),
        ({"shared_bytes": 1024}, "too little shared memory"),
        ({"heads": 3, "keys": 9, "values": 8}, "heads: expected a divisor of 9 and 8, got 3"),
        ({"heads": 1, "keys": 0, "values": 8}, "keys and values of at least 1"),
        ({"heads": 2, "keys": 8, "values": 8, "steps": 2**30}, "scores of a slot, on CUDA, got"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(ValueError, match=message):
        plan(**change)


def test_which_weights_the_kernels_take(monkeypatch):
    monkeypatch.setattr(backends, "cuda_loaded", True)
    for dtype in CUDA_DTYPES:
        assert choose_backend("cuda", dtype).backend == "native"
    choice = choose_backend("cuda", torch.float64)
    assert choice.backend == "reference" and "float64" in choice.reason
    choice = choose_backend("cpu", torch.float16)
    assert choice.backend == "reference"
    assert "no native cpu decode of torch.float16 weights" in choice.reason


def test_explanation():
    assert plan()["explanation"].startswith(("grid: ", "cluster: "))
