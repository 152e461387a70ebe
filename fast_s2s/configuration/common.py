"""What both kinds of configuration share: special tokens, and the way from JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from fast_s2s.checks import check_integer, check_mapping

Config = TypeVar("Config")


class HasSpecialTokens(Protocol):
    """Any configuration."""

    @property
    def pad_token_id(self) -> int: ...
    @property
    def bos_token_id(self) -> int: ...
    @property
    def eos_token_id(self) -> int | Sequence[int]: ...


_NAMES = ("pad_token_id", "bos_token_id", "eos_token_id")


def special_tokens(config: HasSpecialTokens) -> dict[str, tuple[int, ...]]:
    """The ids by name; several for eos, perhaps."""
    values = {name: getattr(config, name) for name in _NAMES}
    return {n: v if isinstance(v, tuple) else (v,) for n, v in values.items()}


def check_special_tokens(config: HasSpecialTokens) -> None:
    """Raises TypeError or ValueError unless they are different ids."""
    named = special_tokens(config)
    for name, ids in named.items():
        for value in ids:
            check_integer(name, value, 0)
    flat = [value for ids in named.values() for value in ids]
    if len(set(flat)) < len(flat):
        got = tuple(getattr(config, name) for name in _NAMES)
        raise ValueError(f"{', '.join(_NAMES)}: expected different ids, got {got}")


def check_special_tokens_fit(config: HasSpecialTokens, tgt_vocab_size: int) -> None:
    """Raises ValueError if a special token of `config` is not in the target vocabulary."""
    for name, ids in special_tokens(config).items():
        for value in ids:
            if value >= tgt_vocab_size:
                raise ValueError(
                    f"{name}: expected an id below tgt_vocab_size = {tgt_vocab_size}, got {value}"
                )


def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """A dataclass from its fields, by name.

    Raises TypeError or ValueError naming the key that does not fit.
    """
    check_mapping("values", values)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    unknown = sorted(set(values) - {field.name for field in fields})
    if unknown:
        raise ValueError(f"expected only fields of {cls.__name__}, got {', '.join(unknown)}")
    missing = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        raise ValueError(f"expected {', '.join(missing)}, which {cls.__name__} needs, got none")
    return cls(**values)
