"""Files are written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from fast_s2s import serialization
from fast_s2s.serialization import (
    atomic_write_bytes,
    atomic_write_files,
    atomic_write_json,
    atomic_write_text,
    load_tensors,
    read_json,
    save_tensors,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_in_a_files_place_is_named(tmp_path):
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        atomic_write_bytes(tmp_path / "curve.png", b"x")
    assert caught.value.filename == str(tmp_path / "curve.png")


@contextlib.contextmanager
def small_files():
    """Longer files fail as on a full disk; pytest's own output too, if it goes to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "save",
    [
        lambda path: atomic_write_bytes(path, bytes(2000)),
        lambda path: save_tensors(path, {"x": torch.zeros(500)}),
    ],
    ids=["bytes", "tensors"],
)
def test_a_full_disk_names_the_file_that_was_meant(tmp_path, save):
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with pytest.raises(OSError, match="File too large") as caught, small_files():
        save(path)
    assert caught.value.filename == str(path)
    assert (path.read_text(), names(tmp_path)) == ("old", ["model.safetensors"])


def test_bytes_text_and_json_come_back(tmp_path):
    atomic_write_bytes(tmp_path / "a", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    atomic_write_text(str(tmp_path / "a"), "ə\r\n")
    assert (tmp_path / "a").read_bytes() == "ə\r\n".encode()
    obj = {"ə": [1, 2.5, None, True], "nested": {"a": "b"}}
    atomic_write_json(tmp_path / "b", obj)
    assert read_json(tmp_path / "b") == obj
    assert "ə" in (tmp_path / "b").read_text(encoding="utf-8")
    assert names(tmp_path) == ["a", "b"]


def test_links_and_pipes_stay_what_they_are(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic_write_bytes(pipe, b"through")
        assert os.read(reader, 99) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    reader, writer = os.pipe()
    try:
        # as /dev/stdout may be
        atomic_write_bytes(f"/proc/self/fd/{writer}", b"through")
        assert os.read(reader, 99) == b"through"
    finally:
        os.close(reader)
        os.close(writer)


def test_new_files_have_the_usual_permissions(tmp_path):
    atomic_write_bytes(tmp_path / "ours", b"")
    (tmp_path / "usual").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "t.safetensors"
    tensors = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "ids": torch.arange(6).reshape(2, 3),
        "transposed": torch.randn(3, 4).t(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "nan": torch.tensor([float("nan"), -0.0]),
    }
    save_tensors(path, tensors, {"step": "3"})

    loaded = load_tensors(path)

    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        # equal, also where NaN
        assert torch.equal(
            loaded[name].contiguous().view(-1).view(torch.uint8),
            tensor.detach().contiguous().view(-1).view(torch.uint8),
        )
    assert names(tmp_path) == [path.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.json"
    atomic_write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        atomic_write_json(path, {"a": object()})

    def half_a_write(temporary):
        temporary.write_bytes(b"{")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        atomic_write_files(tmp_path, {"model.json": half_a_write})
    assert read_json(path) == {"a": 1}
    assert names(tmp_path) == ["model.json"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        atomic_write_text(tmp_path / "absent" / "file", "text")


def write_bytes(data):
    return lambda path: path.write_bytes(data)


def test_files_that_belong_together(tmp_path, monkeypatch):
    atomic_write_files(tmp_path, {"weights": write_bytes(b"1"), "config": write_bytes(b"a")})
    assert (tmp_path / "weights").read_bytes() == b"1"

    seen = []
    replace = type(tmp_path).replace

    def watched_replace(source, target):
        seen.append((target.name, names_without_temporaries(tmp_path)))
        return replace(source, target)

    monkeypatch.setattr(type(tmp_path), "replace", watched_replace)
    # one file differs: one move, and the other stays in place
    atomic_write_files(tmp_path, {"weights": write_bytes(b"2"), "config": write_bytes(b"a")})
    assert seen == [("weights", ["config", "weights"])]
    seen.clear()
    # both differ: while they are replaced there is no config
    atomic_write_files(tmp_path, {"weights": write_bytes(b"3"), "config": write_bytes(b"b")})
    assert seen == [("weights", ["weights"]), ("config", ["weights"])]
    seen.clear()
    # the same again: nothing moves
    atomic_write_files(tmp_path, {"weights": write_bytes(b"3"), "config": write_bytes(b"b")})
    assert seen == []
    assert names(tmp_path) == ["config", "weights"]
    assert ((tmp_path / "weights").read_bytes(), (tmp_path / "config").read_bytes()) == (b"3", b"b")


def names_without_temporaries(folder):
    return [name for name in names(folder) if not name.startswith(".")]


def test_a_second_writer_that_fails_leaves_every_old_file(tmp_path):
    atomic_write_files(tmp_path, {"weights": write_bytes(b"1"), "config": write_bytes(b"a")})

    def fail(path):
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        atomic_write_files(tmp_path, {"weights": write_bytes(b"2"), "config": fail})
    assert names(tmp_path) == ["config", "weights"]
    assert (tmp_path / "weights").read_bytes() == b"1"


KILLED_WRITER = """
import itertools, sys
from pathlib import Path
from fast_s2s.serialization import atomic_write_json
path = Path(sys.argv[1])
for count in itertools.count():
    atomic_write_json(path, {"values": [count] * 20000})
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "values.json"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED_WRITER, str(path)],
        env={**os.environ, "FAST_S2S_NATIVE": "0"},
    )
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        # a reader meanwhile sees whole files only
        for _ in range(20):
            assert len(set(read_json(path)["values"])) == 1
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    values = read_json(path)["values"]
    assert len(values) == 20000 and len(set(values)) == 1


BAD_JSON = {
    "empty": b"",
    "cut": b'{"a": [1, 2',
    "binary": b"\x80\x04\x95\xff",
    "list": b"[1, 2]",
    "number": b"3",
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_named(tmp_path, case):
    path = tmp_path / "config.json"
    path.write_bytes(BAD_JSON[case])
    with pytest.raises(ValueError, match="expected a JSON") as raised:
        read_json(path)
    assert str(path) in str(raised.value)


def damaged_tensors(tmp_path):
    path = tmp_path / "whole"
    save_tensors(path, {"a": torch.randn(100)})
    whole = path.read_bytes()
    return {
        "empty": b"",
        "cut header": whole[:20],
        "cut data": whole[:-1],
        "longer": whole + b"\x00",
        "header length": b"\xff" * 8 + whole[8:],
        "pickle": pickle.dumps({"a": [1, 2, 3]}),
        "json": b'{"a": 1}',
        "text": b"hello, this is a text file of some length",
    }


@pytest.mark.parametrize(
    "case",
    ["empty", "cut header", "cut data", "longer", "header length", "pickle", "json", "text"],
)
def test_bad_tensors_are_named(tmp_path, case):
    path = tmp_path / "model.safetensors"
    path.write_bytes(damaged_tensors(tmp_path)[case])
    with pytest.raises(ValueError, match="expected a safetensors file") as raised:
        load_tensors(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("read", [read_json, load_tensors])
def test_missing_files_and_folders_are_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="absent: no such file"):
        read(tmp_path / "absent")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder: expected a file, got a folder"):
        read(tmp_path / "folder")


def test_what_cannot_be_saved_is_refused(tmp_path):
    path = tmp_path / "t"
    shared = torch.randn(4)
    with pytest.raises(ValueError, match="'a' and 'b' share it"):
        save_tensors(path, {"a": shared, "b": shared[:2]})
    with pytest.raises(TypeError, match="tensors: expected strings and tensors, got 'a': list"):
        save_tensors(path, {"a": [1.0]})
    with pytest.raises(TypeError, match="tensors: expected strings and tensors, got 3: Tensor"):
        save_tensors(path, {3: shared})
    with pytest.raises(TypeError, match="metadata: expected strings, got 'step': 3"):
        save_tensors(path, {"a": shared}, {"step": 3})
    assert names(tmp_path) == []


def test_json_ends_with_a_line_end():
    assert serialization.json_bytes({"a": 1}) == json.dumps({"a": 1}, indent=2).encode() + b"\n"


def test_files_are_as_readable_as_any_other(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    save_tensors(tmp_path / "model.safetensors", {"x": torch.ones(2)})
    atomic_write_text(tmp_path / "text", "x")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == {plain.stat().st_mode}
