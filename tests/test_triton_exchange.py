"""How the programs of a grid kernel wait for each other: the counters alone, then whole kernels
whose programs are processes that run at the same time over shared memory.

The interpreter runs one program after another, so a process here is one program of the launch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch
from helpers_lstm import Case, make_inputs

from fast_s2s import backends, reference

pytestmark = pytest.mark.skipif(
    backends.unsupported("triton", "cpu", torch.float32) is not None,
    reason=f"no interpreter: {backends.unsupported('triton', 'cpu', torch.float32)}",
)
pytest.importorskip("triton")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from fast_s2s.kernels import configs, launch, layer  # noqa: E402
from fast_s2s.kernels.configs import Config  # noqa: E402
from fast_s2s.kernels.exchange import publish, wait  # noqa: E402


@triton.jit
def _wait(counter, target, ok, result, SPINS: tl.constexpr):
    tl.store(result, wait(counter, target, ok != 0, SPINS).to(tl.int32))


@triton.jit
def _publish(counter):
    publish(counter)


@pytest.mark.parametrize(
    ("count", "target", "ok", "expected"),
    [(0, 0, 1, True), (3, 3, 1, True), (5, 3, 1, True), (2, 3, 1, False), (2, 3, 0, False)],
)
def test_wait_gives_up_after_its_looks(count, target, ok, expected):
    counter = torch.tensor([count], dtype=torch.int32)
    result = torch.full((1,), -1, dtype=torch.int32)
    # who failed before does not look 10^12 times again
    _wait[(1,)](counter, target, ok, result, SPINS=20 if ok else 10**6)
    assert bool(result) == expected and result >= 0
    assert counter == count


def test_publish_counts():
    counter = torch.zeros(2, dtype=torch.int32)
    for _ in range(3):
        _publish[(1,)](counter)
    assert counter.tolist() == [3, 0]


# two programs share the units of each of two batch tiles
CONFIGS = {
    "streamed": Config("grid", 16, 16, 16),
    "resident": Config("grid", 16, 16, resident=True),
}
CASES = [Case(5, 3, 20), Case(4, 17, 20, lengths=True, reset=True, reverse=True)]
PARTS = 2


def _be(part: int) -> None:
    """Makes this process the program `part` of each batch tile."""
    from triton.runtime.interpreter import TensorHandle, interpreter_builder

    def scalar(value):
        return TensorHandle(torch.tensor([value], dtype=torch.int32).numpy(), tl.int32)

    own = interpreter_builder.create_get_program_id
    interpreter_builder.create_get_program_id = lambda axis: own(0) if axis == 0 else scalar(part)
    interpreter_builder.create_get_num_programs = lambda axis: scalar(PARTS)
    add = interpreter_builder.create_atomic_rmw

    def add_and_sleep(operation, counter, value, *rest):
        before = add(operation, counter, value, *rest)
        # what the first program has not stored by the time it counts, the other one misses
        if part == 0 and value.data.any():
            time.sleep(0.02)
        return before

    interpreter_builder.create_atomic_rmw = add_and_sleep


def _together(call) -> None:
    """Runs call(part) in PARTS processes at once, the second one late."""
    children = []
    for part in range(PARTS):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                time.sleep(0.3 * part)
                _be(part)
                call()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_programs_that_run_at_once(config, case, monkeypatch, assert_close):
    inputs = make_inputs(case)
    frozen = inputs.arguments([t.detach() for t in inputs.tensors])
    ours = layer.check(*frozen)
    gates_x = layer.product(ours.x, ours.w_ih)
    shape = (case.steps, case.batch, case.hidden)
    dead = 0.0 if case.lengths else float("nan")

    def shared(*sizes, fill=dead, dtype=torch.float32):
        return torch.full(sizes, fill, dtype=dtype).share_memory_()

    counts = shared(2, 2, fill=0, dtype=torch.int32)
    y, cells = shared(*shape), shared(*shape)
    gates, d_gates = shared(*shape[:2], 4 * case.hidden), shared(*shape[:2], 4 * case.hidden)
    c, dc = ours.c0.clone().share_memory_(), inputs.cotangents[2].clone().share_memory_()
    grad_y, grad_h_n = inputs.cotangents[:2]
    with monkeypatch.context() as patch, configs.forced(config, config):
        patch.setattr(layer, "multiprocessors", lambda device: 8)
        # a failure ends in seconds
        patch.setattr(launch, "SPINS", 20_000)
        # each process launches its own part only
        patch.setattr(launch, "programs", lambda config, batch, _: (-(-batch // 16), 1))
        patch.setattr(launch, "counters", lambda tiles, device: counts[0])
        _together(lambda: launch.forward(ours, gates_x, c, y, gates, cells))
        patch.setattr(launch, "counters", lambda tiles, device: counts[1])
        _together(
            lambda: launch.backward(ours, grad_y, grad_h_n, gates, cells, dc, d_gates, None, None)
        )
    expected = reference.lstm_forward(*inputs.to(torch.float64).arguments(), reference.SAVE_GATES)
    for name, actual, wanted in zip(
        ("y", "c_n", "gates", "cells"),
        (y, c, gates, cells),
        (expected[0], *expected[2:]),
        strict=True,
    ):
        assert_close(actual, wanted, name)
    alone = torch.zeros_like(d_gates), inputs.cotangents[2].clone()
    with configs.forced(backward=Config("step", 16, 16, 16)):
        launch.backward(ours, grad_y, grad_h_n, gates, cells, alone[1], alone[0], None, None)
    assert_close(d_gates, alone[0], "d_gates")
    assert_close(dc, alone[1], "d c0")
    # every program of a tile has counted every step of its longest row
    tiles = range(-(-case.batch // 16))
    longest = [case.steps] * 2
    if inputs.lengths is not None:
        longest = [int(inputs.lengths[16 * tile : 16 * tile + 16].max()) for tile in tiles]
    for found in counts.tolist():
        assert found[: len(tiles)] == [PARTS * longest[tile] for tile in tiles]


def test_a_program_that_is_lost_makes_nans_and_no_hang(monkeypatch):
    inputs = make_inputs(Case(3, 2, 20))
    ours = layer.check(*inputs.arguments([t.detach() for t in inputs.tensors]))
    y, c = torch.zeros(3, 2, 20), ours.c0.clone()
    monkeypatch.setattr(layer, "multiprocessors", lambda device: 8)
    monkeypatch.setattr(launch, "SPINS", 5)
    with configs.forced(CONFIGS["streamed"]):
        # one after another, the first of two waits in vain at its second step
        launch.forward(ours, layer.product(ours.x, ours.w_ih), c, y, None, None)
    assert y[0].isfinite().all() and y[1:, :, :16].isnan().all() and c[:, :16].isnan().all()


@pytest.mark.parametrize(("asked", "looks"), [(None, 1 << 29), ("4096", 4096)])
def test_the_environment_says_how_often_a_program_looks(asked, looks):
    environment = {key: value for key, value in os.environ.items() if key != "FAST_S2S_SPINS"}
    code = "from fast_s2s.kernels import launch; print(launch.SPINS)"
    if asked is not None:
        environment["FAST_S2S_SPINS"] = asked
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(looks), done.stderr
