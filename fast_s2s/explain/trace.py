"""One input through a model: symbols, states, choices, attention."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast_s2s.checks import check_integer
from fast_s2s.generation import DecoderState
from fast_s2s.lstm import LSTM
from fast_s2s.pipeline import TextPipeline
from fast_s2s.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Alternative:
    """A symbol that could come next, and how probable it was."""

    symbol: str
    probability: float


class Layer(NamedTuple):
    """Hidden states of a layer in one direction, (steps, units), of the units that vary most."""

    name: str
    states: Tensor


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
    encoder:      layers and directions of the encoder, the first one first, of S steps
    context:      layers of the decoder before its first step, two columns: hidden and cell state
    decoder:      layers of the decoder, of T steps; units as in `context`
    """

    text: str
    output: str
    probability: float
    source: list[str]
    target: list[str]
    chosen: list[float]
    alternatives: list[list[Alternative]]
    attention: Tensor | None
    encoder: list[Layer]
    context: list[Layer]
    decoder: list[Layer]


@torch.inference_mode()
def trace(
    pipeline: TextPipeline, text: str, *, top: int = 5, units: int = 32, **options: Any
) -> Trace:
    """Generate from `text` and look at every step.

    top:     alternatives of each step
    units:   hidden units to keep of the encoder, and of the decoder: those that vary most from step
             to step, as many of each layer and direction
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
    context, decoder = _decoder_layers(model, src, len(ids), tgt, units)
    weights = forced.cross_attentions
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
        encoder=_kept(_encoder_layers(model.encoder, model.src_embedding(src)), units),
        context=context,
        decoder=decoder,
    )


def _encoder_layers(lstm: LSTM, x: Tensor) -> list[Layer]:
    """(S, H) of each, one layer of the LSTM after the other; x (1, S, embedding size)."""
    found = []
    kind: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
    for index in range(lstm.num_layers):
        one = LSTM(
            *(x.size(2), lstm.hidden_size),
            batch_first=True,
            bidirectional=lstm.bidirectional,
            **lstm.options(),
            **kind,
        )
        of_layer = re.compile(rf"_l{index}(?=_reverse$|$)")
        weights = lstm.state_dict().items()
        one.load_state_dict(
            {of_layer.sub("_l0", name): w for name, w in weights if of_layer.search(name)}
        )
        x, _ = one.eval()(x)
        name = f"layer {index + 1}"
        if not lstm.bidirectional:
            found.append(Layer(name, x[0]))
            continue
        forward, backward = x[0].chunk(2, 1)
        found += [Layer(f"{name} →", forward), Layer(f"{name} ←", backward)]
    return found


def _decoder_layers(
    model: Seq2Seq, src: Tensor, length: int, tgt: Tensor, units: int
) -> tuple[list[Layer], list[Layer]]:
    """What it starts from, h and c of each layer; and h of each, of T steps, after each input: bos,
    then all tokens but the last. Of the same units, at most so many in all.
    """
    state = model.encode(src, [length])
    assert isinstance(state, DecoderState)
    layers = model.config.num_decoder_layers
    begin, states = torch.cat((state.h[:layers], state.c), 1), []
    token = torch.full((1,), model.config.bos_token_id, device=src.device)
    for step in range(tgt.size(1)):
        _, state = model.step(token, state)
        # with input feeding what attention found comes last
        states.append(state.h[:layers])
        token = tgt[:, step]
    context, decoder = [], []
    # an output may be empty
    after = torch.cat(states, 1) if states else begin[:, :0]
    for index in range(layers):
        kept = _liveliest(torch.cat((begin[index, :1], after[index])), max(1, units // layers))
        name = f"layer {index + 1}"
        context.append(Layer(name, begin[index, :, kept].float().cpu()))
        decoder.append(Layer(name, after[index, :, kept].float().cpu()))
    return context, decoder


def _kept(layers: list[Layer], units: int) -> list[Layer]:
    each = max(1, units // len(layers))
    return [
        Layer(name, states[:, _liveliest(states, each)].float().cpu()) for name, states in layers
    ]


def _liveliest(states: Tensor, units: int) -> Tensor:
    """Columns that vary most, in their own order."""
    if states.size(0) < 2:
        return torch.arange(min(units, states.size(1)), device=states.device)
    return states.float().var(0).topk(min(units, states.size(1))).indices.sort().values
