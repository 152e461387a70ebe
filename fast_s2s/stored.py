"""Weights in smaller types: int8 with a scale for each row, bfloat16 or float16; in memory and in
files.

In a file an int8 matrix `name` has its scales beside it, as `name.scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_SCALE = ".scale"
# kernels sum products of 7 and 8 bits in 32
_MOST_INT8_COLUMNS = (2**31 - 1) // (127 * 255)


class Stored(NamedTuple):
    """A matrix in its stored type; `scale` (rows,) float32 multiplies the rows of an int8 one."""

    values: Tensor
    scale: Tensor | None

    def dense(self, dtype: torch.dtype) -> Tensor:
        values = self.values.to(dtype)
        return values if self.scale is None else values * self.scale.to(dtype).unsqueeze(1)


def store(weight: Tensor, dtype: torch.dtype) -> Stored:
    """`weight` (rows, columns) in `dtype`. int8: each row by round(127 · w / max |w|).

    What was rounded once does not change when it is rounded again: (x / 127 · 127) / 127 is x / 127
    in float32, for every x.

    Raises ValueError for so many columns that sums of int8 products would not fit in 32 bits.
    """
    weight = weight.detach()
    if dtype != torch.int8:
        return Stored(weight.to(dtype, copy=True), None)
    if weight.size(1) > _MOST_INT8_COLUMNS:
        raise ValueError(
            f"dtype: expected another than int8 for a matrix of {weight.size(1)} columns, "
            f"more than {_MOST_INT8_COLUMNS}"
        )
    weight = weight.float()
    scale = weight.abs().amax(1) / 127
    values = weight / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)
    return Stored(values.round().to(torch.int8), scale)


def compress(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's tensors for a file: its matrices in `dtype`, a smaller type, all else float32."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or not tensor.is_floating_point():
            found[name] = tensor.detach().float() if tensor.is_floating_point() else tensor
            continue
        found[name], scale = store(tensor, dtype)
        if scale is not None:
            found[name + _SCALE] = scale
    return found


def compressed_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype | None:
    """int8, bfloat16 or float16 for what `compress` gave, None for other tensors."""
    if any(tensor.dtype == torch.int8 for tensor in tensors.values()):
        return torch.int8
    kinds = {(tensor.dim() == 2, tensor.dtype) for tensor in tensors.values()}
    for dtype in (torch.bfloat16, torch.float16):
        if kinds == {(True, dtype), (False, torch.float32)}:
            return dtype
    return None


def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `compress` made of a model's tensors, all in float32.

    Raises ValueError naming an int8 matrix without scales that fit.
    """
    scales = {name: t for name, t in tensors.items() if name.removesuffix(_SCALE) in tensors}
    scales = {name: t for name, t in scales.items() if name.endswith(_SCALE)}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in scales:
            continue
        scale = scales.get(name + _SCALE)
        if tensor.dtype == torch.int8:
            if scale is None or scale.shape != tensor.shape[:1]:
                shape = None if scale is None else tuple(scale.shape)
                raise ValueError(
                    f"{name}{_SCALE}: expected shape {tuple(tensor.shape[:1])} beside the int8 "
                    f"matrix, got {shape}"
                )
            found[name] = Stored(tensor, scale).dense(torch.float32)
        else:
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found
