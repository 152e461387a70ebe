"""Two sides, one process: first are both right, then which is faster.

A side is compared with a float64 reference before it is timed. The sides then take turns in short
blocks, so that both meet the machine in the same state, and the ratio is taken round by round.
"""

from __future__ import annotations

import gc
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class Unavailable(Exception):
    """A side that cannot run here; the message says why."""


class WrongResult(Exception):
    """A side whose results are off; `errors` holds the relative error of each."""

    def __init__(self, message: str, errors: Mapping[str, float]) -> None:
        super().__init__(message)
        self.errors = dict(errors)


@dataclass(frozen=True)
class Side:
    """One implementation of a workload.

    call:    the timed function, without arguments; what it returns is what the gate checks
    results: what `call` returned -> named tensors, called by the gate only
    around:  context that every block of calls runs in, such as inference mode
    omits:   names of results this side does not give
    cuda:    what is timed happens on the GPU: by events, from one call's begin to the next one's
    rest_s:  how long its threads stay on their cores when it has nothing more to do; the other side
             is not timed meanwhile
    """

    name: str
    call: Callable[[], Any]
    results: Callable[[Any], dict[str, Tensor]]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    omits: frozenset[str] = frozenset()
    cuda: bool = False
    rest_s: float = 0.0


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute error over the largest absolute expected value; infinite for a wrong shape,
    NaN if anything is NaN.
    """
    if found.shape != expected.shape:
        return math.inf
    expected = expected.detach().to(torch.float64)
    difference = (found.detach().to(torch.float64) - expected).abs().max()
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float(difference / scale)


def gate(side: Side, expected: Mapping[str, Tensor], tolerance: float) -> dict[str, float]:
    """Run a side once and return the `relative_error` of each result.

    Raises WrongResult if a result is missing or its error is not within `tolerance`.
    """
    with side.around():
        found = side.results(side.call())
    errors = {
        name: relative_error(found[name], expected[name]) for name in expected if name in found
    }
    missing = sorted(expected.keys() - found.keys() - side.omits)
    if missing:
        raise WrongResult(f"{side.name}: no result {', '.join(missing)}", errors)
    # a NaN is not within the tolerance either
    wrong = [name for name, error in errors.items() if not error <= tolerance]
    if wrong or not errors:
        off = ", ".join(f"{name} {errors[name]:.1e}" for name in wrong)
        raise WrongResult(f"{side.name}: error over {tolerance:.0e}: {off or 'no results'}", errors)
    return errors


@dataclass(frozen=True)
class Plan:
    """How long to measure one pair of sides; times in seconds.

    A block is at least `block_s` of one side, between `min_calls` and `max_calls` calls. Rounds of
    two blocks go on until `budget_s` is spent, between `min_rounds` and `max_rounds`.
    """

    budget_s: float = 5.0
    block_s: float = 0.02
    # the threads of one side's library still spin for a while when the other's turn comes
    settle_s: float = 0.003
    warm_up_s: float = 0.1
    # one alone for calls as long as `long_s`
    min_calls: int = 3
    long_s: float = 0.1
    max_calls: int = 2000
    min_rounds: int = 7
    max_rounds: int = 101


QUICK = Plan(budget_s=0.5, warm_up_s=0.02, min_rounds=3, max_rounds=11)


@dataclass(frozen=True)
class Summary:
    """Median and quartiles."""

    median: float
    p25: float
    p75: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        p25, median, p75 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, p25, p75)


@dataclass
class Comparison:
    """Seconds per call of both sides, one median per block; entry i of both is round i."""

    ours_calls: int
    peer_calls: int
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Peer's time over ours, of each round."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, and not inside."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise Unavailable if the block takes longer. Without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def expire(*_: object) -> None:
        raise Unavailable(f"{what} takes more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def time_block(side: Side, calls: int, settle_s: float) -> float:
    """Median seconds of `calls` calls in a row, after dropping the first call and any other that
    begins within `settle_s`.
    """
    clock = time.perf_counter
    with side.around():
        begin = clock()
        side.call()
        while clock() - begin < settle_s:
            side.call()
        seconds = _event_seconds(side, calls) if side.cuda else _clock_seconds(side, calls)
    time.sleep(side.rest_s)
    return statistics.median(seconds)


def _clock_seconds(side: Side, calls: int) -> list[float]:
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        side.call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _event_seconds(side: Side, calls: int) -> list[float]:
    """Launches may run ahead of the GPU, as they do in a program."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    # the next block is the other side's: nothing of the last may be left
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        side.call()
        event.record()
    events[-1].synchronize()
    pairs = zip(events, events[1:], strict=False)
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]


# (side, calls, settle_s) -> seconds
Timer = Callable[[Any, int, float], float]


def calls_per_block(side: Any, plan: Plan, timer: Timer = time_block) -> int:
    """Warm the side up, and say how many calls fill a block."""
    seconds = timer(side, 1, 0.0)
    if seconds >= plan.long_s:
        return 1
    seconds = timer(side, plan.min_calls, plan.warm_up_s)
    calls = math.ceil(plan.block_s / max(seconds, 1e-9))
    return min(max(calls, plan.min_calls), plan.max_calls)


def compare(ours: Any, peer: Any, plan: Plan, timer: Timer = time_block) -> Comparison:
    """Time two sides in turn: ours peer, peer ours, ours peer, ...

    timer: `time_block`, or what does the same for sides in other processes
    """
    with no_garbage_collection():
        result = Comparison(calls_per_block(ours, plan, timer), calls_per_block(peer, plan, timer))
        turns = [(ours, result.ours_calls, result.ours), (peer, result.peer_calls, result.peer)]
        begin = time.perf_counter()
        while len(result.ours) < plan.max_rounds and (
            len(result.ours) < plan.min_rounds or time.perf_counter() - begin < plan.budget_s
        ):
            for side, calls, seconds in turns:
                seconds.append(timer(side, calls, plan.settle_s))
            turns.reverse()
    return result
