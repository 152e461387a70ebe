"""What encoder and decoder carry from call to call, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.attention import Memory
from fast_s2s.checks import check_integer, check_tensor, check_token_ids, integer_tensor, shown
from fast_s2s.configuration import Seq2SeqConfig
from fast_s2s.functional import autocast_dtype

# tensors whose second dimension, not the first, are the rows
_LAYERED = ("h", "c")

AnyState = TypeVar("AnyState", "DecoderState", "EncoderState")


class EncoderState(NamedTuple):
    """Where an encoder stands in its input, to read on from there.

    h, c:   (encoder layers, B, hidden_size)
    memory: its outputs so far, with attention
    """

    h: Tensor
    c: Tensor
    memory: Memory | None = None

    def select(self, rows: Tensor | Sequence[int]) -> EncoderState:
        """These rows, by index, in this order; repeats are fine."""
        return select_rows(self, rows)

    @staticmethod
    def merge(states: Sequence[EncoderState]) -> EncoderState:
        """The rows of all, in order."""
        _check_states(states, EncoderState)
        return EncoderState(
            torch.cat([state.h for state in states], 1),
            torch.cat([state.c for state in states], 1),
            _merged_memory(states),
        )


class DecoderState(NamedTuple):
    """Everything a decoder carries from step to step.

    h, c:       (decoder layers, B, hidden_size); with input feeding h has one more: what attention
                found, which the next step reads
    token:      (B,) int64, the next input; None before the first, which is bos
    finished:   (B,) bool, rows that ended; their h and c stay as they are. None if no row did
    node:       (B,) int64, where each row is in the constraint; None: where it begins
    history:    (B, P) int64, each row's inputs before `token`, padded behind; None: there were none
    position:   (B,) int64, how many those are, which is how many tokens were generated so far
    memory:     what attention looks at, the encoder's outputs of each row; None without attention
    constraint: (B,) int64, the constraint that each row is written under, by a hash of its
                content; 0: under none. None: no row is under one
    """

    h: Tensor
    c: Tensor
    token: Tensor | None = None
    finished: Tensor | None = None
    node: Tensor | None = None
    history: Tensor | None = None
    position: Tensor | None = None
    memory: Memory | None = None
    constraint: Tensor | None = None

    def select(self, rows: Tensor | Sequence[int]) -> DecoderState:
        """These rows, (any number,) by index or (B,) bool, in this order; repeats are fine.

        Raises TypeError or ValueError naming what does not fit.
        """
        return select_rows(self, rows)

    def expand(self, times: int) -> DecoderState:
        """Every row `times` times, the copies side by side.

        Raises TypeError or ValueError naming what does not fit.
        """
        check_integer("times", times, 1)
        rows = torch.arange(self.h.size(1), device=self.h.device)
        return select_rows(self, rows.repeat_interleave(times))

    @staticmethod
    def merge(states: Sequence[DecoderState], bos_token_id: int | None = None) -> DecoderState:
        """The rows of all, in order: for a server that takes in new requests as it goes.

        bos_token_id: the token of states that have none, which is bos; needed if only some have one

        Raises TypeError or ValueError naming what does not fit.
        """
        _check_states(states, DecoderState)
        if bos_token_id is not None:
            check_integer("bos_token_id", bos_token_id, 0)
        some = any(state.token is not None for state in states)
        if bos_token_id is None and some and any(state.token is None for state in states):
            raise ValueError(
                "bos_token_id: expected an id, since only some of the states have a token, got None"
            )
        same = [name for name in states[0]._fields[2:] if name != "memory"]
        present = {name for name in same if any(getattr(s, name) is not None for s in states)}
        width = max(0 if s.history is None else s.history.size(1) for s in states)
        full = [_filled(state, present, bos_token_id, width) for state in states]
        return DecoderState(
            torch.cat([state.h for state in full], 1),
            torch.cat([state.c for state in full], 1),
            memory=_merged_memory(states),
            **{name: torch.cat([getattr(state, name) for state in full]) for name in present},
        )


def select_rows(state: AnyState, rows: Tensor | Sequence[int]) -> AnyState:
    """The same for both kinds of state; `rows` as in `DecoderState.select`."""
    batch, device = state.h.size(1), state.h.device
    if isinstance(rows, Tensor) and rows.dtype == torch.bool:
        check_tensor("rows", rows, "(batch,)", (batch,), None, device)
        rows = rows.nonzero().squeeze(1)
    index = integer_tensor("rows", rows).to(device=device, dtype=torch.int64)
    check_tensor("rows", index, "(rows,)", (None,), None, device)
    check_token_ids("rows", index, batch, "rows")
    parts: dict[str, Any] = {}
    for name, value in state._asdict().items():
        if isinstance(value, Memory):
            parts[name] = value.select(index)
        elif value is not None:
            parts[name] = value.index_select(1 if name in _LAYERED else 0, index)
    return state._replace(**parts)


def check_state(
    state: DecoderState, config: Seq2SeqConfig, dtype: torch.dtype, device: torch.device
) -> None:
    """Raises TypeError or ValueError naming the part of `state` that a decoder cannot start from.

    The other arguments are the model's. States may also be of the type that generation computes
    them in: float32.
    """
    if not isinstance(state, DecoderState):
        raise TypeError(f"state: expected a DecoderState, got {type(state).__name__}")
    layers = (config.num_hidden_states, config.num_decoder_layers)
    batch = _check_layers(state, "decoder", layers, config, dtype, device)
    _check_memory(state, batch, config, dtype, device)
    check_what_was_written(state, batch, config.tgt_vocab_size, device)


def check_what_was_written(
    state: DecoderState, batch: int, tgt_vocab_size: int, device: torch.device
) -> None:
    """Raises likewise for the parts of `state` beside h, c and memory."""

    def check(name: str, dtype: torch.dtype, *sizes: int | None) -> None:
        value = getattr(state, name)
        if value is not None:
            axes = "(batch,)" if len(sizes) == 1 else "(batch, steps)"
            check_tensor(f"state.{name}", value, axes, sizes, dtype, device)

    check("token", torch.int64, batch)
    if state.token is not None:
        check_token_ids("state.token", state.token, tgt_vocab_size)
    check("finished", torch.bool, batch)
    check("node", torch.int64, batch)
    check("history", torch.int64, batch, None)
    check("position", torch.int64, batch)
    check("constraint", torch.int64, batch)
    if (state.history is None) != (state.position is None):
        raise ValueError("state.position: expected one beside state.history, or neither")
    if state.history is not None and state.position is not None:
        check_token_ids("state.history", state.history, tgt_vocab_size)
        longest = state.history.size(1)
        check_token_ids("state.position", state.position, longest + 1, "lengths")


def check_encoder_state(
    state: EncoderState,
    batch: int,
    config: Seq2SeqConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Raises TypeError or ValueError naming what an encoder cannot start from."""
    if not isinstance(state, EncoderState):
        raise TypeError(f"state: expected an EncoderState, got {type(state).__name__}")
    layers = (config.num_encoder_layers,) * 2
    rows = _check_layers(state, "encoder", layers, config, dtype, device)
    if rows != batch:
        raise ValueError(f"state: expected {batch} rows, as src has, got {rows}")
    _check_memory(state, batch, config, dtype, device)


def _check_layers(
    state: DecoderState | EncoderState,
    which: str,
    layers: tuple[int, int],
    config: Seq2SeqConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    batch = state.h.size(1) if isinstance(state.h, Tensor) and state.h.dim() == 3 else None
    axes = f"({which} layers, batch, hidden_size)"
    for name, count in zip(("h", "c"), layers, strict=True):
        value = getattr(state, name)
        sizes = (count, batch, config.hidden_size)
        check_tensor(
            f"state.{name}", value, axes, sizes, _expected(value, config, dtype, device), device
        )
    assert batch is not None
    return batch


def _check_memory(
    state: DecoderState | EncoderState,
    batch: int,
    config: Seq2SeqConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    if config.attention is None:
        if state.memory is not None:
            raise ValueError("state.memory: expected None without attention, got one")
        return
    if not isinstance(state.memory, Memory):
        got = type(state.memory).__name__
        raise TypeError(
            f"state.memory: expected a Memory, as encode gives with attention, got {got}"
        )
    values, keys, lengths = state.memory

    def check(name: str, value: Tensor, size: int, steps: int | None) -> None:
        sizes, known = (batch, steps, size), _expected(value, config, dtype, device)
        check_tensor(f"state.memory.{name}", value, "(batch, steps, size)", sizes, known, device)

    check("values", values, config.memory_size, None)
    check("keys", keys, config.hidden_size, values.size(1))
    check_tensor("state.memory.lengths", lengths, "(batch,)", (batch,), torch.int64, device)
    check_token_ids("state.memory.lengths", lengths, values.size(1) + 1, "lengths")


def _expected(
    value: object, config: Seq2SeqConfig, dtype: torch.dtype, device: torch.device
) -> torch.dtype | None:
    """The type a state must have; None where any will do."""
    # autocast chooses the type of states itself
    any_dtype = autocast_dtype(device.type) is not None
    # what weights of half precision are computed in, and those packed in another type
    narrow = dtype.itemsize < 4 or config.decoder_dtype is not None
    packed = narrow and isinstance(value, Tensor) and value.dtype == torch.float32
    return None if any_dtype or packed else dtype


def _check_states(states: Any, kind: type) -> None:
    if isinstance(states, kind) or not isinstance(states, Sequence) or not states:
        raise TypeError(f"states: expected a sequence of {kind.__name__}, got {shown(states)}")
    for index, state in enumerate(states):
        if not isinstance(state, kind):
            raise TypeError(
                f"states[{index}]: expected {kind.__name__}, got {type(state).__name__}"
            )


def _merged_memory(states: Sequence[DecoderState] | Sequence[EncoderState]) -> Memory | None:
    memories = [state.memory for state in states if state.memory is not None]
    if memories and len(memories) < len(states):
        raise ValueError("states: expected a memory in all or in none, got some")
    return Memory.merge(memories) if memories else None


def _filled(
    state: DecoderState, names: set[str], bos_token_id: int | None, width: int
) -> DecoderState:
    """With every one of these parts; history `width` wide."""
    rows = state.h.new_zeros(state.h.size(1), dtype=torch.int64)
    blank: dict[str, Any] = {
        "token": None if bos_token_id is None else rows + bos_token_id,
        "finished": rows.bool(),
        "node": rows,
        "history": rows.new_empty(len(rows), 0),
        "position": rows,
        "constraint": rows,
    }
    given = {name: getattr(state, name) for name in names}
    parts = {name: blank[name] if value is None else value for name, value in given.items()}
    if "history" in parts:
        parts["history"] = F.pad(parts["history"], (0, width - parts["history"].size(1)))
    return state._replace(**parts)
