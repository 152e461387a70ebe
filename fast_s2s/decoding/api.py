"""`decode` with names, checks and defaults: what `generate` is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fast_s2s.checks import (
    check_integer,
    check_number,
    check_tensor,
    check_token_ids,
    integer_tensor,
)
from fast_s2s.decoding import reference
from fast_s2s.decoding.automaton import Automaton
from fast_s2s.decoding.contract import (
    EarlyStopping,
    Hypotheses,
    Options,
    Parameters,
    Rules,
    State,
    Strategy,
    join_state,
    split_state,
)
from fast_s2s.decoding.weights import PackedDecoder

_EARLY_STOPPING = {
    False: EarlyStopping.HEURISTIC,
    True: EarlyStopping.FIRST,
    "never": EarlyStopping.NEVER,
}


@dataclass(frozen=True, eq=False)
class DecodeOptions:
    """How sequences are chosen. Names and meanings as in transformers' `GenerationConfig`.

    max_new_tokens:       the most tokens after the prefix; an int or one per row (B,)
    min_new_tokens:       no eos among so many tokens after the prefix
    num_beams:            beam search, if more than 1
    do_sample:            sampling; not with beams
    num_return_sequences: sequences per row: samples, or the best of num_beams
    seed:                 (B,) int64, each row's own stream of random numbers; needed to sample
    temperature, top_k (0: off), top_p, min_p: of sampling
    repetition_penalty, no_repeat_ngram_size (0: off): over all tokens from the first input on
    length_penalty, early_stopping (False, True or "never"): of beam search
    renormalize_logits:   of beam search: scores are log-probabilities among what the rules leave
    pad_token_id:         fills a row after its end
    eos_token_id:         tokens that end a row; one, several or none
    forced_bos_token_id:  the first token, where there is no prefix
    forced_eos_token_id:  the last token at the limit; one or several
    suppress_tokens:      never chosen
    begin_suppress_tokens: not chosen first
    bad_words_ids:        sequences that are not generated
    prefix:               (B, M) int64, what each row begins with, padded
    prefix_lengths:       (B,) int64 in 0..M; default M
    automaton:            what a whole row may be
    """

    max_new_tokens: int | Tensor = 128
    min_new_tokens: int = 0
    num_beams: int = 1
    do_sample: bool = False
    num_return_sequences: int = 1
    seed: Tensor | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    renormalize_logits: bool = False
    pad_token_id: int = 0
    eos_token_id: int | Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    prefix: Tensor | None = None
    prefix_lengths: Tensor | None = None
    automaton: Automaton | None = None

    def __post_init__(self) -> None:
        for name, least in _INTEGERS.items():
            check_integer(name, getattr(self, name), least)
        for name, (low, high) in _NUMBERS.items():
            value = getattr(self, name)
            check_number(name, value, low, high)
            # NaN is in no range; 0 divides
            if low == 0 and name in _POSITIVE and not value > 0:
                raise ValueError(f"{name}: expected a number > 0, got {value}")
        stops = self.early_stopping
        if not isinstance(stops, (bool, str)) or stops not in _EARLY_STOPPING:
            raise ValueError(f"early_stopping: expected True, False or 'never', got {stops!r}")
        if self.do_sample and self.num_beams > 1:
            raise ValueError("do_sample: expected False with num_beams > 1, got True")
        if self.do_sample and self.seed is None:
            raise ValueError("seed: expected a tensor (B,) to sample, got None")
        most = None if self.do_sample else self.num_beams
        if most is not None and self.num_return_sequences > most:
            raise ValueError(
                f"num_return_sequences: expected at most num_beams = {most} unless sampling, "
                f"got {self.num_return_sequences}"
            )
        if self.prefix is None and self.prefix_lengths is not None:
            raise ValueError("prefix_lengths: expected None without a prefix")

    @property
    def strategy(self) -> Strategy:
        if self.num_beams > 1:
            return Strategy.BEAM
        return Strategy.SAMPLE if self.do_sample else Strategy.GREEDY

    @property
    def width(self) -> int:
        """Slots per row: see `fast_s2s.decoding.contract`."""
        return self.num_return_sequences if self.do_sample else self.num_beams


_INTEGERS = {
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "pad_token_id": 0,
}
_NUMBERS = {
    "temperature": (0, 1e30),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0, 1e30),
    "length_penalty": (-1e3, 1e3),
}
_STEPS_AT_ONCE = 1024
_POSITIVE = ("temperature", "repetition_penalty")


class DecodeState(NamedTuple):
    """Where a generation stands: `State` and, in a beam search, `Hypotheses`, of all B·W slots."""

    slots: State
    hypotheses: Hypotheses | None = None

    def select(self, rows: Tensor, width: int) -> DecodeState:
        """These rows, (any number,) int64, each with its `width` slots; repeats are fine."""
        slots = (rows.unsqueeze(1) * width + torch.arange(width, device=rows.device)).flatten()
        return DecodeState(
            self.slots._replace(**_selected(self.slots, slots)),
            self.hypotheses and self.hypotheses._replace(**_selected(self.hypotheses, slots)),
        )


class DecodeResult(NamedTuple):
    """What was generated: N = B · num_return_sequences, a row's sequences side by side.

    tokens:       (N, 1 + T) int64, the token begun from, what was chosen, pad; T is the longest
    lengths:      (N,) int64, tokens chosen, prefix and eos included
    token_scores: (N, T) float64, log-probability of each; beams: what each added to the score
    scores:       (N,) float64, of a sequence: their sum, in a beam search over its length to the
                  power of length_penalty; -inf for a row stuck, or a beam search's empty places
    state:        to go on from
    done:         whether every row has ended or reached its limit
    steps:        steps this call took
    slot_steps:   slots computed, summed over the steps: the work done
    """

    tokens: Tensor
    lengths: Tensor
    token_scores: Tensor
    scores: Tensor
    state: DecodeState
    done: bool
    steps: int
    slot_steps: int


def initial_state(
    decoder: PackedDecoder,
    h: Tensor,
    c: Tensor,
    token: Tensor | int,
    options: DecodeOptions,
    node: Tensor | None = None,
) -> DecodeState:
    """Where generation begins.

    h, c:  (L, B, R), (L, B, H), of any floating-point type
    token: (B,) int64 or one for all, the first input
    node:  (B,) int64, the automaton's state; default 0

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    batch = h.size(1) if isinstance(h, Tensor) and h.dim() == 3 else None
    device, layers = decoder.device, decoder.num_layers
    check_tensor("h", h, "(L, B, R)", (layers, batch, decoder.output_size), None, device)
    check_tensor("c", c, "(L, B, H)", (layers, batch, decoder.hidden_size), None, device)
    assert batch is not None
    if not isinstance(token, Tensor):
        check_integer("token", token, 0)
        token = torch.full((batch,), token, device=device)
    check_tensor("token", token, "(B,)", (batch,), torch.int64, device)
    check_token_ids("token", token, decoder.vocab_size)
    if node is None:
        node = token.new_zeros(batch)
    check_tensor("node", node, "(B,)", (batch,), torch.int64, device)
    width = options.width

    def spread(values: Tensor, dim: int = 0) -> Tensor:
        return values if width == 1 else values.repeat_interleave(width, dim)

    count = batch * width
    score = torch.zeros(count, dtype=torch.float64, device=device)
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    state = State(
        h=spread(h.detach().to(decoder.acc), 1),
        c=spread(c.detach().to(decoder.acc), 1),
        tokens=spread(token).unsqueeze(1),
        token_scores=score.new_zeros(count, 0),
        position=node.new_zeros(count),
        score=score,
        finished=finished,
        node=spread(node),
    )
    if options.strategy != Strategy.BEAM:
        return DecodeState(state)
    # the first beam alone: others would be the same again
    finished.view(batch, width)[:, 1:] = True
    score.view(batch, width)[:, 1:] = -torch.inf
    hypotheses = Hypotheses(
        h=torch.zeros_like(state.h),
        c=torch.zeros_like(state.c),
        tokens=torch.full_like(state.tokens, options.pad_token_id),
        token_scores=state.token_scores.clone(),
        position=state.position.clone(),
        score=torch.full_like(score, -torch.inf),
        node=torch.full_like(state.node, -1),
    )
    return DecodeState(state, hypotheses)


@torch.no_grad()
def decode(
    decoder: PackedDecoder,
    state: DecodeState,
    options: DecodeOptions,
    max_steps: int | None = None,
) -> DecodeResult:
    """Generate from `state`, which is left as it is, until all rows end or `max_steps` are taken.

    Going on from the result's state with the same options gives what one call would have given.

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    rules = _rules(decoder, options, state.slots.position.size(0))
    numbers = _numbers(options)
    left = _steps_left(state.slots, rules, options.width)
    if max_steps is not None:
        check_integer("max_steps", max_steps, 0)
        left = min(left, max_steps)
    counts = torch.zeros(2, dtype=torch.int64)
    while True:
        # the op makes room for all its steps
        steps = min(left, _STEPS_AT_ONCE)
        arguments = (join_state(*state), list(rules), *numbers, steps)
        if decoder.backend == "reference":
            tensors = reference.decode(decoder.dense, *arguments)
        else:
            tensors = torch.ops.fast_s2s.decode.default(decoder.packed, *arguments)
        state = DecodeState(*_trimmed(*split_state(tensors[:-1])))
        counts += tensors[-1].cpu()
        to_end = _steps_left(state.slots, rules, options.width)
        left = min(left - steps, to_end)
        if left == 0:
            return DecodeResult(*_returned(state, options), state, to_end == 0, *counts.tolist())


def read(
    packed: PackedDecoder, h: Tensor, c: Tensor, tokens: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The states after reading tokens, without choosing any: packed weights as an encoder.

    h, c:    (L, B, R), (L, B, H), of any floating-point type
    tokens:  (B, T) int64, padded
    lengths: (B,) int64 in 0..T; default T

    Returns h, c. Raises TypeError or ValueError naming the argument that does not fit.
    """
    batch = h.size(1) if isinstance(h, Tensor) and h.dim() == 3 else None
    check_tensor("tokens", tokens, "(B, T)", (batch, None), torch.int64, packed.device)
    if not tokens.size(1):
        return h.to(packed.acc), c.to(packed.acc)
    # a token is read when the next one is to be chosen: one more, of any kind
    prefix = torch.cat((tokens[:, 1:], torch.zeros_like(tokens[:, :1])), dim=1)
    options = DecodeOptions(max_new_tokens=0, prefix=prefix, prefix_lengths=lengths)
    result = decode(packed, initial_state(packed, h, c, tokens[:, 0], options), options)
    return result.state.slots.h, result.state.slots.c


def _numbers(options: DecodeOptions) -> tuple[list[int], list[float]]:
    forced_bos = options.forced_bos_token_id
    numbers = Options(
        strategy=options.strategy,
        width=options.width,
        min_new_tokens=options.min_new_tokens,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        top_k=options.top_k,
        early_stopping=_EARLY_STOPPING[options.early_stopping],  # type: ignore[index]
        pad=options.pad_token_id,
        forced_bos=-1 if forced_bos is None else forced_bos,
        renormalize=int(options.renormalize_logits),
    )
    parameters = Parameters(
        temperature=float(options.temperature),
        top_p=float(options.top_p),
        min_p=float(options.min_p),
        repetition_penalty=float(options.repetition_penalty),
        length_penalty=float(options.length_penalty),
    )
    return [int(number) for number in numbers], list(parameters)


def _rules(decoder: PackedDecoder, options: DecodeOptions, slots: int) -> Rules:
    """The options as the op's tensors, checked."""
    device, vocab_size = decoder.device, decoder.vocab_size
    if slots % options.width:
        raise ValueError(
            f"state: expected rows of {options.width} slots, as the options say, got {slots} slots"
        )
    batch = slots // options.width
    empty = torch.empty(0, dtype=torch.int64, device=device)

    def tokens(name: str) -> Tensor:
        value = getattr(options, name)
        if value is None:
            return empty
        value = [value] if isinstance(value, int) else value
        ids = integer_tensor(name, list(value)).to(device)
        check_token_ids(name, ids, vocab_size)
        return ids

    if options.forced_bos_token_id is not None:
        tokens("forced_bos_token_id")
    eos = tokens("eos_token_id")
    bad_words, bad_offsets = empty, empty
    if options.bad_words_ids:
        bad_words, bad_offsets = _bad_words(options.bad_words_ids, eos.tolist())
        check_token_ids("bad_words_ids", bad_words, vocab_size)
    prefix, prefix_lengths = _prefix(options, batch, vocab_size, device)
    seeds = empty
    if options.seed is not None:
        check_tensor("seed", options.seed, "(B,)", (batch,), torch.int64, device)
        seeds = options.seed
    automaton = options.automaton
    if automaton is None:
        automaton = Automaton(empty, empty, empty, empty.bool())
    else:
        automaton = Automaton(*(array.to(device) for array in automaton))
    return Rules(
        seeds=seeds,
        limits=_limits(options, batch, device),
        prefix=prefix,
        prefix_lengths=prefix_lengths,
        eos=eos,
        forced_eos=tokens("forced_eos_token_id"),
        suppress=tokens("suppress_tokens"),
        begin_suppress=tokens("begin_suppress_tokens"),
        bad_tokens=bad_words.to(device),
        bad_offsets=bad_offsets.to(device),
        **automaton._asdict(),
    )


def _bad_words(sequences: Sequence[Sequence[int]], eos: list[int]) -> tuple[Tensor, Tensor]:
    """End to end, and where each begins. As in transformers, eos alone is no bad word."""
    words = [list(word) for word in sequences]
    if not all(words):
        raise ValueError(
            "bad_words_ids: expected sequences of at least one token, got an empty one"
        )
    words = [word for word in words if not (len(word) == 1 and word[0] in eos)]
    ids = integer_tensor("bad_words_ids", [token for word in words for token in word])
    lengths = torch.tensor([0, *map(len, words)])
    return ids.long(), lengths.cumsum(0)


def _limits(options: DecodeOptions, batch: int, device: torch.device) -> Tensor:
    limits = options.max_new_tokens
    least = 1 if options.strategy == Strategy.BEAM else 0
    if not isinstance(limits, Tensor):
        check_integer("max_new_tokens", limits, least)
        return torch.full((batch,), limits, device=device)
    check_tensor("max_new_tokens", limits, "(B,)", (batch,), torch.int64, device)
    if limits.numel() and int(limits.min()) < least:
        raise ValueError(f"max_new_tokens: expected integers >= {least}, got {int(limits.min())}")
    return limits


def _prefix(
    options: DecodeOptions, batch: int, vocab_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    prefix, lengths = options.prefix, options.prefix_lengths
    if prefix is None:
        none = torch.zeros(batch, dtype=torch.int64, device=device)
        return none.new_empty(batch, 0), none
    check_tensor("prefix", prefix, "(B, M)", (batch, None), torch.int64, device)
    check_token_ids("prefix", prefix, vocab_size)
    if lengths is None:
        return prefix, torch.full((batch,), prefix.size(1), device=device)
    check_tensor("prefix_lengths", lengths, "(B,)", (batch,), torch.int64, device)
    if batch and not 0 <= int(lengths.min()) <= int(lengths.max()) <= prefix.size(1):
        raise ValueError(
            f"prefix_lengths: expected integers in 0..{prefix.size(1)}, got {lengths.tolist()}"
        )
    return prefix, lengths


def _steps_left(state: State, rules: Rules, width: int) -> int:
    """The most that any slot may still take."""
    if not state.position.numel():
        return 0
    ends = (rules.limits + rules.prefix_lengths).unsqueeze(1)
    left = ends - state.position.view(-1, width)
    return max(0, int(left.masked_fill_(state.finished.view(-1, width), 0).max()))


def _selected(part: State | Hypotheses, slots: Tensor) -> dict[str, Tensor]:
    return {
        name: values.index_select(1 if name in ("h", "c") else 0, slots)
        for name, values in part._asdict().items()
    }


def _trimmed(slots: State, hypotheses: Hypotheses | None) -> tuple[State, Hypotheses | None]:
    """Without columns that no sequence reaches."""
    if hypotheses is None:
        return slots._replace(**_columns(slots, _longest(slots.position))), None
    longest = max(_longest(slots.position), _longest(hypotheses.position))
    return (
        slots._replace(**_columns(slots, longest)),
        hypotheses._replace(**_columns(hypotheses, longest)),
    )


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if lengths.numel() else 0


def _columns(part: State | Hypotheses, count: int) -> dict[str, Tensor]:
    return {
        "tokens": part.tokens[:, : 1 + count],
        "token_scores": part.token_scores[:, :count],
    }


def _returned(state: DecodeState, options: DecodeOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    part: State | Hypotheses = state.slots if state.hypotheses is None else state.hypotheses
    count, width = options.num_return_sequences, options.width
    tokens, lengths, token_scores, scores = (
        values if count == width else values.unflatten(0, (-1, width))[:, :count].flatten(0, 1)
        for values in (part.tokens, part.position, part.token_scores, part.score)
    )
    longest = _longest(lengths)
    return tokens[:, : 1 + longest], lengths, token_scores[:, :longest], scores
