"""A trace as an HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from torch import Tensor

from fast_s2s.explain.trace import Layer, Trace

_CELL = 34
# a state's column: as wide as a cell, and of so many thin rows
_UNIT = 5
# between layers
_GAP = 6

_STYLE = """
:root { color-scheme: light; --ink: #1f2d3d; --quiet: #6b7a89; --line: #d9e0e6; --blue: #2166ac; }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: #fff;
  margin: 2rem auto; max-width: 76rem; padding: 0 1.5rem; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; } h2 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
section { border-top: 1px solid var(--line); padding: 1.4rem 0 1.8rem; }
p { color: var(--quiet); margin: .2rem 0 .6rem; max-width: 62rem; }
.big { font-size: 1.6rem; font-weight: 600; color: var(--ink); }
.net { display: flex; gap: 1.2rem; align-items: flex-start; overflow-x: auto; }
.arrow { align-self: center; text-align: center; color: var(--quiet); font-size: .8rem; }
.arrow b { display: block; font-size: 1.6rem; color: var(--blue); }
.scroll { overflow-x: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .small { font-size: 10.5px; } svg .quiet { fill: var(--quiet); } svg .light { fill: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .7rem .15rem 0; text-align: left; vertical-align: middle; }
th { color: var(--quiet); font-weight: 400; font-size: .85rem; }
.bar { display: inline-block; height: .8rem; background: #c3d7ea; border-radius: 2px;
  vertical-align: -1px; margin-right: .35rem; }
.chosen .bar { background: var(--blue); } .chosen b { color: var(--blue); }
"""


def page(traces: Sequence[Trace]) -> str:
    """Everything about the traces: no script, no other file.

    Raises ValueError without any trace.
    """
    if not traces:
        raise ValueError("traces: expected at least one, got none")
    title = ", ".join(found.text for found in traces)
    sections = "\n".join(_section(found) for found in traces)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}: sequence to sequence, step by step</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Sequence to sequence, step by step</h1>\n"
        f"{sections}\n</body>\n</html>\n"
    )


def _section(found: Trace) -> str:
    attention = "" if found.attention is None else _attention(found, found.attention)
    return f"""<section>
<div class="big">{html.escape(found.text)} → {html.escape(found.output)}</div>
<p>The model gives this output a probability of {found.probability:.1%}.</p>
<h2>The network, unrolled over time</h2>
<p>A column is one step: the hidden state of each layer, the first at the bottom. Blue units are
below zero, red ones above; shown are those that vary most. The encoder reads a symbol at each step,
where an arrow points left beginning at the end. What it hands over, the context, is of one size
however long the input: the decoder starts from that hidden state, h, and cell state, c, and reads
at each step what it chose in the one before.</p>
<div class="net">
{_states(found.encoder, "encoder", below=found.source)}
<div class="arrow"><b>→</b></div>
{_states(found.context, "context", below=["h", "c"], above=["", ""], caption="context")}
<div class="arrow"><b>→</b>{"" if found.attention is None else "with attention"}</div>
{
        _states(
            found.decoder,
            "decoder",
            below=["&lt;s&gt;", *map(html.escape, found.target[:-1])],
            above=found.target,
            chances=found.chosen,
            escaped=True,
        )
    }
</div>
{attention}
<h2>What else could have come</h2>
{_alternatives(found)}
</section>"""


def _states(
    layers: Sequence[Layer],
    name: str,
    below: Sequence[str],
    above: Sequence[str] | None = None,
    chances: Sequence[float] | None = None,
    *,
    escaped: bool = False,
    caption: str | None = None,
) -> str:
    steps = len(below)
    cell = _cell([html.unescape(text) for text in (*below, *(above or ()))])
    # where a layer needs its name, it stands at the left
    left = 0 if len(layers) == 1 else 58
    body = 40 if above is not None else 6
    shapes, labels = [], []
    for layer in reversed(layers):
        units = layer.states.size(1)
        shapes += [
            _rectangle(left + t * cell + 1, body + u * _UNIT, cell - 3, _UNIT, _diverging(value))
            for t, column in enumerate(layer.states.tolist())
            for u, value in enumerate(column)
        ]
        if left:
            labels.append(
                _text(left - 8, body + units * _UNIT / 2 + 4, layer.name, "small quiet", end=True)
            )
        body += units * _UNIT + (_GAP if left else 0)
    width, height = left + steps * cell + 2, body + 44
    for t in range(steps):
        middle = left + t * cell + cell / 2 - 1
        text = below[t] if escaped else html.escape(below[t])
        labels.append(_text(middle, body + 16, text, "quiet" if above is not None else ""))
        if above is not None and chances is not None:
            labels.append(_text(middle, 14, html.escape(above[t])))
            labels.append(_text(middle, 30, f"{chances[t]:.2f}", "small quiet"))
    caption = f"{name}: {steps} steps" if caption is None else caption
    labels.append(_text((left + width) / 2, body + 38, caption, "small quiet"))
    # short sequences still have room for their caption
    return _svg(max(width, 110), height, shapes + labels, f"hidden states of the {name}")


def _attention(found: Trace, weights: Tensor) -> str:
    heads = weights.size(0)
    shown = [("", weights.mean(0))]
    if heads > 1:
        shown = [("mean", weights.mean(0))]
        shown += [(f"head {index + 1}", weights[index]) for index in range(heads)]
    charts = "\n".join(_matrix(found, matrix, name) for name, matrix in shown)
    return f"""<h2>Attention</h2>
<p>A row is an output symbol, a column an input symbol; the darker, the more of that input went into
choosing that output. Numbers are percent.</p>
<div class="net">
{charts}
</div>"""


def _matrix(found: Trace, weights: Tensor, name: str) -> str:
    left = 16 + 9 * max(len(symbol) for symbol in found.target)
    cell = _cell(found.source)
    top = 24
    shapes, labels = [], []
    for t, row in enumerate(weights.tolist()):
        labels.append(_text(left - 8, top + t * 26 + 17, html.escape(found.target[t]), end=True))
        for s, value in enumerate(row):
            x, y = left + s * cell, top + t * 26
            shapes.append(_rectangle(x, y, cell - 2, 24, _sequential(value)))
            if value >= 0.05:
                kind = "small light" if value > 0.55 else "small"
                labels.append(_text(x + cell / 2 - 1, y + 16, f"{100 * value:.0f}", kind))
    for s, symbol in enumerate(found.source):
        labels.append(_text(left + s * cell + cell / 2 - 1, 16, html.escape(symbol)))
    width, height = left + len(found.source) * cell, top + len(found.target) * 26 + 20
    labels.append(_text(left + (width - left) / 2, height - 4, name, "small quiet"))
    return _svg(width, height, shapes + labels, f"attention {name}".strip())


def _cell(symbols: Sequence[str]) -> int:
    """Width of a column in which each symbol has room."""
    return max(_CELL, *(8 * len(symbol) + 4 for symbol in symbols))


def _alternatives(found: Trace) -> str:
    rows = []
    for step, (symbol, alternatives) in enumerate(
        zip(found.target, found.alternatives, strict=True)
    ):
        cells = "".join(
            f"<td{' class=chosen' if each.symbol == symbol else ''}>"
            f'<span class="bar" style="width:{max(1, round(70 * each.probability))}px"></span>'
            f"<b>{html.escape(each.symbol)}</b> {each.probability:.3f}</td>"
            for each in alternatives
        )
        rows.append(f"<tr><th>{step + 1}</th><td><b>{html.escape(symbol)}</b></td>{cells}</tr>")
    body = "\n".join(rows)
    return (
        '<div class="scroll"><table>\n<tr><th>step</th><th>chosen</th>'
        f'<th colspan="9">most probable, best first</th></tr>\n{body}\n</table></div>'
    )


def _svg(width: float, height: float, shapes: Sequence[str], label: str) -> str:
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" style="flex:none">{"".join(shapes)}</svg>'
    )


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    size = f'width="{width:g}" height="{height:g}"'
    return f'<rect x="{x:g}" y="{y:g}" {size} fill="{colour}"/>'


def _text(x: float, y: float, text: str, kind: str = "", *, end: bool = False) -> str:
    anchor = "end" if end else "middle"
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{text}</text>'


def _mixed(share: float, begin: tuple[int, int, int], end: tuple[int, int, int]) -> str:
    share = min(max(share, 0.0), 1.0)
    mix: Callable[[int, int], int] = lambda a, b: round(a + share * (b - a))  # noqa: E731
    return "#" + "".join(f"{mix(a, b):02x}" for a, b in zip(begin, end, strict=True))


def _sequential(value: float) -> str:
    return _mixed(value, (238, 243, 248), (8, 69, 148))


def _diverging(value: float) -> str:
    return _mixed(abs(value), (247, 247, 247), (178, 24, 43) if value > 0 else (33, 102, 172))
