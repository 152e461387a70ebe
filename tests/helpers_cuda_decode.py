"""Decoders whose op `decode` is the CUDA one: in the emulator, or on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fast_s2s.decoding import PackedDecoder


class Emulated:
    """A `PackedDecoder` that runs in the emulator."""

    def __init__(self, decoder: PackedDecoder, emulator: Any) -> None:
        self.decoder, self.emulator = decoder, emulator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    @functools.cached_property
    def packed(self) -> Tensor:
        return self.emulator.decode_pack(*self.decoder.pack_arguments())

    def run(
        self,
        state: Sequence[Tensor],
        memory: Sequence[Tensor],
        rules: Sequence[Tensor],
        options: Sequence[int],
        parameters: Sequence[float],
        max_steps: int,
    ) -> list[Tensor]:
        return self.emulator.decode(self.packed, state, rules, options, parameters, max_steps)


def emulated(made: tuple[PackedDecoder, Tensor, Tensor], emulator: Any) -> tuple[Any, ...]:
    """What `helpers_decode.make` gave, in the emulator."""
    return Emulated(made[0], emulator), *made[1:]
