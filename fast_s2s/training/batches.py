"""The batches of each update, and the share of one process."""

from __future__ import annotations

from typing import NamedTuple

from fast_s2s.data import Batch, PairDataset, TokenBatches
from fast_s2s.training.config import TrainingConfig
from fast_s2s.training.processes import Processes
from fast_s2s.training.state import TrainingState


class UpdateBatches(NamedTuple):
    """What one process takes of an update. `counts` and `total` as in `accumulate_gradients`."""

    batches: list[Batch]
    counts: list[int]
    total: int


class BatchStream:
    """Batches of a dataset, update by update, in an order that does not depend on the number of
    processes: each takes a part of the rows of every batch.
    """

    def __init__(self, dataset: PairDataset, config: TrainingConfig, processes: Processes) -> None:
        self._dataset = dataset
        self._processes = processes
        self._per_update = config.accumulation_steps
        self._all = TokenBatches(dataset, config.max_tokens, config.seed)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def next(self, state: TrainingState) -> UpdateBatches:
        """The batches of the next update, all of one epoch; moves the position past them."""
        batches = self._of(state.epoch)
        end = min(state.batch + self._per_update, len(batches))
        group = batches[state.batch : end]
        state.batch = end
        if end == len(batches):
            state.epoch, state.batch = state.epoch + 1, 0
        return self._mine(group)

    def _mine(self, group: list[list[int]]) -> UpdateBatches:
        lengths = self._dataset.target_lengths
        shares = [list(self._processes.share(indices)) for indices in group]
        return UpdateBatches(
            # where there are fewer rows than processes, a row without weight
            [
                self._all.collate(share or indices[:1])
                for share, indices in zip(shares, group, strict=True)
            ],
            [int(lengths[share].sum()) for share in shares],
            sum(int(lengths[indices].sum()) for indices in group),
        )

    def epochs(self, state: TrainingState) -> float:
        """Passes over the data, with the fraction of the current one."""
        part = state.batch / len(self._of(state.epoch)) if state.batch else 0.0
        return state.epoch + part

    def _of(self, epoch: int) -> list[list[int]]:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._all.batches(epoch))
        return self._epoch[1]
