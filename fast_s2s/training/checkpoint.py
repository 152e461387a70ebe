"""Checkpoints: folders `step-N` of safetensors and JSON that appear whole or not at all."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fast_s2s.serialization import atomic_write_json, load_tensors, read_json, save_tensors

_FORMAT = "fast_s2s-checkpoint"
_MODEL, _OPTIMIZER, _RANDOM = "model.safetensors", "optimizer.safetensors", "random.safetensors"
_STATE = "state.json"
# of a run that keeps an average of its weights
AVERAGE_FILE = "average.safetensors"


@dataclass
class Checkpoint:
    """What a checkpoint folder holds, in memory."""

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    state: dict[str, Any]
    average: dict[str, Tensor] | None = None


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: Sequence[dict[str, Tensor]],
    state: Any,
    average: nn.Module | None = None,
) -> Path:
    """Write `folder/step-N`: the model, the optimiser, the random states of each process and
    `state` (JSON); the model with averaged weights, if there is one.

    The files are written and synced under a temporary name; the rename that ends it is atomic.
    """
    path = folder / f"step-{step}"
    temporary = folder / f".tmp-{path.name}"
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    temporary.mkdir()
    save_tensors(temporary / _MODEL, _model_tensors(model))
    save_tensors(temporary / _OPTIMIZER, _optimizer_tensors(optimizer))
    named = {f"{_of(rank)}{key}": s for rank, part in enumerate(random) for key, s in part.items()}
    save_tensors(temporary / _RANDOM, named)
    if average is not None:
        save_tensors(temporary / AVERAGE_FILE, _model_tensors(average))
    atomic_write_json(temporary / _STATE, {"format": _FORMAT, "version": 1, "state": state})
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises FileNotFoundError or ValueError that names the missing or damaged file.
    """
    content = read_json(path / _STATE)
    if content.get("format") != _FORMAT or "state" not in content:
        raise ValueError(f"{path / _STATE}: expected the state of a fast_s2s checkpoint")
    average = path / AVERAGE_FILE
    return Checkpoint(
        path,
        load_tensors(path / _MODEL),
        load_tensors(path / _OPTIMIZER),
        load_tensors(path / _RANDOM),
        content["state"],
        load_tensors(average) if average.exists() else None,
    )


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; None if there is none at all.

    A damaged one is passed over with a warning. Raises ValueError if all are damaged.
    """
    steps = checkpoint_steps(folder)
    for step in reversed(steps):
        try:
            return load_checkpoint(folder / f"step-{step}")
        except (OSError, ValueError) as error:
            warnings.warn(f"checkpoint passed over: {error}", RuntimeWarning, stacklevel=2)
    if steps:
        raise ValueError(f"{folder}: none of its {len(steps)} checkpoints can be read")
    return None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints."""
    for step in checkpoint_steps(folder)[:-keep]:
        _remove(folder, step)


def remove_newer_checkpoints(folder: Path, step: int) -> None:
    """Remove those after `step`, where a run goes on that could not read them: beside them its own
    next ones would count as old.
    """
    for newer in checkpoint_steps(folder):
        if newer > step:
            _remove(folder, newer)


def _remove(folder: Path, step: int) -> None:
    # a half-removed folder must not be taken for a checkpoint
    doomed = folder / f".tmp-step-{step}"
    (folder / f"step-{step}").rename(doomed)
    shutil.rmtree(doomed)


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None = None,
    rank: int = 0,
) -> dict[str, Any]:
    """Put a checkpoint into the model, the optimiser, the model with averaged weights if there is
    one, and torch's generators, as process `rank` had them; returns its `state`.

    Generators of a process that was not there stay as they are.

    Raises ValueError if it is of another model.
    """
    _fill(model, checkpoint.model, checkpoint.path / _MODEL)
    if average is not None:
        _fill(average, checkpoint.average or {}, checkpoint.path / AVERAGE_FILE)
    saved: dict[int, dict[str, Tensor]] = {}
    for key, value in checkpoint.optimizer.items():
        number, name = key.split(".", 1)
        saved.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved, "param_groups": groups})
    _restore_random(checkpoint.random, rank, next(model.parameters()).device)
    return checkpoint.state


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once, sharing the model's storage."""
    return {
        name: tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()
    }


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Of torch's generators on the CPU and, if that is another one, the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        # without its number: a run may go on on another GPU
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random(random: dict[str, Tensor], rank: int, device: torch.device) -> None:
    prefix = _of(rank)
    if f"{prefix}cpu" not in random:
        return
    torch.set_rng_state(random[f"{prefix}cpu"])
    # older checkpoints have the number of the GPU, one for each process: "cuda.3"
    found = [key for key in random if key.startswith(f"{prefix}cuda")]
    if device.type == "cuda" and found:
        torch.cuda.set_rng_state(random[found[0]], device)


def _of(rank: int) -> str:
    return f"rank{rank}." if rank else ""


def _fill(model: nn.Module, found: dict[str, Tensor], path: Path) -> None:
    tensors = _model_tensors(model)
    _check_same_names(path, tensors, found)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(found[name])


def _check_same_names(path: Path, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in (*ours, *theirs):
        shapes = [tuple(d[name].shape) if name in d else None for d in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{path}: {name} expected of shape {shapes[0]}, found {shapes[1]}")


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, the oldest first."""
    names: Iterable[str] = (path.name for path in folder.glob("step-*"))
    numbers = (name.removeprefix("step-") for name in names)
    return sorted(int(number) for number in numbers if number.isdecimal())


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed."""
    for path in folder.glob(".tmp-step-*"):
        shutil.rmtree(path)
