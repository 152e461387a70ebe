"""The gradient of one update, gathered over batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fast_s2s.data import Batch
from fast_s2s.seq2seq import Seq2Seq


def accumulate_gradients(
    model: Seq2Seq, batches: Sequence[Batch], *, bf16: bool = False
) -> tuple[float, int]:
    """Add the gradient of the mean loss per target token over all batches, as if they were one.

    Returns the sum of the loss over the target tokens, and their number.
    """
    counts = [int(batch.tgt_lengths.sum()) for batch in batches]
    total = sum(counts)
    losses = []
    for batch, count in zip(batches, counts, strict=True):
        src, src_lengths, tgt, tgt_lengths = batch.to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            loss = model(src, tgt, src_lengths, tgt_lengths).loss
        (loss * (count / total)).backward()
        losses.append(loss.detach().double() * count)
    return float(torch.stack(losses).sum()), total
