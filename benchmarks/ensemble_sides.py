"""Several models that write one output together: one native call, and a step loop in Python."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fast_s2s import Ensemble, Seq2Seq
from fast_s2s.benchmarking.harness import Side
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS

LOOP = "Ensemble by its step loop"


@dataclass(frozen=True)
class Together:
    """Whole generations, encoder included, by models of one size with attention."""

    models: int
    hidden: int
    vocab: int
    batch: int
    source: int = 8
    steps: int = 10
    beams: int = 1

    def __str__(self) -> str:
        search = f"beam {self.beams}" if self.beams > 1 else "greedy"
        sizes = f"H={self.hidden} V={self.vocab} B={self.batch} S={self.source}"
        return f"{search} {self.models} models {sizes} {self.steps} steps"


class TogetherProblem:
    """Models and inputs, drawn from a seed of their own."""

    def __init__(self, workload: Together) -> None:
        self.workload = workload
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            models = [self._model() for _ in range(workload.models)]
            self.src = torch.randint(3, workload.vocab, (workload.batch, workload.source))
        self.ensemble = Ensemble(models).eval()
        steps = workload.steps
        self.options: dict[str, Any] = {
            "min_new_tokens": steps,
            "max_new_tokens": steps,
            "num_beams": workload.beams,
            "return_dict_in_generate": True,
        }

    def _model(self) -> Seq2Seq:
        model = Seq2Seq(
            src_vocab_size=self.workload.vocab,
            tgt_vocab_size=self.workload.vocab,
            embedding_size=self.workload.hidden,
            hidden_size=self.workload.hidden,
            attention="general",
            bidirectional=True,
        )
        # as far apart as those of a trained model: rounding decides no choice
        with torch.no_grad():
            model.output_projection.weight.mul_(8)
        return model

    def expected(self) -> dict[str, Tensor]:
        """By the loop, in float64."""
        exact = Ensemble([copy.deepcopy(model).double() for model in self.ensemble._members])
        return _results(exact.generate(self.src, logits_processor=_nothing, **self.options))


def ours(problem: TogetherProblem) -> Prepared:
    return _side(problem, OURS), problem.expected()


def loop(problem: TogetherProblem) -> Prepared:
    # callables are for the loop alone
    return _side(problem, LOOP, logits_processor=_nothing), problem.expected()


SIDES = {OURS: ours, LOOP: loop}


def _side(problem: TogetherProblem, name: str, **more: Any) -> Side:
    def call() -> Any:
        return problem.ensemble.generate(problem.src, **problem.options, **more)

    return Side(name, call, _results, torch.inference_mode)


def _nothing(tokens: Tensor, scores: Tensor) -> Tensor:
    return scores


def _results(output: Any) -> dict[str, Tensor]:
    return {"tokens": output.sequences, "scores": output.token_scores}
