"""What the environment asks of the CUDA kernels' plans, in the emulator."""

from __future__ import annotations

import pytest
import torch
from helpers_cuda_decode import emulated
from helpers_decode import Size, make
from helpers_decode import run as run_decode
from helpers_emulator import VARIANTS
from helpers_lstm import Case, make_inputs

from fast_s2s import reference
from fast_s2s.decoding import DecodeOptions

VARIANT, CLUSTER = "FAST_S2S_CUDA_VARIANT", "FAST_S2S_CUDA_CLUSTER"


def run(emulator):
    """Outputs and gradients, and what was counted meanwhile."""
    torch.manual_seed(0)
    inputs = make_inputs(Case(3, 5, 150), torch.bfloat16)
    before = emulator.counts()
    found = emulator.run(inputs, reference.SAVE_GATES)
    return found, {name: count - before[name] for name, count in emulator.counts().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_may_be_asked_for(emulator, monkeypatch, variant):
    expected, _ = run(emulator)
    emulator.configure(only=VARIANTS.index(variant))
    _, counts = run(emulator)
    emulator.configure()
    monkeypatch.setenv(VARIANT, variant)
    found, asked = run(emulator)
    assert asked == counts
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_smaller_clusters_may_be_asked_for(emulator, monkeypatch):
    cluster = VARIANTS.index("cluster")
    emulator.configure(only=cluster)
    _, most = run(emulator)
    emulator.configure(only=cluster, max_cluster=2)
    _, counts = run(emulator)
    emulator.configure()
    monkeypatch.setenv(VARIANT, "cluster")
    monkeypatch.setenv(CLUSTER, "2")
    _, asked = run(emulator)
    assert asked == counts and asked["threads"] < most["threads"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (VARIANT, "warp", "FAST_S2S_CUDA_VARIANT: expected block, cluster, grid or stream, got"),
        (CLUSTER, "many", "FAST_S2S_CUDA_CLUSTER: expected at least 1, got many"),
        (VARIANT, "stream", "plan: the variant asked for does not fit the device"),
    ],
)
def test_what_cannot_be_is_an_error(emulator, monkeypatch, name, value, message):
    made = emulated(make(Size(hidden=20, vocab=30), 2, torch.bfloat16), emulator)
    monkeypatch.setenv(name, value)
    # a generation has no stream variant; a layer of any size has
    with pytest.raises(RuntimeError, match=message):
        run_decode(made, DecodeOptions(max_new_tokens=2))
    if value != "stream":
        with pytest.raises(RuntimeError, match=message):
            run(emulator)
