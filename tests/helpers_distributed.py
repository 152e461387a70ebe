"""Run by torchrun in two processes: train toy models from the start, and go on with a run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from helpers_training import toy_entries, toy_model, toy_trainer

from fast_s2s.training import processes

# a batch of one row among them, which leaves one of two processes without any
SETTINGS = {"max_tokens": 16, "accumulation_steps": 3, "schedule": "constant", "ema": 0.9}


def train(folder: Path, max_updates: int, *, dropout: float = 0.0, resume: bool = False, **more):
    """In float64, so that nothing but rounding in its last digits is left to differ."""
    model = toy_model(dtype=torch.float64, bidirectional=True, dropout=dropout)
    trainer = toy_trainer(folder, model, max_updates=max_updates, **SETTINGS, **more)
    trainer.fit(toy_entries(50), toy_entries(9, seed=1), resume=resume)
    return trainer


def toy_teacher():
    return toy_model(3, dtype=torch.float64, attention="dot")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with processes.joined(torch.device("cpu")):
        train(folder / "two_then_one", 6)
        train(folder / "one_then_two", 12, resume=True)
        train(folder / "dropout", 4, dropout=0.5)
        train(folder / "taught", 4, teacher=toy_teacher())
        try:
            train(folder / "other", 4)
        except FileExistsError as error:
            # all leave, none waits for the rest
            sys.stdout.write(f"refused: {error}\n")
    left = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    sys.stdout.write(f"gloo's threads: {sum('gloo' in name for name in left)}\n")
