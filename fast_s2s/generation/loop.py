"""The step loop in Python, for what one native call cannot do: callables and dropout.

It is the op's reference with a model, rules and eyes of its own, so all options mean the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fast_s2s.attention import Memory
from fast_s2s.checks import shown
from fast_s2s.decoding.choice import Candidates
from fast_s2s.decoding.contract import AttentionSizes, Options, Parameters, Rules, split_state
from fast_s2s.decoding.reference import DenseDecoder, Search, Stepped
from fast_s2s.decoding.reference import step as dense_step

# token (N,), h, c and memory as in `fast_s2s.decoding.reference.step`
Compute = Callable[[Tensor, Tensor, Tensor, "Memory | None"], Stepped]
# tokens so far (N, steps), scores (N, V) -> scores; as transformers' LogitsProcessor
LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
# tokens so far (N, steps), scores of the steps before or None -> (N,) bool or one for all
StoppingCriterion = Callable[..., Any]


class StepDecoder:
    """A `Decoder` that runs step by step, and keeps what it is told to.

    scores: of each step so far, (slots, V), for criteria; None: not asked for
    """

    def __init__(
        self,
        compute: Compute,
        sizes: tuple[int, int, int, int],
        acc: torch.dtype,
        device: torch.device,
        processors: Sequence[LogitsProcessor] = (),
        criteria: Sequence[StoppingCriterion] = (),
        *,
        output_scores: bool = False,
        attention: AttentionSizes | None = None,
    ) -> None:
        self.compute = compute
        self.num_layers, self.hidden_size, self.output_size, self.vocab_size = sizes
        self.acc, self.device, self.attention = acc, device, attention
        self.processors, self.criteria = processors, criteria
        self.scores: list[Tensor] | None = [] if output_scores else None

    def run(
        self,
        state: Sequence[Tensor],
        memory: Sequence[Tensor],
        rules: Sequence[Tensor],
        options: Sequence[int],
        parameters: Sequence[float],
        max_steps: int,
    ) -> list[Tensor]:
        """As `fast_s2s.decoding.reference.decode`."""
        return _Loop(self, state, memory, rules, options, parameters).run(max_steps)

    def process(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """What the callables make of the scores."""
        for processor in self.processors:
            changed = processor(tokens, scores)
            if not isinstance(changed, Tensor) or changed.shape != scores.shape:
                shape = tuple(changed.shape) if isinstance(changed, Tensor) else None
                raise ValueError(
                    f"logits_processor: expected {type(processor).__name__} to return scores "
                    f"{tuple(scores.shape)}, got {shape or type(changed).__name__}"
                )
            scores = changed.to(scores.dtype)
        return scores

    def stops(self, tokens: Tensor) -> Tensor:
        """(N,) bool: where any of the criteria says so."""
        history = None if self.scores is None else tuple(self.scores)
        stopped = torch.zeros(tokens.size(0), dtype=torch.bool, device=tokens.device)
        for criterion in self.criteria:
            answer = criterion(tokens, history)
            if isinstance(answer, Tensor):
                fits = answer.dtype == torch.bool and answer.shape in ((), stopped.shape)
                got = f"{answer.dtype} {tuple(answer.shape)}"
            else:
                fits, got = isinstance(answer, bool), shown(answer)
            if not fits:
                raise ValueError(
                    f"stopping_criteria: expected {type(criterion).__name__} to return a bool or "
                    f"bools {tuple(stopped.shape)}, got {got}"
                )
            stopped = stopped | answer
        return stopped


class _Loop(Search):
    def __init__(
        self,
        owner: StepDecoder,
        state: Sequence[Tensor],
        memory: Sequence[Tensor],
        rules: Sequence[Tensor],
        options: Sequence[int],
        parameters: Sequence[float],
    ) -> None:
        begin, hypotheses = split_state(state)
        self.owner = owner
        # no weights: `compute` is the owner's
        weights: Any = None
        named = Rules(*rules), Options(*options), Parameters(*parameters)
        seen = Memory(*memory) if memory else None
        super().__init__(weights, begin, hypotheses, seen, *named)
        if self.beams is not None and owner.criteria:
            self.beams.stops = lambda tokens: owner.stops(tokens).tolist()

    def compute(self, token: Tensor, h: Tensor, c: Tensor) -> Stepped:
        logits, h, c, weights = self.owner.compute(token, h, c, self.memory)
        return Stepped(logits, h.to(self.owner.acc), c.to(self.owner.acc), weights)

    def process(self, scores: Tensor, at: Candidates) -> Tensor:
        return self.owner.process(self._so_far(), super().process(scores, at))

    def observe(self, scores: Tensor) -> None:
        if self.owner.scores is not None:
            self.owner.scores.append(scores.float().clone())

    @property
    def vocab_size(self) -> int:
        return self.owner.vocab_size

    @property
    def heads(self) -> int:
        return 0 if self.owner.attention is None else self.owner.attention.heads

    def take_step(self, running: Tensor) -> None:
        super().take_step(running)
        if self.beams is None and self.owner.criteria:
            stopped = self.owner.stops(self._so_far())
            finished = self.state.finished | (stopped & running)
            self.state = self.state._replace(finished=finished)

    def _so_far(self) -> Tensor:
        """Tokens up to the longest row's last."""
        position = self.state.position
        longest = int(position.max()) if position.numel() else 0
        return self.state.tokens[:, : 1 + longest].clone()


def dense_compute(decoder: DenseDecoder) -> Compute:
    """One step with a pack's own numbers, as the native call computes them."""

    return functools.partial(dense_step, decoder)
