"""The op `forecast` in plain torch: the definition of correctness, and the fallback on any
device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fast_s2s.decoding.distributions import draw
from fast_s2s.decoding.reference import DenseDecoder, step


def forecast(
    weights: DenseDecoder,
    h: Tensor,
    c: Tensor,
    history: Tensor,
    known: Tensor,
    seeds: Tensor | None,
    lags: Sequence[int],
    paths: int,
    family: str,
    positive: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments as of the op; the output layer's parameters are the weights' logits. Values
    (N, T, D), h and c (L, N, …), N = B·S.
    """
    batch, past, series = history.shape
    h, c = (value.repeat_interleave(paths, 1) for value in (h, c))
    # what was before and what is found, one after the other
    values = [*history.repeat_interleave(paths, 0).unbind(1)]
    given = known.repeat_interleave(paths, 0)
    for at in range(known.size(1)):
        inputs = torch.cat([*(values[past + at - lag] for lag in lags), given[:, at]], 1)
        # the table of embeddings: each row's own inputs
        rows = torch.arange(len(inputs), device=inputs.device)
        logits, h, c, _ = step(weights._replace(embedding=inputs), rows, h, c)
        value = logits[:, :series]
        if seeds is not None and family != "point":
            parameters = logits.unflatten(0, (batch, paths))
            value = draw(parameters, family, positive, seeds, at).flatten(0, 1).to(logits.dtype)
        values.append(value)
    found = (
        torch.stack(values[past:], 1) if known.size(1) else given.new_empty(len(given), 0, series)
    )
    return found, h, c
