"""Several threads at once, and processes forked before and after use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from helpers_lstm import Case, make_inputs

import fast_s2s
from fast_s2s import reference

# rows by threads and panels by threads, one block of rows and several
CASES = [
    Case(9, 13, 40, lengths=True, reset=True),
    Case(24, 33, 17, inputs=70, lengths=True, reverse=True),
    Case(12, 26, 100, projection=70),
    Case(6, 3, 300, inputs=40),
]


@pytest.mark.parametrize("save", [reference.SAVE_GATES, reference.SAVE_CELLS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(case, dtype, save):
    inputs = make_inputs(case, dtype)
    one = inputs.run(save=save)
    try:
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            for ours, theirs in zip(inputs.run(save=save), one, strict=True):
                assert torch.equal(ours, theirs)
    finally:
        torch.set_num_threads(1)


def work(lstm, x, results, index):
    for _ in range(5):
        y, _ = lstm(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), lstm.weight_hh_l0)
    results[index] = (y.detach(), gradient)


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "several models"])
def test_python_threads_do_not_disturb_each_other(shared):
    torch.set_num_threads(2)
    model = fast_s2s.LSTM(20, 200)
    models = [model if shared else fast_s2s.LSTM(20, 200) for _ in range(4)]
    inputs = [torch.randn(9, 16, 20) for _ in models]
    expected: list = [None] * 4
    actual: list = [None] * 4
    for index in range(4):
        work(models[index], inputs[index], expected, index)
    threads = [
        threading.Thread(target=work, args=(models[i], inputs[i], actual, i)) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (y, gradient), (their_y, their_gradient) in zip(actual, expected, strict=True):
        assert torch.equal(y, their_y) and torch.equal(gradient, their_gradient)


FORKED_FIRST = """
import os, signal, torch, fast_s2s
torch.set_num_threads(4)
# torch has a team of threads
torch.randn(4000, 400) @ torch.randn(400, 400)
if os.fork() == 0:
    signal.alarm(20)
    with torch.inference_mode():
        fast_s2s.LSTM(256, 512)(torch.randn(9, 16, 256))
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_forked_before_use_does_not_hang():
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", FORKED_FIRST], check=True, timeout=120, env=environment)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_forked_after_use_does_not_hang():
    """As a DataLoader's worker is: the parent's team of threads does not exist in it."""
    torch.set_num_threads(2)
    lstm = fast_s2s.LSTM(20, 200)
    x = torch.randn(9, 16, 20)
    with torch.inference_mode():
        expected = lstm(x)[0]
        child = os.fork()
        if child == 0:
            # a hang ends in SIGALRM, which the parent sees
            import signal

            signal.alarm(20)
            os._exit(0 if torch.equal(lstm(x)[0], expected) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
