"""Beam search as transformers does it, over a decoder of torch's cells."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.onnx_peers import _optional

# logits, state = step(token, state), with states a list for each layer
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def search(
    step: Step, state: tuple[list[Tensor], list[Tensor]], bos: int, vocab: int, beams: int
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """A function of the number of steps that returns tokens (B, steps) and scores (B,).

    Raises Unavailable where transformers is missing.
    """
    model = _model_class()(step, state, vocab)
    batch = len(state[0][0])

    def run(steps: int) -> tuple[Tensor, Tensor]:
        prompt = torch.full((batch, 1), bos)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=steps,
                return_dict_in_generate=True,
                output_scores=True,
            )
        return found.sequences[:, 1:], found.sequences_scores

    return run


@functools.cache
def _model_class() -> Any:
    transformers = _optional("transformers")
    utils = _optional("transformers.generation.utils")
    # what carries the state from step to step: its name differs between versions
    names = getattr(utils, "ALL_CACHE_NAMES", ["past_key_values"])
    key = "past_key_values" if "past_key_values" in names else names[0]

    class Decoder(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = transformers.PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self, step: Step, state: Any, vocab: int) -> None:
            super().__init__(transformers.PretrainedConfig(vocab_size=vocab))
            self._step, self._start = step, state
            # it is asked for the device of one
            self.unused = nn.Parameter(torch.empty(0))

        @classmethod
        def _supports_default_dynamic_cache(cls) -> bool:
            return False

        def forward(
            self, input_ids: Tensor, attention_mask: Any = None, state: Any = None, **_: Any
        ) -> Any:
            if state is None:
                beams = len(input_ids) // len(self._start[0][0])
                state = [[v.repeat_interleave(beams, 0) for v in part] for part in self._start]
            logits, self._last = self._step(input_ids[:, -1], state)
            return transformers.modeling_outputs.CausalLMOutput(logits=logits.unsqueeze(1))

        def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
            return {"input_ids": input_ids, "state": kwargs.get(key)}

        def _update_model_kwargs_for_generation(
            self, outputs: Any, model_kwargs: dict[str, Any], *_: Any, **__: Any
        ) -> dict[str, Any]:
            return {**model_kwargs, key: self._last}

        def _reorder_cache(self, state: Any, order: Tensor) -> Any:
            return [[value[order] for value in part] for part in state]

    return Decoder
