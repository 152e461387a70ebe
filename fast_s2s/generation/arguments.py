"""The arguments of `generate`: checked, and with defaults in place."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fast_s2s.checks import (
    check_bool as check_bool,
)
from fast_s2s.checks import (
    check_integer,
    check_lengths,
    check_tensor,
    check_token_ids,
    integer_tensor,
    plain,
)
from fast_s2s.configuration import (
    DECODER_DTYPES,
    MOST,
    GenerationConfig,
    Seq2SeqConfig,
    check_special_tokens_fit,
)
from fast_s2s.decoding.philox import row_seeds
from fast_s2s.generation import constraint as constraints
from fast_s2s.generation.constraint import check_vocabulary
from fast_s2s.generation.search import Request

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(GenerationConfig)}
_LENGTHS = ("max_length", "min_length")
_SEVERAL = (Tensor, list, tuple, np.ndarray)


# one number for each row
_PerRow: TypeAlias = Tensor | Sequence[int] | np.ndarray


class Resolved(NamedTuple):
    """The options of a call; what may be of each row, or depends on the prefix, is apart."""

    config: GenerationConfig
    limits: _PerRow | None
    seeds: _PerRow | None
    lengths: dict[str, int]


def resolve(config: GenerationConfig, options: Mapping[str, Any], tgt_vocab_size: int) -> Resolved:
    """`config` with the options of a call.

    Raises TypeError or ValueError naming the one that does not fit.
    """
    if not isinstance(config, GenerationConfig):
        kind = type(config)
        # transformers has one of the same name
        package = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        raise TypeError(
            "generation_config: expected a fast_s2s.GenerationConfig, got "
            f"{package}{kind.__qualname__}"
        )
    # the type too, since True equals 1
    given = tuple((name, type(value), value) for name, value in options.items())
    if all(kind in _PLAIN for _, kind, _ in given):
        return _resolved_before(config, given, tgt_vocab_size)
    return _resolved(config, options, tgt_vocab_size)


_PLAIN = (int, float, bool, str, type(None))


@functools.lru_cache(maxsize=64)
def _resolved_before(
    config: GenerationConfig, given: tuple[tuple[str, type, Any], ...], tgt_vocab_size: int
) -> Resolved:
    return _resolved(config, {name: value for name, _, value in given}, tgt_vocab_size)


def _resolved(
    config: GenerationConfig, options: Mapping[str, Any], tgt_vocab_size: int
) -> Resolved:
    unknown = sorted(options.keys() - _DEFAULTS.keys() - {*_LENGTHS})
    if unknown:
        raise TypeError(
            f"generate: expected fields of GenerationConfig as further arguments, got "
            f"{', '.join(unknown)}"
        )
    # None is the default, but where it says that a rule is off
    given = {
        name: value
        for name, value in options.items()
        if value is not None or _DEFAULTS.get(name, 0) is None
    }
    lengths = {name: plain(given.pop(name)) for name in _LENGTHS if name in given}
    for name, new in zip(_LENGTHS, ("max_new_tokens", "min_new_tokens"), strict=True):
        if name in lengths:
            check_integer(name, lengths[name], 0, MOST)
            if new in given:
                raise ValueError(f"{name}: expected None beside {new}, got both")
    limits, seeds = (
        given.pop(name) if isinstance(given.get(name), _SEVERAL) else None
        for name in ("max_new_tokens", "seed")
    )
    if limits is not None or "max_length" in lengths:
        # the rows' own limits are the limits
        given["max_new_tokens"] = max(config.max_new_tokens, given.get("min_new_tokens", 1), 1)
    config = dataclasses.replace(config, **given) if given else config
    check_special_tokens_fit(config, tgt_vocab_size)
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id"):
        check_vocabulary(name, getattr(config, name), tgt_vocab_size)
    check_vocabulary("forced_eos_token_id", config.forced_eos_token_id, tgt_vocab_size)
    for word in config.bad_words_ids or ():
        check_vocabulary("bad_words_ids", word, tgt_vocab_size)
    return Resolved(config, limits, seeds, lengths)


def check_output_attentions(value: object, config: Seq2SeqConfig) -> None:
    """Raises TypeError unless it is a bool, ValueError where there is no attention to put out."""
    check_bool("output_attentions", value)
    if value and config.attention is None:
        raise ValueError(
            "output_attentions: expected False for a model without attention, got True"
        )


def callables(name: str, value: Any) -> list[Any]:
    """None, a callable or a list of them, as a list.

    Raises TypeError for anything else.
    """
    given = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    for each in given:
        if not callable(each):
            raise TypeError(f"{name}: expected a callable or a list, got {type(each).__name__}")
    return given


def request(
    resolved: Resolved,
    batch: int,
    device: torch.device,
    vocab_size: int,
    prefix: Tensor | None,
    prefix_lengths: Tensor | Sequence[int] | None,
    constraint: Any,
    streamer: Any,
    *,
    resumed: bool,
) -> Request:
    """All arguments that depend on the batch.

    Raises TypeError or ValueError naming the one that does not fit.
    """
    config = resolved.config
    lengths = _prefix(prefix, prefix_lengths, batch, device, vocab_size)
    config = _total_lengths(resolved, prefix, lengths, resumed=resumed)
    per_row = _per_row("max_new_tokens", resolved.limits, batch, device, least=1)
    return Request(
        config=config,
        max_new_tokens=config.max_new_tokens if per_row is None else per_row,
        seeds=_seeds(config, resolved.seeds, batch, device),
        prefix=prefix,
        prefix_lengths=lengths,
        constraint=constraints.checked(
            constraint, vocab_size, (config.pad_token_id, config.bos_token_id)
        ),
        streamer=streamer,
    )


def with_decoder_dtype(config: Seq2SeqConfig, dtype: torch.dtype | str | None) -> Seq2SeqConfig:
    """Raises ValueError unless weights may be stored so."""
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name is not None and name not in DECODER_DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DECODER_DTYPES)}, got {dtype!r}")
    return dataclasses.replace(config, decoder_dtype=name)


def _seeds(
    config: GenerationConfig, given: _PerRow | None, batch: int, device: torch.device
) -> Tensor | None:
    seeds = _per_row("seed", given, batch, device)
    if not config.do_sample:
        return None
    if seeds is None and config.seed is not None:
        seeds = row_seeds(config.seed, batch)
    if seeds is None:
        seeds = torch.randint(2**62, (batch,))
    return seeds.to(device)


def _per_row(
    name: str,
    values: _PerRow | None,
    batch: int,
    device: torch.device,
    least: int | None = None,
) -> Tensor | None:
    if values is None:
        return None
    on = device
    if not isinstance(values, Tensor):
        # looked at before they are moved: no device is waited for
        values, on = integer_tensor(name, values), torch.device("cpu")
    check_tensor(name, values, "(batch,)", (batch,), torch.int64, on)
    low = int(values.min()) if least is not None and values.numel() else least
    if least is not None and low is not None and low < least:
        raise ValueError(f"{name}: expected integers >= {least}, got {low}")
    return values.to(device)


def _prefix(
    prefix: Any, lengths: Any, batch: int, device: torch.device, vocab_size: int
) -> Tensor | None:
    if prefix is None:
        if lengths is not None:
            raise ValueError("prefix_lengths: expected None without a prefix")
        return None
    check_tensor("prefix", prefix, "(batch, steps)", (batch, None), torch.int64, device)
    check_token_ids("prefix", prefix, vocab_size)
    if lengths is None:
        return None
    return check_lengths("prefix_lengths", lengths, batch, prefix.size(1), device)


def _total_lengths(
    resolved: Resolved, prefix: Tensor | None, prefix_lengths: Tensor | None, *, resumed: bool
) -> GenerationConfig:
    """max_length and min_length, which count the first input and the prefix, as new tokens."""
    config, given = resolved.config, resolved.lengths
    if not given:
        return config
    if resumed or prefix_lengths is not None:
        raise ValueError(
            f"{', '.join(given)}: expected None beside state or prefix_lengths; use max_new_tokens "
            "and min_new_tokens"
        )
    known = 1 + (0 if prefix is None else prefix.size(1))
    most, least = (given.get(name) for name in _LENGTHS)
    if most is not None and most <= known:
        raise ValueError(
            f"max_length: expected more than the {known} tokens that are given, got {most}"
        )
    changes: dict[str, int] = {}
    if most is not None:
        changes["max_new_tokens"] = most - known
    if least is not None:
        changes["min_new_tokens"] = max(least - known, 0)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]
