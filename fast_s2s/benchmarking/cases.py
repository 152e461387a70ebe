"""What is measured, against whom, and the ratio to reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fast_s2s.benchmarking.sides import OURS


@dataclass(frozen=True)
class Versus:
    """A peer by its name. No target: shown for information.

    target: ratio to reach; `floor`: never under this one. A ratio of times is peer over ours and
            shall be at least the target; one of memory is ours over peer and at most the target.
    """

    peer: str
    target: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Case:
    """A workload, the side measured, its peers, and what is compared: time, memory, cold start."""

    group: str
    workload: Any
    peers: tuple[Versus, ...]
    ours: str = OURS
    kind: str = "time"

    def row_name(self, versus: Versus) -> str:
        return f"{self.group} | {self.workload} | {self.ours} | {versus.peer}"


def select(cases: list[Case], keep: Callable[[str], bool]) -> list[Case]:
    """The cases with those peers whose row name `keep` accepts."""
    chosen = []
    for case in cases:
        peers = tuple(versus for versus in case.peers if keep(case.row_name(versus)))
        if peers:
            chosen.append(dataclasses.replace(case, peers=peers))
    return chosen
