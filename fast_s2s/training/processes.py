"""Several processes that train one model: what each does, and what they tell each other.

They run the same program on the same data. Every number that decides what happens next is the same
in all of them, so that all do the same: each takes its share of the rows of a batch, gradients are
averaged by torch's DistributedDataParallel, and only the main process writes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def launched() -> bool:
    """Whether this process was started as one of several, by `torchrun` or alike."""
    return dist.is_available() and {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def launched_main() -> bool:
    """Whether this process is the first of those started, or one alone."""
    return not launched() or os.environ["RANK"] == "0"


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """In the block, the processes that were started together know each other. They talk by nccl on
    GPUs, else by gloo.
    """
    if not launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _import_before_joining()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    # DistributedDataParallel is part of reference cycles, and keeps the group
    gc.collect()
    # after an error others may still wait for this one, and so would this one for them
    dist.destroy_process_group()


def _import_before_joining() -> None:
    """Its functions have the group as their default argument, as it is when they are defined. By
    those that DistributedDataParallel imports later gloo's threads would outlive the group, and one
    that still has a tensor to let go aborts the process when the interpreter has ended.
    """
    importlib.import_module("torch.distributed.nn.functional")


class Processes:
    """Those that `torch.distributed` knows of; one alone where it is not in use.

    rank, size: the number of this one, and of all
    """

    def __init__(self, device: torch.device) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1
        self._device = device

    @property
    def is_main(self) -> bool:
        """Whether this one writes and shows what there is to see."""
        return self.rank == 0

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model with its weights as the main process has them, and gradients averaged."""
        if self.size == 1:
            return model
        devices = [self._device] if self._device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every size-th of them: of items sorted by length, all get about as much."""
        return items[self.rank :: self.size]

    def from_main(self, act: Callable[[], T]) -> T:
        """What the main process, which alone does it, finds: in all of them, errors too."""
        if self.size == 1:
            return act()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = act()
            except Exception as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        found: T = answer[0]
        return found

    def gather(self, value: T) -> list[T]:
        """The value of each, in all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_numbers(self, *numbers: float) -> Tensor:
        """(size, len(numbers)) float64 on the CPU, of each, in all of them."""
        if self.size == 1:
            return torch.tensor([numbers], dtype=torch.float64)
        mine = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(rows, mine)
        return torch.stack(rows).cpu()
