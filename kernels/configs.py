"""Which kernel runs, and with which tile: a pure function of the sizes over a small table.

The table is configs.json, or the file named by FAST_S2S_TRITON_CONFIGS: a list of rows for each
direction, tried from the top; the first that fits is taken. Nothing is searched or timed at a
user's call. `python -m benchmarks.tune_triton` writes such a file.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

VARIANTS = ("single", "grid", "step", "cell")
DIRECTIONS = ("forward", "backward")
TABLE = Path(__file__).with_name("configs.json")
# "float32" is multiplied without rounding, "tf32" is float32 where torch may use TF32
TYPES = ("bfloat16", "float16", "float32", "tf32")
# counters of the grid kernels are int32
_MAX_COUNT = 2**31 - 1


class Config(NamedTuple):
    """A kernel and its tile: rows, hidden units and terms of the product at a time."""

    variant: str
    block_b: int
    block_u: int
    block_k: int = 0
    resident: bool = False
    warps: int = 4
    # copies of a tile of the product on their way at once; 1 where steps wait for each other
    stages: int = 1
    # programs of it that fit one multiprocessor, whatever its registers
    per_sm: int = 1
    # of the single kernels: load a step's tiles one step ahead
    ahead: bool = True


class Sizes(NamedTuple):
    """What a choice depends on. `type` is one of TYPES, or "float64"."""

    type: str
    steps: int
    batch: int
    hidden: int
    projected: bool = False
    multiprocessors: int = 1
    # bytes of shared memory that one program may have
    shared: int = 1 << 30


# the step kernels of last resort, for any size of the types of TYPES
_CELL = Config("cell", 0, 0)


class Row(NamedTuple):
    """A row of the table: a configuration, and the sizes it is meant for."""

    config: Config
    types: tuple[str, ...] = TYPES
    max_hidden: int = 1 << 30
    max_batch: int = 1 << 30
    min_batch: int = 0
    # bytes of shared memory that it takes at most, by resources.json; 0: not known
    shared: int = 0

    def fits(self, sizes: Sizes) -> bool:
        """Whether it is meant for these sizes and can run."""
        if sizes.type not in self.types or sizes.hidden > self.max_hidden:
            return False
        if self.shared > sizes.shared:
            return False
        # one step has nothing to exchange
        if self.config.variant == "grid" and sizes.steps == 1:
            return False
        if not self.min_batch <= sizes.batch <= self.max_batch:
            return False
        return why_not(self.config, sizes) is None


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_2(n: int, least: int = 1) -> int:
    """The smallest power of 2 that is at least n and `least`."""
    return max(least, 1 << max(n - 1, 0).bit_length())


def programs(config: Config, batch: int, hidden: int) -> tuple[int, int]:
    """Batch tiles and unit tiles, the grid of a launch."""
    return cdiv(batch, config.block_b), cdiv(hidden, config.block_u)


def why_not(config: Config, sizes: Sizes) -> str | None:
    """Why a configuration cannot run these sizes; None if it can."""
    if config.variant == "cell":
        return None
    if sizes.projected:
        return "a projection needs the cell kernel"
    if sizes.type == "float64":
        return "float64 needs the cell kernel"
    if config.variant == "single" and config.block_u < sizes.hidden:
        return f"one program of {config.block_u} units cannot hold {sizes.hidden}"
    if config.variant == "grid":
        tiles, parts = programs(config, sizes.batch, sizes.hidden)
        room = sizes.multiprocessors * config.per_sm
        # alone in its tile a program waits for nobody
        if parts > 1 and tiles * parts > room:
            return f"{tiles * parts} programs are not resident at once, {room} are"
        if parts * sizes.steps > _MAX_COUNT:
            return f"{sizes.steps} steps of {parts} programs overflow the counters"
    return None


def choose(direction: str, sizes: Sizes) -> Config:
    """The configuration for these sizes: that of `forced`, else the first row that fits."""
    config = _forced.get(direction)
    if config is not None:
        reason = why_not(config, sizes)
        if reason is not None:
            raise ValueError(f"{direction}: {config} cannot run {sizes}: {reason}")
        return config
    if sizes.projected or sizes.type == "float64":
        return _CELL
    for row in table(os.environ.get("FAST_S2S_TRITON_CONFIGS"))[direction]:
        if row.fits(sizes):
            return row.config
    return _CELL


@functools.lru_cache(maxsize=8)
def table(path: str | None = None) -> dict[str, list[Row]]:
    """The rows of a file, by default configs.json. Raises ValueError naming what is wrong."""
    source = Path(path or TABLE)
    found: dict[str, Any] = json.loads(source.read_text())
    try:
        return {d: [_row(entry) for entry in found[d]] for d in DIRECTIONS}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: not a table of Triton configurations: {error}") from error


def _row(entry: dict[str, Any]) -> Row:
    entry = dict(entry)
    config = Config(**entry.pop("config"))
    if config.variant not in VARIANTS:
        raise ValueError(f"variant: expected one of {VARIANTS}, got {config.variant!r}")
    types = tuple(entry.pop("types", TYPES))
    if set(types) - set(TYPES):
        raise ValueError(f"types: expected some of {TYPES}, got {types}")
    return Row(config, types, **entry)


def dump(rows: dict[str, list[Row]]) -> str:
    """The text of a table file."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for direction, found in rows.items():
        entries[direction] = []
        for row in found:
            fields = {k: v for k, v in row._asdict().items() if v != Row._field_defaults.get(k)}
            fields["config"] = row.config._asdict()
            entries[direction].append(fields)
    return json.dumps(entries, indent=2) + "\n"


_forced: dict[str, Config] = {}


@contextlib.contextmanager
def forced(forward: Config | None = None, backward: Config | None = None) -> Iterator[None]:
    """Inside the block these configurations run whatever the sizes, for the whole process; a call
    raises ValueError where one cannot."""
    before = dict(_forced)
    given = {"forward": forward, "backward": backward}
    _forced.update({k: v for k, v in given.items() if v is not None})
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def cell_tile(hidden: int) -> tuple[int, int]:
    """Rows and units of a tile of the kernels in cell.py: 1024 elements, along a row first."""
    units = min(power_of_2(hidden), 1024)
    return 1024 // units, units
