"""What the op `decode` takes and gives, by name: the tuples' order is that of the op's lists.

L layers, H hidden units, R outputs of each (H, or the projection's size), V tokens; B rows, each
with W slots: the sequences of a row when sampling, its beams in a beam search, else one. N = B·W,
the slots of a row side by side. `acc` is float64 for float64 weights, else float32.

The same arrays, for the kernels: csrc/decode/decode.h. The meaning of each rule: docs/decode.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Strategy(IntEnum):
    """How the next token is chosen."""

    GREEDY = 0
    SAMPLE = 1
    BEAM = 2


class EarlyStopping(IntEnum):
    """When a beam search ends: transformers' `early_stopping`, False, True and "never"."""

    HEURISTIC = 0
    FIRST = 1
    NEVER = 2


class Keep(IntFlag):
    """What a call keeps of its steps: see `Kept`. With any of them its path."""

    SCORES = 1
    LOGITS = 2
    PATH = 4
    ATTENTION = 8


class Header(NamedTuple):
    """What `packed` holds, in whole numbers: the op on CUDA looks at nothing on the device.

    weights:             their type, by its place among DTYPES of `fast_s2s.decoding.weights`
    inputs:              E, or 4H with the table
    heads, keys, values: of attention, A and M its sizes; 0 without it
    normed:              whether layers have layer norm
    """

    weights: int
    layers: int
    hidden: int
    output: int
    vocab: int
    inputs: int
    projected: int
    table: int
    heads: int = 0
    keys: int = 0
    values: int = 0
    additive: int = 0
    feeding: int = 0
    normed: int = 0


class State(NamedTuple):
    """Where generation stands: all it needs to go on as if it had never stopped.

    h:            acc (L, N, R); with input feeding (L + 1, N, R): what attention found comes last
    c:            acc (L, N, H)
    tokens:       int64 (N, 1 + T): the token that generation began from, then those chosen, then
                  pad
    token_scores: float64 (N, T), the log-probability of each, then 0
    position:     int64 (N,), how many were chosen; the next input is tokens[n, position[n]]
    score:        float64 (N,), the sum of token_scores; -inf where no token could be chosen
    finished:     bool (N,); in a beam search: an empty slot
    node:         int64 (N,), the automaton's state; -1: left it, nothing is allowed any more

    An empty slot holds zeros, pad tokens, score -inf and node -1.
    """

    h: Tensor
    c: Tensor
    tokens: Tensor
    token_scores: Tensor
    position: Tensor
    score: Tensor
    finished: Tensor
    node: Tensor


class Hypotheses(NamedTuple):
    """A beam search's ended sequences, best first within a row; empty slots as in `State`.

    h, c, tokens, token_scores, position, node: as in `State`, at each sequence's end
    score: float64 (N,), the sum of token_scores over its length to the power of length_penalty
    """

    h: Tensor
    c: Tensor
    tokens: Tensor
    token_scores: Tensor
    position: Tensor
    score: Tensor
    node: Tensor


class Kept(NamedTuple):
    """Of each step. Slots that a step does not compute have zeros.

    scores:    float32 (steps, N, V), what choices were made by: after all rules, temperature and
               cuts, -inf where not allowed; of beams log-probabilities; 0 steps unless asked for
    logits:    float32 (steps, N, V), as the model gave them; 0 steps unless asked for
    attention: float32 (steps, N, heads, S), the weights of the memory's steps, 0 past a row's
               length; 0 steps unless asked for
    tokens:    int64 (steps, N), what each slot goes on with; -1: it does not
    parents:   int64 (steps, N), the slot whose sequence that token continues; or -1
    """

    scores: Tensor
    logits: Tensor
    attention: Tensor
    tokens: Tensor
    parents: Tensor


class Rules(NamedTuple):
    """What a sequence may be. Empty tensors are no rule; int64 but for `final`.

    seeds:            (B,), of the random numbers; not read unless sampling
    limits:           (B,), at most so many tokens after the prefix
    prefix:           (B, M), tokens that each row must begin with, padded
    prefix_lengths:   (B,), 0..M
    eos:              tokens that end a sequence
    forced_eos:       the only tokens at the last position before the limit
    suppress:         tokens that are never chosen
    begin_suppress:   tokens that are not chosen first
    bad_tokens:       sequences that must not occur, end to end
    bad_offsets:      (number of them + 1,), where each begins in bad_tokens
    node_offsets:     (S + 1,), where each automaton state's arcs begin
    arc_tokens:       (arcs,), rising within a state
    arc_targets:      (arcs,), the state that each leads to
    final:            bool (S,), states in which a sequence may end
    """

    seeds: Tensor
    limits: Tensor
    prefix: Tensor
    prefix_lengths: Tensor
    eos: Tensor
    forced_eos: Tensor
    suppress: Tensor
    begin_suppress: Tensor
    bad_tokens: Tensor
    bad_offsets: Tensor
    node_offsets: Tensor
    arc_tokens: Tensor
    arc_targets: Tensor
    final: Tensor


class Options(NamedTuple):
    """Whole numbers of the op; -1 is none for a token, 0 is off for a size.

    sample_beams: beams are drawn by chance; keep: of `Keep`
    """

    strategy: int = Strategy.GREEDY
    width: int = 1
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    top_k: int = 0
    early_stopping: int = EarlyStopping.HEURISTIC
    pad: int = 0
    forced_bos: int = -1
    renormalize: int = 0
    sample_beams: int = 0
    keep: int = 0


class Parameters(NamedTuple):
    """Real numbers of the op; the defaults are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0


class Counts(NamedTuple):
    """What a call did and what is left, an int64 tensor (5,) of the op.

    steps:      steps taken
    slot_steps: slots computed, summed over the steps
    left:       the most steps that a slot may still take
    longest:    the largest position of any slot or hypothesis
    shared:     of slot_steps, those that cost nothing: another slot, alike so far, was computed
    """

    steps: int
    slot_steps: int
    left: int
    longest: int
    shared: int


class AttentionSizes(NamedTuple):
    """Of what attention looks at, whether steps read what the last one found, and heads."""

    values: int
    keys: int
    feeding: bool
    heads: int = 1


class Decoder(Protocol):
    """What `decode` runs on: packed weights, or a loop over a model."""

    @property
    def device(self) -> torch.device: ...
    @property
    def acc(self) -> torch.dtype: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def output_size(self) -> int: ...
    @property
    def attention(self) -> AttentionSizes | None: ...

    def run(
        self,
        state: Sequence[Tensor],
        memory: Sequence[Tensor],
        rules: Sequence[Tensor],
        options: Sequence[int],
        parameters: Sequence[float],
        max_steps: int,
    ) -> list[Tensor]:
        """As `fast_s2s.decoding.reference.decode`."""


def split_state(tensors: Sequence[Tensor]) -> tuple[State, Hypotheses | None]:
    """The op's list of state tensors by name."""
    first = len(State._fields)
    rest = tensors[first:]
    return State(*tensors[:first]), Hypotheses(*rest) if rest else None


def split_results(
    tensors: Sequence[Tensor], options: Sequence[int]
) -> tuple[State, Hypotheses | None, Kept | None, Counts]:
    """What the op returns, by name: the last three in this order, where `options` ask for them."""
    count = len(tensors) - 1
    kept = None
    if Options(*options).keep:
        count -= len(Kept._fields)
        kept = Kept(*tensors[count:-1])
    return *split_state(tensors[:count]), kept, Counts(*tensors[-1].tolist())


def join_state(state: State, hypotheses: Hypotheses | None) -> list[Tensor]:
    """The inverse of `split_state`."""
    return [*state, *(hypotheses or ())]
