"""A toy task for the tests of training: spell the digits of a number, last one first."""

from __future__ import annotations

import random

import torch

from fast_s2s.data import Entry
from fast_s2s.seq2seq import Seq2Seq
from fast_s2s.text import Vocabulary
from fast_s2s.training import Trainer, TrainingConfig

NAMES = ["nil", "one", "two", "three", "four"]


def toy_entries(count: int, seed: int = 0, longest: int = 4) -> list[Entry]:
    rng = random.Random(seed)
    sources = ["".join(rng.choices("01234", k=rng.randint(1, longest))) for _ in range(count)]
    return [Entry(s, (" ".join(NAMES[int(d)] for d in reversed(s)),)) for s in sources]


def toy_tokenizers() -> tuple[Vocabulary, Vocabulary]:
    return Vocabulary("01234", level="char"), Vocabulary(NAMES, level="word")


def toy_model(seed: int = 0, dtype: torch.dtype | None = None, **fields) -> Seq2Seq:
    torch.manual_seed(seed)
    sizes = {"embedding_size": 8, "hidden_size": 12, **fields}
    return Seq2Seq(src_vocab_size=9, tgt_vocab_size=9, dtype=dtype, **sizes)


def toy_trainer(output_dir, model: Seq2Seq | None = None, *, teacher=None, **settings) -> Trainer:
    few = {"max_updates": 12, "warmup_updates": 2, "max_tokens": 64, "evaluate_every": 4}
    config = TrainingConfig(**{**few, "checkpoint_every": 4, **settings})
    given = model or toy_model(), *toy_tokenizers(), config, output_dir
    return Trainer(*given, quiet=True, teacher=teacher)


def toy_tsv(path, entries: list[Entry]) -> str:
    path.write_text("".join(f"{e.source}\t{e.targets[0]}\n" for e in entries))
    return str(path)


def numbers(records: list[dict]) -> list[dict]:
    """Lines of a training log without what the clock decides."""
    timed = ("seconds", "tokens_per_second")
    return [{k: v for k, v in record.items() if k not in timed} for record in records]
