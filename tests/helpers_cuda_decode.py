"""Decoders whose op `decode` is the CUDA one: in the emulator, or on a GPU."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fast_s2s.decoding import PackedDecoder

VARIANTS = {"block": 0, "cluster": 1, "grid": 2}
# the weights all in shared memory, in part, or all read from L2
_SHARED = (227 * 1024, 60_000, 40_000)


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
        return self.emulator.decode(
            self.packed, self.decoder.header, state, memory, rules, options, parameters, max_steps
        )


def emulated(made: tuple[PackedDecoder, Tensor, Tensor], emulator: Any) -> tuple[Any, ...]:
    """What `helpers_decode.make` gave, in the emulator."""
    return Emulated(made[0], emulator), *made[1:]


def random_device(rng: random.Random) -> dict[str, int]:
    device = {
        "seed": rng.randrange(1, 1000),
        "only": rng.choice([-1, *VARIANTS.values()]),
        "sms": rng.choice([1, 3, 8]),
        "shared_bytes": rng.choice(_SHARED),
        "row_tiles": rng.choice([0, 1, 4]),
    }
    if device["only"] == VARIANTS["cluster"] and device["sms"] == 1:
        device["sms"] = 4
    return device
