"""The op `decode` in plain torch: the definition of correctness and the fallback on any device.

Takes and returns what `fast_s2s.decoding.contract` names. All slots are computed at every step;
which of them count is the same as in the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fast_s2s.attention import Memory, attend
from fast_s2s.decoding import choice
from fast_s2s.decoding.beam import BeamSearch
from fast_s2s.decoding.choice import Candidates
from fast_s2s.decoding.contract import (
    Counts,
    Hypotheses,
    Keep,
    Kept,
    Options,
    Parameters,
    Rules,
    State,
    Strategy,
    split_state,
)
from fast_s2s.reference import Variant, lstm_variant


class DenseLayer(NamedTuple):
    """w_ih (4H, I), w_hh (4H, R), bias (4H,): b_ih + b_hh, w_hr (R, H) or None.

    variant: layer norm and zoneout, or None
    """

    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor
    w_hr: Tensor | None
    variant: Variant | None = None


class DenseAttention(NamedTuple):
    """output (R, M + R), query (A, R) and score (A,) or None; `AttentionWeights` says the rest."""

    output: Tensor
    heads: int
    feeding: bool
    query: Tensor | None
    score: Tensor | None


class DenseDecoder(NamedTuple):
    """Weights as they are multiplied, all of type acc: embedding (V, E), output (V, R), (V,)."""

    embedding: Tensor
    layers: tuple[DenseLayer, ...]
    output_weight: Tensor
    output_bias: Tensor
    attention: DenseAttention | None = None


class Stepped(NamedTuple):
    """logits (N, V); h and c as in `State`; weights (N, heads, S) of attention, or None."""

    logits: Tensor
    h: Tensor
    c: Tensor
    weights: Tensor | None


def decode(
    decoder: DenseDecoder,
    state: Sequence[Tensor],
    memory: Sequence[Tensor],
    rules: Sequence[Tensor],
    options: Sequence[int],
    parameters: Sequence[float],
    max_steps: int,
) -> list[Tensor]:
    """Up to `max_steps` tokens for every row: `State`, in a beam search `Hypotheses`, and counts,
    as one list; before the counts, if options say so, `Kept`.
    """
    begin, hypotheses = split_state(state)
    named = Rules(*rules), Options(*options), Parameters(*parameters)
    search = Search(decoder, begin, hypotheses, Memory(*memory) if memory else None, *named)
    return search.run(max_steps)


def step(
    decoder: DenseDecoder, token: Tensor, h: Tensor, c: Tensor, memory: Memory | None = None
) -> Stepped:
    """One token more: token (N,), h and c as in `State`, memory of B rows, N = B·W.

    Formulas: `torch.nn.LSTM`, `fast_s2s.attention`.
    """
    x = decoder.embedding[token]
    if len(h) > len(decoder.layers):
        x = torch.cat((x, h[-1]), 1)
    hs, cs = [], []
    for index, layer in enumerate(decoder.layers):
        if layer.variant is not None:
            x, cell = _variant_step(layer, layer.variant, x, h[index], c[index])
            hs.append(x)
            cs.append(cell)
            continue
        gates = x @ layer.w_ih.t() + h[index] @ layer.w_hh.t() + layer.bias
        i, f, g, o = gates.chunk(4, dim=1)
        cell = f.sigmoid() * c[index] + i.sigmoid() * g.tanh()
        x = o.sigmoid() * cell.tanh()
        if layer.w_hr is not None:
            x = x @ layer.w_hr.t()
        hs.append(x)
        cs.append(cell)
    weights = None
    if decoder.attention is not None:
        assert memory is not None
        x, weights = _attend(decoder.attention, x, memory)
        if decoder.attention.feeding:
            hs.append(x)
    logits = x @ decoder.output_weight.t() + decoder.output_bias
    return Stepped(logits, torch.stack(hs), torch.stack(cs), weights)


def _variant_step(
    layer: DenseLayer, variant: Variant, x: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    biases = layer.bias, None
    arguments = (x.unsqueeze(0), h, c, layer.w_ih, layer.w_hh, *biases, layer.w_hr)
    _, h, c = lstm_variant(*arguments, None, None, False, variant)
    return h, c


def read(
    decoders: Sequence[DenseDecoder],
    h: Tensor,
    c: Tensor,
    inputs: Tensor,
    lengths: Tensor,
    *,
    outputs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What layers end with, h and c (D·L, B, …), and their outputs (B, T, D·R), which are 0 past a
    row's length, or (0, T, D·R) unless asked for.

    decoders: of one direction or two, of which the second reads each row from its end
    inputs:   tokens (B, T), or values (B, T, E) in place of their embeddings
    """
    batch, steps = inputs.shape[:2]
    tokens = inputs
    if inputs.dim() == 3:
        tokens = torch.arange(batch * steps, device=inputs.device).view(batch, steps)
        decoders = [each._replace(embedding=inputs.flatten(0, 1)) for each in decoders]
    found = []
    for direction, decoder in enumerate(decoders):
        layers = len(decoder.layers)
        here = slice(direction * layers, (direction + 1) * layers)
        now_h, now_c = h[here], c[here]
        out = h.new_zeros(batch, steps, h.size(2))
        for at in reversed(range(steps)) if direction else range(steps):
            reads = at < lengths
            stepped = step(decoder, tokens[:, at], now_h, now_c)
            now_h = stepped.h.where(reads.view(1, -1, 1), now_h)
            now_c = stepped.c.where(reads.view(1, -1, 1), now_c)
            out[:, at] = now_h[-1].where(reads.unsqueeze(1), 0.0)
        found.append((now_h, now_c, out))
    h_n, c_n = (torch.cat(parts) for parts in list(zip(*found, strict=True))[:2])
    whole = torch.cat([out for _, _, out in found], 2)
    return h_n, c_n, whole if outputs else whole[:0]


def _attend(attention: DenseAttention, x: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """x (N, R) -> what the output projection reads (N, R), weights (N, heads, S)."""
    queries = x if attention.query is None else x @ attention.query.t()
    context, weights = attend(queries.unsqueeze(1), memory, attention.heads, attention.score)
    joined = torch.cat((context.squeeze(1), x), 1)
    return (joined @ attention.output.t()).tanh(), weights.squeeze(2)


def _largest(values: Tensor) -> int:
    return int(values.max()) if values.numel() else 0


class Search:
    """One call: the state as it changes from step to step.

    A loop with a model, rules or eyes of its own overrides `compute`, `process` or `observe`.
    """

    def __init__(
        self,
        decoder: DenseDecoder,
        state: State,
        hypotheses: Hypotheses | None,
        memory: Memory | None,
        rules: Rules,
        options: Options,
        parameters: Parameters,
    ) -> None:
        self.memory = memory
        self.decoder, self.rules, self.options = decoder, rules, options
        self.parameters = parameters
        # not the caller's tensors: they change in place
        self.state = State(*(tensor.clone() for tensor in state))
        self.beams = (
            None if hypotheses is None else BeamSearch(hypotheses, rules, options, parameters)
        )
        self.kept: list[list[Tensor]] = [[] for _ in Kept._fields]
        width = options.width
        count = state.position.size(0)
        device = state.position.device
        self.slot = torch.arange(count, device=device) % width
        rows = torch.arange(count, device=device) // width
        self.prefix_lengths = rules.prefix_lengths[rows]
        self.prefix = rules.prefix[rows]
        self.limits = rules.limits[rows]
        self.seeds = rules.seeds[rows] if rules.seeds.numel() else torch.zeros_like(rows)
        if self.beams is not None and options.sample_beams:
            self.beams.noise = self._noise

    def run(self, max_steps: int) -> list[Tensor]:
        self.state = self.state._replace(
            tokens=choice.grow(self.state.tokens, max_steps, self.options.pad),
            token_scores=choice.grow(self.state.token_scores, max_steps, 0.0),
        )
        if self.beams is not None:
            self.state = self.beams.begin(self.state, max_steps)
        steps = computed = 0
        for _ in range(max_steps):
            running = self.running()
            if not running.any():
                break
            steps += 1
            computed += int(running.sum())
            self.take_step(running)
        found = None if self.beams is None else self.beams.hypotheses
        counts = self.counts(steps, computed)
        return [*self.state, *(found or ()), *self._all_kept(max_steps), counts]

    def _all_kept(self, max_steps: int) -> list[Tensor]:
        keep = self.options.keep
        if not keep:
            return []
        position = self.state.position
        results = []
        seen = 0 if self.memory is None else self.memory.values.size(1)
        each = {"tokens": (), "parents": (), "attention": (self.heads, seen)}
        for name, steps in zip(Kept._fields, self.kept, strict=True):
            path = name in ("tokens", "parents")
            asked = path or bool(keep & Keep[name.upper()])
            whole = torch.zeros(
                max_steps if asked else 0,
                len(position),
                *each.get(name, (self.vocab_size,)),
                dtype=torch.int64 if path else torch.float32,
                device=position.device,
            )
            if asked and steps:
                whole[: len(steps)] = torch.stack(steps)
            results.append(whole)
        return results

    def counts(self, steps: int, computed: int) -> Tensor:
        position = self.state.position
        ends = self.limits + self.prefix_lengths
        left = (ends - position).masked_fill(self.state.finished, 0).clamp(min=0)
        positions = position if self.beams is None else self.beams.hypotheses.position
        longest = max(_largest(position), _largest(positions))
        counts = Counts(steps, computed, _largest(left), longest, 0)
        return torch.tensor(counts, device=position.device)

    @property
    def vocab_size(self) -> int:
        return self.decoder.output_weight.size(0)

    @property
    def heads(self) -> int:
        """Of attention; 0 without it."""
        return 0 if self.decoder.attention is None else self.decoder.attention.heads

    def running(self) -> Tensor:
        """(N,) bool: slots that neither ended nor reached their limit."""
        new = self.state.position - self.prefix_lengths
        return ~self.state.finished & (new < self.limits)

    def compute(self, token: Tensor, h: Tensor, c: Tensor) -> Stepped:
        """As `step`."""
        return step(self.decoder, token, h, c, self.memory)

    def process(self, scores: Tensor, at: Candidates) -> Tensor:
        """As `choice.process`."""
        return choice.process(scores, at, self.rules, self.options, self.parameters)

    def observe(self, scores: Tensor) -> None:
        """Called with the scores (N, V) that choices are made by."""

    def _keep(
        self, scores: Tensor, logits: Tensor, weights: Tensor | None, running: Tensor
    ) -> None:
        position = self.state.position
        slots = torch.arange(len(position), device=position.device)
        token = self.state.tokens.gather(1, position.unsqueeze(1)).squeeze(1)
        goes_on = self.running()
        parents = slots if self.beams is None else self.beams.parents
        if weights is None:
            weights = scores.new_zeros(len(position), 0, 0)
        values = (
            part.float().where(running.view(-1, *[1] * (part.dim() - 1)), 0.0)
            for part in (scores, logits, weights)
        )
        path = token.where(goes_on, -1), parents.where(goes_on, -1)
        for kept, value in zip(self.kept, (*values, *path), strict=True):
            kept.append(value)

    def _noise(self, first: int, position: int) -> Tensor:
        """(width, V) of the beams of a row."""
        slots = slice(first, first + self.options.width)
        beams = self.slot[slots]
        positions = torch.full_like(beams, position)
        return choice.gumbel(self.seeds[slots], positions, beams, self.vocab_size)

    def take_step(self, running: Tensor) -> None:
        state = self.state
        last = state.tokens.gather(1, state.position.unsqueeze(1)).squeeze(1)
        # an empty slot's tokens are pad, which may be no token of the vocabulary
        last = last.where(running, 0)
        logits, h, c, weights = self.compute(last, state.h, state.c)
        keep = running.view(1, -1, 1)
        state = state._replace(h=h.where(keep, state.h), c=c.where(keep, state.c))
        candidates = Candidates(
            state.tokens,
            state.position,
            state.node,
            self.prefix,
            self.prefix_lengths,
            self.limits,
        )
        scores = choice.finite(logits)
        beam = self.options.strategy == Strategy.BEAM
        if beam:
            scores = choice.log_softmax(scores)
        scores = self.process(scores, candidates)
        if beam and self.options.sample_beams:
            scores = choice.warp(scores, self.options, self.parameters)
        if beam and self.options.renormalize:
            scores = choice.log_softmax(scores)
        elif self.options.strategy == Strategy.SAMPLE:
            scores = choice.warp(scores, self.options, self.parameters)
        self.observe(scores)
        if self.beams is not None:
            self.state = self.beams.advance(state, scores, running)
        else:
            self.state = self._append(state, scores, running)
        if self.options.keep:
            self._keep(scores, logits, weights, running)

    def _append(self, state: State, scores: Tensor, running: Tensor) -> State:
        """One token more for every running slot: the best, by the lowest id among equals."""
        noisy = scores
        if self.options.strategy == Strategy.SAMPLE:
            noisy = scores + choice.gumbel(self.seeds, state.position, self.slot, scores.size(1))
        token = choice.first_best(noisy)
        chosen = choice.log_softmax(scores).gather(1, token.unsqueeze(1)).squeeze(1)
        stuck = running & (scores == -torch.inf).all(1)
        goes_on = running & ~stuck
        index = state.position.unsqueeze(1)
        in_prefix = state.position < self.prefix_lengths
        ended = goes_on & torch.isin(token, self.rules.eos) & ~in_prefix
        return state._replace(
            tokens=choice.put(state.tokens, index + 1, token, goes_on),
            token_scores=choice.put(state.token_scores, index, chosen, goes_on),
            position=state.position + goes_on,
            score=(state.score + chosen.where(goes_on, 0.0)).masked_fill(stuck, -torch.inf),
            finished=state.finished | ended | stuck,
            node=choice.follow(self.rules, state.node, token).where(goes_on, state.node),
        )
