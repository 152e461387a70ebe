"""What is measured, against whom, and the ratio to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.peers import OURS
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Versus:
    """A peer by its name in `peers.PEERS`. No target: shown for information.

    target: ratio to reach; `floor`: never under this one. A ratio of times is peer over ours and
            shall be at least the target; one of memory is ours over peer and at most the target.
    """

    peer: str
    target: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Case:
    """A workload, the side measured, its peers, and whether time or memory is compared."""

    group: str
    workload: Workload
    peers: tuple[Versus, ...]
    ours: str = OURS
    kind: str = "time"

    def row_name(self, versus: Versus) -> str:
        return f"{self.group} | {self.workload} | {self.ours} | {versus.peer}"


def lstm_cases() -> list[Case]:
    """Every case of `bench_lstm`, in the order of its table."""
    return [
        *_step(),
        *_small_batches(),
        *_large_batches(),
        *_ragged(),
        *_front_end(),
        *_bfloat16(),
        *_memory(),
    ]


def select(cases: list[Case], keep: Callable[[str], bool]) -> list[Case]:
    """The cases with those peers whose row name `keep` accepts."""
    chosen = []
    for case in cases:
        peers = tuple(versus for versus in case.peers if keep(case.row_name(versus)))
        if peers:
            chosen.append(Case(case.group, case.workload, peers, case.ours, case.kind))
    return chosen


def _step() -> Iterator[Case]:
    peers = (
        Versus("nn.LSTM", 20),
        Versus("nn.LSTM native"),
        Versus("LSTMCell loop", 5),
        Versus("LSTMCell loop, torch.compile"),
        Versus("ONNX Runtime"),
        Versus("OpenVINO"),
    )
    yield Case("one step", Workload(1, 1, 512, layers=2), peers)


def _small_batches() -> Iterator[Case]:
    others = (Versus("nn.LSTM native"), Versus("ONNX Runtime"), Versus("OpenVINO"))
    loops = (Versus("LSTMCell loop"), Versus("LSTMCell loop, torch.compile"))
    for batch, target in ((1, 1.5), (8, 1.3)):
        for hidden in (256, 512):
            peers: tuple[Versus, ...] = (Versus("nn.LSTM", target), *others)
            peers += loops if (batch, hidden) == (1, 256) else ()
            yield Case("small batch", Workload(64, batch, hidden), peers)


def _large_batches() -> Iterator[Case]:
    for batch in (32, 64):
        for hidden in (256, 512, 1024):
            for training in (False, True):
                peers: tuple[Versus, ...] = (Versus("nn.LSTM", 1.1, floor=0.95),)
                if (batch, hidden) == (32, 512):
                    peers += (Versus("nn.LSTM native"),)
                yield Case("large batch", Workload(64, batch, hidden, training=training), peers)


def _ragged() -> Iterator[Case]:
    peers = (Versus("nn.LSTM PackedSequence", 5), Versus("nn.LSTM padded", 1.5))
    yield Case("ragged", Workload(200, 32, 256, training=True, ragged=True), peers)


def _front_end() -> Iterator[Case]:
    for hidden in (32, 64, 128):
        for batch in (1, 8):
            for steps in (16, 64):
                peers = (Versus("nn.LSTM", 1.5), Versus("ONNX Runtime", 1.5), Versus("OpenVINO"))
                yield Case("speech front end", Workload(steps, batch, hidden), peers)


def _bfloat16() -> Iterator[Case]:
    single = f"{OURS} float32"
    for workload in (
        Workload(1, 1, 512, layers=2, dtype="bfloat16"),
        Workload(64, 1, 512, dtype="bfloat16"),
        Workload(64, 1, 1024, dtype="bfloat16"),
    ):
        peers = (Versus(single, 1.6), Versus("nn.LSTM"))
        yield Case("bfloat16 weights", workload, peers)


def _memory() -> Iterator[Case]:
    workload = Workload(200, 32, 256, training=True)
    peer = "nn.LSTM"
    yield Case("peak memory", workload, (Versus(peer, 0.7),), f"{OURS} recompute", "memory")
    yield Case("peak memory", workload, (Versus(peer),), OURS, "memory")
