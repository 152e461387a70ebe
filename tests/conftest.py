"""Fixtures for all tests, and the one tolerance table."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# before triton is imported: without a GPU its kernels run in the interpreter
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# tests of threads want as many as they ask for, also on a busy machine
os.environ.setdefault("FAST_S2S_MAKE_ROOM", "0")

import helpers_emulator
from helpers_training import toy_model, toy_tokenizers

import fast_s2s
from fast_s2s import backends

# tensors here are tiny, and on a busy machine two threads that wait for each other take a hundred
# times as long as one; tests of threads ask for them
torch.set_num_threads(1)

# (rtol, atol) by type, against a float64 reference. No test carries numbers of its own; relaxing
# one needs a line in CHANGELOG.md. bfloat16 has 8 bits: 2^-8 relative per rounding, over chains of
# a few dozen.
TOLERANCE = {
    torch.float64: (1e-10, 1e-11),
    torch.float32: (2e-5, 1e-5),
    torch.bfloat16: (5e-2, 5e-2),
    torch.float16: (1e-2, 1e-2),
}


def assert_close(
    actual: torch.Tensor, expected: torch.Tensor, name: str, dtype: torch.dtype | None = None
) -> None:
    """Compare within the table's tolerance for `dtype`, by default that of `actual`."""
    assert actual.shape == expected.shape, (
        f"{name}: shape {tuple(actual.shape)} != {tuple(expected.shape)}"
    )
    rtol, atol = TOLERANCE[dtype or actual.dtype]
    expected = expected.detach().to(torch.float64)
    # gradients of weights sum over steps and rows: their rounding scales with the largest entry
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(
        actual.detach().to(torch.float64),
        expected,
        rtol=rtol,
        atol=atol * scale,
        msg=lambda m: f"{name}: {m}",
    )


@pytest.fixture(name="assert_close")
def _assert_close():
    return assert_close


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Uninitialised memory is NaN, in Python and in C++ ops alike."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.fixture(params=backends.NAMES)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each backend; one that this build lacks is a skip with its reason."""
    why_not = backends.unsupported(request.param, "cpu", torch.float32)
    if why_not is not None:
        pytest.skip(f"backend {request.param}: {why_not}")
    with fast_s2s.backend(request.param):
        yield request.param


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a toy model with random weights, whose outputs are short and differ."""
    folder = tmp_path_factory.mktemp("model") / "model"
    model = toy_model(bidirectional=True)
    with torch.no_grad():
        model.output_projection.weight.mul_(8)
    model.save_pretrained(folder, *toy_tokenizers())
    return str(folder)


@pytest.fixture(scope="session")
def toy_pipeline(model_dir: str) -> fast_s2s.TextPipeline:
    return fast_s2s.TextPipeline.from_pretrained(model_dir)


def pytest_configure() -> None:
    """Under `make sanitize`, refuse to test another build in silence."""
    preloaded = "libasan" in os.environ.get("LD_PRELOAD", "")
    facts = backends.extension.build_info() if backends.extension else {}
    if preloaded and "sanitizers" not in facts:
        pytest.exit(f"no sanitized build: {backends.extension_reason}, {facts}", returncode=2)


@pytest.fixture(scope="session")
def _emulator_library() -> helpers_emulator.Emulator:
    why_not = helpers_emulator.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    return helpers_emulator.Emulator(helpers_emulator.build())


@pytest.fixture
def emulator(_emulator_library: helpers_emulator.Emulator) -> helpers_emulator.Emulator:
    """The CUDA kernels in the emulator, on its default device."""
    _emulator_library.configure()
    return _emulator_library


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.write_line(f"skips: {len(skipped)}, each with its reason above")
