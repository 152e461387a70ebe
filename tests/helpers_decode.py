"""Small random decoders, and a decode so plain that it can be read at a glance."""

from __future__ import annotations

import dataclasses
import itertools
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fast_s2s.attention import Memory
from fast_s2s.decoding import (
    Automaton,
    DecodeOptions,
    DecodeResult,
    DecoderWeights,
    DecodeState,
    LayerWeights,
    PackedDecoder,
    decode,
    initial_state,
    pack_decoder,
    reference,
)
from fast_s2s.decoding.contract import Keep, Kept
from fast_s2s.stored import Stored

BOS, EOS = 1, 2
# of weights
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int8)


@dataclass(frozen=True)
class Size:
    """Of a decoder; `projection` 0 means none."""

    layers: int = 1
    hidden: int = 8
    vocab: int = 11
    embedding: int = 5
    projection: int = 0
    bias: bool = True
    tied: bool = False
    norm: bool = False
    zoneout: tuple[float, float] = (0.0, 0.0)

    @property
    def output(self) -> int:
        return self.projection or self.hidden


def random_weights(size: Size, sharpness: float = 1.5) -> DecoderWeights:
    """Float64 weights; a larger `sharpness` makes tokens less alike."""
    gates, output = 4 * size.hidden, size.output
    layers = []
    for index in range(size.layers):
        inputs = output if index else (output if size.tied else size.embedding)
        layers.append(
            LayerWeights(
                torch.randn(gates, inputs, dtype=torch.float64) / inputs**0.5,
                torch.randn(gates, output, dtype=torch.float64) / output**0.5,
                torch.randn(gates, dtype=torch.float64) if size.bias else None,
                torch.randn(gates, dtype=torch.float64) if size.bias else None,
                torch.randn(output, size.hidden, dtype=torch.float64) if size.projection else None,
                *_norms(size),
                *size.zoneout,
            )
        )
    scale = sharpness * (8 / output) ** 0.5
    weight = scale * torch.randn(size.vocab, output, dtype=torch.float64)
    embedding = (
        weight if size.tied else torch.randn(size.vocab, size.embedding, dtype=torch.float64)
    )
    bias = torch.randn(size.vocab, dtype=torch.float64) if size.bias else None
    return DecoderWeights(embedding, tuple(layers), weight, bias)


def _norms(size: Size) -> list[Tensor | None]:
    sizes = (4 * size.hidden, 4 * size.hidden, size.hidden, size.hidden)
    return [torch.randn(n, dtype=torch.float64) if size.norm else None for n in sizes]


def varied(seed: int, size: Size) -> Size:
    """Some of them with layer norm, with zoneout, or with both."""
    more = random.Random(f"{seed}, varied")
    zoneout = more.choice([(0.0, 0.0), (0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.1, 0.2)])
    return dataclasses.replace(size, norm=more.random() < 0.3, zoneout=zoneout)


def random_context(size: Size, batch: int) -> tuple[Tensor, Tensor]:
    h = torch.randn(size.layers, batch, size.output, dtype=torch.float64).tanh()
    return h, torch.randn(size.layers, batch, size.hidden, dtype=torch.float64)


def make(
    size: Size, batch: int, dtype: torch.dtype = torch.float64, table: str = "auto", **kind: float
) -> tuple[PackedDecoder, Tensor, Tensor]:
    return pack_decoder(random_weights(size, **kind), dtype, table), *random_context(size, batch)


def run(
    made: tuple[PackedDecoder, Tensor, Tensor], options: DecodeOptions, chunk: int | None = None
) -> DecodeResult:
    """The whole generation, in chunks of steps if told to: counts summed, what is kept joined."""
    decoder, h, c = made
    return run_from(decoder, initial_state(decoder, h, c, BOS, options), options, chunk)


def run_from(
    decoder: PackedDecoder, state: DecodeState, options: DecodeOptions, chunk: int | None = None
) -> DecodeResult:
    steps = slot_steps = 0
    parts = []
    while True:
        result = decode(decoder, state, options, chunk)
        state, steps = result.state, steps + result.steps
        slot_steps += result.slot_steps
        parts.append(result.kept)
        if result.done or chunk is None:
            kept = result.kept and Kept(*map(torch.cat, zip(*parts, strict=True)))
            return result._replace(steps=steps, slot_steps=slot_steps, kept=kept)


def with_logits(
    logits: list[float], batch: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[PackedDecoder, Tensor, Tensor]:
    """A decoder whose logits are these at every step, whatever it reads."""
    size = Size(hidden=4, vocab=len(logits), embedding=3)
    weights = random_weights(size)
    weights = weights._replace(
        output_weight=torch.zeros_like(weights.output_weight), output_bias=torch.tensor(logits)
    )
    return pack_decoder(weights, dtype), *random_context(size, batch)


def kinds(batch: int = 1) -> dict[str, dict[str, Any]]:
    """Options of every way to choose."""
    seed = torch.arange(batch)
    return {
        "greedy": {},
        "sample": {"do_sample": True, "seed": seed},
        "beam": {"num_beams": 3, "num_return_sequences": 3},
    }


def log_probabilities(
    made: tuple[PackedDecoder, Tensor, Tensor],
    row: int,
    tokens: list[int],
    memory: Memory | None = None,
) -> Tensor:
    """(len(tokens) + 1, V): of each next token, given those before it."""
    decoder, h, c = made
    memory = memory and memory.to(decoder.acc).select(torch.tensor([row]))
    h, c = h[:, row : row + 1].to(decoder.acc), c[:, row : row + 1].to(decoder.acc)
    rows = []
    for token in [BOS, *tokens]:
        logits, h, c, _ = reference.step(decoder.dense, torch.tensor([token]), h, c, memory)
        rows.append(logits[0].double().log_softmax(0))
    return torch.stack(rows)


def twin(decoder: PackedDecoder, noise: float = 0.0) -> PackedDecoder:
    """The very numbers a decoder stores, in float64; each changed by a share of `noise` or so."""

    def exact(values: Tensor) -> Tensor:
        values = values.to(torch.float64)
        return values * (1 + noise * torch.randn_like(values)) if noise else values

    def stored(matrix: Stored) -> Stored:
        return Stored(exact(matrix.dense(torch.float64)), None)

    layers = tuple(
        (stored(w_ih), stored(w_hh), None if w_hr is None else stored(w_hr))
        for w_ih, w_hh, w_hr in decoder.layers
    )
    biases = tuple(exact(bias) for bias in decoder.biases)
    embedding, output = exact(decoder.embedding), stored(decoder.output)
    attending = decoder.attending
    if attending is not None:
        attending = attending._replace(
            output=stored(attending.output),
            query=attending.query and stored(attending.query),
            score=None if attending.score is None else exact(attending.score),
        )
    norms = tuple(tuple(map(exact, of_layer)) for of_layer in decoder.norms)
    return PackedDecoder(
        torch.float64,
        decoder.table,
        embedding,
        layers,
        biases,
        output,
        attending,
        norms,
        decoder.zoneout,
    )


def random_size(rng: random.Random, most: int = 400) -> Size:
    hidden = rng.choice([1, 7, 16, 17, 33, 64, rng.randint(2, 100)])
    if rng.random() < 0.15:
        # enough work for several threads
        hidden = rng.randint(200, 400)
    hidden = min(hidden, most)
    projection = rng.randint(1, hidden) if rng.random() < 0.3 else 0
    return Size(
        layers=rng.randint(1, 3),
        hidden=hidden,
        vocab=rng.choice([4, 5, 16, 64, 65, rng.randint(4, 200)]),
        embedding=rng.choice([1, 16, rng.randint(2, 50)]),
        projection=projection,
        bias=rng.random() < 0.7,
        tied=rng.random() < 0.2,
    )


def random_automaton(rng: random.Random, vocab: int) -> Automaton:
    """A trie, or a graph with cycles."""
    if rng.random() < 0.5:
        words = [
            [rng.randrange(vocab) for _ in range(rng.randint(0, 6))]
            for _ in range(rng.randint(1, 40))
        ]
        return Automaton.from_sequences(words)
    states = rng.randint(1, 6)
    arcs = [sorted(rng.sample(range(vocab), rng.randint(0, min(vocab, 5)))) for _ in range(states)]
    offsets = [0, *itertools.accumulate(map(len, arcs))]
    return Automaton(
        torch.tensor(offsets),
        torch.tensor([token for state in arcs for token in state], dtype=torch.int64),
        torch.tensor([rng.randrange(states) for _ in range(offsets[-1])], dtype=torch.int64),
        torch.tensor([rng.random() < 0.5 for _ in range(states)]),
    )


def with_more(seed: int, options: DecodeOptions, *, attends: bool = False) -> DecodeOptions:
    """Some of them with beams by chance, or what is kept of each step."""
    more = random.Random(f"{seed}, with more")
    return dataclasses.replace(
        options,
        do_sample=options.do_sample or (options.num_beams > 1 and more.random() < 0.4),
        keep=Keep(more.choice([0, 0, 1, 2, 4, 7, 8, 15]) & (15 if attends else 7)),
    )


def random_options(rng: random.Random, size: Size, batch: int) -> DecodeOptions:
    vocab = size.vocab
    strategy = rng.choice(["greedy", "sample", "beam"])

    def maybe(chance: float, value: Any, other: Any = None) -> Any:
        return value() if rng.random() < chance else other

    def some_ids(most: int) -> list[int]:
        return rng.sample(range(vocab), rng.randint(1, most))

    limit = rng.randint(1, 12)
    beams = rng.randint(2, 6) if strategy == "beam" else 1
    width = maybe(1.0, lambda: rng.randint(1, 3)) if strategy == "sample" else rng.randint(1, beams)
    prefix_size = maybe(0.25, lambda: rng.randint(1, 4), 0)
    prefix = torch.tensor(
        [[rng.randrange(vocab) for _ in range(prefix_size)] for _ in range(batch)]
    )
    lengths = torch.tensor([rng.randint(0, prefix_size) for _ in range(batch)])
    return DecodeOptions(
        max_new_tokens=maybe(
            0.3, lambda: torch.tensor([rng.randint(1, limit) for _ in range(batch)]), limit
        ),
        min_new_tokens=maybe(0.3, lambda: rng.randint(0, 4), 0),
        num_beams=beams,
        do_sample=strategy == "sample",
        num_return_sequences=width,
        seed=torch.tensor([rng.randrange(-(2**63), 2**63) for _ in range(batch)]),
        temperature=maybe(0.5, lambda: rng.uniform(0.3, 2), 1.0),
        top_k=maybe(0.4, lambda: rng.randint(1, vocab + 2), 0),
        top_p=maybe(0.4, lambda: rng.uniform(0.2, 1), 1.0),
        min_p=maybe(0.3, lambda: rng.uniform(0, 0.5), 0.0),
        repetition_penalty=maybe(0.3, lambda: rng.uniform(0.7, 1.6), 1.0),
        no_repeat_ngram_size=maybe(0.3, lambda: rng.randint(1, 3), 0),
        length_penalty=maybe(0.6, lambda: rng.uniform(-1, 2), 1.0),
        early_stopping=rng.choice([True, False, "never"]),
        renormalize_logits=rng.random() < 0.4,
        pad_token_id=rng.choice([0, vocab + 5]),
        eos_token_id=maybe(0.8, lambda: some_ids(min(3, vocab - 1))),
        forced_bos_token_id=maybe(0.15, lambda: rng.randrange(vocab)),
        forced_eos_token_id=maybe(0.15, lambda: some_ids(2)),
        suppress_tokens=maybe(0.3, lambda: some_ids(2)),
        begin_suppress_tokens=maybe(0.2, lambda: some_ids(2)),
        bad_words_ids=maybe(
            0.2,
            lambda: [
                [rng.randrange(vocab) for _ in range(rng.randint(1, 3))]
                for _ in range(rng.randint(1, 5))
            ],
        ),
        prefix=prefix.view(batch, -1) if prefix_size else None,
        prefix_lengths=lengths if prefix_size else None,
        automaton=maybe(0.35, lambda: random_automaton(rng, vocab)),
    )
