"""Tokens handed out while generation runs: `put` and `end` of a streamer for each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fast_s2s.decoding import DecodeResult, DecodeState
from fast_s2s.decoding.contract import Hypotheses


class Streamer(Protocol):
    """As transformers' `BaseStreamer`.

    put: called with the first input and the prefix, (1, 1 + M) int64 on the CPU, then with each
         token, (1,)
    end: called when the sequence is complete
    """

    def put(self, value: Tensor) -> object: ...
    def end(self) -> object: ...


def check_streamers(streamer: Any, count: int) -> list[Streamer]:
    """One for each sequence.

    Raises TypeError or ValueError for what is none.
    """
    given = list(streamer) if isinstance(streamer, (list, tuple)) else [streamer]
    for each in given:
        if not (callable(getattr(each, "put", None)) and callable(getattr(each, "end", None))):
            raise TypeError(
                f"streamer: expected objects with put and end, got {type(each).__name__}"
            )
    if len(given) != count:
        raise ValueError(
            f"streamer: expected a list of {count}, one for each sequence, got {len(given)}"
        )
    return given


class Streams:
    """Knows what each sequence's streamer has seen.

    prompts: of each, on the CPU
    begin:   (N,), how many tokens precede the first one to hand out, the first input not counted
    """

    def __init__(self, streamers: Sequence[Streamer], prompts: Sequence[Tensor], begin: Tensor):
        self._streamers = streamers
        self._sent = begin.tolist()
        self._ended = [False] * len(streamers)
        for streamer, prompt in zip(streamers, prompts, strict=True):
            streamer.put(prompt.unsqueeze(0))

    def update(self, result: DecodeResult, ended: Sequence[bool], width: int) -> None:
        """Hand out what is certain: every token of a sequence that cannot change any more.

        ended: of each row of `width` slots
        """
        if not self._streamers or not ended:
            return
        result = _on_cpu(result)
        per_row = len(self._streamers) // len(ended)
        for row, over in enumerate(ended):
            slots = slice(row * width, (row + 1) * width)
            for index in range(row * per_row, (row + 1) * per_row):
                if result.state.hypotheses is None or over:
                    length = int(result.lengths[index])
                    tokens = result.tokens[index, 1 : 1 + length].tolist()
                    last = over or bool(result.state.slots.finished[index])
                else:
                    tokens, last = _stable(result, slots), False
                self._send(index, tokens, last)

    def _send(self, index: int, tokens: list[int], last: bool) -> None:
        if self._ended[index]:
            return
        streamer = self._streamers[index]
        for position in range(self._sent[index], len(tokens)):
            streamer.put(_one(tokens[position]))
            self._sent[index] = position + 1
        if last:
            self._ended[index] = True
            streamer.end()


def _on_cpu(result: DecodeResult) -> DecodeResult:
    """What is looked at below, copied once: row by row each look would wait for a device."""
    state, ended, memory = result.state
    state = state._replace(finished=state.finished.cpu())
    if ended is not None:
        state = state._replace(tokens=state.tokens.cpu(), position=state.position.cpu())
        ended = ended._replace(
            tokens=ended.tokens.cpu(), position=ended.position.cpu(), score=ended.score.cpu()
        )
    return result._replace(
        tokens=result.tokens.cpu(),
        lengths=result.lengths.cpu(),
        state=DecodeState(state, ended, memory),
    )


def _one(token: int) -> Tensor:
    # not Tensor([token]), which is of the default type, bfloat16 perhaps
    return torch.tensor([token])


def _stable(result: DecodeResult, slots: slice) -> list[int]:
    """What all sequences of a row that may yet win begin with."""
    state, ended, _ = result.state
    assert isinstance(ended, Hypotheses)
    alive = [
        tokens[1 : 1 + position]
        for tokens, position, finished in zip(
            state.tokens[slots].tolist(),
            state.position[slots].tolist(),
            state.finished[slots].tolist(),
            strict=True,
        )
        if not finished
    ]
    alive += [
        tokens[1 : 1 + position]
        for tokens, position, score in zip(
            ended.tokens[slots].tolist(),
            ended.position[slots].tolist(),
            ended.score[slots].tolist(),
            strict=True,
        )
        if score > -float("inf")
    ]
    common = []
    for column in zip(*alive, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return common
