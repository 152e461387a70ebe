"""A trace as a PNG: where each output came from, and what else could have been."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from fast_s2s.explain.trace import Trace
from fast_s2s.extras import require

_CELL = 0.5


def save_png(traces: Sequence[Trace], path: str | os.PathLike[str]) -> None:
    """Draw the traces below each other.

    Raises ModuleNotFoundError without matplotlib, ValueError without any trace.
    """
    if not traces:
        raise ValueError("traces: expected at least one, got none")
    matplotlib, figures = require("matplotlib"), require("matplotlib.figure")
    heights = [2.6 + _CELL * (len(t.target) + 1) for t in traces]
    width = max(4.5 + _CELL * len(t.source) for t in traces) + 5.0
    # a dollar sign is a symbol like any other, and begins no formula
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = figures.Figure(figsize=(width, sum(heights)), dpi=110, layout="constrained")
        parts = figure.subfigures(len(traces), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, found in zip(parts, traces, strict=True):
            _draw(part, found)
        figure.savefig(path, facecolor="white")


def _draw(part: Any, found: Trace) -> None:
    title = f"{found.text}  →  {found.output}    ({found.probability:.1%})"
    part.suptitle(title, fontsize=13, fontweight="bold")
    sizes = [max(len(found.source), 4), 9]
    left, right = part.subplots(1, 2, width_ratios=sizes)
    _alignment(left, found)
    _choices(right, found)


def _alignment(axes: Any, found: Trace) -> None:
    """Rows are outputs, columns inputs; without attention the encoder's states instead."""
    steps = range(len(found.source))
    if found.attention is None:
        states = torch.cat([layer.states for layer in found.encoder[::-1]], 1).t().numpy()
        shown = axes.imshow(states, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_title("states of the encoder, last layer on top (no attention)", fontsize=10)
        axes.set_yticks([])
        axes.figure.colorbar(shown, ax=axes, shrink=0.6)
    else:
        mean = found.attention.mean(0)
        axes.imshow(mean.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        heads = found.attention.size(0)
        axes.set_title(
            "attention" if heads == 1 else f"attention, mean of {heads} heads", fontsize=10
        )
        axes.set_yticks(range(len(found.target)), found.target)
        for row, column in (mean >= 0.1).nonzero().tolist():
            value = float(mean[row, column])
            colour = "white" if value > 0.55 else "#1f3b5c"
            text = f"{100 * value:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    # words would run into each other
    upright = max(map(len, found.source)) > 5
    axes.set_xticks(list(steps), found.source, rotation=90 if upright else 0)
    axes.tick_params(length=0)


def _choices(axes: Any, found: Trace) -> None:
    """A bar for each step, cut into its alternatives."""
    colours = ["#2166ac", "#67a9cf", "#b5cfe3", "#d6d6d6", "#e8e8e8"]
    for step, alternatives in enumerate(found.alternatives):
        begin = 0.0
        for rank, each in enumerate(alternatives):
            colour = colours[min(rank, len(colours) - 1)]
            is_chosen = each.symbol == found.target[step]
            axes.barh(
                step,
                each.probability,
                left=begin,
                height=0.8,
                color=colour,
                edgecolor="#d6604d" if is_chosen and rank > 0 else "white",
            )
            if each.probability >= 0.06:
                axes.text(
                    begin + each.probability / 2,
                    step,
                    each.symbol,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if rank == 0 else "#1f3b5c",
                )
            begin += each.probability
    axes.set_xlim(0, 1)
    axes.set_ylim(len(found.target) - 0.5, -0.5)
    labels = [f"{s}  {p:.2f}" for s, p in zip(found.target, found.chosen, strict=True)]
    axes.set_yticks(range(len(found.target)), labels)
    axes.set_title("probability of each step's best symbols", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
