"""What `generate` returns with `return_dict_in_generate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_s2s.decoding.contract import Kept, State
from fast_s2s.generation.search import Found
from fast_s2s.generation.state import DecoderState


@dataclass(frozen=True, eq=False)
class GenerateOutput:
    """Sequences and what is known of them: N = B · num_return_sequences rows, a row's side by side.

    sequences:        (N, 1 + T) int64: the first input, what was generated, pad
    lengths:          (N,) int64, tokens generated, those of a prefix and eos included
    sequences_scores: (N,) float64, of beams the sum of `token_scores` over the length to the power
                      of `length_penalty`, else the sum. -inf: a row in which nothing was possible,
                      or a beam search that found fewer sequences than it should return
    token_scores:     (N, T) float64, log-probability of each token among those that could be
                      chosen; of beams, what it added to the sum: `compute_transition_scores` in
                      transformers. 0 for tokens of a prefix, forced ones and past the end
    scores:           with `output_scores` a tuple of (slots, tgt_vocab_size), one for each step:
                      what choices were made by; 0 for a slot that had ended. Slots are
                      sequences, of beams B · num_beams
    logits:           with `output_logits` likewise, as the model gave them
    cross_attentions: with `output_attentions` a tuple of one for each step, in it a tuple of one:
                      (slots, attention_heads, 1, S), the weights of the source's steps; 0 for a
                      slot that had ended
    beam_indices:     (N, T) int64, with one of these and beams: the slot in them that each token
                      comes from; -1 past the end
    state:            to go on from; of beams, each sequence goes on for itself
    """

    sequences: Tensor
    lengths: Tensor
    sequences_scores: Tensor
    token_scores: Tensor
    scores: tuple[Tensor, ...] | None
    logits: tuple[Tensor, ...] | None
    cross_attentions: tuple[tuple[Tensor], ...] | None
    beam_indices: Tensor | None
    _found: Found = dataclasses.field(repr=False)

    @property
    def state(self) -> DecoderState:
        """Where each sequence stands."""
        return self._found.state

    @property
    def past_key_values(self) -> DecoderState:
        """`state`, by the name it has in transformers."""
        return self.state

    def __getitem__(self, name: str) -> Any:
        """A field by name, as transformers' outputs allow."""
        if name not in self.keys():
            raise KeyError(f"expected one of {', '.join(self.keys())}, got {name!r}")
        return getattr(self, name)

    def keys(self) -> list[str]:
        """The names of the fields that are there."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "_found"]
        return [name for name in names if getattr(self, name) is not None] + ["state"]


def beam_indices(found: Found) -> Tensor:
    """(N, T): the slot that each token was chosen in; -1 past the end.

    Beams of a row are different sequences, so a sequence tells in which slot it was at each step.
    """
    assert found.kept is not None
    sequences, begin, width = found.result.tokens, found.begin, found.options.width
    steps = found.tokens.size(1) - 1
    indices = torch.full((sequences.size(0), max(steps, 0)), -1, device=sequences.device)
    rows = torch.arange(len(sequences), device=sequences.device)
    rows = rows // found.options.num_return_sequences
    columns = torch.arange(sequences.size(1), device=sequences.device)
    for step, before in enumerate(_histories(found.start, found.kept)):
        if step == indices.size(1):
            break
        slots = before[:, : len(columns)].unflatten(0, (len(before) // width, width))[rows]
        unknown = columns[: slots.size(2)] > (begin + step).view(-1, 1, 1)
        same = (slots == sequences[:, None, : slots.size(2)]) | unknown
        here = rows * width + same.all(2).int().argmax(1)
        indices[:, step] = here.where(found.lengths > step, -1)
    return indices


def _histories(start: State, kept: Kept) -> Iterator[Tensor]:
    """(slots, 1 + P + steps): the slots' tokens before each step."""
    tokens, position = F.pad(start.tokens, (0, len(kept.tokens))), start.position
    for token, parents in zip(kept.tokens, kept.parents, strict=True):
        yield tokens
        parents = parents.clamp(min=0)
        position = position[parents] + 1
        tokens = tokens[parents].scatter(1, position.unsqueeze(1), token.unsqueeze(1))
