"""One generation: where it begins, its chunks, and what comes out of it."""

from __future__ import annotations

import functools
import operator
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.configuration import GenerationConfig
from fast_s2s.decoding import (
    DecodeOptions,
    DecodeResult,
    DecodeState,
    decode,
    initial_state,
)
from fast_s2s.decoding.contract import Decoder, Hypotheses, Keep, Kept, State
from fast_s2s.generation.constraint import Constraint, resumed
from fast_s2s.generation.state import DecoderState
from fast_s2s.generation.streams import Streams, check_streamers

# a call into the kernels cannot be interrupted, so it should not take much longer than this
_CHUNK_SECONDS = 0.1
_CHUNK_STEPS = 64
# with a streamer, tokens should not wait for others much longer than this
_STREAM_SECONDS = 0.01


@dataclass(frozen=True, eq=False)
class Request:
    """What one call of `generate` asks for, beside where to begin.

    max_new_tokens: an int or (B,) int64
    seeds:          (B,) int64, of sampling
    """

    config: GenerationConfig
    max_new_tokens: int | Tensor
    seeds: Tensor | None = None
    prefix: Tensor | None = None
    prefix_lengths: Tensor | None = None
    constraint: Constraint | None = None
    streamer: Any = None


@dataclass(frozen=True, eq=False)
class Found:
    """What came of it.

    result:      of the last chunk; its tokens are all since the first input
    before:      (N,), tokens of each sequence that were there before this generation; None: none
    tokens:      (N, 1 + T), from the input on that this generation began with
    lengths:     (N,)
    scores:      (N, T) float64, of each token
    kept:        what the configuration says to keep of each step
    start:       the slots that this generation began with
    fingerprint: of the constraint; 0: none
    """

    result: DecodeResult
    before: Tensor | None
    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    config: GenerationConfig
    options: DecodeOptions
    kept: Kept | None
    start: State
    fingerprint: int

    @property
    def begin(self) -> Tensor:
        """`before`, with zeros for none."""
        return torch.zeros_like(self.lengths) if self.before is None else self.before

    @functools.cached_property
    def state(self) -> DecoderState:
        """Where each sequence stands: made when somebody asks."""
        return _after(
            self.result, self.begin, self.tokens, self.config, self.options, self.fingerprint
        )


def run(decoder: Decoder, state: DecoderState, request: Request) -> Found:
    """Generate until all rows ended or are at their limit.

    In chunks, so that streamers see tokens soon and Ctrl-C is heard. Nothing is changed but what is
    returned: whatever is raised meanwhile, the same call can be made again.
    """
    if _is_fresh(state):
        options = _options(request, state)
        slots = initial_state(
            decoder, state.h, state.c, request.config.bos_token_id, options, memory=state.memory
        )
        before = None
    else:
        state = _complete(resumed(state, request.constraint), request.config.bos_token_id)
        options = _options(request, state)
        slots = _begin(decoder, state, options)
        assert state.position is not None
        before = state.position.repeat_interleave(options.num_return_sequences)
    streams = _streams(request, state, options)
    pace = _Pace(streaming=streams is not None)
    start, parts = slots.slots, []
    while True:
        result = decode(decoder, slots, options, pace.steps)
        pace.took(result.steps)
        slots = result.state
        if result.kept is not None:
            parts.append(result.kept)
        if streams is not None:
            streams.update(result, _ended(slots.slots, options), options.width)
        if result.done:
            kept = Kept(*map(torch.cat, zip(*parts, strict=True))) if parts else None
            return _found(result, before, request, options, kept, start)


def _is_fresh(state: DecoderState) -> bool:
    """Whether nothing was generated yet, in any row."""
    return all(part is None for part in state[2:7])


class _Pace:
    """How many steps the next chunk takes."""

    def __init__(self, streaming: bool) -> None:
        self.steps = 1 if streaming else _CHUNK_STEPS
        self._seconds = _STREAM_SECONDS if streaming else _CHUNK_SECONDS
        self._started = time.monotonic()

    def took(self, steps: int) -> None:
        now = time.monotonic()
        per_step = (now - self._started) / max(steps, 1)
        self._started = now
        fitting = int(self._seconds / max(per_step, 1e-9))
        self.steps = max(1, min(fitting, 4 * self.steps))


def _complete(state: DecoderState, bos_token_id: int) -> DecoderState:
    """With every part."""
    rows = torch.zeros(state.h.size(1), dtype=torch.int64, device=state.h.device)
    blank = {
        "token": rows + bos_token_id,
        "finished": rows.bool(),
        "node": rows,
        "history": rows.new_empty(len(rows), 0),
        "position": rows,
    }
    missing: dict[str, Any] = {
        name: value for name, value in blank.items() if getattr(state, name) is None
    }
    return state._replace(**missing)


def _options(request: Request, state: DecoderState) -> DecodeOptions:
    config = request.config
    prefix, prefix_lengths = _prefix(request, state)
    own = (request.seeds, prefix, prefix_lengths, request.constraint)
    if isinstance(request.max_new_tokens, int) and all(part is None for part in own):
        return _shared_options(config)
    return DecodeOptions(
        max_new_tokens=request.max_new_tokens,
        seed=request.seeds,
        prefix=prefix,
        prefix_lengths=prefix_lengths,
        automaton=None if request.constraint is None else request.constraint.on(state.h.device),
        **_named(config),
    )


@functools.lru_cache(maxsize=64)
def _shared_options(config: GenerationConfig) -> DecodeOptions:
    """Those of calls that give no tensors: checked, and made into tensors, once."""
    return DecodeOptions(max_new_tokens=config.max_new_tokens, **_named(config))


def _named(config: GenerationConfig) -> dict[str, Any]:
    never = (config.pad_token_id, config.bos_token_id, *(config.suppress_tokens or ()))
    return {
        "min_p": config.min_p or 0.0,
        "suppress_tokens": never,
        "eos_token_id": config.eos_token_ids,
        "keep": _keep(config),
        **{name: getattr(config, name) for name in _SAME},
    }


def _keep(config: GenerationConfig) -> Keep:
    """What of each step goes into the output."""
    if not config.return_dict_in_generate:
        return Keep(0)
    wanted = {
        Keep.SCORES: config.output_scores,
        Keep.LOGITS: config.output_logits,
        Keep.ATTENTION: config.output_attentions,
    }
    return functools.reduce(
        operator.or_, (what for what, asked in wanted.items() if asked), Keep(0)
    )


_SAME = (
    "min_new_tokens",
    "num_beams",
    "do_sample",
    "num_return_sequences",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "length_penalty",
    "early_stopping",
    "renormalize_logits",
    "pad_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "begin_suppress_tokens",
    "bad_words_ids",
)


def _prefix(request: Request, state: DecoderState) -> tuple[Tensor | None, Tensor | None]:
    """The history counts as a prefix that is there already: limits and lengths begin after it."""
    given, lengths = request.prefix, request.prefix_lengths
    if state.history is None or not state.history.size(1):
        return given, lengths
    assert state.position is not None
    so_far, position = _inputs(state), state.position
    if given is None:
        return so_far[:, 1:], position
    if lengths is None:
        lengths = torch.full_like(position, given.size(1))
    whole = F.pad(so_far[:, 1:], (0, given.size(1)))
    columns = torch.arange(given.size(1), device=given.device)
    return whole.scatter(1, position.unsqueeze(1) + columns, given), position + lengths


def _inputs(state: DecoderState) -> Tensor:
    """(B, 1 + P): the history, and behind each row's the token to go on from."""
    assert state.history is not None and state.position is not None and state.token is not None
    room = F.pad(state.history, (0, 1))
    return room.scatter(1, state.position.unsqueeze(1), state.token.unsqueeze(1))


def _begin(decoder: Decoder, state: DecoderState, options: DecodeOptions) -> DecodeState:
    """`initial_state`, with the history and rows that have ended."""
    assert state.position is not None and state.token is not None and state.finished is not None
    begin = initial_state(decoder, state.h, state.c, state.token, options, state.node, state.memory)
    inputs = _inputs(state)
    if inputs.size(1) == 1 and not state.finished.any():
        return begin
    width = options.width
    tokens = inputs.repeat_interleave(width, 0)
    columns = torch.arange(tokens.size(1), device=tokens.device)
    position = state.position.repeat_interleave(width)
    tokens = tokens.masked_fill(columns > position.unsqueeze(1), options.pad_token_id)
    blank = begin.slots.token_scores.new_zeros(len(tokens), tokens.size(1) - 1)
    over = state.finished.repeat_interleave(width)
    slots = begin.slots._replace(
        tokens=tokens,
        token_scores=blank,
        position=position,
        finished=begin.slots.finished | over,
    )
    found = begin.hypotheses
    if found is not None:
        # a row that had ended is its own only result
        first = over & (torch.arange(len(over), device=over.device) % width == 0)
        found = Hypotheses(
            h=slots.h.where(first.view(1, -1, 1), found.h),
            c=slots.c.where(first.view(1, -1, 1), found.c),
            tokens=tokens.where(first.unsqueeze(1), options.pad_token_id),
            token_scores=blank.clone(),
            position=position.where(first, found.position),
            score=torch.zeros_like(found.score).where(first, found.score),
            node=slots.node.where(first, found.node),
        )
    return DecodeState(slots, found, begin.memory)


def _streams(request: Request, state: DecoderState, options: DecodeOptions) -> Streams | None:
    if request.streamer is None:
        return None
    state = _complete(state, request.config.bos_token_id)
    assert state.position is not None and state.token is not None
    times = options.num_return_sequences
    streamers = check_streamers(request.streamer, state.token.size(0) * times)
    # for streamers all is on the CPU: copied at once, each copy waits for a device
    prompts = list(state.token.unsqueeze(1).cpu())
    known = state.position
    if request.prefix is not None:
        lengths = request.prefix_lengths
        if lengths is None:
            lengths = torch.full_like(known, request.prefix.size(1))
        prompts = [
            torch.cat((first, row[:length]))
            for first, row, length in zip(
                prompts, request.prefix.cpu(), lengths.tolist(), strict=True
            )
        ]
        known = known + lengths
    prompts = [prompt for prompt in prompts for _ in range(times)]
    return Streams(streamers, prompts, known.repeat_interleave(times))


def _ended(slots: State, options: DecodeOptions) -> list[bool]:
    """Rows in which nothing more comes."""
    limits = options.max_new_tokens
    before = 0 if options.prefix_lengths is None else options.prefix_lengths
    if options.prefix is not None and options.prefix_lengths is None:
        before = options.prefix.size(1)
    position = slots.position.view(-1, options.width)
    most = torch.as_tensor(limits + before, device=position.device)
    room = position < most.expand(position.size(0)).unsqueeze(1)
    running = ~slots.finished.view(-1, options.width) & room
    return (~running.any(1)).tolist()


def _found(
    result: DecodeResult,
    before: Tensor | None,
    request: Request,
    options: DecodeOptions,
    kept: Kept | None,
    start: State,
) -> Found:
    tokens, scores, lengths = result.tokens, result.token_scores, result.lengths
    if before is not None:
        lengths = (lengths - before).clamp(min=0)
        columns = torch.arange(
            1 + (int(lengths.max()) if len(lengths) else 0), device=before.device
        )
        index = before.unsqueeze(1) + columns
        behind = columns > lengths.unsqueeze(1)
        room = tokens.size(1) - 1
        tokens = tokens.gather(1, index.clamp(max=room))
        tokens = tokens.masked_fill(behind, options.pad_token_id)
        if room:
            scores = scores.gather(1, index[:, :-1].clamp(max=room - 1))
        scores = scores.masked_fill(behind[:, 1:], 0.0)
    mark = 0 if request.constraint is None else request.constraint.fingerprint
    return Found(
        result, before, tokens, lengths, scores, request.config, options, kept, start, mark
    )


def _after(
    result: DecodeResult,
    begin: Tensor,
    tokens: Tensor,
    config: GenerationConfig,
    options: DecodeOptions,
    fingerprint: int,
) -> DecoderState:
    """Where each sequence stands."""
    slots, ended, memory = result.state
    position = result.lengths
    last = result.tokens.gather(1, position.unsqueeze(1)).squeeze(1)
    if ended is None:
        h, c, node, finished = slots.h, slots.c, slots.node, slots.finished
    else:
        first = slice(0, options.num_return_sequences)
        h, c = (part.unflatten(1, (-1, options.width))[:, :, first] for part in ended[:2])
        h, c = h.flatten(1, 2), c.flatten(1, 2)
        node = ended.node.view(-1, options.width)[:, first].flatten()
        # one at its limit may go on; one that ended before this call, or is not there, may not
        eos = torch.tensor(config.eos_token_ids, device=last.device)
        finished = torch.isin(last, eos) | (position <= begin)
    columns = torch.arange(result.tokens.size(1) - 1, device=last.device)
    history = result.tokens[:, :-1]
    history = history.masked_fill(columns >= position.unsqueeze(1), config.pad_token_id)
    # an ended row's token is what its sequence ends with here, pad perhaps
    token = tokens[:, -1].where(finished, last)
    times = options.num_return_sequences
    if memory is not None and times > 1:
        rows = torch.arange(len(position) // times, device=last.device)
        memory = memory.select(rows.repeat_interleave(times))
    constraint = torch.full_like(position, fingerprint) if fingerprint else None
    return DecoderState(h, c, token, finished, node, history, position.clone(), memory, constraint)
