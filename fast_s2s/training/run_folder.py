"""The folder of a training run: what lies where, and who may write into it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from fast_s2s.serialization import atomic_write_json, read_json, temporaries_of

_FORMAT = "fast_s2s-run"

# everything a run writes beside the model; `overwrite` removes these and nothing else
_RUN_FILES = ("train_log.jsonl", "curve.png", "report.md")
_RUN_FOLDERS = ("checkpoints", "tensorboard")
_MODEL_FILES = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "source_tokenizer.json",
    "target_tokenizer.json",
)


class RunFolder:
    """Paths and manifest of one run. The folder is a model folder too: it holds the best model."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest_file = self.path / "run.json"
        self.log_file = self.path / "train_log.jsonl"
        self.curve_file = self.path / "curve.png"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self._descriptor: int | None = None

    def open(self, *, resume: bool, overwrite: bool) -> bool:
        """Make the folder ready for a run; whether there is one in it to go on with.

        Nobody else can open it until `close`, or until this process ends.

        Raises FileExistsError if somebody has opened it, it holds other things, or a run and
        neither `resume` nor `overwrite` was asked for; ValueError if both were, or for a damaged
        manifest.
        """
        self._check_asked(resume, overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        left, occupied = self._found(resume, overwrite)
        for path in left:
            path.unlink()
        if occupied and overwrite:
            self._clear()
            occupied = False
        return occupied

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Raises what `open` would raise now, and leaves all as it is: to ask before long work."""
        self._check_asked(resume, overwrite)
        if not self.path.exists():
            return
        self._lock()
        try:
            self._found(resume, overwrite)
        finally:
            self.close()

    def close(self) -> None:
        """Let others open it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _check_asked(self, resume: bool, overwrite: bool) -> None:
        if resume and overwrite:
            raise ValueError("overwrite: expected False with resume=True, got True")
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"output_dir: expected a folder, got the file {self.path}")

    def _found(self, resume: bool, overwrite: bool) -> tuple[list[Path], bool]:
        """Files of a process that was killed while it wrote, and whether anything else is there.

        Raises FileExistsError if that is not what was asked for.
        """
        # no other's, which may be somebody's work
        left = temporaries_of(self.path, (self.manifest_file.name, *_RUN_FILES, *_MODEL_FILES))
        occupied = any(path not in left for path in self.path.iterdir())
        if occupied and not self.manifest_file.exists():
            raise FileExistsError(
                f"output_dir: {self.path} holds files that are not a training run; choose another"
            )
        if occupied and not (resume or overwrite):
            state = "a finished" if self.manifest().get("finished") else "an unfinished"
            raise FileExistsError(
                f"output_dir: {self.path} holds {state} training run; go on with it (--resume, "
                "resume=True) or start again (--overwrite, overwrite=True)"
            )
        return left, occupied

    def _lock(self) -> None:
        # of the folder itself: no file to leave behind, and gone with the process, however it ends
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FileExistsError(
                f"output_dir: another process is training in {self.path}"
            ) from None
        except OSError:
            # a network file system without locks
            pass
        self._descriptor = descriptor

    def manifest(self) -> dict[str, Any]:
        """The manifest run.json.

        Raises FileNotFoundError if there is none, ValueError if it is damaged or of another format.
        """
        manifest = read_json(self.manifest_file)
        if manifest.get("format") != _FORMAT:
            raise ValueError(f"{self.manifest_file}: expected a fast_s2s run, found something else")
        return manifest

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write run.json atomically."""
        atomic_write_json(self.manifest_file, {"format": _FORMAT, "version": 1, **content})

    def _clear(self) -> None:
        """Remove the files of a run, the manifest last: an interrupted call can be repeated."""
        for name in _RUN_FOLDERS:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for name in (*_RUN_FILES, *_MODEL_FILES):
            (self.path / name).unlink(missing_ok=True)
        self.manifest_file.unlink()


class TrainLog:
    """train_log.jsonl: one line of JSON for each evaluation, in step with the checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add a line, and leave it on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def position(self) -> int:
        """Length of the file in bytes, for a checkpoint."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, position: int) -> None:
        """Forget the lines written after a checkpoint.

        Raises ValueError if the file is shorter than it was then.
        """
        length = self.position()
        if length < position:
            raise ValueError(f"{self.path}: expected at least {position} bytes, found {length}")
        if length > position:
            os.truncate(self.path, position)

    def records(self) -> list[dict[str, Any]]:
        """All lines, oldest first.

        Raises ValueError, naming the file and the line, for one that is no JSON.
        """
        if not self.path.exists():
            return []
        records = []
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self.path}:{number}: expected JSON: {error}") from error
        return records
