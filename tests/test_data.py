from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from fast_s2s.data import (
    BadLine,
    Batch,
    Entry,
    PairDataset,
    TokenBatches,
    group_references,
    read_parallel,
    read_tsv,
)
from fast_s2s.text import Vocabulary

SOURCE = Vocabulary("abcdefgh")
TARGET = Vocabulary(["P", "Q", "R"], level="word")


def random_entries(count, longest=12, seed=0):
    generator = random.Random(seed)
    return [
        Entry(
            "".join(generator.choices("abcdefgh", k=generator.randint(1, longest))),
            (" ".join(generator.choices("PQR", k=generator.randint(1, longest))),),
        )
        for _ in range(count)
    ]


def write(path, content):
    path.write_bytes(content)
    return path


def test_tsv(tmp_path):
    path = write(tmp_path / "a.tsv", "hello\tHH AH\ncafé\tK AE\nhello\tHH EH\n".encode())
    entries, bad = read_tsv(path)
    assert entries == [
        Entry("hello", ("HH AH",)),
        Entry("café", ("K AE",)),
        Entry("hello", ("HH EH",)),
    ]
    assert bad == []
    assert group_references([*entries, entries[0]]) == [
        Entry("hello", ("HH AH", "HH EH")),
        Entry("café", ("K AE",)),
    ]


def test_tsv_byte_order_mark_crlf_spaces_and_unicode_form(tmp_path):
    content = b"\xef\xbb\xbfa b \tA\r\n" + "e\u0301\u2028x\t E".encode()
    entries, bad = read_tsv(write(tmp_path / "a.tsv", content))
    assert entries == [Entry("a b", ("A",)), Entry("\u00e9\u2028x", ("E",))]
    assert bad == []


def test_tsv_bad_lines_are_told(tmp_path):
    lines = [b"good\tG", b"no tab", b"\tT", b"s\t \r", b"a\tb\tc", b"", b"x\t\xff\xfe", b"last\tL"]
    path = write(tmp_path / "bad.tsv", b"\n".join(lines))
    entries, bad = read_tsv(str(path))
    assert entries == [Entry("good", ("G",)), Entry("last", ("L",))]
    columns = "expected 2 columns separated by a tab, got"
    assert bad == [
        BadLine(str(path), 2, "no tab", f"{columns} 1"),
        BadLine(str(path), 3, "\tT", "empty source"),
        BadLine(str(path), 4, "s\t ", "empty target"),
        BadLine(str(path), 5, "a\tb\tc", f"{columns} 3"),
        BadLine(str(path), 6, "", f"{columns} 1"),
        BadLine(str(path), 7, "x\t\\xff\\xfe", "not UTF-8 at byte 2"),
    ]
    assert str(bad[0]) == f"{path}:2: {columns} 1: 'no tab'"
    assert str(BadLine("a", 1, "x" * 10**6, "no")) == f"a:1: no: '{'x' * 80}…'"


def test_empty_and_missing_files(tmp_path):
    assert read_tsv(write(tmp_path / "empty.tsv", b"")) == ([], [])
    with pytest.raises(FileNotFoundError, match=r"missing\.tsv"):
        read_tsv(tmp_path / "missing.tsv")
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        read_parallel(tmp_path / "empty.tsv", tmp_path / "missing.txt")


def test_parallel(tmp_path):
    source = write(tmp_path / "s", b"\xef\xbb\xbfone\r\ntwo\r\n \r\nfour\r\nfive\r\n")
    target = write(tmp_path / "t", b"1\n2\t2\n3\n\n\xff")
    entries, bad = read_parallel(source, target)
    assert entries == [Entry("one", ("1",)), Entry("two", ("2\t2",))]
    assert bad == [
        BadLine(str(source), 3, " ", "empty line"),
        BadLine(str(target), 4, "", "empty line"),
        BadLine(str(target), 5, "\\xff", "not UTF-8 at byte 0"),
    ]


@pytest.mark.parametrize(("first", "second"), [(b"a\nb\n", b"1\n"), (b"a\n", b"1\n2\n3")])
def test_parallel_files_of_different_length(tmp_path, first, second):
    source, target = write(tmp_path / "s", first), write(tmp_path / "t", second)
    counts = first.count(b"\n"), second.count(b"\n") + (not second.endswith(b"\n"))
    with pytest.raises(ValueError, match=f"s has {counts[0]} lines, .*t has {counts[1]}"):
        read_parallel(source, target)


def test_entry_needs_targets():
    with pytest.raises(TypeError, match="targets: expected a tuple of str, got str"):
        Entry("a", "b")
    with pytest.raises(ValueError, match="targets: expected at least one"):
        Entry("a", ())


def test_pairs_are_encoded_with_eos():
    dataset = PairDataset([Entry("ab", ("P", "Q Z")), Entry("c?", ("R",))], SOURCE, TARGET)
    assert len(dataset) == 3
    pairs = [
        (source.tolist(), target.tolist()) for source, target in map(dataset.__getitem__, range(3))
    ]
    assert pairs == [([4, 5, 2], [4, 2]), ([4, 5, 2], [5, 3, 2]), ([6, 3, 2], [6, 2])]
    assert dataset[0][0].dtype == torch.int64
    assert dataset.source_lengths.tolist() == [3, 3, 3]
    assert dataset.target_lengths.tolist() == [2, 3, 2]
    assert (dataset.source_tokens, dataset.target_tokens) == (9, 7)
    assert (dataset.source_unknown, dataset.target_unknown, dataset.dropped) == (1, 1, 0)
    for index in (3, -1):
        with pytest.raises(IndexError, match=r"index: expected 0\.\.2"):
            dataset[index]


def test_collate_pads_on_the_right():
    dataset = PairDataset([Entry("abc", ("P",)), Entry("d", ("Q R P",))], SOURCE, TARGET)
    batch = dataset.collate([1, 0])
    assert batch.src.tolist() == [[7, 2, 0, 0], [4, 5, 6, 2]]
    assert batch.src_lengths.tolist() == [2, 4]
    assert batch.tgt.tolist() == [[5, 6, 4, 2], [4, 2, 0, 0]]
    assert batch.tgt_lengths.tolist() == [4, 2]
    assert {tensor.dtype for tensor in batch} == {torch.int64}


def test_collate_uses_the_pad_id_of_each_side():
    class Shifted(Vocabulary):
        pad_token_id = 7

    dataset = PairDataset([Entry("a", ("P",)), Entry("ab", ("P Q",))], Shifted("abcd"), TARGET)
    batch = dataset.collate([0, 1])
    assert batch.src[0].tolist() == [4, 2, 7]
    assert batch.tgt[0].tolist() == [4, 2, 0]


def test_collate_against_pairs_one_by_one():
    dataset = PairDataset(random_entries(200), SOURCE, TARGET)
    generator = random.Random(1)
    for _ in range(20):
        indices = generator.choices(range(200), k=generator.randint(1, 30))
        batch = dataset.collate(indices)
        for ids, lengths, side in (
            (batch.src, batch.src_lengths, 0),
            (batch.tgt, batch.tgt_lengths, 1),
        ):
            rows = [dataset[i][side] for i in indices]
            expected = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
            assert torch.equal(ids, expected)
            assert lengths.tolist() == [len(row) for row in rows]


def test_batch_moves_to_a_device():
    batch = PairDataset(random_entries(3), SOURCE, TARGET).collate([0, 1])
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert all(tensor.device.type == "meta" for tensor in moved)
    assert [tensor.shape for tensor in moved] == [tensor.shape for tensor in batch]


def test_max_length_drops_and_counts():
    entries = [Entry("abc", ("P", "P P P P")), Entry("abcd", ("P",)), Entry("a", ("Q",))]
    dataset = PairDataset(entries, SOURCE, TARGET, max_length=4)
    assert (len(dataset), dataset.dropped) == (2, 2)
    assert (dataset.source_tokens, dataset.target_tokens) == (6, 4)
    with pytest.raises(ValueError, match="max_length: .* got 1, which drops all 4"):
        PairDataset(entries, SOURCE, TARGET, max_length=1)


def test_bad_dataset_and_indices():
    with pytest.raises(ValueError, match="entries: expected at least one"):
        PairDataset([], SOURCE, TARGET)
    with pytest.raises(ValueError, match="max_length"):
        PairDataset(random_entries(1), SOURCE, TARGET, max_length=0)
    dataset = PairDataset(random_entries(3), SOURCE, TARGET)
    for indices in ([3], [0, -1]):
        with pytest.raises(IndexError, match=r"indices: expected 0\.\.2"):
            dataset.collate(indices)
    with pytest.raises(ValueError, match="indices: expected at least one"):
        dataset.collate([])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("bucket_size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("max_tokens", [1, 40, 300])
def test_every_pair_once_and_within_the_budget(shuffle, bucket_size, max_tokens):
    dataset = PairDataset(random_entries(500), SOURCE, TARGET)
    batches = TokenBatches(dataset, max_tokens, seed=3, shuffle=shuffle, bucket_size=bucket_size)
    for epoch in range(2):
        found = batches.batches(epoch)
        assert sorted(index for batch in found for index in batch) == list(range(500))
        for indices in found:
            batch = batches.collate(indices)
            size = len(indices) * max(batch.src.shape[1], batch.tgt.shape[1])
            assert size <= max_tokens or len(indices) == 1


def test_batches_depend_on_seed_and_epoch_only():
    dataset = PairDataset(random_entries(300), SOURCE, TARGET)
    first = TokenBatches(dataset, 64, seed=5)
    expected = [first.batches(epoch) for epoch in range(3)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    again = TokenBatches(dataset, 64, seed=5)
    assert [again.batches(epoch) for epoch in (2, 0, 1)] == [expected[2], expected[0], expected[1]]
    assert (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    ) == states
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert again.batches(1) == expected[1]
    assert expected[0] != expected[1]
    assert TokenBatches(dataset, 64, seed=6).batches(0) != expected[0]
    # a seed and an epoch are not added up
    assert TokenBatches(dataset, 64, seed=4).batches(1) != expected[0]


def test_batches_hold_pairs_of_like_length():
    dataset = PairDataset(random_entries(2000), SOURCE, TARGET)

    def padded(bucket_size):
        batches = TokenBatches(dataset, 200, bucket_size=bucket_size)
        return sum(b.src.numel() + b.tgt.numel() for b in map(batches.collate, batches.batches(0)))

    tokens = dataset.source_tokens + dataset.target_tokens
    assert padded(2000) < 1.15 * tokens
    assert padded(1) == tokens
    assert padded(10) > padded(200) > padded(2000)


def test_shuffle_changes_the_order_of_batches_and_pairs():
    dataset = PairDataset(random_entries(400, longest=3), SOURCE, TARGET)
    shuffled = TokenBatches(dataset, 64).batches(0)
    lengths = [int(dataset.source_lengths[batch[0]]) for batch in shuffled]
    assert lengths != sorted(lengths)
    plain = TokenBatches(dataset, 64, shuffle=False)
    assert plain.batches(0) == plain.batches(7)
    keys = list(zip(dataset.source_lengths.tolist(), dataset.target_lengths.tolist(), strict=True))
    order = [index for batch in plain.batches(0) for index in batch]
    assert order == sorted(range(400), key=keys.__getitem__)


def test_without_shuffling_buckets_keep_their_order():
    dataset = PairDataset(random_entries(100), SOURCE, TARGET)
    batches = TokenBatches(dataset, 50, shuffle=False, bucket_size=10).batches(0)
    assert [index // 10 for batch in batches for index in batch] == [i // 10 for i in range(100)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_tokens": 0}, ValueError, "max_tokens"),
        ({"max_tokens": 1.5}, TypeError, "max_tokens"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": None}, TypeError, "seed"),
        ({"shuffle": 1}, TypeError, "shuffle"),
        ({"bucket_size": 0}, ValueError, "bucket_size"),
    ],
)
def test_bad_batches(arguments, error, message):
    dataset = PairDataset(random_entries(3), SOURCE, TARGET)
    with pytest.raises(error, match=message):
        TokenBatches(dataset, **{"max_tokens": 10, **arguments})


def test_bad_epoch():
    batches = TokenBatches(PairDataset(random_entries(3), SOURCE, TARGET), 10)
    with pytest.raises(ValueError, match="epoch"):
        batches.batches(-1)
