"""Random numbers by counter: the same on every backend, for every batch size and order of rows.

Philox4x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
https://doi.org/10.1145/2063384.2063405. The same in C++: csrc/decode/choose.h.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """Four random words for each counter and key, all int64 tensors of 32-bit values that broadcast
    -> (…, 4) of the same kind.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # the products have 64 bits; int64 wraps around, and its upper half is right once masked
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (product0 >> 32) & _WORD, (product1 >> 32) & _WORD
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _WORD, high0 ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def gumbel(seeds: Tensor, position: Tensor, sequence: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise for every token: seeds, position, sequence (N,) int64 -> float64
    (N, V).

    The maximum of log-probabilities plus this noise is a sample. Key: the seed; counter:
    token // 4, position, sequence, 0; word token % 4 of the four. With its upper 23 bits x,
    u = (x + 1/2) · 2^-23 and the noise is -log(-log u).
    """
    device = seeds.device
    quads = torch.arange((vocab_size + 3) // 4, device=device)
    position, sequence, seeds = (t.unsqueeze(1) for t in (position, sequence, seeds))
    key = (seeds & _WORD, (seeds >> 32) & _WORD)
    words = philox(
        (quads & _WORD, position & _WORD, sequence & _WORD, torch.zeros_like(quads)), key
    )
    u = ((words.flatten(1)[:, :vocab_size] >> 9).double() + 0.5) * 2.0**-23
    return -(-u.log()).log()


def row_seeds(seed: int, batch: int, first: int = 0) -> Tensor:
    """(batch,) int64: a stream of random numbers for each row, counted from `first`, whatever the
    batch.

    splitmix64 of Steele et al. 2014, https://doi.org/10.1145/2714064.2660195, at the row's index.
    """
    x = seed + (torch.arange(first, first + batch, device="cpu") + 1) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


def _signed(word: int) -> int:
    return word - 2**64


def _shifted(x: Tensor, by: int) -> Tensor:
    # torch shifts signed numbers arithmetically
    return (x >> by) & ((1 << (64 - by)) - 1)
