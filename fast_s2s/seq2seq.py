"""`Seq2Seq`: an LSTM encoder reads the input into a context, an LSTM decoder writes from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_s2s import parts
from fast_s2s.attention import Memory
from fast_s2s.checks import (
    check_bool,
    check_device,
    check_floating_dtype,
    check_integer,
    check_number,
    check_tensor,
    check_token_ids,
)
from fast_s2s.configuration import Seq2SeqConfig as Seq2SeqConfig
from fast_s2s.decoding import DecoderWeights
from fast_s2s.dropout import VariationalDropout
from fast_s2s.generation import DecoderState as DecoderState
from fast_s2s.generation import EncoderState, GenerationConfig, GenerationMixin
from fast_s2s.generation.arguments import check_output_attentions
from fast_s2s.generation.encoding import encoder_weights, is_served
from fast_s2s.generation.packing import PackedCache, decoder_weights
from fast_s2s.generation.state import check_encoder_state, check_state
from fast_s2s.inputs import check_source, check_target
from fast_s2s.saving import PretrainedMixin
from fast_s2s.scheduled_sampling import mixed_inputs
from fast_s2s.unrolled import Outputs, Unrolled


class Seq2SeqOutput(NamedTuple):
    """What `Seq2Seq.forward` returns.

    loss:             scalar, float32 at least: mean cross entropy of the target tokens that are
                      not pad
    logits:           (B, T, tgt_vocab_size), aligned with tgt
    state:            the decoder's state after each row's last input; its token is the last target
                      token
    cross_attentions: with `output_attentions` a tuple of one: (B, attention_heads, T, S), where
                      each output came from; in transformers it has one for each layer
    """

    loss: Tensor
    logits: Tensor
    state: DecoderState
    cross_attentions: tuple[Tensor, ...] | None = None


class Seq2Seq(GenerationMixin, PretrainedMixin, nn.Module):
    """Sequence to sequence with LSTMs: a context of fixed size, and attention if asked for.

    The encoder's final state is the context. Decoder layer l starts from the state of encoder layer
    max(0, encoder layers - decoder layers + l): top layers pair with top layers, and where the
    decoder is deeper, its lowest layers all start from the encoder's lowest. With a bidirectional
    encoder a `Bridge` lies between.

    Sutskever et al. 2014, https://arxiv.org/abs/1409.3215; the bridge follows Bahdanau et al. 2015,
    https://arxiv.org/abs/1409.0473, and initialises both h and c. With `attention` the decoder also
    looks at all of the encoder's outputs: `fast_s2s.attention`.
    """

    # `fast_s2s.convert` leaves its layers alone: they are called with `lengths`, and packed here
    keeps_lstm = True

    def __init__(
        self,
        config: Seq2SeqConfig | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **fields: Any,
    ) -> None:
        """From a config, or from the config's fields as keyword arguments.

        Raises TypeError or ValueError naming what does not fit.
        """
        super().__init__()
        if config is None:
            config = Seq2SeqConfig(**fields)
        elif fields:
            raise TypeError(f"config: expected no keyword arguments beside it, got {list(fields)}")
        elif not isinstance(config, Seq2SeqConfig):
            raise TypeError(f"config: expected a Seq2SeqConfig, got {type(config).__name__}")
        check_device("device", device)
        check_floating_dtype("dtype", dtype)
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        self.generation_config = GenerationConfig(
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
        )
        self.src_embedding = parts.embedding(config, config.src_vocab_size, **kind)
        self.encoder = parts.encoder(config, **kind)
        self.bridge = parts.bridge(config, **kind)
        self.tgt_embedding = parts.embedding(config, config.tgt_vocab_size, **kind)
        self.decoder = parts.decoder(config, **kind)
        self.attention = parts.attention(config, **kind)
        self.output_projection = nn.Linear(config.hidden_size, config.tgt_vocab_size, **kind)
        kind_of_dropout = VariationalDropout if config.variational_dropout else nn.Dropout
        self.dropout = kind_of_dropout(config.dropout)
        self._packed, self._packed_encoder = PackedCache(), PackedCache()
        if config.tie_embeddings:
            self._tie_embeddings()
            if not self.tgt_embedding.weight.is_meta:
                # torch's unit-variance embeddings would make logits of size √H
                nn.init.normal_(self.tgt_embedding.weight, std=config.hidden_size**-0.5)
                self.tgt_embedding._fill_padding_idx_with_zero()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.output_projection.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return self.output_projection.weight.dtype

    def forward(
        self,
        src: Tensor | None = None,
        tgt: Tensor | None = None,
        src_lengths: Tensor | Sequence[int] | None = None,
        tgt_lengths: Tensor | Sequence[int] | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool = False,
        sampling_probability: float = 0.0,
        sampling_passes: int = 1,
    ) -> Seq2SeqOutput:
        """Teacher forcing: the decoder reads bos and then tgt, and is scored on tgt.

        src:               (B, S) int64
        tgt:               (B, T) int64, the labels: tokens, eos, then pad; without bos
        src_lengths:       (B,) integers in 0..S; default: up to each row's last token that is not
                           pad
        tgt_lengths:       (B,) integers in 0..T; likewise
        inputs_embeds:     (B, S, embedding_size) in the parameters' type, in place of src: features
                           of sound or images, or embeddings of your own; src_lengths then default
                           to S
        output_attentions: also return where each output came from
        sampling_probability, sampling_passes: scheduled sampling, `fast_s2s.scheduled_sampling`:
                           the probability that the decoder reads what it would say itself instead
                           of a token of tgt, and the passes that find out what that is

        Label smoothing applies in training mode only; the loss in eval mode is the plain one. With
        no target token at all the loss is 0.

        Raises TypeError or ValueError naming the argument that does not fit.
        """
        source, src_lengths = self._check_src(src, src_lengths, inputs_embeds)
        tgt, tgt_lengths = self._check_tgt(tgt, tgt_lengths, source.size(0))
        check_output_attentions(output_attentions, self.config)
        self._note_gradients()
        context, _ = self._encode(source, src_lengths)
        bos = tgt.new_full((tgt.size(0), 1), self.config.bos_token_id)
        fed = torch.cat((bos, tgt), dim=1)
        inputs = fed[:, :-1]
        check_number("sampling_probability", sampling_probability, 0.0, 1.0)
        check_integer("sampling_passes", sampling_passes, 1)
        if sampling_probability > 0:

            def decode(inputs: Tensor) -> Tensor:
                return self.output_projection(self._read(inputs, context, tgt_lengths).features)

            inputs = mixed_inputs(inputs, decode, sampling_probability, sampling_passes)
        features, weights, h, c = self._read(inputs, context, tgt_lengths)
        logits = self.output_projection(features)
        # column l of `fed` comes after l inputs
        token = fed.gather(1, tgt_lengths.unsqueeze(1)).squeeze(1)
        finished = token == self.config.eos_token_id
        state = DecoderState(h, c, token, finished, memory=context.memory)
        attentions = (weights,) if output_attentions and weights is not None else None
        return Seq2SeqOutput(self._loss(logits, tgt, tgt_lengths), logits, state, attentions)

    def encode(
        self,
        src: Tensor | None = None,
        src_lengths: Tensor | Sequence[int] | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        state: EncoderState | None = None,
        return_state: bool = False,
    ) -> DecoderState | tuple[DecoderState, EncoderState]:
        """The context: the state from which the decoder starts.

        src, src_lengths, inputs_embeds: as in `forward`
        state:            read on from here: what an earlier part of the input returned. Parts one
                          after the other give what the whole gives. Not with a bidirectional
                          encoder, which begins at both ends
        return_state:     also return the encoder's own state

        Raises TypeError or ValueError naming the argument that does not fit.
        """
        source, src_lengths = self._check_src(src, src_lengths, inputs_embeds)
        self._note_gradients()
        check_bool("return_state", return_state)
        if self.config.bidirectional and (state is not None or return_state):
            raise ValueError(
                "state, return_state: expected neither with a bidirectional encoder, which reads "
                "its input from both ends"
            )
        if state is not None:
            check_encoder_state(state, source.size(0), self.config, self.dtype, self.device)
        context, state = self._encode(source, src_lengths, state)
        return (context, state) if return_state else context

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One step of the decoder, for loops of your own.

        token: (B,) int64, the decoder's next input: bos first, then what you chose from the logits
        state: from `encode` or the step before. Rows marked in `state.finished` keep their h and c

        Returns logits (B, tgt_vocab_size) and the next state. Its token is None, as the choice is
        yours; before passing it to `generate`, set it: `state._replace(token=choice)`.

        Raises TypeError or ValueError naming the argument that does not fit.
        """
        self._check_state(state)
        batch = state.h.size(1)
        check_tensor("token", token, "(batch,)", (batch,), torch.int64, self.device)
        check_token_ids("token", token, self.config.tgt_vocab_size)
        self._note_gradients()
        logits, state, _ = self._step(token, state)
        return logits, state

    def _note_gradients(self) -> None:
        if torch.is_grad_enabled():
            self._packed.used_with_gradients()
            self._packed_encoder.used_with_gradients()

    def _encode(
        self, source: Tensor, lengths: Tensor, state: EncoderState | None = None
    ) -> tuple[DecoderState, EncoderState]:
        """source: tokens (B, S), or what stands in place of their embeddings (B, S, E)."""
        embedded = self.dropout(self.src_embedding(source) if source.dim() == 2 else source)
        hx = None if state is None else (state.h.to(embedded.dtype), state.c.to(embedded.dtype))
        output, (h_n, c_n) = self.encoder(embedded, hx, lengths=lengths)
        context = self._context_of(h_n, c_n, output, lengths)
        memory = context.memory
        if memory is not None and state is not None and state.memory is not None:
            memory = state.memory.extended(memory)
        return context._replace(memory=memory), EncoderState(h_n, c_n, memory)

    def _context(self, source: Tensor, lengths: Tensor) -> DecoderState:
        embedding = self.src_embedding.weight
        if (
            self._runs_by_modules()
            or source.dim() == 3
            or torch.is_autocast_enabled(source.device.type)
            or not is_served(embedding, self.encoder)
        ):
            return self._encode(source, lengths)[0]
        # int8 of numbers that were rounded to it is exact
        dtype = torch.int8 if self._rounded else self.dtype
        bridges = () if self.bridge is None else (*self.bridge.h, *self.bridge.c)
        weights = encoder_weights(embedding, self.encoder, bridges, self.attention)
        attends, feeding = self.attention is not None, self.config.input_feeding
        packed = self._packed_encoder.get_encoder(weights, dtype)
        found = packed.run(source, lengths, self._pairs, outputs=attends, feeding=feeding)
        # not the caller's own lengths, which may become those of another batch
        memory = Memory(found.values, found.keys, lengths.clone()) if attends else None
        return DecoderState(found.h, found.c, memory=memory)

    def _context_of(
        self, h_n: Tensor, c_n: Tensor, output: Tensor, lengths: Tensor
    ) -> DecoderState:
        """From what the encoder gives; `output` counts with attention alone."""
        h, c = self._pair_layers(h_n), self._pair_layers(c_n)
        if self.bridge is not None:
            h, c = self.bridge(h, c)
        if self.config.input_feeding:
            h = torch.cat((h, torch.zeros_like(h[:1])))
        memory = None if self.attention is None else self.attention.memory(output, lengths.clone())
        return DecoderState(h, c, memory=memory)

    def _pair_layers(self, states: Tensor) -> Tensor:
        """What each decoder layer starts from: (encoder layers·D, B, H) -> (layers, B, D·H)."""
        layers = states
        if self.config.bidirectional:
            layers = states.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)
        if self._pairs == list(range(len(layers))):
            return layers
        return torch.stack([layers[index] for index in self._pairs])

    @property
    def _pairs(self) -> list[int]:
        """The encoder layer from which each decoder layer starts."""
        offset = self.config.num_encoder_layers - self.config.num_decoder_layers
        return [max(0, offset + index) for index in range(self.config.num_decoder_layers)]

    def _step(
        self, token: Tensor, state: DecoderState
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        embedded = self.dropout(self.tgt_embedding(token))
        # a step of length 0 leaves a row's state as it is
        lengths = None if state.finished is None else (~state.finished).long()
        features, weights, h, c = self._unrolled().step(embedded, state, lengths)
        logits = self.output_projection(features.squeeze(1))
        return logits, DecoderState(h, c, None, state.finished, memory=state.memory), weights

    def _read(self, inputs: Tensor, context: DecoderState, lengths: Tensor) -> Outputs:
        """The decoder over the whole of its inputs (B, T)."""
        embedded = self.dropout(self.tgt_embedding(inputs))
        return self._unrolled().run(embedded, context, lengths)

    def _unrolled(self) -> Unrolled:
        return Unrolled(self.decoder, self.attention, self.dropout, self.config.input_feeding)

    def _loss(self, logits: Tensor, tgt: Tensor, lengths: Tensor) -> Tensor:
        pad = self.config.pad_token_id
        labels = tgt.masked_fill(_past(lengths, tgt), pad)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        total = F.cross_entropy(
            wide.flatten(0, 1),
            labels.flatten(),
            ignore_index=pad,
            reduction="sum",
            label_smoothing=self.config.label_smoothing if self.training else 0.0,
        )
        return total / (labels != pad).sum().clamp(min=1)

    def _decoder_weights(self) -> DecoderWeights:
        projection = self.output_projection
        return decoder_weights(
            self.tgt_embedding.weight,
            self.decoder,
            projection.weight,
            projection.bias,
            self.attention,
            feeding=self.config.input_feeding,
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # `to_empty`, for one, makes a new parameter for each name
        tied = self.output_projection.weight is self.tgt_embedding.weight
        super()._apply(fn, recurse)
        if tied:
            self._tie_embeddings()
        return self

    def _tie_embeddings(self) -> None:
        self.output_projection.weight = self.tgt_embedding.weight

    def _check_src(
        self,
        src: Tensor | None,
        lengths: Tensor | Sequence[int] | None,
        embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return check_source(src, embeds, lengths, self.config, self.dtype, self.device)

    def _check_tgt(
        self, tgt: Tensor | None, lengths: Tensor | Sequence[int] | None, batch: int
    ) -> tuple[Tensor, Tensor]:
        return check_target(tgt, lengths, batch, self.config, self.device)

    def _check_state(self, state: DecoderState) -> None:
        check_state(state, self.config, self.dtype, self.device)


def _past(lengths: Tensor, ids: Tensor) -> Tensor:
    """(B, T) bool: positions past each row's length."""
    return torch.arange(ids.size(1), device=ids.device) >= lengths.unsqueeze(1)
