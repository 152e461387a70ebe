"""What numbers the options of a generation may be: of `GenerationConfig` and `DecodeOptions`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fast_s2s.checks import check_integer, check_number

# of tokens and of anything counted by them: positions are sums of a few of these
MOST = 2**40

_INTEGERS = {
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
}
_NUMBERS = {
    # below, logits over it are beyond float32
    "temperature": (1e-6, 1e30),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0, 1e30),
    # beyond, powers of lengths are beyond float64
    "length_penalty": (-50, 50),
}
# what is divided by
_POSITIVE = ("repetition_penalty",)


def check_ranges(options: Any, optional: Collection[str] = ()) -> None:
    """Raises TypeError or ValueError naming the option that is out of its range; None is in that of
    the `optional` ones.
    """
    for name, least in _INTEGERS.items():
        check_integer(name, getattr(options, name), least, MOST)
    for name, (low, high) in _NUMBERS.items():
        value = getattr(options, name)
        if name in optional and value is None:
            continue
        check_number(name, value, low, high)
        if name in _POSITIVE and not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")
    stops = options.early_stopping
    # 1 equals True
    if not isinstance(stops, bool) and not (isinstance(stops, str) and stops == "never"):
        raise ValueError(f"early_stopping: expected True, False or 'never', got {stops!r}")
