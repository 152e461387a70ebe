"""A linear layer's weights, packed once for many calls of ops that multiply by it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.decoding.contract import Header
from fast_s2s.decoding.weights import DTYPES
from fast_s2s.reference import accumulate_dtype
from fast_s2s.stored import Stored, store


class LinearWeights(NamedTuple):
    """weight (outputs, inputs), bias (outputs,)."""

    weight: Tensor
    bias: Tensor | None


class PackedLinear(NamedTuple):
    """Made by `pack_linear`; later changes of a model do not reach it."""

    weight: Stored
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.dense(x.dtype), self.bias)

    def packed(self) -> Tensor:
        """For the native op: weights of no layers, whose vocabulary the matrix is."""
        scales = [] if self.weight.scale is None else [self.weight.scale]
        none = self.bias.new_empty(self.bias.size(0), 0)
        plain = (0, False, False, 0, False, False, 0.0, 0.0)
        return torch.ops.fast_s2s.decode_pack(
            [self.weight.values], scales, [self.bias], [], none, *plain
        )

    def header(self, dtype: torch.dtype) -> Header:
        outputs, inputs = self.weight.values.shape
        return Header(DTYPES.index(dtype), 0, 0, inputs, outputs, 0, False, False)


def pack_linear(given: LinearWeights, dtype: torch.dtype) -> PackedLinear:
    """The matrix stored as `dtype`, the bias in the type of its sums."""
    bias = given.bias
    if bias is None:
        bias = given.weight.new_zeros(given.weight.size(0))
    return PackedLinear(
        store(given.weight, dtype), bias.detach().to(accumulate_dtype(dtype), copy=True)
    )
