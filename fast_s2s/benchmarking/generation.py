"""Greedy generation with a `Seq2Seq`, beside loops that a PyTorch user writes."""

from __future__ import annotations

import copy
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fast_s2s import backends
from fast_s2s.benchmarking.harness import Side
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS, State
from fast_s2s.convert import to_torch
from fast_s2s.generation import DecoderState
from fast_s2s.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Greedy:
    """`steps` tokens for each of `batch` rows, from a context that is there already."""

    layers: int
    hidden: int
    vocab: int
    batch: int
    steps: int

    def __str__(self) -> str:
        sizes = f"L={self.layers} H={self.hidden} V={self.vocab} B={self.batch}"
        return f"greedy {sizes} {self.steps} tokens"


class GreedyProblem:
    """A model and a context, drawn from a seed of their own, and the tokens that float64 gives."""

    def __init__(self, workload: Greedy, device: torch.device | str = "cpu") -> None:
        self.workload, self.device = workload, torch.device(device)
        hidden, vocab, batch = workload.hidden, workload.vocab, workload.batch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            model = Seq2Seq(
                src_vocab_size=vocab,
                tgt_vocab_size=vocab,
                embedding_size=hidden,
                hidden_size=hidden,
                num_layers=workload.layers,
            ).eval()
            # as far apart as those of a trained model: rounding decides no choice
            nn.init.normal_(model.output_projection.weight, std=8 / hidden**0.5)
            h = torch.randn(workload.layers, batch, hidden).tanh()
            c = torch.randn(workload.layers, batch, hidden)
        config = model.config
        with torch.no_grad():
            # no row ends, and none writes what it never may
            never = [config.pad_token_id, config.bos_token_id, config.eos_token_id]
            model.output_projection.bias[never] = -1e4
        self.model = model.to(self.device)
        token = torch.full((batch,), config.bos_token_id, device=self.device)
        finished = torch.zeros(batch, dtype=torch.bool, device=self.device)
        self.state = DecoderState(h.to(self.device), c.to(self.device), token, finished)

    @functools.cached_property
    def expected(self) -> dict[str, Tensor]:
        """The tokens, by the reference in float64."""
        model, state = copy.deepcopy(self.model).double(), self.state
        double = state._replace(h=state.h.double(), c=state.c.double())
        with backends.backend("reference"):
            tokens = model.generate(state=double, max_new_tokens=self.workload.steps)
        return {"tokens": tokens[:, 1:]}


def ours(problem: GreedyProblem) -> Side:
    def call() -> Tensor:
        tokens: Tensor = problem.model.generate(
            state=problem.state, max_new_tokens=problem.workload.steps
        )
        return tokens

    return _side(OURS, problem, call, lambda raw: {"tokens": raw[:, 1:]})


def nn_lstm_loop(problem: GreedyProblem) -> Side:
    return _loop("nn.LSTM loop", problem, *nn_lstm_step(problem))


def lstm_cell_loop(problem: GreedyProblem) -> Side:
    return _loop("LSTMCell loop", problem, *cell_step(problem))


# output, state = step(embedded token, state)
Step = tuple[Callable[[Tensor, Any], tuple[Tensor, Any]], Any]


def nn_lstm_step(problem: GreedyProblem) -> Step:
    """A step by `nn.LSTM`, and the state to begin with: h and c, a tensor each."""
    lstm = to_torch(problem.model.decoder)

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = lstm(x.unsqueeze(1), state)
        return y.squeeze(1), state

    return step, (problem.state.h, problem.state.c)


def cell_step(problem: GreedyProblem) -> Step:
    """A step by `nn.LSTMCell`s, and the state to begin with: h and c, a list of tensors each."""
    cells = []
    for layer in range(problem.workload.layers):
        cell = nn.LSTMCell(problem.workload.hidden, problem.workload.hidden)
        for name, _ in list(cell.named_parameters()):
            setattr(cell, name, getattr(problem.model.decoder, f"{name}_l{layer}"))
        cells.append(cell)

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, c = list(state[0]), list(state[1])
        for layer, cell in enumerate(cells):
            h[layer], c[layer] = cell(x, (h[layer], c[layer]))
            x = h[layer]
        return x, (h, c)

    return step, (list(problem.state.h.unbind()), list(problem.state.c.unbind()))


SIDES: dict[str, Callable[[GreedyProblem], Side]] = {
    OURS: ours,
    "nn.LSTM loop": nn_lstm_loop,
    "LSTMCell loop": lstm_cell_loop,
}


def prepare(name: str, problem: GreedyProblem) -> Prepared:
    return SIDES[name](problem), problem.expected


def _loop(name: str, problem: GreedyProblem, step: Callable[..., Any], state: Any) -> Side:
    model = problem.model

    def call() -> Tensor:
        token, now = problem.state.token, state
        tokens = []
        for _ in range(problem.workload.steps):
            output, now = step(model.tgt_embedding(token), now)
            token = model.output_projection(output).argmax(1)
            tokens.append(token)
        return torch.stack(tokens, dim=1)

    return _side(name, problem, call, lambda raw: {"tokens": raw})


def _side(
    name: str,
    problem: GreedyProblem,
    call: Callable[[], Tensor],
    results: Callable[[Any], dict[str, Tensor]],
) -> Side:
    cuda = problem.device.type == "cuda"
    return Side(name, call, results, torch.inference_mode, cuda=cuda)
