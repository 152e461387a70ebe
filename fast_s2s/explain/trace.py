"""One input through a model: symbols, states, choices, attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fast_s2s.checks import check_integer
from fast_s2s.generation import DecoderState
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Alternative:
    """A symbol that could come next, and how probable it was."""

    symbol: str
    probability: float


@dataclass(frozen=True, eq=False)
class Trace:
    """What happened, with S source symbols and T steps of the decoder.

    text, output: input and output
    probability:  of the output, its end included if it was reached
    source:       S symbols as the encoder read them, the end included
    target:       T symbols chosen, the end included if it was reached
    chosen:       T probabilities of them
    alternatives: of each step the most probable symbols, best first
    attention:    (heads, T, S), or None for a model without
    encoder:      (S, units), outputs of the encoder's last layer, of units that vary most
    decoder:      (T, units), hidden states of the decoder's last layer, likewise
    """

    text: str
    output: str
    probability: float
    source: list[str]
    target: list[str]
    chosen: list[float]
    alternatives: list[list[Alternative]]
    attention: Tensor | None
    encoder: Tensor
    decoder: Tensor


@torch.inference_mode()
def trace(
    pipeline: TextPipeline, text: str, *, top: int = 5, units: int = 24, **options: Any
) -> Trace:
    """Generate from `text` and look at every step.

    top:     alternatives of each step
    units:   hidden units to keep: those that vary most from step to step
    options: of `Seq2Seq.generate`, such as `num_beams`

    Raises TypeError or ValueError naming the argument that does not fit.
    """
    check_integer("top", top, 1)
    check_integer("units", units, 1)
    if not isinstance(text, str):
        raise TypeError(f"text: expected a str, got {type(text).__name__}")
    model = pipeline.model
    if not isinstance(model, Seq2Seq):
        raise TypeError(f"pipeline: expected one of a single model, got {type(model).__name__}")
    (row,) = pipeline.encode([text])
    ids = [*row, pipeline.source_tokenizer.eos_token_id]
    src = torch.tensor([ids], device=model.device)
    given = {**options, "return_dict_in_generate": True, "num_return_sequences": 1}
    found = model.generate(src, [len(ids)], **given)
    tgt = found.sequences[:, 1 : 1 + int(found.lengths[0])]
    attends = model.config.attention is not None
    forced = model(src, tgt, [len(ids)], [tgt.size(1)], output_attentions=attends)
    log_probabilities = forced.logits[0].float().log_softmax(1)
    best = log_probabilities.topk(min(top, log_probabilities.size(1)))
    chosen = log_probabilities.gather(1, tgt[0].unsqueeze(1)).squeeze(1)
    symbols = pipeline.target_tokenizer.tokens
    weights = forced.cross_attentions
    encoded, _ = model.encoder(model.src_embedding(src))
    return Trace(
        text=text,
        output=pipeline.target_tokenizer.decode(tgt[0].tolist()),
        probability=float(chosen.sum().exp()),
        source=pipeline.source_tokenizer.tokens(ids),
        target=symbols(tgt[0].tolist()),
        chosen=chosen.exp().tolist(),
        alternatives=[
            [Alternative(*pair) for pair in zip(symbols(tokens), values, strict=True)]
            for tokens, values in zip(
                best.indices.tolist(), best.values.exp().tolist(), strict=True
            )
        ],
        attention=None if weights is None else weights[0][0].float().cpu(),
        encoder=_liveliest(encoded[0], units),
        decoder=_liveliest(_decoder_states(model, src, len(ids), tgt), units),
    )


def _decoder_states(model: Seq2Seq, src: Tensor, length: int, tgt: Tensor) -> Tensor:
    """(T, H), of the last layer after each input: bos, then all tokens but the last."""
    state = model.encode(src, [length])
    assert isinstance(state, DecoderState)
    top = model.config.num_decoder_layers - 1
    states = [state.h.new_zeros(0, model.config.hidden_size)]
    token = torch.full((1,), model.config.bos_token_id, device=src.device)
    for step in range(tgt.size(1)):
        _, state = model.step(token, state)
        states.append(state.h[top])
        token = tgt[:, step]
    return torch.cat(states)


def _liveliest(states: Tensor, units: int) -> Tensor:
    """Columns that vary most, in their own order."""
    if states.size(0) < 2:
        return states[:, :units].float().cpu()
    most = states.float().var(0).topk(min(units, states.size(1))).indices
    return states[:, most.sort().values].float().cpu()
