"""Pictures of a result, as PNG. matplotlib is needed here only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import series
from benchmarks.results import Result
from fast_s2s.benchmarking import machine

OURS_COLOR, PEER_COLOR, STREAM_COLOR = "#1b6ca8", "#b0b0b0", "#dd8452"


def draw(result: Result, folder: Path) -> list[Path]:
    """The pictures that the result has figures for; each says in its metadata what it shows."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in pictures(result):
        figure = _PICTURES[name][1](result)
        path = folder / file_name(name, result)
        figure.savefig(
            path, dpi=110, bbox_inches="tight", metadata={"Description": digest(name, result)}
        )
        matplotlib.pyplot.close(figure)
        paths.append(path)
    return paths


def pictures(result: Result) -> list[str]:
    """Names of the pictures that the result has figures for."""
    return [name for name, (figures, _) in _PICTURES.items() if figures(result)]


def file_name(name: str, result: Result) -> str:
    return f"{name}-{machine.slug(result.machine)}.png"


def digest(name: str, result: Result) -> str:
    """Of the figures that a picture shows: a picture with another one is out of date."""
    figures = json.dumps(_PICTURES[name][0](result), sort_keys=True)
    return hashlib.sha256(figures.encode()).hexdigest()


def _heat_maps(result: Result) -> Any:
    from matplotlib import pyplot
    from matplotlib.colors import TwoSlopeNorm

    grids = series.grids(result)
    steps, dtype = series.GRIDS[result.suite]
    widths = [len(grid["hidden"]) for grid in grids]
    height = max(len(grid["batch"]) for grid in grids)
    figure, axes = pyplot.subplots(
        1,
        len(grids),
        figsize=(1.6 + 0.75 * sum(widths), 1.4 + 0.45 * height),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    # log2, so that twice as fast and twice as slow are as far from white
    norm = TwoSlopeNorm(0, -1, 2)
    for axis, grid in zip(axes[0], grids, strict=True):
        values = [
            [math.nan if cell is None else math.log2(cell) for cell in line]
            for line in grid["ratio"]
        ]
        axis.imshow(values, cmap="RdBu", norm=norm, aspect="auto")
        # not measured: hatched, which no ratio is
        axis.patch.set(hatch="///", facecolor="white", edgecolor="#dddddd")
        axis.set_xticks(range(len(grid["hidden"])), grid["hidden"])
        axis.set_yticks(range(len(grid["batch"])), grid["batch"])
        axis.set_xlabel("H")
        axis.set_ylabel("B")
        axis.set_title(grid["title"], fontsize=10)
        for row, line in enumerate(grid["ratio"]):
            for column, cell in enumerate(line):
                if cell is not None:
                    dark = not -0.6 < math.log2(cell) < 1.2
                    axis.text(
                        column,
                        row,
                        f"{cell:.2f}",
                        ha="center",
                        va="center",
                        fontsize=9,
                        color="white" if dark else "black",
                    )
    figure.suptitle(
        f"nn.LSTM's time over ours, T={steps}, {dtype}: blue, fast_s2s is faster; red, slower"
    )
    return figure


def _steps(result: Result) -> Any:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    colors = pyplot.get_cmap("viridis")
    lines = series.step_times(result)
    for index, line in enumerate(lines):
        color = colors(index / max(len(lines) - 0.5, 1))
        label = f"B={line['batch']} H={line['hidden']}"
        axis.plot(line["steps"], line["ours"], "o-", color=color, label=f"{label} fast_s2s")
        axis.plot(line["steps"], line["peer"], "x--", color=color, label=f"{label} nn.LSTM")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ticks = sorted({steps for line in lines for steps in line["steps"]})
    axis.set_xticks(ticks, ticks)
    axis.minorticks_off()
    values = [value for line in lines for value in (*line["ours"], *line["peer"])]
    marks = [m * 10**e for e in range(-1, 6) for m in (1, 2, 5)]
    shown = [m for m in marks if min(values) / 1.3 <= m <= max(values) * 1.3]
    axis.set_yticks(shown, [f"{mark:g}" for mark in shown])
    axis.set_xlabel("steps T")
    axis.set_ylabel("µs per step")
    axis.grid(alpha=0.3)
    dtype = series.GRIDS[result.suite][1]
    axis.set_title(f"Inference, one layer, {dtype}: time of a call over its steps")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _decode(result: Result) -> Any:
    from matplotlib import pyplot

    shapes = series.token_times(result)
    # a long column is hard to look at
    columns = (
        [shapes] if len(shapes) < 7 else [shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]]
    )
    heights = [0.55 * len(c) + 0.28 * sum(len(shape["sides"]) for shape in c) for c in columns]
    figure = pyplot.figure(figsize=(7 * len(columns), max(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=True):
        ratios = [len(shape["sides"]) + 1 for shape in column]
        axes = part.subplots(len(column), 1, height_ratios=ratios, squeeze=False)[:, 0]
        for axis, shape in zip(axes, column, strict=True):
            _bars(axis, shape, "us")
    figure.suptitle("µs per generated token of the batch; less is better", fontsize=11)
    return figure


def _memory(result: Result) -> Any:
    from matplotlib import pyplot

    shapes = series.memory(result)
    counts = [len(shape["sides"]) for shape in shapes]
    figure, axes = pyplot.subplots(
        len(shapes),
        1,
        figsize=(7.5, 0.4 + 0.55 * len(shapes) + 0.28 * sum(counts)),
        height_ratios=[count + 1 for count in counts],
        squeeze=False,
        layout="constrained",
    )
    for axis, shape in zip(axes[:, 0], shapes, strict=True):
        _bars(axis, shape, "mib")
    figure.suptitle("MiB that one call takes at most; less is better", fontsize=11)
    return figure


def _bars(axis: Any, shape: dict[str, Any], figure: str) -> None:
    names = [side["name"] for side in shape["sides"]]
    values = [side[figure] for side in shape["sides"]]
    colors = [OURS_COLOR if name.startswith("fast_s2s") else PEER_COLOR for name in names]
    bars = axis.barh(names, values, color=colors, height=0.75)
    axis.bar_label(bars, [_short(value) for value in values], padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.tick_params(labelsize=8)
    axis.tick_params(axis="x", labelbottom=False, bottom=False)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.set_title(shape["shape"], fontsize=9, loc="left")


def _roofline(result: Result) -> Any:
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    points = series.rooflines(result)[: series.ROOFLINES]
    figure, axis = pyplot.subplots(figsize=(8, 0.8 + 0.19 * len(points)), layout="constrained")
    colors = {"arithmetic": OURS_COLOR, "weights": STREAM_COLOR}
    places = range(len(points))
    axis.barh(places, [p["share"] for p in points], color=[colors[p["bound"]] for p in points])
    axis.set_yticks(places, [point["shape"] for point in points], fontsize=7)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_ylim(len(points) - 0.4, -0.6)
    axis.set_xlabel("share of what the machine reaches at best")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    labels = {"arithmetic": "of the matrix product", "weights": "of streaming the weights"}
    patches = [Patch(color=color, label=labels[bound]) for bound, color in colors.items()]
    axis.legend(
        handles=patches,
        fontsize=8,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        frameon=False,
    )
    return figure


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


# what a picture shows, and how it is drawn
_PICTURES: dict[str, tuple[Callable[[Result], list[Any]], Callable[[Result], Any]]] = {
    "lstm-ratio": (lambda result: series.grids(result), _heat_maps),
    "lstm-steps": (lambda result: series.step_times(result), _steps),
    "lstm-roofline": (lambda result: series.rooflines(result)[: series.ROOFLINES], _roofline),
    "lstm-memory": (lambda result: series.memory(result), _memory),
    "decode-tokens": (lambda result: series.token_times(result), _decode),
}
