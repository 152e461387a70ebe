"""The folder of a saved model: its files' names, and how they are written and read together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fast_s2s import serialization
from fast_s2s import stored as stored_weights
from fast_s2s.checks import check_path
from fast_s2s.configuration import GenerationConfig, Seq2SeqConfig, check_special_tokens_fit

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
SOURCE_TOKENIZER_FILE = "source_tokenizer.json"
TARGET_TOKENIZER_FILE = "target_tokenizer.json"


class Saveable(Protocol):
    """A tokenizer, as far as a model folder needs one."""

    def save(self, path: Path, /) -> object:
        """Write the file `path`."""


class Pretrained(NamedTuple):
    """What a model folder holds, apart from tokenizers. Tensors by name, on the CPU.

    stored: bfloat16, float16 or int8 where the file's matrices are in that type, and `tensors` are
            float32
    """

    config: Seq2SeqConfig
    generation_config: GenerationConfig
    tensors: dict[str, Tensor]
    stored: torch.dtype | None = None


def write(
    directory: str | os.PathLike[str],
    pretrained: Pretrained,
    source_tokenizer: Saveable | None,
    target_tokenizer: Saveable | None,
) -> None:
    """Write a model folder, made if missing, by `serialization.atomic_write_files`.

    Raises TypeError naming the argument that does not fit, or OSError; a model that was there is
    then untouched.
    """
    directory = check_path("directory", directory)
    tensors = pretrained.tensors
    if pretrained.stored is not None:
        tensors = stored_weights.compress(tensors, pretrained.stored)
    files: dict[str, serialization.Writer] = {
        WEIGHTS_FILE: serialization.tensor_writer(tensors, {"format": "pt"}),
        GENERATION_CONFIG_FILE: _json_writer(pretrained.generation_config.to_dict()),
    }
    tokenizers = {
        "source_tokenizer": (SOURCE_TOKENIZER_FILE, source_tokenizer),
        "target_tokenizer": (TARGET_TOKENIZER_FILE, target_tokenizer),
    }
    for name, (file, tokenizer) in tokenizers.items():
        if tokenizer is None:
            continue
        if not hasattr(tokenizer, "save"):
            kind = type(tokenizer).__name__
            raise TypeError(f"{name}: expected a tokenizer, got {kind}, which has no save")
        files[file] = tokenizer.save
    # readers open the config first, so it comes last
    files[CONFIG_FILE] = _json_writer(pretrained.config.to_dict())
    directory.mkdir(parents=True, exist_ok=True)
    serialization.atomic_write_files(directory, files)


def read(directory: str | os.PathLike[str]) -> Pretrained:
    """Read a model folder.

    Raises FileNotFoundError for a missing file, ValueError for a damaged or foreign one; both name
    the file.
    """
    configs = read_configs(directory)
    path = Path(directory) / WEIGHTS_FILE
    tensors = serialization.load_tensors(path)
    stored = stored_weights.compressed_dtype(tensors)
    if stored is not None:
        with _errors_naming(path):
            tensors = stored_weights.expand(tensors)
    return Pretrained(*configs, tensors, stored)


def read_configs(
    directory: str | os.PathLike[str],
) -> tuple[Seq2SeqConfig, GenerationConfig]:
    """`read` without the weights."""
    directory = check_path("directory", directory)
    values = serialization.read_json(directory / CONFIG_FILE)
    with _errors_naming(directory / CONFIG_FILE):
        config = Seq2SeqConfig.from_dict(values)
    values = serialization.read_json(directory / GENERATION_CONFIG_FILE)
    with _errors_naming(directory / GENERATION_CONFIG_FILE):
        generation_config = GenerationConfig.from_dict(values)
        check_special_tokens_fit(generation_config, config.tgt_vocab_size)
    return config, generation_config


def check_tensors(
    directory: str | os.PathLike[str], tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Names and shapes as `expected`, and one floating-point type for all.

    Raises ValueError naming the weights file and the tensor.
    """
    path = Path(directory) / WEIGHTS_FILE
    missing, unexpected = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or unexpected:
        raise ValueError(
            f"{path}: expected the tensors of the model in {CONFIG_FILE}, "
            f"got missing: {missing or 'none'}, unexpected: {unexpected or 'none'}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{path}: {name}: expected shape {tuple(expected[name].shape)} by {CONFIG_FILE}, "
                f"got {tuple(tensor.shape)}"
            )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
        names = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"{path}: expected tensors of one floating-point type, got {names}")


def _json_writer(obj: dict[str, Any]) -> serialization.Writer:
    data = serialization.json_bytes(obj)
    return lambda path: path.write_bytes(data)


@contextlib.contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
