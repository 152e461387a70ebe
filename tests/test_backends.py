"""Which backend runs, why, and how the choice is overridden."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from helpers_native import needs_native

import fast_s2s
from fast_s2s import backends


def test_select_gives_a_reason_and_falls_back():
    choice = backends.select("cpu", torch.float16)
    assert choice.backend == "reference"
    assert "no native cpu kernel for torch.float16" in choice.reason or "extension" in choice.reason
    assert backends.select("xpu", torch.float32).backend == "reference"


def test_triton_is_the_default_on_a_gpu_and_never_on_the_cpu(monkeypatch):
    monkeypatch.setattr(backends, "triton_found", True)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        choice = backends.select("cuda", dtype)
        assert choice.backend == "triton" and "native: " in choice.reason
        assert backends.select("cpu", dtype).backend != "triton"
    assert backends.select("cuda", torch.complex64).backend == "reference"
    monkeypatch.setattr(backends, "triton_interprets", False)
    with pytest.raises(RuntimeError, match="on the CPU by TRITON_INTERPRET=1 alone"):
        backends.select("cpu", torch.float32, "triton")


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (None, "triton is not installed"),
        ("3.5.1", "triton>=3.6,<3.10 is needed, 3.5.1 is installed"),
        ("3.10.0", "triton>=3.6,<3.10 is needed, 3.10.0 is installed"),
        ("3.6.0", None),
    ],
)
def test_triton_that_cannot_be_used_gives_its_reason(version, reason, monkeypatch):
    spec = None if version is None else object()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    found, why = backends._find_triton()
    assert found == (reason is None) and (reason or "triton 3.6.0") in why
    monkeypatch.setattr(backends, "triton_found", found)
    monkeypatch.setattr(backends, "triton_reason", why)
    choice = backends.select("cuda", torch.float32)
    assert choice.backend == ("triton" if found else "reference")
    assert found or reason in choice.reason
    assert f"triton: {why}" in backends.describe()


def test_triton_is_imported_by_the_first_call_only():
    code = "import sys, fast_s2s; fast_s2s.LSTM(2, 3); print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@needs_native
def test_native_is_the_default_on_the_cpu():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert backends.select("cpu", dtype).backend == "native"


def test_override_nests_and_ends():
    before = backends.current("cpu", torch.float32)
    with fast_s2s.backend("reference"):
        assert backends.current("cpu", torch.float32) == (
            "reference",
            "asked for by fast_s2s.backend()",
        )
        with pytest.raises(KeyError), fast_s2s.backend("reference"):
            raise KeyError
        assert backends.current("cpu", torch.float32).backend == "reference"
    assert backends.current("cpu", torch.float32) == before


def test_override_that_cannot_serve_is_an_error():
    with (
        fast_s2s.backend("native"),
        pytest.raises(RuntimeError, match="backend 'native' was asked for, but"),
    ):
        fast_s2s.LSTM(2, 3).half()(torch.zeros(1, 1, 2).half())


def test_unknown_name_is_an_error():
    with pytest.raises(
        ValueError, match="name: expected one of native, triton, reference, got 'cudnn'"
    ):
        fast_s2s.backend("cudnn").__enter__()


def test_float16_runs_on_the_reference():
    lstm = fast_s2s.LSTM(2, 3)
    x = torch.randn(4, 2, 2)
    y = lstm.half()(x.half())[0]
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), lstm.float()(x)[0], rtol=1e-2, atol=1e-2)


def test_describe_names_every_choice():
    report = fast_s2s.backends.describe()
    assert "cpu float32:" in report and "cpu float16: reference" in report


_WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["fast_s2s._C"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fast_s2s, torch
    import fast_s2s.seq2seq
    lstm = fast_s2s.LSTM(2, 3)
    y = lstm(torch.ones(4, 2, 2))[0]
    y.sum().backward()
    lstm(torch.ones(4, 2, 2))
messages = [str(c.message) for c in caught if "reference backend" in str(c.message)]
assert len(messages) == 1, messages
assert "pip install" in messages[0]
assert torch.allclose(y, torch.nn.LSTM.forward(fast_s2s.to_torch(lstm), torch.ones(4, 2, 2))[0])
"""


def test_import_works_without_the_extension_and_says_so_once():
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTENSION],
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_native_can_be_switched_off():
    code = "import fast_s2s; print(fast_s2s.backends.extension_reason)"
    environment = {**os.environ, "FAST_S2S_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "switched off by FAST_S2S_NATIVE=0", done.stderr
