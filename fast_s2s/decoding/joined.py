"""Several decoders whose probabilities are averaged at each step, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fast_s2s.decoding import ops as ops
from fast_s2s.decoding.contract import AttentionSizes
from fast_s2s.decoding.packed import PackedDecoder


class JoinedDecoder:
    """A `Decoder` of packed ones on the CPU, for the op `decode_ensemble`.

    p(token) = mean over the members of p_i(token), each in its own state. States and memory are the
    members' side by side: h (1, N, Σ L·R), c (1, N, Σ L·H), layer by layer, values (B, S, Σ M) and
    keys (B, S, Σ A). Of what a call can keep it has no attention.
    """

    def __init__(self, members: Sequence[PackedDecoder]) -> None:
        """Members for which `can_join` is true."""
        first = members[0]
        self.members = tuple(members)
        self.device, self.acc, self.vocab_size = first.device, first.acc, first.vocab_size
        self.num_layers = 1
        self.hidden_size = sum(each.num_layers * each.hidden_size for each in members)
        seen = [each.attention for each in members]
        feeding = [sizes is not None and sizes.feeding for sizes in seen]
        self.output_size = sum(
            (each.num_layers + fed) * each.output_size
            for each, fed in zip(members, feeding, strict=True)
        )
        self._seen = [sizes for sizes in seen if sizes is not None]
        # the last memory, and its members' parts of it
        self._parts: tuple[tuple[Tensor, ...], list[Tensor]] | None = None

    @property
    def attention(self) -> AttentionSizes | None:
        """All members' together."""
        if not self._seen:
            return None
        values, keys = (sum(sizes[at] for sizes in self._seen) for at in (0, 1))
        return AttentionSizes(values, keys, feeding=False)

    def run(
        self,
        state: Sequence[Tensor],
        memory: Sequence[Tensor],
        rules: Sequence[Tensor],
        options: Sequence[int],
        parameters: Sequence[float],
        max_steps: int,
    ) -> list[Tensor]:
        """The op `decode_ensemble`."""
        return torch.ops.fast_s2s.decode_ensemble.default(
            [each.packed for each in self.members],
            [number for each in self.members for number in each.header],
            state,
            self._split(tuple(memory)),
            rules,
            options,
            parameters,
            max_steps,
        )

    def _split(self, memory: tuple[Tensor, ...]) -> list[Tensor]:
        """Values and keys of each member that attends, then the lengths."""
        if not memory:
            return []
        last = self._parts
        if last is not None and all(a is b for a, b in zip(last[0], memory, strict=True)):
            return last[1]
        values = memory[0].split([sizes.values for sizes in self._seen], 2)
        keys = memory[1].split([sizes.keys for sizes in self._seen], 2)
        parts = [part.contiguous() for pair in zip(values, keys, strict=True) for part in pair]
        self._parts = memory, [*parts, memory[2]]
        return self._parts[1]


def can_join(members: Sequence[PackedDecoder]) -> bool:
    """Whether one native call runs them together: on the CPU, with states of one type."""
    acc = members[0].acc
    return all(
        each.backend == "native" and each.device.type == "cpu" and each.acc == acc
        for each in members
    )
