"""What the package asks of a tokenizer, and what its kinds share."""

from __future__ import annotations

import operator
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fast_s2s.checks import shown

PathLike = str | os.PathLike[str]
# of the files that tokenizers write
FORMAT_VERSION = 1


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the package asks of a tokenizer."""

    @property
    def pad_token_id(self) -> int: ...
    @property
    def bos_token_id(self) -> int: ...
    @property
    def eos_token_id(self) -> int: ...
    @property
    def unk_token_id(self) -> int: ...

    def __len__(self) -> int:
        """Number of ids, special tokens included: the size of an embedding table."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around them."""
        ...

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = True) -> str:
        """Text of a sequence of ids. Unknown tokens count as special."""
        ...

    def tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """Name of every id, special tokens too."""
        ...

    def count_unknown(self, text: str) -> int:
        """How many symbols of a text become `unk_token_id`."""
        ...

    def save(self, path: PathLike) -> None:
        """Write one JSON file that `load_tokenizer` reads."""
        ...


def check_tokenizer(name: str, value: object) -> None:
    """Raises TypeError unless `value` has all that a `Tokenizer` has."""
    if not isinstance(value, Tokenizer):
        raise TypeError(f"{name}: expected a fast_s2s.text.Tokenizer, got {type(value).__name__}")


def normalize(text: str) -> str:
    """Unicode NFC form. Raises TypeError if it is not a str."""
    if not isinstance(text, str):
        raise TypeError(f"text: expected str, got {type(text).__name__}")
    return unicodedata.normalize("NFC", text)


def id_list(ids: Sequence[int] | Tensor, size: int) -> list[int]:
    """The ids as a list. Raises TypeError or ValueError unless they are integers in 0..size-1."""
    if isinstance(ids, Tensor):
        if ids.dim() != 1 or ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
            raise ValueError(f"ids: expected a 1-D integer tensor, got {ids.dim()}-D {ids.dtype}")
        ids = ids.tolist()
    try:
        values = [operator.index(i) for i in ids]
    except TypeError as error:
        raise TypeError(f"ids: expected a sequence of integers, got {shown(ids)}") from error
    for i in values:
        if not 0 <= i < size:
            raise ValueError(f"ids: expected ids in 0..{size - 1}, got {i}")
    return values


def without_surrogates(text: str) -> str:
    """Half of a surrogate pair, which cannot be encoded, becomes "?", an ordinary symbol."""
    return text.encode("utf-8", "replace").decode("utf-8")


def check_format(content: dict[str, Any], expected: str) -> None:
    """Raises ValueError unless a file says that it is of this format, in the version known here."""
    if content.get("format") != expected:
        raise ValueError(f"format: expected {expected!r}, got {content.get('format')!r}")
    if content.get("version") != FORMAT_VERSION:
        version = content.get("version")
        raise ValueError(f"version: expected {FORMAT_VERSION}, got {version!r}")


@contextmanager
def naming(path: PathLike) -> Iterator[None]:
    """Bad content of a file is a ValueError that begins with the file's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
