"""Scheduled sampling: in training a decoder reads some of its own outputs instead of the targets.

Bengio et al. 2015, https://arxiv.org/abs/1506.03099, with one toss for every token. The outputs are
found in parallel, as in Duckworth et al. 2019, https://arxiv.org/abs/1906.04331: a pass over the
whole sequence draws what the decoder would say at each step, the next pass reads these draws where
the toss says so, and so on. After k passes the first k steps are as if drawn one after the other;
after as many passes as steps all of them are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def mixed_inputs(
    inputs: Tensor, decode: Callable[[Tensor], Tensor], probability: float, passes: int
) -> Tensor:
    """What the decoder reads, (B, T) like `inputs`, whose first column stays.

    inputs:      (B, T) int64, what it reads with teacher forcing: bos, then the targets
    decode:      inputs -> logits (B, T, V)
    probability: that a token is replaced by one drawn from the decoder's distribution
    passes:      of `decode`
    """
    own = torch.rand(inputs.shape, device=inputs.device) < probability
    # one number for each draw, so that passes that agree on a step's input agree on its draw
    chance = torch.rand(inputs.shape, device=inputs.device, dtype=torch.float64)
    mixed = inputs
    for _ in range(passes):
        probabilities = decode(mixed).double().softmax(-1)
        drawn = (probabilities.cumsum(-1) < chance.unsqueeze(-1)).sum(-1)
        # the sum of all may be below 1 by rounding
        drawn = drawn.clamp(max=probabilities.size(-1) - 1)
        mixed = torch.where(own, drawn.roll(1, 1), inputs)
        mixed[:, 0] = inputs[:, 0]
    return mixed
