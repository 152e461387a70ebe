"""Files that are written whole or not at all, and read with errors that name them. No pickle."""

from __future__ import annotations

import contextlib
import filecmp
import glob
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

# digits in the name of a temporary file
_HEX = 12

# writes one file at the path it is given
Writer = Callable[[Path], object]


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that readers see as it was or whole, also if the machine dies meanwhile. The
    file is that to which a symbolic link leads; a pipe or a device is written to.

    Raises OSError (FileNotFoundError if the folder is missing); the old file is then untouched.
    """
    path = target_of(path)
    if is_stream(path):
        path.write_bytes(data)
    else:
        atomic_write_files(path.parent, {path.name: lambda temporary: temporary.write_bytes(data)})


def target_of(path: str | os.PathLike[str]) -> Path:
    """What a file for this path is to be written to: where symbolic links lead, but of streams the
    path itself, since links of /proc lead to no place.
    """
    path = Path(path)
    return path if is_stream(path) else Path(os.path.realpath(path))


def is_stream(path: Path) -> bool:
    """Whether it is a pipe, a device or the like, whose place no file must take."""
    return path.exists() and not path.is_file() and not path.is_dir()


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """`atomic_write_bytes` of `text` in UTF-8, line ends as they are."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """`atomic_write_bytes` of `obj` as indented JSON in UTF-8.

    Raises TypeError for what JSON cannot hold.
    """
    atomic_write_bytes(path, json_bytes(obj))


def json_bytes(obj: Any) -> bytes:
    """`obj` as indented JSON in UTF-8, ending with a line end.

    Raises TypeError for what JSON cannot hold.
    """
    return (json.dumps(obj, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises FileNotFoundError if it is missing, ValueError if it is no JSON object; both name it.
    """
    path = _existing_file(path)
    try:
        obj = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON file, but it does not parse: {error}") from error
    if not isinstance(obj, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(obj).__name__}")
    return obj


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a safetensors file, as `atomic_write_bytes` does.

    Raises TypeError if a name is no string or a value no tensor, ValueError if two tensors share
    memory.
    """
    path = Path(path)
    writer = tensor_writer(tensors, metadata)
    atomic_write_files(path.parent, {path.name: writer})


def tensor_writer(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Writer:
    """A writer of a safetensors file for `atomic_write_files`. Raises as `save_tensors`."""
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(
                f"tensors: expected strings and tensors, got {name!r}: {type(tensor).__name__}"
            )
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata: expected strings, got {key!r}: {value!r}")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    _check_no_shared_memory(contiguous)
    texts = None if metadata is None else dict(metadata)

    def write(path: Path) -> None:
        # the library makes its files readable to their owner only; ours are like any others
        path.touch()
        mode = path.stat().st_mode
        try:
            safetensors_torch.save_file(contiguous, path, texts)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        path.chmod(mode)

    return write


def _as_os_error(error: SafetensorError) -> OSError:
    """A full disk and the like, of which the library tells in its message alone."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None:
        return OSError(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])))


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises FileNotFoundError if it is missing, ValueError if it is damaged or something else; both
    name it.
    """
    path = _existing_file(path)
    try:
        return safetensors_torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file: {error}") from error


def atomic_write_files(directory: str | os.PathLike[str], writers: Mapping[str, Writer]) -> None:
    """Write files that belong together into a folder. The last one is the one readers open first.

    All are written beside their places before any takes its place; a file whose content would not
    change stays. If one file changes, it is replaced in one move. If several do, the last one is
    taken away first and comes back last, so that no reader finds it beside files of another save.

    Raises OSError, or what a writer raises; the old files are then untouched.
    """
    directory = Path(directory)
    temporaries = {
        directory / name: directory / f".{name}.{secrets.token_hex(_HEX // 2)}.tmp"
        for name in writers
    }
    try:
        for (path, temporary), write in zip(temporaries.items(), writers.values(), strict=True):
            with _named(path):
                write(temporary)
                _sync(temporary)
        _replace_changed(temporaries)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    _sync_folder(directory)


def temporaries_of(directory: str | os.PathLike[str], names: Iterable[str]) -> list[Path]:
    """What processes left behind that were killed while they wrote files of these names."""
    patterns = (f".{glob.escape(name)}.{'[0-9a-f]' * _HEX}.tmp" for name in names)
    return [path for pattern in patterns for path in Path(directory).glob(pattern)]


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors name the file that is meant, not the one beside its place, or none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace_changed(temporaries: Mapping[Path, Path]) -> None:
    changed = [
        (path, temporary)
        for path, temporary in temporaries.items()
        if not path.exists() or not filecmp.cmp(path, temporary, shallow=False)
    ]
    *_, (last, last_temporary) = temporaries.items()
    if len(changed) > 1 and last.exists():
        last.unlink()
        _sync_folder(last.parent)
        changed = [pair for pair in changed if pair[0] != last] + [(last, last_temporary)]
    for path, temporary in changed:
        with _named(path):
            temporary.replace(path)


def _sync(path: Path) -> None:
    # opened for writing: some systems sync no file that is open for reading only
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # some systems and network drives cannot sync a folder; the files themselves are safe by then
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _existing_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got a folder")
    return path


def _check_no_shared_memory(tensors: Mapping[str, Tensor]) -> None:
    owners: dict[tuple[torch.device, int], str] = {}
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        key = (tensor.device, tensor.untyped_storage().data_ptr())
        if key in owners:
            raise ValueError(
                "tensors: expected each to have memory of its own, "
                f"but {owners[key]!r} and {name!r} share it"
            )
        owners[key] = name
