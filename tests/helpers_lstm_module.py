"""torch's LSTM and ours, of the same weights, over the whole constructor space."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

import fast_s2s

SPACE = [
    {
        "num_layers": layers,
        "bias": bias,
        "batch_first": batch_first,
        "bidirectional": bidirectional,
        "proj_size": proj_size,
    }
    for layers, bias, batch_first, bidirectional, proj_size in itertools.product(
        (1, 2), (True, False), (True, False), (True, False), (0, 3)
    )
]


def option_id(options: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in options.items())


def twins(
    *args: int, dtype: torch.dtype = torch.float64, **kwargs: object
) -> tuple[nn.LSTM, fast_s2s.LSTM]:
    """torch's module and ours from the same seed."""
    torch.manual_seed(7)
    theirs = nn.LSTM(*args, dtype=dtype, **kwargs)
    torch.manual_seed(7)
    return theirs, fast_s2s.LSTM(*args, dtype=dtype, **kwargs)


def random_state(module: fast_s2s.LSTM, batch: int | None = None) -> list[Tensor]:
    """h and c in float64; without `batch` of an unbatched input."""
    layers = module.num_layers * (1 + module.bidirectional)
    rows = () if batch is None else (batch,)
    h = torch.randn(layers, *rows, module.proj_size or module.hidden_size, dtype=torch.float64)
    return [h, torch.randn(layers, *rows, module.hidden_size, dtype=torch.float64)]
