"""What a `Seq2Seq` is called with, checked: source, target and their lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fast_s2s.checks import check_lengths, check_tensor, check_token_ids
from fast_s2s.configuration import Seq2SeqConfig

Lengths = Tensor | Sequence[int] | None


def check_source(
    src: Tensor | None,
    embeds: Tensor | None,
    lengths: Lengths,
    config: Seq2SeqConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """What the encoder reads, tokens (B, S) or embeddings (B, S, E), and lengths (B,) int64.

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    if (src is None) == (embeds is None):
        got = "neither" if src is None else "both"
        raise ValueError(f"src, inputs_embeds: expected one of them, got {got}")
    if src is not None:
        _check_ids("src", src, None, config.src_vocab_size, device)
        return src, _lengths_of("src_lengths", src, lengths, config)
    assert embeds is not None
    axes, sizes = "(batch, steps, embedding_size)", (None, None, config.embedding_size)
    check_tensor("inputs_embeds", embeds, axes, sizes, dtype, device)
    _check_steps("inputs_embeds", embeds)
    batch, steps = embeds.shape[:2]
    if lengths is None:
        return embeds, torch.full((batch,), steps, device=device)
    return embeds, check_lengths("src_lengths", lengths, batch, steps, device)


def check_target(
    tgt: Tensor | None, lengths: Lengths, batch: int, config: Seq2SeqConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """tgt (B, T) and lengths (B,) int64.

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    _check_ids("tgt", tgt, batch, config.tgt_vocab_size, device)
    assert tgt is not None
    return tgt, _lengths_of("tgt_lengths", tgt, lengths, config)


def _check_ids(
    name: str, ids: Tensor | None, batch: int | None, vocab_size: int, device: torch.device
) -> None:
    check_tensor(name, ids, "(batch, steps)", (None, None), torch.int64, device)
    assert ids is not None
    if batch is not None and ids.size(0) != batch:
        raise ValueError(f"{name}: expected {batch} rows, as src has, got {ids.size(0)}")
    _check_steps(name, ids)
    check_token_ids(name, ids, vocab_size)


def _check_steps(name: str, values: Tensor) -> None:
    if values.size(1) == 0:
        raise ValueError(f"{name}: expected at least one step, got shape {tuple(values.shape)}")


def _lengths_of(name: str, ids: Tensor, lengths: Lengths, config: Seq2SeqConfig) -> Tensor:
    """Where not given, up to each row's last token that is not pad."""
    if lengths is not None:
        return check_lengths(name, lengths, ids.size(0), ids.size(1), ids.device)
    positions = torch.arange(1, ids.size(1) + 1, device=ids.device)
    return (positions * (ids != config.pad_token_id)).amax(1)
