"""Figures of a result as the report's tables and pictures want them."""

from __future__ import annotations

from typing import Any

from benchmarks.peers import OURS
from benchmarks.results import Result, Row

# steps and type of the table by batch and hidden size
GRIDS = {"lstm": (64, "float32"), "gpu": (512, "bfloat16")}
# shapes in the picture of the ceilings
ROOFLINES = 30
_PLAIN: dict[str, Any] = {
    "kind": "time",
    "ours": OURS,
    "peer": "nn.LSTM",
    "layers": 1,
    "ragged": False,
    "inputs": None,
    "bidirectional": False,
    "proj": 0,
}


def grids(result: Result) -> list[dict[str, Any]]:
    """Ratios by B and H, of inference and of training, as `GRIDS` says; None where not measured."""
    found = []
    steps, dtype = GRIDS.get(result.suite, (0, ""))
    plain = {**_PLAIN, "steps": steps, "dtype": dtype}
    for title, training in (("inference", False), ("forward and backward", True)):
        rows = list(result.measured(**plain, training=training))
        cells = {(_of(row, "batch"), _of(row, "hidden")): row["ratio"]["median"] for row in rows}
        batches, hiddens = (sorted({key[i] for key in cells}) for i in (0, 1))
        if len(cells) > 1:
            ratios = [[cells.get((batch, hidden)) for hidden in hiddens] for batch in batches]
            found.append({"title": title, "batch": batches, "hidden": hiddens, "ratio": ratios})
    return found


def step_times(result: Result) -> list[dict[str, Any]]:
    """µs per step of both sides against T, of the shapes measured at several lengths."""
    shapes: dict[tuple[int, int], list[Row]] = {}
    _, dtype = GRIDS.get(result.suite, (0, ""))
    for row in result.measured(**_PLAIN, dtype=dtype, training=False):
        shapes.setdefault((_of(row, "batch"), _of(row, "hidden")), []).append(row)
    most = max((len(rows) for rows in shapes.values()), default=0)
    lines = []
    for (batch, hidden), rows in sorted(shapes.items()):
        # a row that failed does not take its shape away
        if len(rows) < max(most - 1, 2):
            continue
        rows.sort(key=lambda row: _of(row, "steps"))
        line: dict[str, Any] = {"batch": batch, "hidden": hidden}
        line["steps"] = [_of(row, "steps") for row in rows]
        for side in ("ours", "peer"):
            line[side] = [row["seconds"][side]["median"] * 1e6 / _of(row, "steps") for row in rows]
        lines.append(line)
    return lines


_NOT_BY_TOKEN = ("training step", "ensemble", "speech")


def token_times(result: Result) -> list[dict[str, Any]]:
    """µs per token of every side, ours first, by shape. A batch counts as one: a step of it."""
    shapes: dict[str, dict[str, float]] = {}
    for row in result.measured(kind="time"):
        if "vocab" not in row["workload"] or row["group"] in _NOT_BY_TOKEN:
            continue
        sides = shapes.setdefault(row["shape"], {})
        for side in ("ours", "peer"):
            sides.setdefault(
                row[side], row["seconds"][side]["median"] * 1e6 / row["workload"]["steps"]
            )
    return [
        {
            "shape": shape,
            "sides": [
                {"name": name, "us": sides[name]}
                for name in sorted(sides, key=lambda name: (not name.startswith(OURS), sides[name]))
            ],
        }
        for shape, sides in shapes.items()
    ]


def memory(result: Result) -> list[dict[str, Any]]:
    """MiB at most of every side, the least first, by shape."""
    shapes: dict[str, dict[str, float]] = {}
    for row in result.measured(kind="memory"):
        sides = shapes.setdefault(row["shape"], {})
        for side in ("ours", "peer"):
            sides.setdefault(row[side], row["bytes"][side]["median"] / 2**20)
    return [
        {
            "shape": shape,
            "sides": [{"name": name, "mib": sides[name]} for name in sorted(sides, key=sides.get)],
        }
        for shape, sides in shapes.items()
    ]


def rooflines(result: Result) -> list[dict[str, Any]]:
    """How near each shape of ours comes to the ceiling that binds it; the farthest first.

    At best a call takes the longer of its arithmetic at the rate of a matrix product and, in
    inference, of reading its weights each step at the rate of a stream of that size.
    """
    points: dict[str, dict[str, Any]] = {}
    if result.suite not in GRIDS:
        return []
    for row in result.measured(kind="time"):
        found = row.get("achieved")
        if not found or row["shape"] in points:
            continue
        shares = {"arithmetic": found["of_gemm"], "weights": found.get("of_stream", 0.0)}
        bound = max(shares, key=shares.__getitem__)
        points[row["shape"]] = {"shape": row["shape"], "bound": bound, "share": shares[bound]}
    return sorted(points.values(), key=lambda point: point["share"])


def _of(row: Row, key: str) -> Any:
    return row["workload"][key]
