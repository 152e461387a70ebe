"""`PretrainedMixin`: a model's folder, written and read."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
from torch import Tensor, nn

from fast_s2s import pretrained
from fast_s2s.checks import check_device, check_floating_dtype
from fast_s2s.configuration import GenerationConfig, Seq2SeqConfig

Model = TypeVar("Model", bound="PretrainedMixin")


class PretrainedMixin(nn.Module):
    """What a model inherits that is made from a `Seq2SeqConfig`, as `model_class(config, device)`.

    It gives `config`, `generation_config` and the methods at the end.
    """

    config: Seq2SeqConfig
    generation_config: GenerationConfig
    # of weights from an int8 file
    _rounded: bool = False

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        source_tokenizer: pretrained.Saveable | None = None,
        target_tokenizer: pretrained.Saveable | None = None,
    ) -> None:
        """Write config.json, generation_config.json, model.safetensors and tokenizers to a folder.

        The folder is made if missing. Files take their places only after all are written,
        config.json last. A model compiled to int8, bfloat16 or float16 is written in that type,
        encoder and embeddings included: a quarter or half of the size, for generation.

        Raises TypeError naming the argument that does not fit, ValueError for a model with other
        parameters than its config tells of, or OSError; a model that was there is then untouched.
        """
        tensors = _stored(self.state_dict(), self.config)
        self._check_loadable(tensors)
        contents = pretrained.Pretrained(
            self.config, self.generation_config, tensors, self._file_dtype()
        )
        pretrained.write(directory, contents, source_tokenizer, target_tokenizer)

    @classmethod
    def from_pretrained(
        cls: type[Model],
        directory: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Model:
        """Load a model that `save_pretrained` wrote, in eval mode.

        device: default CPU
        dtype:  default the one it was saved in; float32 for a file with matrices in int8, bfloat16
                or float16, whose numbers are what they were rounded to

        A model from an int8 file generates and is scored; it does not train.

        Raises FileNotFoundError for a missing file, ValueError for a damaged or foreign one; both
        name the file.
        """
        check_device("device", device)
        check_floating_dtype("dtype", dtype)
        config, generation_config, tensors, stored = pretrained.read(directory)
        if stored == torch.int8 and dtype is not None:
            raise ValueError(
                f"dtype: expected None for the int8 weights of {directory}, which have no more "
                f"precise numbers, got {dtype}"
            )
        # on the meta device nothing is allocated and no random number drawn
        model = cls(config, device="meta")
        pretrained.check_tensors(directory, tensors, _stored(model.state_dict(), config))
        target = torch.device("cpu" if device is None else device)
        # copies, since the tensors as read are windows on the file
        copies = {name: tensor.to(target, dtype, copy=True) for name, tensor in tensors.items()}
        model.load_state_dict(copies, strict=False, assign=True)
        if config.tie_embeddings:
            model._tie_embeddings()
        model.generation_config = generation_config
        if stored == torch.int8:
            model._rounded = True
            model.requires_grad_(False)
        if config.decoder_dtype is not None:
            model._pack()
        return model.eval()

    @property
    def is_rounded(self) -> bool:
        """Whether its weights are from an int8 file: it generates, and does not train."""
        return self._rounded

    def train(self: Model, mode: bool = True) -> Model:
        """As any module. Raises RuntimeError for a model that was loaded from an int8 file."""
        if mode and self._rounded:
            raise RuntimeError(
                "train: expected a model with its own weights, got one loaded from an int8 file, "
                "whose weights are rounded; train the one it was made from"
            )
        return super().train(mode)

    def _check_loadable(self, tensors: dict[str, Tensor]) -> None:
        """`from_pretrained` takes these names, and no others."""
        plain = _stored(type(self)(self.config, device="meta").state_dict(), self.config)
        if missing := sorted(plain.keys() - tensors.keys()):
            raise ValueError(
                f"save_pretrained: expected plain parameters, but {missing} are parametrised or "
                "pruned; make that permanent first: "
                "torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove"
            )
        if more := sorted(tensors.keys() - plain.keys()):
            raise ValueError(f"save_pretrained: expected the parameters of its config, got {more}")

    def _file_dtype(self) -> torch.dtype | None:
        """What matrices are rounded to in a file, if they are."""
        name = self.config.decoder_dtype
        dtype = None if name is None else getattr(torch, name)
        return dtype if dtype is not None and dtype.itemsize < self.dtype.itemsize else None

    # what the model gives

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        raise NotImplementedError

    def _tie_embeddings(self) -> None:
        raise NotImplementedError

    def _pack(self) -> object:
        raise NotImplementedError


def _stored(state_dict: dict[str, Tensor], config: Seq2SeqConfig) -> dict[str, Tensor]:
    """The tensors that go to disk: a tied weight once."""
    alias = "output_projection.weight" if config.tie_embeddings else None
    return {name: tensor for name, tensor in state_dict.items() if name != alias}
