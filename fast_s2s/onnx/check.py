"""Whether an ONNX file does what the model does, by ONNX Runtime."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch

from fast_s2s import extras
from fast_s2s.checks import check_integer, check_path
from fast_s2s.seq2seq import Seq2Seq


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


@torch.inference_mode()
def check(
    model: Seq2Seq, path: str | os.PathLike[str], *, rows: int = 16, seed: int = 0
) -> Checked:
    """Generate from random inputs by the file, and score what came of them by the model.

    rows: of 1 to 24 random tokens each

    Raises TypeError or ValueError for an argument that does not fit, ModuleNotFoundError without
    the package onnxruntime, FileNotFoundError.
    """
    path = check_path("path", path)
    check_integer("rows", rows, 1)
    check_integer("seed", seed, 0)
    if not isinstance(model, Seq2Seq):
        raise TypeError(f"model: expected a Seq2Seq, got {type(model).__name__}")
    runtime = extras.require("onnxruntime", "onnx")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 25, (rows,), generator=generator)
    size = (rows, int(lengths.max()))
    src = torch.randint(model.config.src_vocab_size, size, generator=generator)
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    limit = np.asarray(model.generation_config.max_new_tokens)
    feeds = {"src": src.numpy(), "src_lengths": lengths.numpy(), "max_new_tokens": limit}
    sequences, found, scores = map(torch.from_numpy, session.run(None, feeds))
    tgt = sequences[:, 1:]
    # in double precision, so that only the file's rounding is left
    wide = Seq2Seq(model.config, dtype=torch.float64)
    state = model.state_dict()
    wide.load_state_dict({name: each.to("cpu", torch.float64) for name, each in state.items()})
    logits = wide.eval()(src, tgt, lengths, found).logits
    config = model.generation_config
    banned = [config.pad_token_id, config.bos_token_id, *(config.suppress_tokens or ())]
    banned = [token for token in banned if token < logits.size(2)]
    logits[:, :, banned] = -torch.inf
    logs = logits.log_softmax(-1)
    chosen = logs.gather(2, tgt.unsqueeze(2)).squeeze(2)
    past = torch.arange(tgt.size(1)) >= found.unsqueeze(1)
    regret = (logs.amax(2) - chosen).masked_fill(past, 0.0).max().item()
    total = chosen.masked_fill(past, 0.0).sum(1)
    return Checked(rows, int(found.sum()), regret, (total - scores).abs().max().item())
