"""A decoder over many steps: in one call, or one by one where each needs what the last found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fast_s2s.attention import Attention, Memory
from fast_s2s.generation.state import DecoderState
from fast_s2s.lstm import LSTM


class Outputs(NamedTuple):
    """Of T steps of N rows.

    features: (N, T, H), what the output projection reads
    weights:  (N, heads, T, S) of attention, None without it
    h, c:     as in `DecoderState`, after each row's last step
    """

    features: Tensor
    weights: Tensor | None
    h: Tensor
    c: Tensor


class Unrolled(NamedTuple):
    """The parts of a decoder. `feeding`: a step reads the last one's features beside its token."""

    lstm: LSTM
    attention: Attention | None
    dropout: nn.Module
    feeding: bool

    def run(self, embedded: Tensor, state: DecoderState, lengths: Tensor) -> Outputs:
        """embedded (N, T, E); each row takes `lengths` steps and then keeps its h and c."""
        if not self.feeding:
            return self._call(embedded, state.h, state.c, state.memory, lengths)
        parts = []
        for t in range(embedded.size(1)):
            parts.append(self.step(embedded[:, t], state, (lengths > t).long()))
            state = state._replace(h=parts[-1].h, c=parts[-1].c)
        weights = [part.weights for part in parts if part.weights is not None]
        features = torch.cat([part.features for part in parts], 1)
        return Outputs(features, torch.cat(weights, 2), state.h, state.c)

    def step(self, embedded: Tensor, state: DecoderState, lengths: Tensor | None) -> Outputs:
        """One step: embedded (N, E), lengths (N,) of 0 and 1, or all 1."""
        h, c = state.h.to(embedded.dtype), state.c.to(embedded.dtype)
        if not self.feeding:
            return self._call(embedded.unsqueeze(1), h, c, state.memory, lengths)
        h, fed = h[:-1], h[-1]
        x = torch.cat((embedded, fed), 1).unsqueeze(1)
        outputs = self._call(x, h, c, state.memory, lengths)
        found = outputs.features.squeeze(1)
        if lengths is not None:
            found = found.where(lengths.unsqueeze(1) > 0, fed.to(found.dtype))
        return outputs._replace(h=torch.cat((outputs.h, found.unsqueeze(0).to(outputs.h.dtype))))

    def _call(
        self, x: Tensor, h: Tensor, c: Tensor, memory: Memory | None, lengths: Tensor | None
    ) -> Outputs:
        features, (h, c) = self.lstm(x, (h, c), lengths=lengths)
        weights = None
        if self.attention is not None:
            assert memory is not None
            features, weights = self.attention(features, memory)
        return Outputs(self.dropout(features), weights, h, c)
