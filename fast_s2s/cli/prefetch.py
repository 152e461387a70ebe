"""Work done ahead on another thread, so that reading does not wait for the model or it for them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")

# how often a thread with nobody left to work for looks up
_PATIENCE = 0.1


def prefetch(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The same items, made on a thread of their own, at most `depth` ahead of their use.

    Raises what making them raises, in its place.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    left = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                made.put((kind, value), timeout=_PATIENCE)
                return

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if left.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    # a daemon: it may wait for input that never comes
    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        left.set()
