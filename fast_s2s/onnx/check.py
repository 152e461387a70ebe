"""Whether an ONNX file does what the model does, by ONNX Runtime."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
import torch

from fast_s2s import extras
from fast_s2s.checks import check_integer, check_path
from fast_s2s.onnx.export import never_chosen
from fast_s2s.seq2seq import Seq2Seq

# tokens of an output are enough, whatever the model's own limit
_LIMIT = 64


class Checked(NamedTuple):
    """What was found.

    rows:        inputs compared
    tokens:      tokens that the file generated
    regret:      by how much a token of the file is less probable, by the model, than the best one:
                 the largest difference of log-probabilities. 0 where the same are chosen
    score_error: the largest difference between the file's score of a row and the model's of it
    """

    rows: int
    tokens: int
    regret: float
    score_error: float


def check(
    model: Seq2Seq, path: str | os.PathLike[str], *, rows: int = 16, seed: int = 0
) -> Checked:
    """Generate from random inputs by the file, and score what came of them by the model in double
    precision.

    rows: of 1 to 24 random tokens each; outputs are cut at 64

    Raises TypeError or ValueError for an argument that does not fit, ModuleNotFoundError without
    the package onnxruntime, FileNotFoundError, ValueError for a file that ONNX Runtime cannot run
    on tokens of the model.
    """
    path = check_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return check_bytes(model, path.read_bytes(), str(path), rows=rows, seed=seed)


@torch.inference_mode()
def check_bytes(model: Seq2Seq, data: bytes, name: str, *, rows: int, seed: int) -> Checked:
    """`check` of a file's content."""
    check_integer("rows", rows, 1)
    check_integer("seed", seed, 0)
    if not isinstance(model, Seq2Seq):
        raise TypeError(f"model: expected a Seq2Seq, got {type(model).__name__}")
    config = model.generation_config
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 25, (rows,), generator=generator)
    size = (rows, int(lengths.max()))
    src = torch.randint(model.config.src_vocab_size, size, generator=generator)
    limit = np.asarray(min(config.max_new_tokens, _LIMIT))
    feeds = {"src": src.numpy(), "src_lengths": lengths.numpy(), "max_new_tokens": limit}
    sequences, found, scores = _run(data, name, feeds)
    tgt = sequences[:, 1:]
    logits = _wide(model, config.bos_token_id)(src, tgt, lengths, found).logits
    logits[:, :, list(never_chosen(config))] = -torch.inf
    logs = logits.log_softmax(-1)
    chosen = logs.gather(2, tgt.unsqueeze(2)).squeeze(2)
    past = torch.arange(tgt.size(1)) >= found.unsqueeze(1)
    regret = (logs.amax(2) - chosen).masked_fill(past, 0.0).max().item()
    total = chosen.masked_fill(past, 0.0).sum(1)
    return Checked(rows, int(found.sum()), regret, (total - scores).abs().max().item())


def _run(data: bytes, name: str, feeds: dict[str, Any]) -> list[torch.Tensor]:
    runtime = extras.require("onnxruntime", "onnx")
    try:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(each) for each in session.run(None, feeds)]
    # of the library's own kinds, which have nothing else in common
    except Exception as error:
        raise ValueError(f"{name}: expected an ONNX file of the model: {error}") from error


def _wide(model: Seq2Seq, bos_token_id: int) -> Seq2Seq:
    """The model in double precision on the CPU, where only the file's rounding is left, reading
    first what `generate` reads.
    """
    wide = Seq2Seq(dataclasses.replace(model.config, bos_token_id=bos_token_id), device="meta")
    state = {name: each.to("cpu", torch.float64) for name, each in model.state_dict().items()}
    wide.load_state_dict(state, assign=True)
    return wide.eval()
