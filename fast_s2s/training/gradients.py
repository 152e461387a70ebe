"""The gradient of one update, gathered over batches and processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fast_s2s.data import Batch
from fast_s2s.training.distillation import Distillation


def accumulate_gradients(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    bf16: bool = False,
    counts: Sequence[int] | None = None,
    total: int | None = None,
    processes: int = 1,
    distillation: Distillation | None = None,
    **options: Any,
) -> tuple[Tensor, int]:
    """Add the gradient of the mean loss per target token over all batches, as if they were one.

    model:     a `Seq2Seq`, or one replicated over `processes`, whose gradients are averaged
    counts:    target tokens of each batch that count; default all. A batch in which none do takes
               part without weight, since in all processes there must be as many
    total:     target tokens of the update, of all processes; default those of the batches
    distillation: makes the loss, if there is a teacher
    options:   of the model's forward

    Returns the sum of the loss over the batches' target tokens, float64 on the model's device, and
    `total`.
    """
    if counts is None:
        counts = [int(batch.tgt_lengths.sum()) for batch in batches]
    total = sum(counts) if total is None else total
    device = next(model.parameters()).device
    # before anything is computed: a copy waits for what a GPU was given before
    batches = [batch.to(device) for batch in batches]
    losses = []
    for index, (batch, count) in enumerate(zip(batches, counts, strict=True)):
        src, src_lengths, tgt, tgt_lengths = batch
        # gradients travel once, with the last batch
        last = index + 1 == len(batches)
        with contextlib.ExitStack() as stack:
            if isinstance(model, DistributedDataParallel) and not last:
                stack.enter_context(model.no_sync())
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = model(src, tgt, src_lengths, tgt_lengths, **options)
                loss = output.loss if distillation is None else distillation.loss(output, batch)
            (loss * (count * processes / total)).backward()
        losses.append(loss.detach().double() * count)
    return torch.stack(losses).sum(), total


def clip_gradients(model: nn.Module, largest: float | None) -> Tensor:
    """Scale the gradients down to the norm `largest`, if there is one; returns the norm they had,
    on the model's device.
    """
    parameters = list(model.parameters())
    if largest is not None:
        return nn.utils.clip_grad_norm_(parameters, largest)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(grads)


def check_finite(what: str, value: float, update: int) -> None:
    """Raises RuntimeError that says what to try."""
    if not math.isfinite(value):
        raise RuntimeError(
            f"the {what} of update {update} is {value}: a lower learning_rate, more "
            "warmup_updates or a smaller clip_norm may help"
        )
