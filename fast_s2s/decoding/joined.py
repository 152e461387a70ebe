"""Several decoders whose probabilities are averaged at each step, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fast_s2s.decoding import ops as ops
from fast_s2s.decoding.contract import AttentionSizes, Keep, Options
from fast_s2s.decoding.packed import PackedDecoder


class JoinedDecoder:
    """A `Decoder` of packed ones on the CPU, for the op `decode_ensemble`.

    p(token) = mean over the members of p_i(token), each in its own state. States and memory are the
    members' side by side: h (1, N, Σ L·R), c (1, N, Σ L·H), layer by layer, values (B, S, Σ M) and
    keys (B, S, Σ A). Of what a call can keep it has no attention.
    """

    def __init__(self, members: Sequence[PackedDecoder]) -> None:
        """Raises ValueError for members that `can_join` refuses."""
        if not can_join(members):
            raise ValueError(
                "members: expected one or more packed for the CPU's kernels, "
                "with states of one type"
            )
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
        """The op `decode_ensemble`. Raises ValueError for options that keep attention."""
        if Options(*options).keep & Keep.ATTENTION:
            raise ValueError("keep: expected no ATTENTION of several decoders, got it")
        return torch.ops.fast_s2s.decode_ensemble.default(
            [each.packed for each in self.members],
            [number for each in self.members for number in each.header],
            state,
            self._split(memory),
            rules,
            options,
            parameters,
            max_steps,
        )

    def _split(self, memory: Sequence[Tensor]) -> list[Tensor]:
        """Values and keys of each member that attends, then the lengths."""
        if not memory:
            return []
        values = memory[0].split([sizes.values for sizes in self._seen], 2)
        keys = memory[1].split([sizes.keys for sizes in self._seen], 2)
        pairs = zip(values, keys, strict=True)
        return [*(part.contiguous() for pair in pairs for part in pair), memory[2]]


def can_join(members: Sequence[PackedDecoder]) -> bool:
    """Whether one native call runs them together: on the CPU, with states of one type."""
    return len({each.acc for each in members}) == 1 and all(
        each.backend == "native" and each.device.type == "cpu" for each in members
    )
