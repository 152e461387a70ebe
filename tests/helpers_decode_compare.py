"""Comparing results of the op `decode`."""

from __future__ import annotations

import torch

from fast_s2s.decoding import DecodeResult


def assert_state_close(
    actual: DecodeResult, expected: DecodeResult, tolerance: float = 1e-3
) -> None:
    """Everything, down to what is in empty slots: numbers closely, the rest exactly."""
    close = {"rtol": tolerance, "atol": tolerance}
    for ours, theirs in zip(actual.state, expected.state, strict=True):
        assert (ours is None) == (theirs is None)
        for name, value in ours._asdict().items() if ours else ():
            other = getattr(theirs, name)
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), other.double(), **close, msg=name)
            else:
                assert torch.equal(value, other), name


def assert_kept_close(
    actual: DecodeResult,
    expected: DecodeResult,
    what: str,
    rtol: float = 1e-4,
    atol: float = 2e-4,
) -> None:
    """What was kept of each step: the path exactly, numbers closely."""
    assert (actual.kept is None) == (expected.kept is None), what
    close = {"rtol": rtol, "atol": atol, "equal_nan": True}
    for name in actual.kept._fields if actual.kept else ():
        ours, theirs = getattr(actual.kept, name), getattr(expected.kept, name)
        torch.testing.assert_close(ours, theirs, **close, msg=f"{name}: {what}")


def assert_same(actual: DecodeResult, expected: DecodeResult) -> None:
    """Of float64: tokens and counts exactly, numbers closely."""
    assert torch.equal(actual.tokens, expected.tokens)
    assert torch.equal(actual.lengths, expected.lengths)
    assert (actual.done, actual.steps, actual.slot_steps) == (
        expected.done,
        expected.steps,
        expected.slot_steps,
    )
    assert_kept_close(actual, expected, "kept", rtol=1e-5, atol=1e-6)
    assert_state_close(actual, expected, 1e-9)


def sure_rows(
    actual: DecodeResult, exact: DecodeResult, noisy: list[DecodeResult], what: str
) -> tuple[int, int]:
    """How many rows were found equal, of how many.

    Tokens are compared where the reference's own stay the same under noise of the size of the
    kernels' rounding; scores wherever tokens are.
    """
    found, expected = _rows(actual), _rows(exact)
    others = [_rows(result) for result in noisy]
    sure = [r for r, row in enumerate(expected) if all(other[r] == row for other in others)]
    for row in sure:
        assert found[row] == expected[row], f"{what}, row {row}"
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(actual.scores[sure], exact.scores[sure], **close, msg=what)
    return len(sure), len(expected)


def _rows(result: DecodeResult) -> list[tuple]:
    pairs = zip(result.tokens, result.lengths.tolist(), strict=True)
    return [tuple(tokens[: 1 + length].tolist()) for tokens, length in pairs]
