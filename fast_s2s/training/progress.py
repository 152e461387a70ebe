"""What a person sees while a model trains."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from fast_s2s.extras import require


class Progress:
    """A progress bar on a terminal; elsewhere one line for each evaluation.

    stream: where to; default stderr
    quiet:  show nothing
    """

    def __init__(
        self, total: int, initial: int, *, stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._quiet = quiet
        self._total = total
        self._dev = ""
        if not quiet and self._stream.isatty():
            self._bar = require("tqdm").tqdm(
                total=total,
                initial=initial,
                unit="update",
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.05,
            )

    def update(self, loss: float, tokens_per_second: float) -> None:
        """One update was made; `loss` is its training loss."""
        if self._bar is None:
            return
        parts = [f"loss {loss:.3f}", self._dev, f"{tokens_per_second:,.0f} tok/s"]
        self._bar.set_postfix_str(", ".join(filter(None, parts)), refresh=False)
        self._bar.update()

    def evaluation(self, record: dict[str, Any], metric: str, best: bool) -> None:
        """An evaluation was made; `record` is its line in the log."""
        if metric in record:
            self._dev = f"dev {metric} {record[metric]:.2f}{' (best)' if best else ''}"
        if self._bar is not None or self._quiet:
            return
        parts = [
            f"update {record['update']}/{self._total}",
            f"epoch {record['epoch']:.2f}",
            *(f"{k} {record[k]:.3f}" for k in ("train_loss", "dev_loss") if k in record),
            *(f"{k} {record[k]:.2f}" for k in ("per", "wer", "bleu") if k in record),
            f"{record['tokens_per_second']:,.0f} tok/s",
            f"{record['seconds']:.0f} s",
        ]
        self.message("  ".join(parts) + ("  best" if best else ""))

    def message(self, text: str) -> None:
        """Show a line, above the bar if there is one."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
