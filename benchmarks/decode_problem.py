"""A generation: shapes, the same random weights and context for every side, the right answer."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fast_s2s
from fast_s2s.attention import Memory
from fast_s2s.decoding import (
    AttentionWeights,
    DecodeOptions,
    DecoderWeights,
    DecodeState,
    LayerWeights,
    PackedDecoder,
    decode,
    initial_state,
)
from fast_s2s.stored import Stored

BOS = 1
# largest error over largest value: one other token is more than that
TOLERANCE = 3e-5


@dataclass(frozen=True)
class Generation:
    """`steps` tokens for `batch` rows, none of which ends early; embeddings of size `hidden`.

    sample: by chance, at temperature 1 among all tokens
    ragged: rows end after 1 to `steps` tokens, drawn uniformly; the first after `steps`
    attention, source: "dot", which "general" is too once its keys are there, or "additive", over so
            many outputs of an encoder as wide as the decoder; none if empty
    """

    layers: int
    hidden: int
    vocab: int
    batch: int
    beams: int = 1
    steps: int = 50
    sample: bool = False
    ragged: bool = False
    attention: str = ""
    source: int = 0

    def __str__(self) -> str:
        search = f"beam {self.beams}" if self.beams > 1 else "greedy"
        search = "sampled" if self.sample else search
        sizes = f"L={self.layers} H={self.hidden} V={self.vocab} B={self.batch}"
        attention = f" {self.attention} attention S={self.source}" if self.attention else ""
        return f"{search} {sizes}{attention} {self.steps} steps{' at most' * self.ragged}"

    @property
    def step_weights(self) -> int:
        """Numbers that a step must read: all matrices but the first layer's input weights, which a
        table of embeddings replaces.
        """
        return (2 * self.layers - 1) * 4 * self.hidden**2 + self.vocab * self.hidden


class DecodeProblem:
    """A generation's weights and context, drawn from a seed of its own."""

    def __init__(self, workload: Generation, device: torch.device | str = "cpu") -> None:
        self.workload, self.device = workload, torch.device(device)
        hidden, layers = workload.hidden, workload.layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            self.lstm = nn.LSTM(hidden, hidden, layers)
            self.embedding = nn.Embedding(workload.vocab, hidden)
            self.output = nn.Linear(hidden, workload.vocab)
            # as far apart as those of a trained model: rounding decides no choice
            nn.init.normal_(self.output.weight, std=8 / hidden**0.5)
            self.h = torch.randn(layers, workload.batch, hidden).tanh()
            self.c = torch.randn(layers, workload.batch, hidden)
            self.limits = torch.full((workload.batch,), workload.steps)
            if workload.ragged:
                self.limits[1:] = torch.randint(1, workload.steps + 1, (workload.batch - 1,))
            self.attention = _attention(workload) if workload.attention else None
            self.memory = _memory(workload) if workload.attention else None
        # drawn where every device draws the same
        for module in (self.lstm, self.embedding, self.output):
            module.to(self.device)
        self.h, self.c = self.h.to(self.device), self.c.to(self.device)
        self.limits = self.limits.to(self.device)
        self.attention = _moved(self.attention, self.device)
        self.memory = _moved(self.memory, self.device)

    @functools.cached_property
    def weights(self) -> DecoderWeights:
        parameters = {name: value.detach() for name, value in self.lstm.named_parameters()}
        layers = tuple(
            LayerWeights(
                *(
                    parameters[f"{kind}_l{layer}"]
                    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
            )
            for layer in range(self.workload.layers)
        )
        return DecoderWeights(
            self.embedding.weight.detach(),
            layers,
            self.output.weight.detach(),
            self.output.bias.detach(),
            self.attention,
        )

    @property
    def options(self) -> DecodeOptions:
        workload = self.workload
        return DecodeOptions(
            max_new_tokens=self.limits if workload.ragged else workload.steps,
            num_beams=workload.beams,
            do_sample=workload.sample,
            seed=torch.arange(workload.batch, device=self.device) if workload.sample else None,
        )

    def state(self, decoder: PackedDecoder) -> DecodeState:
        """Where generation begins."""
        memory = None if decoder.attention is None else self.memory
        return initial_state(decoder, self.h, self.c, BOS, self.options, memory=memory)

    def expected(self, decoder: PackedDecoder) -> dict[str, Tensor]:
        """By the reference in float64, from the numbers that `decoder` stores."""

        def exact(matrix: Stored) -> Stored:
            return Stored(matrix.dense(torch.float64), None)

        double = dataclasses.replace(
            decoder,
            dtype=torch.float64,
            embedding=decoder.embedding.double(),
            layers=tuple(tuple(exact(m) for m in layer if m) + (None,) for layer in decoder.layers),
            biases=tuple(bias.double() for bias in decoder.biases),
            output=exact(decoder.output),
            attending=decoder.attending
            and decoder.attending._replace(
                output=exact(decoder.attending.output),
                query=decoder.attending.query and exact(decoder.attending.query),
                score=None
                if self.attention is None or self.attention.score is None
                else self.attention.score.double(),
            ),
        )
        with fast_s2s.backend("reference"):
            result = decode(double, self.state(double), self.options)
        return {"tokens": result.tokens[:, 1:], "scores": result.scores}


def _attention(workload: Generation) -> AttentionWeights:
    hidden = workload.hidden
    output = 2 * torch.randn(hidden, 2 * hidden) / (2 * hidden) ** 0.5
    if workload.attention == "dot":
        return AttentionWeights(output)
    query = torch.randn(hidden, hidden) / hidden**0.5
    return AttentionWeights(output, query=query, score=torch.randn(hidden))


def _memory(workload: Generation) -> Memory:
    sizes = (workload.batch, workload.source, workload.hidden)
    lengths = torch.full((workload.batch,), workload.source)
    return Memory(torch.randn(sizes).tanh(), torch.randn(sizes), lengths)


def _moved(tensors: Any, device: torch.device) -> Any:
    """A named tuple of tensors and what is none on the device; None as it is."""
    if tensors is None:
        return None
    return type(tensors)(*(t.to(device) if isinstance(t, Tensor) else t for t in tensors))
