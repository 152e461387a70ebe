"""Averages of weights: over the updates of a run, and over checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from fast_s2s import pretrained
from fast_s2s.checks import check_integer, check_path, check_sequence
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.serialization import load_tensors
from fast_s2s.text import Tokenizer, load_tokenizer
from fast_s2s.training.checkpoint import AVERAGE_FILE, checkpoint_steps
from fast_s2s.training.run_folder import RunFolder

# fields that do not change what the weights mean; the first model's are kept. Zoneout does: it acts
# in evaluation, too
_MAY_DIFFER = (
    "label_smoothing",
    "decoder_dtype",
    "dropout",
    "variational_dropout",
    "recurrent_dropout",
    "weight_dropout",
    "forget_bias",
    "recurrent_init",
)
_TOKENIZERS = (pretrained.SOURCE_TOKENIZER_FILE, pretrained.TARGET_TOKENIZER_FILE)


class ExponentialAverage(AveragedModel):
    """A copy of a model, in eval mode, whose weights follow its own: after the first update they
    are the same, after update t = 2, 3, …

    average = d · average + (1 - d) · weights,  d = min(decay, t / (9 + t))

    The first updates count for less, as in TensorFlow's `ExponentialMovingAverage`, whose t is
    smaller by one: so a short run is not held back by its early weights.
    """

    def __init__(self, model: Seq2Seq, decay: float) -> None:
        def follow(averages: Any, weights: Any, updates: Any) -> None:
            t = 1 + int(updates)
            torch._foreach_lerp_(averages, weights, 1 - min(decay, t / (9 + t)))

        super().__init__(model, multi_avg_fn=torch.no_grad()(follow))
        self.module.eval()

    @property
    def model(self) -> Seq2Seq:
        """The copy."""
        assert isinstance(self.module, Seq2Seq)
        return self.module

    def go_on(self, updates: int) -> None:
        """Go on after so many updates, the weights having been restored."""
        assert isinstance(self.n_averaged, Tensor)
        self.n_averaged.fill_(updates)


class _Source(NamedTuple):
    """What is averaged: where its weights are, and the model folder that says what they mean."""

    weights: Path
    folder: Path


def average_models(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    last: int | None = None,
) -> list[Path]:
    """Write a model folder whose weights are the mean of several models'.

    sources: folders of models; or checkpoints of training runs, `RUN/checkpoints/step-N`, whose
             config and tokenizers are the run's. Of a run with `ema` its average counts
    output:  the new folder. Everything but the weights is the first model's
    last:    the last so many checkpoints of the one run in `sources`, step 0 not among them

    Sums are in float64. Returns the files that were averaged.

    Raises TypeError or ValueError naming the argument, the model and what differs: the
    architecture, a tokenizer, names or shapes of weights; FileNotFoundError for what is missing.
    Nothing is then written.
    """
    check_sequence("sources", sources, "paths")
    output = check_path("output", output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"output: expected a new or an empty folder, got {output}")
    found = _find(sources, last)
    first = pretrained.read_configs(found[0].folder)
    for source in found[1:]:
        _check_alike(found[0], source)
    tensors = _mean([source.weights for source in found])
    contents = pretrained.Pretrained(*first, tensors)
    pretrained.write(
        output, contents, *(_tokenizer(found[0].folder / file) for file in _TOKENIZERS)
    )
    return [source.weights for source in found]


def _find(sources: Sequence[str | os.PathLike[str]], last: int | None) -> list[_Source]:
    paths = [check_path(f"sources[{index}]", path) for index, path in enumerate(sources)]
    if last is not None:
        check_integer("last", last, 1)
        if len(paths) != 1:
            raise ValueError(f"last: expected one run in sources, got {len(paths)}")
        run = RunFolder(paths[0])
        found = checkpoint_steps(run.checkpoints)
        # a run also keeps the weights it began with
        steps = [step for step in found if step > 0]
        if found and not steps:
            raise ValueError(
                f"last: expected checkpoints of a trained model in {run.checkpoints}, found only "
                "step-0, from before the first update"
            )
        if len(steps) < last:
            raise ValueError(
                f"last: expected at most the {len(steps)} checkpoints in {run.checkpoints}, "
                f"got {last}; a run keeps more with --keep-checkpoints"
            )
        paths = [run.checkpoints / f"step-{step}" for step in steps[-last:]]
    if not paths:
        raise ValueError("sources: expected at least one model, got none")
    return [_source(path) for path in paths]


def _source(path: Path) -> _Source:
    if not path.is_dir():
        raise FileNotFoundError(f"sources: {path}: no such folder")
    if (path / pretrained.CONFIG_FILE).exists():
        return _Source(path / pretrained.WEIGHTS_FILE, path)
    average = path / AVERAGE_FILE
    weights = average if average.exists() else path / pretrained.WEIGHTS_FILE
    folder = path.absolute().parent.parent
    if not weights.exists() or not (folder / pretrained.CONFIG_FILE).exists():
        raise FileNotFoundError(
            f"sources: expected {path} to be a model, or a checkpoint of a run whose folder has "
            f"{pretrained.CONFIG_FILE}, which its first evaluation writes"
        )
    return _Source(weights, folder)


def _check_alike(first: _Source, other: _Source) -> None:
    configs = [pretrained.read_configs(source.folder)[0].to_dict() for source in (first, other)]
    differences = [
        f"{name} {configs[1][name]!r} instead of {value!r}"
        for name, value in configs[0].items()
        if name not in _MAY_DIFFER and configs[1][name] != value
    ]
    for file in _TOKENIZERS:
        texts = [_content(source.folder / file) for source in (first, other)]
        if texts[0] != texts[1]:
            differences.append(f"another {file}")
    if differences:
        raise ValueError(
            f"sources: expected models like {first.weights}, but {other.weights} has "
            + ", ".join(differences)
        )


def _mean(files: Iterable[Path]) -> dict[str, Tensor]:
    """The mean of the tensors of all files, of the first's types."""
    files = list(files)
    first = load_tensors(files[0])
    if any(tensor.dtype == torch.int8 for tensor in first.values()):
        raise ValueError(f"sources: expected models with their own weights, got int8 in {files[0]}")
    sums = {name: tensor.double() for name, tensor in first.items()}
    for file in files[1:]:
        tensors = load_tensors(file)
        _check_same_tensors(files[0], first, file, tensors)
        for name, tensor in tensors.items():
            sums[name] += tensor
    return {name: (total / len(files)).to(first[name].dtype) for name, total in sums.items()}


def _check_same_tensors(
    first: Path, ours: Mapping[str, Tensor], other: Path, theirs: Mapping[str, Tensor]
) -> None:
    for name in (*ours, *theirs):
        kinds = [
            f"{tuple(tensors[name].shape)} {tensors[name].dtype}" if name in tensors else "missing"
            for tensors in (ours, theirs)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"sources: {name}: expected {kinds[0]} as in {first}, got {kinds[1]} in {other}"
            )


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _tokenizer(file: Path) -> Tokenizer | None:
    return load_tokenizer(file) if file.exists() else None
