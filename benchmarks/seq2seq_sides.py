"""One training step of a whole model: ours, and the same model of torch's own modules."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence

from fast_s2s import Seq2Seq
from fast_s2s.benchmarking.harness import Side
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS
from fast_s2s.benchmarking.workloads import CUDA_FLOAT32_TOLERANCE

# largest error over largest value: gradients sum over every token
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Step:
    """Teacher forcing, loss and all gradients; lengths drawn uniformly, encoder and decoder alike.

    source, target: longest row of each
    """

    layers: int
    hidden: int
    vocab: int
    batch: int
    source: int
    target: int

    def __str__(self) -> str:
        sizes = f"L={self.layers} H={self.hidden} V={self.vocab} B={self.batch}"
        return f"{sizes} S={self.source} T={self.target} ragged"


class StepProblem:
    """Model and batch, drawn from a seed of their own."""

    def __init__(self, workload: Step, device: torch.device | str = "cpu") -> None:
        self.workload, self.device = workload, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            self.model = Seq2Seq(
                src_vocab_size=workload.vocab,
                tgt_vocab_size=workload.vocab,
                embedding_size=workload.hidden,
                hidden_size=workload.hidden,
                num_layers=workload.layers,
            )
            self.src, self.src_lengths = self._ids(workload.source)
            self.tgt, self.tgt_lengths = self._ids(workload.target)
        self.model.to(self.device)
        self.src, self.tgt = self.src.to(self.device), self.tgt.to(self.device)
        # packing wants lengths on the CPU
        self.lengths = (self.src_lengths.to(self.device), self.tgt_lengths.to(self.device))

    @property
    def tolerance(self) -> float:
        return CUDA_FLOAT32_TOLERANCE if self.device.type == "cuda" else _TOLERANCE

    def _ids(self, longest: int) -> tuple[Tensor, Tensor]:
        batch = self.workload.batch
        lengths = torch.randint(1, longest + 1, (batch,))
        lengths[0] = longest
        ids = torch.randint(4, self.workload.vocab, (batch, longest))
        ids[torch.arange(longest) >= lengths.unsqueeze(1)] = self.model.config.pad_token_id
        return ids, lengths

    @functools.cached_property
    def expected(self) -> dict[str, Tensor]:
        """Loss and gradients, by torch's modules in float64."""
        # gradients of the twin are its own: it is a copy
        side = _side(self, "", _Torch(self, torch.float64))
        return {name: value.detach() for name, value in side.results(side.call()).items()}


class _Torch(nn.Module):
    """The model of torch's modules, with weights of its own that are equal."""

    def __init__(self, problem: StepProblem, dtype: torch.dtype) -> None:
        super().__init__()
        self._problem = problem
        model = problem.model
        config = model.config
        sizes = (config.embedding_size, config.hidden_size)
        self.src_embedding = nn.Embedding(
            config.src_vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.encoder = nn.LSTM(*sizes, config.num_encoder_layers, batch_first=True)
        self.tgt_embedding = nn.Embedding(
            config.tgt_vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.decoder = nn.LSTM(*sizes, config.num_decoder_layers, batch_first=True)
        self.output_projection = nn.Linear(config.hidden_size, config.tgt_vocab_size)
        self.load_state_dict(model.state_dict())
        self.to(problem.device, dtype)

    def forward(self) -> Tensor:
        problem = self._problem
        config = problem.model.config
        x = self.src_embedding(problem.src)
        # the encoder's state is the context, so its padding must not be read
        source = pack_padded_sequence(
            x, problem.src_lengths, batch_first=True, enforce_sorted=False
        )
        _, state = self.encoder(source)
        bos = problem.tgt.new_full((len(problem.tgt), 1), config.bos_token_id)
        fed = torch.cat((bos, problem.tgt[:, :-1]), dim=1)
        # the decoder's padding is read to no effect: the loss leaves it out
        y, _ = self.decoder(self.tgt_embedding(fed), state)
        logits = self.output_projection(y)
        return cross_entropy(
            logits.flatten(0, 1), problem.tgt.flatten(), ignore_index=config.pad_token_id
        )


def ours(problem: StepProblem) -> Side:
    def loss() -> Tensor:
        return problem.model(problem.src, problem.tgt, *problem.lengths).loss

    return _side(problem, OURS, problem.model, loss)


def torch_modules(problem: StepProblem) -> Side:
    return _side(problem, "nn.LSTM model", _Torch(problem, torch.float32))


SIDES: dict[str, Callable[[StepProblem], Side]] = {OURS: ours, "nn.LSTM model": torch_modules}


def prepare(name: str, problem: StepProblem) -> Prepared:
    return SIDES[name](problem), problem.expected


def _side(
    problem: StepProblem, name: str, model: nn.Module, loss: Callable[[], Tensor] | None = None
) -> Side:
    names, parameters = zip(*model.named_parameters(), strict=True)

    def call() -> Any:
        # an optimiser changes the weights between calls
        torch.autograd.graph.increment_version(list(parameters))
        value = (loss or model)()
        return value, torch.autograd.grad(value, parameters)

    def results(raw: Any) -> dict[str, Tensor]:
        value, gradients = raw
        return {"loss": value, **{f"d_{k}": v for k, v in zip(names, gradients, strict=True)}}

    return Side(name, call, results, cuda=problem.device.type == "cuda")
