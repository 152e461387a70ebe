"""Generation: the loop that feeds a decoder its own output."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fast_s2s.checks import check_tensor, check_token_ids
from fast_s2s.configuration import GenerationConfig as GenerationConfig
from fast_s2s.functional import autocast_dtype


class DecoderState(NamedTuple):
    """Everything a decoder carries from step to step.

    h, c:     (decoder layers, B, hidden_size)
    token:    (B,) int64, the next input; None before the first, which is bos
    finished: (B,) bool, rows that met eos; their h and c stay as they are. None if no row did
    """

    h: Tensor
    c: Tensor
    token: Tensor | None = None
    finished: Tensor | None = None


def check_state(
    state: DecoderState,
    num_layers: int,
    hidden_size: int,
    tgt_vocab_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Raises TypeError or ValueError naming the part of `state` that a decoder cannot start from.

    The other arguments are the decoder's.
    """
    if not isinstance(state, DecoderState):
        raise TypeError(f"state: expected a DecoderState, got {type(state).__name__}")
    # autocast chooses the type of states itself
    any_dtype = autocast_dtype(device.type) is not None
    batch = state.h.size(1) if isinstance(state.h, Tensor) and state.h.dim() == 3 else None
    for name, value in (("state.h", state.h), ("state.c", state.c)):
        sizes = (num_layers, batch, hidden_size)
        axes = "(decoder layers, batch, hidden_size)"
        check_tensor(name, value, axes, sizes, None if any_dtype else dtype, device)
    if state.token is not None:
        check_tensor("state.token", state.token, "(batch,)", (batch,), torch.int64, device)
        check_token_ids("state.token", state.token, tgt_vocab_size)
    if state.finished is not None:
        check_tensor("state.finished", state.finished, "(batch,)", (batch,), torch.bool, device)


# token (B,) and the state -> logits (B, V) and the next state
Step = Callable[[Tensor, DecoderState], tuple[Tensor, DecoderState]]


def greedy_search(
    step: Step, state: DecoderState, config: GenerationConfig
) -> tuple[Tensor, DecoderState]:
    """The most probable token at each step, the lowest id among equals, until every row met eos.

    step:  one step of the decoder; keeps h and c of rows that `state.finished` marks
    state: where to start

    Returns tokens (B, 1 + T) int64 with T <= config.max_new_tokens, `state.token` or else bos in
    front, pad after eos; and the state to go on from, whose token is the last column.
    """
    h, c, token, finished = state
    batch, device = h.size(1), h.device
    if token is None:
        token = torch.full((batch,), config.bos_token_id, device=device)
    if finished is None:
        finished = torch.zeros(batch, dtype=torch.bool, device=device)
    never = torch.tensor([config.pad_token_id, config.bos_token_id], device=device)
    not_yet = torch.tensor([*never.tolist(), config.eos_token_id], device=device)
    columns = [token]
    for count in range(config.max_new_tokens):
        # the one wait for the device in a step
        num_finished = int(finished.sum())
        if num_finished == batch:
            break
        logits, state = step(token, DecoderState(h, c, None, finished if num_finished else None))
        h, c = state.h, state.c
        suppressed = not_yet if count < config.min_new_tokens else never
        best = logits.index_fill(1, suppressed, -torch.inf).argmax(1)
        token = best.masked_fill(finished, config.pad_token_id)
        finished = finished | (token == config.eos_token_id)
        columns.append(token)
    return torch.stack(columns, dim=1), DecoderState(h, c, token, finished)
