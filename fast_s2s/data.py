"""Pairs of texts: read from files, encoded once, batched by length.

Files are UTF-8, with or without a byte order mark, with LF or CRLF line ends. Texts are brought to
Unicode NFC and lose white space at both ends.
"""

from __future__ import annotations

import codecs
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from fast_s2s.checks import (
    check_bool,
    check_device,
    check_integer,
    check_path,
    check_sequence,
    integer_tensor,
    shown,
)
from fast_s2s.tokenizer import PathLike, Tokenizer, check_tokenizer, normalize

# characters of a bad line
_SHOWN = 80


@dataclass(frozen=True)
class Entry:
    """A source text and the targets that are right for it, one or more.

    Raises TypeError or ValueError naming the field that does not fit.
    """

    source: str
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.source, str):
            raise TypeError(f"source: expected a str, got {type(self.source).__name__}")
        if not isinstance(self.targets, tuple):
            kind = type(self.targets).__name__
            raise TypeError(f"targets: expected a tuple of str, got {kind}")
        if not self.targets:
            raise ValueError("targets: expected at least one target, got none")
        for target in self.targets:
            if not isinstance(target, str):
                kind = type(target).__name__
                raise TypeError(f"targets: expected a tuple of str, got {kind} in it")


@dataclass(frozen=True)
class BadLine:
    """A line that was left out, and why. `line_number` counts from 1."""

    path: str
    line_number: int
    text: str
    reason: str

    def __str__(self) -> str:
        # a file of another kind may have lines of any length
        text = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}…"
        return f"{self.path}:{self.line_number}: {self.reason}: {text!r}"


@dataclass(frozen=True)
class DatasetSplits:
    """Entries for training, for choosing a model, for the final score; no source is in two sets.

    name:          which split this is, for labels
    extra:         entries that belong to none of the three, by the name of their set
    missing_words: words that were asked for and are not in the data
    """

    name: str
    train: list[Entry]
    dev: list[Entry]
    test: list[Entry]
    extra: dict[str, list[Entry]] = field(default_factory=dict)
    missing_words: tuple[str, ...] = ()


def read_tsv(path: PathLike) -> tuple[list[Entry], list[BadLine]]:
    """Read lines `source<TAB>target`, one entry each.

    Returns the entries and the lines that are not of this form: without a tab, with more than two
    columns, with an empty source or target, or not UTF-8.
    """
    check_path("path", path)
    entries: list[Entry] = []
    bad: list[BadLine] = []
    for number, raw in enumerate(_raw_lines(path), start=1):
        text, reason = _decode(raw)
        columns = [column.strip() for column in text.split("\t")]
        reason = reason or _column_fault(columns)
        if reason:
            bad.append(BadLine(os.fspath(path), number, text, reason))
        else:
            entries.append(Entry(columns[0], (columns[1],)))
    return entries, bad


def read_parallel(
    source_path: PathLike, target_path: PathLike
) -> tuple[list[Entry], list[BadLine]]:
    """Read two files whose lines belong together.

    Returns the entries and the lines, of either file, that are empty or not UTF-8; the line beside
    a bad one is left out with it. Raises ValueError if the files differ in their number of lines.
    """
    check_path("source_path", source_path)
    check_path("target_path", target_path)
    entries: list[Entry] = []
    bad: list[BadLine] = []
    lines = zip_longest(_raw_lines(source_path), _raw_lines(target_path))
    counts = [0, 0]
    for number, pair in enumerate(lines, start=1):
        counts = [n + (raw is not None) for n, raw in zip(counts, pair, strict=True)]
        if None in pair:
            continue
        texts = []
        for path, raw in zip((source_path, target_path), pair, strict=True):
            text, reason = _decode(raw)
            reason = reason or ("" if text.strip() else "empty line")
            if reason:
                bad.append(BadLine(os.fspath(path), number, text, reason))
            else:
                texts.append(text.strip())
        if len(texts) == 2:
            entries.append(Entry(texts[0], (texts[1],)))
    if counts[0] != counts[1]:
        raise ValueError(
            f"{os.fspath(source_path)} has {counts[0]} lines, {os.fspath(target_path)} has"
            f" {counts[1]}: expected the same number"
        )
    return entries, bad


def check_entries(name: str, entries: object) -> None:
    """Raises TypeError unless `entries` is a sequence of `Entry`."""
    check_sequence(name, entries, "Entry")
    for index, entry in enumerate(cast(Sequence[object], entries)):
        if not isinstance(entry, Entry):
            raise TypeError(f"{name}[{index}]: expected an Entry, got {type(entry).__name__}")


def group_references(entries: Sequence[Entry]) -> list[Entry]:
    """One entry per source with all its targets, each once, in order of first appearance.

    For evaluation, where every target of a source is right.
    """
    check_entries("entries", entries)
    targets: dict[str, dict[str, None]] = {}
    for entry in entries:
        targets.setdefault(entry.source, {}).update(dict.fromkeys(entry.targets))
    return [Entry(source, tuple(found)) for source, found in targets.items()]


class Batch(NamedTuple):
    """Pairs padded to rectangles, on the right, with the pad id; every row ends with eos before it.

    src, tgt:                 (B, S) and (B, T) int64; tgt are labels, so neither begins with bos
    src_lengths, tgt_lengths: (B,) int64, eos included
    """

    src: Tensor
    src_lengths: Tensor
    tgt: Tensor
    tgt_lengths: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on a device. Raises TypeError or ValueError for what is no device."""
        check_device("device", device)
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))


class PairDataset:
    """Pairs encoded once: one item for each (source, target) of the entries, in their order.

    source_tokenizer, target_tokenizer: see `fast_s2s.text.Tokenizer`
    max_length:                         pairs with more tokens on either side, eos included, are
                                        dropped and counted; None keeps all

    source_tokens, target_tokens:   tokens kept, eos included
    source_unknown, target_unknown: how many of them are unknown symbols
    dropped:                        pairs dropped

    Raises TypeError or ValueError naming the argument that does not fit; ValueError too if no pair
    is left.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
    ) -> None:
        if max_length is not None:
            check_integer("max_length", max_length, 1)
        check_entries("entries", entries)
        check_tokenizer("source_tokenizer", source_tokenizer)
        check_tokenizer("target_tokenizer", target_tokenizer)
        if not entries:
            raise ValueError("entries: expected at least one, got none")
        source_ids, source_lengths = array("i"), array("q")
        target_ids, target_lengths = array("i"), array("q")
        self.dropped = 0
        for source, target in _encoded(entries, source_tokenizer, target_tokenizer):
            if max_length is not None and max(len(source), len(target)) > max_length:
                self.dropped += 1
                continue
            source_ids.extend(source)
            source_lengths.append(len(source))
            target_ids.extend(target)
            target_lengths.append(len(target))
        if not source_lengths:
            raise ValueError(
                f"max_length: expected one that keeps some pairs, got {max_length},"
                f" which drops all {self.dropped}"
            )
        self._source = _Sequences(source_ids, source_lengths, source_tokenizer.pad_token_id)
        self._target = _Sequences(target_ids, target_lengths, target_tokenizer.pad_token_id)
        self.source_tokens = len(source_ids)
        self.target_tokens = len(target_ids)
        self.source_unknown = int((self._source.ids == source_tokenizer.unk_token_id).sum())
        self.target_unknown = int((self._target.ids == target_tokenizer.unk_token_id).sum())

    def __len__(self) -> int:
        return len(self._source.lengths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Source (S,) and target (T,) int64 ids of one pair, both ending with eos."""
        if not isinstance(index, int) or isinstance(index, bool):
            raise TypeError(f"index: expected an integer, got {index!r}")
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0..{len(self) - 1}, got {index}")
        return self._source[index], self._target[index]

    @property
    def source_lengths(self) -> Tensor:
        """(len(self),) int64, eos included."""
        return self._source.lengths

    @property
    def target_lengths(self) -> Tensor:
        """(len(self),) int64, eos included."""
        return self._target.lengths

    @property
    def sides(self) -> tuple[_Sequences, _Sequences]:
        """All sources, and all targets."""
        return self._source, self._target

    def collate(self, indices: Sequence[int]) -> Batch:
        """The pairs at `indices`, in that order, padded to the longest on each side.

        Raises TypeError, ValueError or, for a number that is no pair's, IndexError.
        """
        rows = integer_tensor("indices", indices).long()
        if rows.dim() != 1 or not len(rows):
            raise ValueError(f"indices: expected at least one, in one row, got {shown(indices)}")
        low, high = (int(value) for value in rows.aminmax())
        if low < 0 or high >= len(self):
            raise IndexError(f"indices: expected 0..{len(self) - 1}, got {low}..{high}")
        return Batch(*self._source.padded(rows), *self._target.padded(rows))


class TokenBatches:
    """Batches of a dataset whose padded size fits a budget of tokens.

    Pairs are shuffled, cut into buckets, sorted by source and then target length inside a bucket,
    and cut into batches, which are shuffled. Every pair is in exactly one batch of an epoch.

    max_tokens:  largest rows · max(S, T) of a batch; a pair longer than that is a batch of its own
    seed:        with `epoch` it decides the order; no global random state is read or changed
    shuffle:     False keeps to the order of the dataset between buckets, the same in every epoch
    bucket_size: pairs in a bucket; larger means less padding, smaller means more varied batches
    """

    def __init__(
        self,
        dataset: PairDataset,
        max_tokens: int,
        seed: int = 0,
        shuffle: bool = True,
        bucket_size: int = 65536,
    ) -> None:
        if not isinstance(dataset, PairDataset):
            raise TypeError(f"dataset: expected a PairDataset, got {type(dataset).__name__}")
        check_integer("max_tokens", max_tokens, 1)
        check_integer("seed", seed, 0)
        check_bool("shuffle", shuffle)
        check_integer("bucket_size", bucket_size, 1)
        self.dataset = dataset
        self.max_tokens = max_tokens
        self.seed = seed
        self.shuffle = shuffle
        self.bucket_size = bucket_size

    def batches(self, epoch: int = 0) -> list[list[int]]:
        """The indices of every batch of an epoch, the same at every call."""
        check_integer("epoch", epoch, 0)
        generator = np.random.default_rng([self.seed, epoch])
        count = len(self.dataset)
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        source = self.dataset.source_lengths.numpy()
        target = self.dataset.target_lengths.numpy()
        longest = np.maximum(source, target)
        batches: list[list[int]] = []
        for start in range(0, count, self.bucket_size):
            bucket = order[start : start + self.bucket_size]
            bucket = bucket[np.lexsort((target[bucket], source[bucket]))]
            batches.extend(_cut(bucket.tolist(), longest[bucket].tolist(), self.max_tokens))
        if self.shuffle:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return batches

    def collate(self, indices: Sequence[int]) -> Batch:
        """`PairDataset.collate` of the dataset."""
        return self.dataset.collate(indices)


class _Sequences:
    """Sequences of different lengths, one after the other in `ids` (N,) int32."""

    def __init__(self, ids: array[int], lengths: array[int], pad_token_id: int) -> None:
        self.ids = torch.frombuffer(ids, dtype=torch.int32)
        self.lengths = torch.frombuffer(lengths, dtype=torch.int64)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.pad_token_id = pad_token_id

    def __getitem__(self, index: int) -> Tensor:
        start = self.starts[index]
        return self.ids[start : start + self.lengths[index]].long()

    def padded(self, rows: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
        lengths = self.lengths[rows]
        columns = torch.arange(int(lengths.max()) if width is None else width)
        positions = self.starts[rows].unsqueeze(1) + columns
        # past its end a row reads its neighbour's ids, which the pad id then covers
        ids = self.ids[positions.clamp_(max=len(self.ids) - 1)].long()
        return ids.masked_fill_(columns >= lengths.unsqueeze(1), self.pad_token_id), lengths


def _encoded(
    entries: Iterable[Entry], source_tokenizer: Tokenizer, target_tokenizer: Tokenizer
) -> Iterator[tuple[list[int], list[int]]]:
    source_eos, target_eos = source_tokenizer.eos_token_id, target_tokenizer.eos_token_id
    for entry in entries:
        source = [*source_tokenizer.encode(entry.source), source_eos]
        for target in entry.targets:
            yield source, [*target_tokenizer.encode(target), target_eos]


def _cut(order: list[int], lengths: list[int], max_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    longest = 0
    for index, length in zip(order, lengths, strict=True):
        longest = max(longest, length)
        if batch and (len(batch) + 1) * longest > max_tokens:
            yield batch
            batch, longest = [], length
        batch.append(index)
    yield batch


def _raw_lines(path: PathLike) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        for number, line in enumerate(file):
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


def _column_fault(columns: list[str]) -> str:
    if len(columns) != 2:
        return f"expected 2 columns separated by a tab, got {len(columns)}"
    if not columns[0]:
        return "empty source"
    return "" if columns[1] else "empty target"


def _decode(line: bytes) -> tuple[str, str]:
    """The text of a line, and what is wrong with it or nothing."""
    try:
        return normalize(line.decode("utf-8")), ""
    except UnicodeDecodeError as error:
        return line.decode("utf-8", "backslashreplace"), f"not UTF-8 at byte {error.start}"
