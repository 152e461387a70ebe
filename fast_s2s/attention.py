"""Attention of a decoder over the encoder's outputs: the formula, what it reads, and a module.

Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473; Luong et al. 2015,
https://arxiv.org/abs/1508.04025. User documentation: docs/attention.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def values_in(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In this type, without gradients. The tensor itself if it is so: the calls cost more."""
    if tensor.dtype == dtype and not tensor.requires_grad:
        return tensor
    return tensor.detach().to(dtype)


class Memory(NamedTuple):
    """What a decoder attends to, row by row.

    values:  (B, S, M), the encoder's outputs
    keys:    (B, S, A), what they are compared by
    lengths: (B,) int64 in 0..S; nothing past them counts
    """

    values: Tensor
    keys: Tensor
    lengths: Tensor

    def select(self, index: Tensor) -> Memory:
        """These rows, (any number,) int64, in this order."""
        return Memory(*(part.index_select(0, index) for part in self))

    def to(self, dtype: torch.dtype) -> Memory:
        """Values and keys in this type, without gradients."""
        return Memory(values_in(self.values, dtype), values_in(self.keys, dtype), self.lengths)

    def extended(self, more: Memory) -> Memory:
        """`more` behind each row's own end."""
        columns = torch.arange(more.values.size(1), device=more.values.device)
        index = (self.lengths.unsqueeze(1) + columns).unsqueeze(2)

        def joined(ours: Tensor, theirs: Tensor) -> Tensor:
            room = F.pad(ours, (0, 0, 0, theirs.size(1)))
            return room.scatter(1, index.expand_as(theirs), theirs)

        return Memory(
            joined(self.values, more.values),
            joined(self.keys, more.keys),
            self.lengths + more.lengths,
        )

    @staticmethod
    def merge(memories: Sequence[Memory]) -> Memory:
        """The rows of all, in order."""
        steps = max(memory.values.size(1) for memory in memories)

        def joined(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([F.pad(part, (0, 0, 0, steps - part.size(1))) for part in parts])

        return Memory(
            joined([memory.values for memory in memories]),
            joined([memory.keys for memory in memories]),
            torch.cat([memory.lengths for memory in memories]),
        )


def attend(
    queries: Tensor, memory: Memory, heads: int, score: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What each query finds: contexts (N, T, M), and the weights (N, heads, T, S) that mix them.

    queries: (N, T, A), N = B·W: the queries of one row of `memory` side by side
    heads:   queries, keys and values are cut into so many parts, each with weights of its own
    score:   (A,) or None

    weights = softmax over the row's steps of q·k, or with `score` of score·tanh(q + k); 0 past its
    length, and everywhere in a row of length 0. context = Σ weights · values.
    """
    rows, steps = memory.lengths.size(0), memory.values.size(1)
    count = queries.size(1)

    def split(part: Tensor) -> Tensor:
        # (B, any, parts) -> (B, heads, any, part)
        return part.unflatten(2, (heads, -1)).transpose(1, 2)

    # rows of no query, where there are no rows, leave nothing to infer a size from
    width = queries.size(0) // max(rows, 1)
    q = split(queries.reshape(rows, width * count, queries.size(2)))
    k = split(memory.keys)
    if score is None:
        scores = q @ k.transpose(2, 3)
    else:
        compared = (q.unsqueeze(3) + k.unsqueeze(2)).tanh()
        scores = torch.einsum("bntsa,na->bnts", compared, score.view(heads, -1).to(compared.dtype))
    past = torch.arange(steps, device=queries.device) >= memory.lengths.unsqueeze(1)
    past = past.view(rows, 1, 1, steps)
    # not -inf: a row without steps would become NaN, and so would its gradients
    scores = scores.masked_fill(past, torch.finfo(scores.dtype).min)
    weights = scores.softmax(3).masked_fill(past, 0.0)
    context = (weights.to(memory.values.dtype) @ split(memory.values)).transpose(1, 2).flatten(2)
    weights = weights.unflatten(2, (width, count)).transpose(1, 2).flatten(0, 1)
    return context.reshape(queries.size(0), count, memory.values.size(2)), weights


class Attention(nn.Module):
    """Luong's attention: h~ = tanh(W_c [context; h]) takes the place of the decoder's output h.

    kind "dot":      h·m, m the encoder's output
    kind "general":  h·(W_k m)
    kind "additive": v·tanh(W_q h + W_k m + b), Bahdanau's
    """

    def __init__(
        self, kind: str, hidden_size: int, memory_size: int, heads: int = 1, **factory: Any
    ) -> None:
        """Sizes: of h, and of the encoder's outputs. factory: device and dtype."""
        super().__init__()
        self.kind, self.heads = kind, heads
        additive = kind == "additive"
        sizes = (memory_size, hidden_size)
        self.key = None if kind == "dot" else nn.Linear(*sizes, bias=additive, **factory)
        self.query: nn.Linear | None = None
        self.score: nn.Parameter | None = None
        if additive:
            self.query = nn.Linear(hidden_size, hidden_size, bias=False, **factory)
            self.score = nn.Parameter(torch.empty(hidden_size, **factory))
            nn.init.uniform_(self.score, -(hidden_size**-0.5), hidden_size**-0.5)
        self.output = nn.Linear(memory_size + hidden_size, hidden_size, bias=False, **factory)

    def extra_repr(self) -> str:
        """Kind and heads."""
        return f"{self.kind}, heads={self.heads}"

    def memory(self, outputs: Tensor, lengths: Tensor) -> Memory:
        """outputs (B, S, M) of the encoder, each row `lengths` long."""
        keys = outputs if self.key is None else self.key(outputs)
        return Memory(outputs, keys, lengths)

    def forward(self, hidden: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """hidden (N, T, H) -> h~ (N, T, H) and weights (N, heads, T, S); N as in `attend`."""
        queries = hidden if self.query is None else self.query(hidden)
        context, weights = attend(queries, memory, self.heads, self.score)
        joined = torch.cat((context.to(hidden.dtype), hidden), 2)
        return self.output(joined).tanh(), weights
