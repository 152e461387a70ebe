"""Checks of arguments. Every error names the argument, what was expected and what came."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 160
# so many numbers Python compares sooner than torch is asked
_FEW = 64
_INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_bool(name: str, value: object) -> None:
    """Raises TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {_describe(value)}")


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> None:
    """Raises TypeError unless `value` is an int, ValueError outside minimum..maximum."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {_describe(value)}")
    if value < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name}: expected an integer <= {maximum}, got {value}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raises TypeError unless `value` is an int or a float, ValueError outside low..high."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {_describe(value)}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number in [{low}, {high}], got {value}")


def check_finite(name: str, value: object) -> None:
    """Raises TypeError unless `value` is an int or a float, ValueError unless it is finite."""
    check_number(name, value if value == value else 0, -math.inf, math.inf)
    if not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected a finite number, got {value}")


def check_path(name: str, value: object) -> Path:
    """`value` as a Path. Raises TypeError unless it is a str or an `os.PathLike`."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}: expected a path, got {_describe(value)}")
    return Path(value)


def check_sequence(name: str, value: object, kind: str) -> None:
    """Raises TypeError unless `value` is a sequence, other than a str, of what `kind` says."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        got = "one str" if isinstance(value, str) else type(value).__name__
        raise TypeError(f"{name}: expected a sequence of {kind}, got {got}")


def check_mapping(name: str, value: object) -> None:
    """Raises TypeError unless `value` is a mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a mapping, got {_describe(value)}")


def check_device(name: str, value: Any) -> None:
    """Raises TypeError or ValueError unless `value` names a kind of device. None is the default."""
    if value is None:
        return
    if not isinstance(value, (str, int, torch.device)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a torch.device or its name, got {_describe(value)}")
    try:
        torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"{name}: expected a torch.device or its name, got {value!r}") from error


def check_floating_dtype(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a floating-point torch.dtype. None is the default."""
    if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise ValueError(f"{name}: expected a floating-point torch.dtype, got {value!r}")


def check_tensor(
    name: str,
    value: Any,
    axes: str,
    sizes: Sequence[int | None],
    dtype: torch.dtype | None,
    device: torch.device,
) -> None:
    """Type, shape, dtype and device of a tensor, none of which waits for a device.

    axes:  the shape in words, for the message: "(batch, steps)"
    sizes: the expected size of each dimension; None where any will do
    dtype: None where any will do

    Raises TypeError if `value` is no tensor, else ValueError.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {_describe(value)}")
    if dtype is not None and value.dtype != dtype:
        raise ValueError(f"{name}: expected dtype {dtype}, got {value.dtype}")
    fits = value.dim() == len(sizes) and all(
        size is None or size == actual for size, actual in zip(sizes, value.shape, strict=True)
    )
    if not fits:
        exact = "" if None in sizes else f" = {tuple(sizes)}"
        raise ValueError(f"{name}: expected shape {axes}{exact}, got {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {value.device}")


def check_token_id(name: str, token: Any, vocab_size: int) -> None:
    """Raises TypeError unless `token` is an int, ValueError outside the vocabulary."""
    check_integer(name, token, 0)
    if token >= vocab_size:
        raise ValueError(f"{name}: expected token ids in 0..{vocab_size - 1}, got {token}")


def check_token_ids(name: str, ids: Tensor, vocab_size: int, kind: str = "token ids") -> None:
    """Raises ValueError for an id outside the vocabulary, or another `kind` of number.

    Values are looked at where that needs no wait for a device: on the CPU, outside `torch.compile`
    and `torch.func`. Elsewhere the embedding's own check speaks.
    """
    if ids.device.type != "cpu" or _values_are_hidden() or not ids.numel():
        return
    if ids.dim() == 1 and ids.numel() <= _FEW:
        few = ids.tolist()
        low, high = min(few), max(few)
    else:
        low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high >= vocab_size:
        index = ((ids < 0) | (ids >= vocab_size)).nonzero()[0].tolist()
        raise ValueError(
            f"{name}: expected {kind} in 0..{vocab_size - 1}, got {int(ids[tuple(index)])} "
            f"at {name}{index}"
        )


def extremes(values: Tensor) -> tuple[int, int]:
    """The smallest and the largest of some integers, with one wait for their device."""
    low, high = torch.stack(values.aminmax()).tolist()
    return low, high


def check_lengths(
    name: str, lengths: Tensor | Sequence[int], batch: int, steps: int, device: torch.device
) -> Tensor:
    """`lengths` (batch,) as int64 on `device`.

    They may be on the CPU too. Values, 0..steps, are looked at where that needs no wait for a
    device: on the CPU, outside `torch.compile` and `torch.func`.

    Raises TypeError for anything but a tensor or a sequence of integers, else ValueError.
    """
    lengths = integer_tensor(name, lengths)
    if lengths.device not in (device, torch.device("cpu")):
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {lengths.device}")
    if lengths.shape != (batch,):
        raise ValueError(
            f"{name}: expected shape ({batch},), one per row, got {tuple(lengths.shape)}"
        )
    if lengths.device.type == "cpu" and not _values_are_hidden() and batch:
        low, high = (int(value) for value in lengths.aminmax())
        if low < 0 or high > steps:
            raise ValueError(f"{name}: expected values in 0..{steps}, got {low}..{high}")
    return lengths.to(device=device, dtype=torch.int64)


def _values_are_hidden() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def integer_tensor(name: str, values: object) -> Tensor:
    """A tensor of integers as it is, or one on the CPU made of a sequence or a numpy array of them.

    Raises TypeError for anything else, ValueError for another dtype or too large a number.
    """
    if isinstance(values, Tensor):
        if values.dtype not in _INTEGER_DTYPES:
            raise ValueError(f"{name}: expected integers, got {values.dtype}")
        return values
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, Sequence) or not all(map(_is_integer, values)):
        raise TypeError(f"{name}: expected a tensor or a sequence of integers, got {shown(values)}")
    if not all(-(2**63) <= value < 2**63 for value in values):
        raise ValueError(f"{name}: expected integers of 64 bits, got {shown(values)}")
    # not on the device of `torch.set_default_device`
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def plain(value: Any) -> Any:
    """`value` with Python's own numbers in place of numpy's, in lists and tuples too."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def _is_integer(value: object) -> bool:
    return type(value) is int or isinstance(value, np.integer)


def shown(value: object) -> str:
    """`repr`, cut to what fits into a message."""
    return _REPR.repr(value)


def _describe(value: object) -> str:
    return f"{shown(value)} of type {type(value).__name__}"
