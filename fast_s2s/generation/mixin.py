"""`GenerationMixin`: `generate` and `compile_decoder` of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fast_s2s.attention import Memory
from fast_s2s.configuration import GenerationConfig, Seq2SeqConfig
from fast_s2s.decoding import Automaton, DecoderWeights, PackedDecoder
from fast_s2s.decoding.contract import AttentionSizes, Decoder
from fast_s2s.decoding.reference import Stepped
from fast_s2s.generation import arguments, search
from fast_s2s.generation.loop import Compute, StepDecoder, dense_compute
from fast_s2s.generation.output import GenerateOutput, beam_indices
from fast_s2s.generation.packing import PackedCache
from fast_s2s.generation.state import DecoderState
from fast_s2s.generation.streams import Streamer

Model = TypeVar("Model", bound="GenerationMixin")


class GenerationMixin:
    """What a model inherits that can `encode` and has an LSTM decoder.

    It gives `config`, `generation_config`, `device`, `dtype`, `training`, and
    the methods at the end.
    """

    config: Seq2SeqConfig
    generation_config: GenerationConfig
    training: bool
    _packed: PackedCache
    _packed_encoder: PackedCache
    _rounded: bool

    @torch.inference_mode()
    def generate(
        self,
        src: Tensor | None = None,
        src_lengths: Tensor | Sequence[int] | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        state: DecoderState | None = None,
        return_state: bool = False,
        prefix: Tensor | None = None,
        prefix_lengths: Tensor | Sequence[int] | None = None,
        constraint: Automaton | Sequence[Sequence[int]] | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        streamer: Streamer | Sequence[Streamer] | None = None,
        **options: Any,
    ) -> Any:
        """Generate until every row ended: greedily, by sampling, or by beam search.

        In training mode dropout is on: call `eval()`.

        src, src_lengths, inputs_embeds: as in `forward`
        generation_config: default `self.generation_config`
        state:             instead of src: go on from what `generate`, `encode` or `forward` gave
        return_state:      also return the state to go on from
        prefix:            (B, M) int64, tokens that each row begins with, bos not among them
        prefix_lengths:    (B,) integers in 0..M; default M
        constraint:        what a row may be, from its first token on: an `Automaton`, or sequences
                           of token ids, without eos, one of which it must be. With a state the one
                           that its rows were written under, or None, from then on
        logits_processor:  a callable or a list, (tokens so far, scores) -> scores
        stopping_criteria: a callable or a list, (tokens so far, scores or None) -> bool (N,)
        streamer:          with put and end, as in transformers; for several sequences a list
        options:           any field of `GenerationConfig`; `max_new_tokens` may also be (B,) int64
                           or a list, one limit for each row; `seed` likewise, one stream of random
                           numbers for each row; `max_length`, `min_length` as in transformers

        Callables and dropout make it a step loop in Python, and so do layer norm and zoneout on a
        GPU; all else runs in the kernels.

        Weights are packed at the first call, and again where they changed. After writing through
        `.data`, by numpy or from another process call `compile_decoder`: only a model that was used
        with gradients on, or is a `copy.deepcopy`, sees that by itself.

        Returns tokens (N, 1 + T) int64, N = B · num_return_sequences, a row's sequences side by
        side: bos, or the token of `state`, in front; pad after eos. With `return_state` (tokens,
        state); with `return_dict_in_generate` a `GenerateOutput`, which has the state too. The
        parts of a resumed generation join as `torch.cat((first, second[:, 1:]), dim=1)`.

        Raises TypeError or ValueError naming the argument that does not fit.
        """
        if self.device.type == "meta":
            raise ValueError("generate: expected parameters with values, got the meta device's")
        resolved = arguments.resolve(
            self.generation_config if generation_config is None else generation_config,
            options,
            self.config.tgt_vocab_size,
        )
        processors = arguments.callables("logits_processor", logits_processor)
        criteria = arguments.callables("stopping_criteria", stopping_criteria)
        arguments.check_bool("return_state", return_state)
        if state is not None:
            if any(part is not None for part in (src, src_lengths, inputs_embeds)):
                raise ValueError(
                    "state: expected None beside src, src_lengths or inputs_embeds, got both"
                )
            self._check_state(state)
        elif src is None and inputs_embeds is None:
            raise ValueError(
                "src: expected a tensor, or inputs_embeds or a state to go on from, got none"
            )
        else:
            source, lengths = self._check_src(src, src_lengths, inputs_embeds)
        batch = len(source) if state is None else state.h.size(1)
        request = arguments.request(
            resolved,
            batch,
            self.device,
            self.config.tgt_vocab_size,
            prefix,
            prefix_lengths,
            constraint,
            streamer,
            resumed=state is not None,
        )
        if state is None:
            state = self._context(source, lengths)
        config = request.config
        arguments.check_output_attentions(config.output_attentions, self.config)
        decoder = self._decoder(config, processors, criteria)
        with self._own_precision():
            found = search.run(decoder, state, request)
        if config.return_dict_in_generate:
            return _output(found, request)
        return (found.tokens, found.state) if return_state else found.tokens

    def compile_decoder(self: Model, dtype: torch.dtype | str | None = None) -> Model:
        """Pack the decoder's weights for serving, in a type of choice, and return the model.

        dtype: torch.float32, torch.bfloat16, torch.float16, which the CPU rounds to but multiplies
               as float32, or torch.int8, which keeps a scale for each row; or their names; default
               the parameters' own type

        From then on `generate` multiplies by weights of this type; states and sums stay float32.
        Weights that change later are packed again, but for what `generate` does not see: a deep
        copy no longer looks for it after this call. The type is part of `config`:
        `save_pretrained` writes int8, bfloat16 and float16 weights as such.

        Raises ValueError for another type, or any but int8 for a model from an int8 file.
        """
        if self._rounded and str(dtype).removeprefix("torch.") != "int8":
            raise ValueError(
                "dtype: expected int8 for a model loaded from an int8 file, which has no more "
                f"precise numbers, got {dtype}"
            )
        self.config = arguments.with_decoder_dtype(self.config, dtype)
        self._packed.clear()
        self._packed_encoder.clear()
        self._pack()
        return self

    def _pack(self) -> PackedDecoder:
        name = self.config.decoder_dtype
        dtype = None if name is None else getattr(torch, name)
        return self._packed.get(self._decoder_weights(), dtype)

    def _decoder(
        self, config: GenerationConfig, processors: list[Any], criteria: list[Any]
    ) -> Decoder:
        by_modules = self._runs_by_modules()
        if not (by_modules or processors or criteria):
            return self._pack()
        size = self.config
        sizes = (size.num_decoder_layers, size.hidden_size, size.hidden_size, size.tgt_vocab_size)
        keys = AttentionSizes(
            size.memory_size, size.hidden_size, size.input_feeding, size.attention_heads
        )
        compute, acc = self._step_compute()
        return StepDecoder(
            compute,
            sizes,
            acc,
            self.device,
            processors,
            criteria,
            output_scores=config.return_dict_in_generate and config.output_scores,
            attention=None if size.attention is None else keys,
        )

    def _step_compute(self) -> tuple[Compute, torch.dtype]:
        """One step for a loop in Python, and the type of its states."""
        if self._runs_by_modules():
            return self._compute, torch.promote_types(self.dtype, torch.float32)
        packed = self._pack()
        return dense_compute(packed.dense), packed.acc

    def _compute(self, token: Tensor, h: Tensor, c: Tensor, memory: Memory | None) -> Stepped:
        memory = memory and memory.to(self.dtype)
        logits, state, weights = self._step(token, DecoderState(h, c, memory=memory))
        return Stepped(logits, state.h, state.c, None if weights is None else weights.squeeze(2))

    def _runs_by_modules(self) -> bool:
        """Whether each step of the decoder is the model's own, not that of packed weights: with
        dropout.
        """
        return self.training and self.config.has_dropout

    def _own_precision(self) -> contextlib.AbstractContextManager[object]:
        """Packed weights have a type of their own, which autocast must not change."""
        kind = self.device.type
        if not torch.is_autocast_enabled(kind) or self._runs_by_modules():
            # entering and leaving would cost as much as a short generation
            return contextlib.nullcontext()
        return torch.autocast(kind, enabled=False)

    # what the model gives

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        raise NotImplementedError

    def _context(self, source: Any, lengths: Any) -> DecoderState:
        raise NotImplementedError

    def _decoder_weights(self) -> DecoderWeights:
        raise NotImplementedError

    def _step(
        self, token: Tensor, state: DecoderState
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        raise NotImplementedError

    def _check_state(self, state: DecoderState) -> None:
        raise NotImplementedError

    def _check_src(self, src: Any, lengths: Any, embeds: Any = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def _output(found: search.Found, request: search.Request) -> GenerateOutput:
    config, kept = request.config, found.kept
    attentions = indices = None
    if kept is not None and config.output_attentions:
        attentions = tuple((weights.unsqueeze(2),) for weights in kept.attention)
    if config.num_beams > 1 and kept is not None:
        indices = beam_indices(found)
    return GenerateOutput(
        sequences=found.tokens,
        lengths=found.lengths,
        sequences_scores=found.result.scores,
        token_scores=found.scores,
        scores=tuple(kept.scores) if kept is not None and config.output_scores else None,
        logits=tuple(kept.logits) if kept is not None and config.output_logits else None,
        cross_attentions=attentions,
        beam_indices=indices,
        _found=found,
    )
