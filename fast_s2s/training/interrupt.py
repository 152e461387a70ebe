"""Ctrl-C and termination while training: finish the update, save, then leave."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a run, after its state was saved.

    signal_number: which one; by custom a program then exits with 128 plus this
    checkpoint:    the folder `Trainer.fit(resume=True)` goes on from
    """

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(f"interrupted; the run is saved in {checkpoint}")
        self.signal_number = signal_number
        self.checkpoint = checkpoint


class SignalCatcher:
    """In the block SIGTERM, however often, and the first SIGINT are only noted; a second SIGINT
    does what it always does. A scheduler and `torchrun` may each send a SIGTERM, and then SIGKILL.

    Outside the main thread, where Python has no signals, nothing is caught.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalCatcher:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(number, self._previous[number])
