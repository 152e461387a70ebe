"""`Ensemble`: several models that write one output, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fast_s2s.attention import Memory
from fast_s2s.checks import check_sequence, check_tensor
from fast_s2s.decoding import JoinedDecoder, can_join
from fast_s2s.decoding.contract import AttentionSizes, Decoder
from fast_s2s.decoding.reference import Stepped
from fast_s2s.generation import DecoderState, GenerationConfig, GenerationMixin
from fast_s2s.generation.loop import Compute, StepDecoder
from fast_s2s.generation.packing import PackedCache
from fast_s2s.generation.state import check_what_was_written
from fast_s2s.seq2seq import Seq2Seq

# what the models must agree on; all else is their own business
SAME_IN_ALL = ("src_vocab_size", "tgt_vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")


class EnsembleOutput(NamedTuple):
    """loss and logits as in `Seq2SeqOutput`; logits are log-probabilities."""

    loss: Tensor
    logits: Tensor


class _Sizes(NamedTuple):
    """Of one model's part: layers and units of h and c, and what attention looks at."""

    hidden: tuple[int, int]
    cell: tuple[int, int]
    values: int
    keys: int

    @property
    def hidden_units(self) -> int:
        return math.prod(self.hidden)

    @property
    def cell_units(self) -> int:
        return math.prod(self.cell)


class Ensemble(GenerationMixin, nn.Module):
    """Models of the same vocabularies whose probabilities are averaged at every step.

    p(token) = mean over the models of p_i(token), each in its own state: the mixture, as in
    Sutskever et al. 2014, https://arxiv.org/abs/1409.3215, section 3.5. Sizes, attention and types
    of weights may differ.

    `generate` takes all its options but `output_attentions`. On the CPU it is one call into the
    kernels that takes about as long as all the models' own; on a GPU, with models of float64 beside
    others, and where a model's own would be one, a step loop in Python. A `DecoderState` holds the
    states of all models side by side, as a single layer.
    """

    def __init__(self, models: Sequence[Seq2Seq]) -> None:
        """Raises TypeError or ValueError naming the model and what does not fit."""
        super().__init__()
        check_sequence("models", models, "Seq2Seq")
        if not models:
            raise ValueError("models: expected at least one, got none")
        for index, model in enumerate(models):
            if not isinstance(model, Seq2Seq):
                kind = type(model).__name__
                raise TypeError(f"models[{index}]: expected a Seq2Seq, got {kind}")
            for name in SAME_IN_ALL:
                ours, theirs = getattr(models[0].config, name), getattr(model.config, name)
                if ours != theirs:
                    raise ValueError(f"models[{index}]: expected {name} {ours}, got {theirs}")
            if model.device != models[0].device:
                raise ValueError(
                    f"models[{index}]: expected on {models[0].device}, got {model.device}"
                )
        self.models = nn.ModuleList(models)
        self.config = models[0].config
        self.generation_config: GenerationConfig = models[0].generation_config
        self._packed, self._rounded = PackedCache(), False
        self._sizes = [_sizes(model) for model in models]
        self.training = any(model.training for model in models)

    @property
    def _members(self) -> list[Seq2Seq]:
        return [model for model in self.models if isinstance(model, Seq2Seq)]

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self._members[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The widest of the models' types."""
        dtype = self._members[0].dtype
        for model in self._members[1:]:
            dtype = torch.promote_types(dtype, model.dtype)
        return dtype

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_lengths: Tensor | Sequence[int] | None = None,
        tgt_lengths: Tensor | Sequence[int] | None = None,
    ) -> EnsembleOutput:
        """The ensemble's log-probabilities of every next token: arguments as of `Seq2Seq`."""
        outputs = [model(src, tgt, src_lengths, tgt_lengths).logits for model in self._members]
        logits = _mixture(outputs)
        first = self._members[0]
        tgt, lengths = first._check_tgt(tgt, tgt_lengths, src.size(0))
        return EnsembleOutput(first._loss(logits, tgt, lengths), logits)

    def encode(
        self, src: Tensor, src_lengths: Tensor | Sequence[int] | None = None
    ) -> DecoderState:
        """The contexts of all models, side by side: arguments as of `Seq2Seq`."""
        return self._context(*self._check_src(src, src_lengths))

    def compile_decoder(self, dtype: torch.dtype | str | None = None) -> Ensemble:
        """`Seq2Seq.compile_decoder` of all models."""
        for model in self._members:
            model.compile_decoder(dtype)
        return self

    def _context(self, source: Tensor, lengths: Tensor) -> DecoderState:
        return self._joined([model._context(source, lengths) for model in self._members])

    def _joined(self, states: Sequence[DecoderState]) -> DecoderState:
        acc = torch.promote_types(self.dtype, torch.float32)
        h, c = ([_flat(getattr(state, name)).to(acc) for state in states] for name in ("h", "c"))
        memories = [state.memory for state in states if state.memory is not None]
        memory = None
        if memories:
            # all read the same input
            values = torch.cat([memory.values.to(acc) for memory in memories], 2)
            keys = torch.cat([memory.keys.to(acc) for memory in memories], 2)
            memory = Memory(values, keys, memories[0].lengths)
        return DecoderState(
            torch.cat(h, 1).unsqueeze(0), torch.cat(c, 1).unsqueeze(0), memory=memory
        )

    def _decoder(
        self, config: GenerationConfig, processors: list[Any], criteria: list[Any]
    ) -> Decoder:
        wanted = config.return_dict_in_generate
        if wanted and config.output_attentions:
            raise ValueError("output_attentions: expected False for an ensemble, got True")
        if not (processors or criteria or self._runs_by_modules()):
            packs = [model._pack() for model in self._members]
            if can_join(packs):
                return JoinedDecoder(packs)
        sizes = self._sizes
        hidden, cell = sum(s.hidden_units for s in sizes), sum(s.cell_units for s in sizes)
        keys = AttentionSizes(sum(s.values for s in sizes), sum(s.keys for s in sizes), False)
        return StepDecoder(
            self._combined([model._step_compute()[0] for model in self._members]),
            (1, cell, hidden, self.config.tgt_vocab_size),
            torch.promote_types(self.dtype, torch.float32),
            self.device,
            processors,
            criteria,
            output_scores=wanted and config.output_scores,
            attention=keys if keys.keys else None,
        )

    def _combined(self, computes: Sequence[Compute]) -> Compute:
        """One step of all models, each with its part of the state."""
        members = list(zip(self._members, computes, self._sizes, strict=True))

        def compute(token: Tensor, h: Tensor, c: Tensor, memory: Memory | None) -> Stepped:
            logits, hs, cs = [], [], []
            take_h, take_c = _taker(h[0]), _taker(c[0])
            take_values = take_keys = None
            if memory is not None:
                take_values, take_keys = _taker(memory.values), _taker(memory.keys)
            for model, step, size in members:
                acc = torch.promote_types(model.dtype, torch.float32)
                seen = None
                if size.keys and take_values is not None and take_keys is not None:
                    assert memory is not None
                    parts = take_values(size.values), take_keys(size.keys)
                    seen = Memory(parts[0].to(acc), parts[1].to(acc), memory.lengths)
                own_h = take_h(size.hidden_units).unflatten(1, size.hidden).transpose(0, 1)
                own_c = take_c(size.cell_units).unflatten(1, size.cell).transpose(0, 1)
                with model._own_precision():
                    found = step(token, own_h.to(acc), own_c.to(acc), seen)
                logits.append(found.logits)
                hs.append(_flat(found.h).to(h.dtype))
                cs.append(_flat(found.c).to(c.dtype))
            joined = torch.cat(hs, 1).unsqueeze(0), torch.cat(cs, 1).unsqueeze(0)
            return Stepped(_mixture(logits, finite=True), *joined, None)

        return compute

    def _runs_by_modules(self) -> bool:
        return any(model._runs_by_modules() for model in self._members)

    def _check_src(self, src: Any, lengths: Any, embeds: Any = None) -> tuple[Tensor, Tensor]:
        # embeddings must fit every model; tokens fit all or none
        for model in self._members[1:] if embeds is not None else ():
            model._check_src(src, lengths, embeds)
        return self._members[0]._check_src(src, lengths, embeds)

    def _check_state(self, state: DecoderState) -> None:
        if not isinstance(state, DecoderState):
            raise TypeError(f"state: expected a DecoderState, got {type(state).__name__}")
        batch = state.h.size(1) if isinstance(state.h, Tensor) and state.h.dim() == 3 else None
        units = sum(s.hidden_units for s in self._sizes), sum(s.cell_units for s in self._sizes)
        for name, value, size in zip(("h", "c"), state[:2], units, strict=True):
            axes, shape = "(1, batch, units)", (1, batch, size)
            check_tensor(f"state.{name}", value, axes, shape, None, self.device)
        assert batch is not None
        check_what_was_written(state, batch, self.config.tgt_vocab_size, self.device)


def _sizes(model: Seq2Seq) -> _Sizes:
    config = model.config
    attends = config.attention is not None
    return _Sizes(
        (config.num_hidden_states, config.hidden_size),
        (config.num_decoder_layers, config.hidden_size),
        config.memory_size if attends else 0,
        config.hidden_size if attends else 0,
    )


def _mixture(logits: Sequence[Tensor], *, finite: bool = False) -> Tensor:
    """Logarithm of the mean of the probabilities.

    finite: as in all choices of tokens, NaN is as -inf, and +inf as the largest number
    """
    wide = any(each.dtype == torch.float64 for each in logits)
    acc = torch.float64 if wide else torch.float32
    parts = torch.stack([each.to(acc) for each in logits])
    if finite:
        parts = parts.nan_to_num(-torch.inf, torch.finfo(acc).max, -torch.inf)
    parts = parts.log_softmax(-1)
    if finite:
        # of one that cannot say anything
        parts = parts.nan_to_num(-torch.inf, neginf=-torch.inf)
    return parts.logsumexp(0) - math.log(len(logits))


def _flat(state: Tensor) -> Tensor:
    """(layers, N, H) -> (N, layers · H)."""
    return state.transpose(0, 1).flatten(1)


def _taker(values: Tensor) -> Callable[[int], Tensor]:
    """A function that gives the next columns of the last dimension, as many as it is asked for."""
    at = 0

    def take(width: int) -> Tensor:
        nonlocal at
        at += width
        return values[..., at - width : at]

    return take
