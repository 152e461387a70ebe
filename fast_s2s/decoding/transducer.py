"""Greedy search of a transducer (RNN-T, Graves 2012, https://arxiv.org/abs/1211.3711; with
durations TDT, Xu et al. 2023, https://arxiv.org/abs/2304.06795): all frames and tokens in one call.

Rules and examples: docs/transducer.md.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fast_s2s import backends
from fast_s2s.attention import values_in
from fast_s2s.checks import (
    check_integer,
    check_lengths,
    check_sequence,
    check_tensor,
    check_token_id,
    check_token_ids,
)
from fast_s2s.decoding import ops as ops
from fast_s2s.decoding.linear import LinearWeights, PackedLinear, pack_linear
from fast_s2s.decoding.modules import check_linear, check_module, lstm_layers
from fast_s2s.decoding.pack import pack_decoder
from fast_s2s.decoding.packed import PackedDecoder, choose_cpu_backend
from fast_s2s.decoding.transducer_reference import DenseTransducer, Found, greedy
from fast_s2s.decoding.weights import DecoderWeights, LayerWeights, check_layers

ACTIVATIONS = ("tanh", "relu")

# frames that one token may take, and that may be passed over
_LONGEST = 2**40


class TransducerWeights(NamedTuple):
    """A transducer but for its encoder: V tokens, D durations, J values of a frame.

    embedding:  (V, E), the blank's row included
    layers:     of the LSTM that reads tokens, the predictor
    output:     (V + D, J) and its bias, from an activated sum to logits; durations come last
    projection: (J, R) and its bias, from the predictor's output to what is added to a frame; None
                where R = J and there is none
    """

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    output: LinearWeights
    projection: LinearWeights | None = None

    @classmethod
    def of(
        cls,
        embedding: nn.Embedding,
        lstm: nn.Module | Sequence[nn.Module],
        output: nn.Linear,
        projection: nn.Linear | None = None,
    ) -> TransducerWeights:
        """Those of modules; `lstm` is a `torch.nn.LSTM` or `fast_s2s.LSTM` of one direction, or
        several, one after the other.

        Raises TypeError or ValueError naming the module that does not fit.
        """
        for name, module in (("embedding", embedding), ("output", output)):
            check_module(name, module)
        if projection is not None:
            check_module("projection", projection)
        layers = lstm_layers(lstm)
        given = None if projection is None else LinearWeights(projection.weight, projection.bias)
        return cls(embedding.weight, layers, LinearWeights(output.weight, output.bias), given)


class TransducerState(NamedTuple):
    """Where rows stand between two pieces of their input.

    h, c:  (L, B, R), (L, B, H), the predictor's states before it reads `token`
    token: (B,) int64, the last one chosen
    skip:  (B,) int64, frames of the next piece that its duration passes over
    """

    h: Tensor
    c: Tensor
    token: Tensor
    skip: Tensor


class TransducerResult(NamedTuple):
    """What was found in B rows; U is the most tokens of one.

    tokens:       (B, U) int64, the blank behind a row's last
    lengths:      (B,) int64, tokens of each row
    frames:       (B, U) int64, at which each was chosen, counted in this piece; -1 behind
    token_scores: (B, U) float64, log-probability of each among all tokens; 0 behind
    state:        to go on from with the next piece
    """

    tokens: Tensor
    lengths: Tensor
    frames: Tensor
    token_scores: Tensor
    state: TransducerState


@dataclass(frozen=True, eq=False)
class PackedTransducer:
    """Made by `pack_transducer`; later changes of a model do not reach it."""

    predictor: PackedDecoder
    projection: PackedLinear | None
    output: PackedLinear
    blank: int
    durations: tuple[int, ...]
    activation: str

    @property
    def choice(self) -> backends.Choice:
        """What runs the search, and why."""
        return choose_cpu_backend(self.device.type, self.predictor.dtype, "the search is there")

    @property
    def device(self) -> torch.device:
        return self.predictor.device

    @property
    def acc(self) -> torch.dtype:
        """Of frames, states and sums: float64 for float64 weights, else float32."""
        return self.predictor.acc

    @property
    def vocab_size(self) -> int:
        return self.predictor.vocab_size

    @property
    def joined_size(self) -> int:
        """J."""
        return self.output.weight.values.size(1)

    def initial_state(self, batch: int, token: int | None = None) -> TransducerState:
        """Zeros, and the token that the predictor reads first: by default the blank."""
        check_integer("batch", batch, 0)
        token = self.blank if token is None else token
        check_token_id("token", token, self.vocab_size)
        predictor, device = self.predictor, self.device
        sizes = predictor.num_layers, batch
        return TransducerState(
            torch.zeros(*sizes, predictor.output_size, dtype=self.acc, device=device),
            torch.zeros(*sizes, predictor.hidden_size, dtype=self.acc, device=device),
            torch.full((batch,), token, device=device),
            torch.zeros(batch, dtype=torch.int64, device=device),
        )

    def run(
        self, state: TransducerState, encoded: Tensor, lengths: Tensor, max_symbols: int
    ) -> Found:
        """The op `transducer_greedy`, or its reference."""
        options = self.durations, self.blank, max_symbols, self.activation == "relu"
        if self.choice.backend == "reference":
            return greedy(self.dense, state, encoded, lengths, *options)
        found = torch.ops.fast_s2s.transducer_greedy.default(
            *self.arguments, list(state), encoded, lengths, *options
        )
        return Found(*found)

    @functools.cached_property
    def arguments(self) -> tuple[list[Tensor], list[int]]:
        """For the native ops: packed weights, and their headers."""
        linears = [self.output] if self.projection is None else [self.projection, self.output]
        packed = [self.predictor.packed, *(linear.packed() for linear in linears)]
        headers = list(self.predictor.header)
        for linear in linears:
            headers += linear.header(self.predictor.dtype)
        return packed, [int(number) for number in headers]

    @property
    def dense(self) -> DenseTransducer:
        """For the reference: the stored numbers, all in acc."""
        predictor, acc = self.predictor.dense, self.acc
        if self.projection is None:
            size = self.joined_size
            added = torch.eye(size, dtype=acc, device=self.device), predictor.embedding.new_zeros(1)
        else:
            added = self.projection.weight.dense(acc), self.projection.bias
        predictor = predictor._replace(output_weight=added[0], output_bias=added[1])
        return DenseTransducer(predictor, self.output.weight.dense(acc), self.output.bias)


@torch.no_grad()
def pack_transducer(
    weights: TransducerWeights,
    *,
    blank: int,
    activation: str = "tanh",
    durations: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    table: str = "auto",
) -> PackedTransducer:
    """Weights for `transducer_greedy`; `dtype` and `table` as for `pack_decoder`.

    blank:      the id of the token that stands for none
    activation: of the sum of frame and prediction: "tanh" or "relu"
    durations:  frames that each of the last D outputs stands for, at least 0: of a
                token-and-duration transducer; none: a blank takes one frame, a token none

    Raises TypeError or ValueError naming what does not fit.
    """
    if not isinstance(weights, TransducerWeights):
        raise TypeError(f"weights: expected TransducerWeights, got {type(weights).__name__}")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        )
    check_sequence("durations", durations, "integers")
    for index, duration in enumerate(durations):
        check_integer(f"durations[{index}]", duration, 0, _LONGEST)
    embedding, layers, output, projection = weights
    check_linear("output", output, "(V + D, J)", None, None, embedding)
    vocab, joined = output.weight.size(0) - len(durations), output.weight.size(1)
    device = output.weight.device
    check_tensor("embedding", embedding, "(V, E)", (vocab, None), None, device)
    check_integer("blank", blank, 0, vocab - 1)
    check_layers(layers)
    outputs = layers[0].w_hh.size(1)
    if projection is not None:
        check_linear("projection", projection, "(J, R)", joined, outputs, embedding)
    elif outputs != joined:
        raise ValueError(
            f"projection: expected one from the predictor's {outputs} values to {joined}, got none"
        )
    unused = output.weight.new_zeros(vocab, outputs)
    predictor = pack_decoder(DecoderWeights(embedding, tuple(layers), unused), dtype, table)
    packed = PackedTransducer(
        predictor,
        None if projection is None else pack_linear(projection, predictor.dtype),
        pack_linear(output, predictor.dtype),
        blank,
        tuple(durations),
        activation,
    )
    if packed.choice.backend == "native":
        # now, rather than in the first call
        _ = packed.arguments
    return packed


@torch.no_grad()
def transducer_greedy(
    transducer: PackedTransducer,
    encoded: Tensor,
    lengths: Tensor | Sequence[int] | None = None,
    *,
    state: TransducerState | None = None,
    max_symbols: int = 10,
) -> TransducerResult:
    """The likeliest token at each step, of all rows.

    encoded:     (B, T, J), the encoder's frames, projected to what the joiner adds
    lengths:     (B,), frames of each row, in 0..T; default T
    state:       where rows begin: `TransducerResult.state` of the piece before, or
                 `initial_state`, which is the default
    max_symbols: tokens that one frame may have; then the next one's turn comes

    Pieces one after the other, each from the state of the one before, give what one call gives; but
    that a frame's count of symbols begins anew with each piece, as a frame does not go across them.

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    encoded, lengths = check_frames(transducer, encoded, lengths, max_symbols)
    state = _begin(transducer, state, len(encoded))
    # it is for a model's own products, not for those of packed weights
    with torch.autocast(transducer.device.type, enabled=False):
        found = transducer.run(state, encoded, lengths, max_symbols)
    state = TransducerState(found.h, found.c, found.token, found.skip)
    return TransducerResult(found.tokens, found.counts, found.frames, found.scores, state)


def check_frames(
    transducer: PackedTransducer,
    encoded: Tensor,
    lengths: Tensor | Sequence[int] | None,
    max_symbols: int,
) -> tuple[Tensor, Tensor]:
    """What a search is given, checked: the frames in the transducer's type, and lengths."""
    if not isinstance(transducer, PackedTransducer):
        got = type(transducer).__name__
        raise TypeError(f"transducer: expected a PackedTransducer, got {got}")
    device, joined = transducer.device, transducer.joined_size
    check_tensor("encoded", encoded, "(B, T, J)", (None, None, joined), None, device)
    if not encoded.dtype.is_floating_point:
        raise ValueError(f"encoded: expected a floating-point dtype, got {encoded.dtype}")
    check_integer("max_symbols", max_symbols, 1)
    batch, frames = encoded.shape[:2]
    if lengths is None:
        lengths = torch.full((batch,), frames, device=device)
    else:
        lengths = check_lengths("lengths", lengths, batch, frames, device)
    return values_in(encoded, transducer.acc), lengths


def _begin(
    transducer: PackedTransducer, state: TransducerState | None, batch: int
) -> TransducerState:
    """The state, or the initial one, in the transducer's type."""
    if state is None:
        return transducer.initial_state(batch)
    if not isinstance(state, TransducerState):
        raise TypeError(f"state: expected a TransducerState, got {type(state).__name__}")
    predictor, device = transducer.predictor, transducer.device
    sizes = predictor.num_layers, batch
    check_tensor("state.h", state.h, "(L, B, R)", (*sizes, predictor.output_size), None, device)
    check_tensor("state.c", state.c, "(L, B, H)", (*sizes, predictor.hidden_size), None, device)
    check_tensor("state.token", state.token, "(B,)", (batch,), torch.int64, device)
    check_tensor("state.skip", state.skip, "(B,)", (batch,), torch.int64, device)
    check_token_ids("state.token", state.token, transducer.vocab_size)
    check_token_ids("state.skip", state.skip, _LONGEST + 1, "numbers of frames")
    acc = transducer.acc
    return state._replace(h=values_in(state.h, acc), c=values_in(state.c, acc))
