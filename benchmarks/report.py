"""Rows as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from fast_s2s.benchmarking import machine
from fast_s2s.benchmarking.machine import DISTURBED
from fast_s2s.benchmarking.sides import OURS

_HEADINGS = (
    "case",
    "shape",
    "peer",
    OURS,
    "peer's",
    "ratio (quartiles)",
    "target",
    "reached",
    "GFLOP/s (of GEMM)",
    "GB/s of weights (of stream)",
    "error, ours / peer's",
)


def markdown(document: dict[str, Any]) -> str:
    """The whole result: machine, ceilings, table, summary."""
    parts = [f"Machine: {machine.line(document['machine'])}", ceilings_line(document["ceilings"])]
    if not document["complete"]:
        parts.append("**Interrupted: not every case was measured.**")
    return "\n\n".join([*parts, table(document["rows"]), notes(), summary(document["rows"])])


def notes() -> str:
    """How to read the table."""
    return _NOTES


_NOTES = (
    "Time per call, and peak memory of one call. Ratio: peer's time over ours, more is better; for "
    "memory ours over peer's, less is better. It is the median over rounds; `~` in `reached`: the "
    "quartile on the bad side is not on the same side of the target. Errors: largest, relative to "
    "the largest value, against float64. Weights that fit into the cores' own caches are read "
    "faster than the smallest stream."
)


def ceilings_line(ceilings: dict[str, Any]) -> str:
    streams = ", ".join(f"{gbs:.1f} ({key} MB)" for key, gbs in ceilings["stream_gbs"].items())
    line = f"Ceilings: GEMM {ceilings['gemm_gflops']:.1f} GFLOP/s, streaming GB/s {streams}"
    return line + _mark(ceilings["other_cores"])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    case = row["group"] if row["ours"] == OURS else f"{row['group']}, {row['ours']}"
    head = (case, row["shape"], row["peer"])
    target = _target(row)
    if row["status"] != "measured":
        reason = f"{row['status']}: {row['reason']}".replace("|", "/")
        return (*head, "", "", reason, target, "", "", "", _errors(row))
    show = _bytes if row["kind"] == "memory" else _seconds
    values = row["bytes" if row["kind"] == "memory" else "seconds"]
    times = (show(values["ours"]["median"]), show(values["peer"]["median"]))
    ratio = "{median:.2f} ({p25:.2f}–{p75:.2f})".format(**row["ratio"])
    ratio += _mark(row["load"]["other_cores"])
    return (*head, *times, ratio, target, _reached(row), *_achieved(row), _errors(row))


def summary(rows: list[dict[str, Any]]) -> str:
    """How many targets are reached, the geometric mean and the worst row."""
    aimed = [row for row in rows if row["target"] is not None]
    measured = [row for row in aimed if row["status"] == "measured"]
    lines = [f"Targets reached: {sum(row['reached'] for row in measured)} of {len(aimed)}."]
    timed = [row for row in measured if row["kind"] == "time"]
    if timed:
        mean = statistics.geometric_mean([row["ratio"]["median"] for row in timed])
        worst = min(timed, key=lambda row: row["ratio"]["median"])
        lines.append(
            f"Over the {len(timed)} timed rows with a target: geometric mean {mean:.2f}, "
            f"worst {worst['ratio']['median']:.2f} ({worst['shape']}, {worst['peer']})."
        )
    disturbed = [row for row in rows if _mark(row["load"]["other_cores"])]
    if disturbed:
        lines.append(
            f"{len(disturbed)} of {len(rows)} rows, marked `!`, were measured while other "
            f"processes kept more than {DISTURBED:g} cores busy: no evidence."
        )
    missed = [row for row in aimed if not row.get("reached")]
    lines += [f"- not reached: {progress(row)}" for row in missed]
    return "\n".join(lines)


def progress(row: dict[str, Any]) -> str:
    """A row in a few words."""
    head = f"{row['group']}, {row['shape']}, {row['ours']} beside {row['peer']}"
    if row["status"] != "measured":
        return f"{head}: {row['status']} ({row['reason']})"
    target = f" of {_target(row)}" if row["target"] is not None else ""
    return f"{head}: {row['ratio']['median']:.2f}{target}"


def _mark(other_cores: float | None) -> str:
    return " !" if (other_cores or 0) > DISTURBED else ""


def _target(row: dict[str, Any]) -> str:
    if row["target"] is None:
        return ""
    sign = "≤" if row["kind"] == "memory" else "≥"
    floor = "" if row["floor"] is None else f", never < {row['floor']:g}"
    return f"{sign} {row['target']:g}{floor}"


def _reached(row: dict[str, Any]) -> str:
    if row["reached"] is None:
        return ""
    if row["above_floor"] is False:
        return "no, under the floor"
    certain = row["reached"] == row["reached_by_quartile"]
    return ("yes" if row["reached"] else "no") + ("" if certain else " ~")


def _achieved(row: dict[str, Any]) -> tuple[str, str]:
    if row["kind"] == "memory":
        return f"{row['bytes_per_cell']['ours']:.0f} bytes per T·B·H", ""
    found = row.get("achieved")
    if not found:
        return "", ""
    gflops = f"{found['gflops']:.1f} ({found['of_gemm']:.0%})"
    if "gbs" not in found:
        return gflops, ""
    return (
        gflops,
        f"{found['gbs']:.1f} ({found['of_stream']:.0%} of {found['stream_megabytes']} MB)",
    )


def _errors(row: dict[str, Any]) -> str:
    errors = row.get("errors", {})
    worst = [max(errors[side].values()) if errors.get(side) else None for side in ("ours", "peer")]
    return " / ".join("–" if value is None else f"{value:.0e}" for value in worst)


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _bytes(value: float) -> str:
    return f"{value / 2**20:.1f} MiB"
