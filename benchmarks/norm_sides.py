"""The sides of an LSTM with layer norm: ours, and the loops over steps that users write."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fast_s2s
from fast_s2s.benchmarking.harness import Side, Unavailable
from fast_s2s.benchmarking.rows import Prepared
from fast_s2s.benchmarking.sides import OURS, side
from fast_s2s.benchmarking.workloads import Problem, State, Workload

LOOP, SCRIPT, COMPILED = "loop in torch", "TorchScript loop", "loop over a compiled step"
SLOW = frozenset({COMPILED})


@dataclass(frozen=True)
class NormWorkload(Workload):
    """An LSTM call with layer norm."""


class NormProblem(Problem):
    """Its tensors and, by the reference in float64, its results."""

    def make_module(self) -> Any:
        """With layer norm, of random gains."""
        workload = self.workload
        module = fast_s2s.LSTM(workload.input_size, workload.hidden, norm="layer")
        for name, parameter in module.named_parameters():
            if name.startswith("norm"):
                nn.init.normal_(parameter, 1.0, 0.1)
        return module.to(workload.torch_dtype)

    def run(self, module: nn.Module, x: Tensor, hx: State) -> tuple[Tensor, State]:
        """In float64: by the reference."""
        with fast_s2s.backend("reference"):
            found: tuple[Tensor, State] = module(x, hx)
        return found


class Loop(nn.Module):
    """One layer, as one writes it: the input's products for all steps at once, then step by step.

    Shares the weights of an `fast_s2s.LSTM`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            setattr(self, name, parameter)

    def forward(self, x: Tensor, hx: State) -> tuple[Tensor, State]:
        h, c = hx[0][0], hx[1][0]
        gates = self.norm_weight_ih_l0.size(0)
        from_x = F.layer_norm(F.linear(x, self.weight_ih_l0), [gates], self.norm_weight_ih_l0)
        from_x = from_x + (self.bias_ih_l0 + self.bias_hh_l0)
        outputs: list[Tensor] = []
        for step in from_x.unbind(0):
            h, c = self.step(step, h, c)
            outputs.append(h)
        return torch.stack(outputs), (h.unsqueeze(0), c.unsqueeze(0))

    def step(self, from_x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates, hidden = self.norm_weight_ih_l0.size(0), c.size(1)
        from_h = F.layer_norm(F.linear(h, self.weight_hh_l0), [gates], self.norm_weight_hh_l0)
        i, f, g, o = (from_x + from_h).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        seen = F.layer_norm(c, [hidden], self.norm_weight_c_l0, self.norm_bias_c_l0)
        return o.sigmoid() * seen.tanh(), c


def ours(problem: NormProblem) -> Side:
    module: Any = problem.module()
    return side(OURS, problem, module, module)


def loop(problem: NormProblem) -> Side:
    module = Loop(problem.module())
    return side(LOOP, problem, module, module)


def scripted(problem: NormProblem) -> Side:
    """As torch's own `benchmarks/fastrnns/custom_lstms.py`, and torchaudio, have it."""
    module = Loop(problem.module())
    with warnings.catch_warnings():
        # that it is deprecated
        warnings.simplefilter("ignore")
        try:
            script = torch.jit.script(module)
        except (RuntimeError, NotImplementedError) as error:
            raise Unavailable(f"torch.jit.script: {error}") from error
    return side(SCRIPT, problem, module, script)


def compiled(problem: NormProblem) -> Side:
    module = Loop(problem.module())
    torch.compiler.reset()
    # the whole loop takes minutes to compile
    module.step = torch.compile(module.step, dynamic=False)  # type: ignore[method-assign]
    return side(COMPILED, problem, module, module)


SIDES: dict[str, Callable[[NormProblem], Side]] = {
    OURS: ours,
    LOOP: loop,
    SCRIPT: scripted,
    COMPILED: compiled,
}


def prepare(name: str, problem: NormProblem) -> Prepared:
    """A side by its name, and what it shall give."""
    return SIDES[name](problem), problem.expected
