"""Whether memory grows over many generations: `python -m benchmarks.soak --calls 100000`.

Calls of all kinds in turn, on several threads: greedy, sampled, beams, constrained, resumed,
streamed, stopped half-way by an exception, and a change of the weights now and then. Prints the
memory in use after each tenth; the exit code is 1 if the last half grew by more than --limit.
"""

from __future__ import annotations

import argparse
import resource
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fast_s2s import Seq2Seq


class _Stop(Exception):
    """Raised by a streamer."""


class _Streamer:
    def __init__(self, tokens: int) -> None:
        self.left = tokens

    def put(self, tokens: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise _Stop

    def end(self) -> None:
        pass


def kinds(model: Seq2Seq) -> list[Callable[[], object]]:
    """One call each."""
    src = torch.randint(3, 30, (2, 6))
    short: dict[str, Any] = {"max_new_tokens": 6}

    def stopped() -> None:
        try:
            model.generate(src[:1], streamer=_Streamer(3), max_new_tokens=20, min_new_tokens=20)
        except _Stop:
            return
        raise AssertionError("nothing stopped it")

    def resumed() -> None:
        _, state = model.generate(src, return_state=True, **short)
        model.generate(state=state.expand(2).select([3, 0]), **short)

    def changed() -> None:
        with torch.no_grad():
            model.output_projection.weight.mul_(1.0)
        model.generate(src, **short)

    return [
        lambda: model.generate(src, **short),
        lambda: model.generate(src, num_beams=3, return_dict_in_generate=True, **short).state,
        lambda: model.generate(src, do_sample=True, num_return_sequences=3, top_p=0.9, **short),
        lambda: model.generate(src, constraint=[[3, 4, 5], [6]], num_beams=2, **short),
        lambda: model.generate(src[:0], **short),
        lambda: model.generate(src[:1], streamer=_Streamer(99), **short),
        resumed,
        stopped,
        changed,
    ]


def resident() -> int:
    """Kilobytes of memory in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="that call")
    parser.add_argument("--limit", type=int, default=2000, metavar="KB")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = Seq2Seq(src_vocab_size=30, tgt_vocab_size=20, embedding_size=16, hidden_size=32).eval()
    each = kinds(model)
    per_thread = max(options.calls // 10 // options.threads, 1)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for index in range(per_thread):
                each[index % len(each)]()
        except BaseException as error:
            failures.append(error)

    used = []
    for tenth in range(1, 11):
        threads = [threading.Thread(target=work) for _ in range(options.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        used.append(resident())
        print(f"{tenth * per_thread * options.threads:8} calls: {used[-1]:8} KB", flush=True)
    grown = used[-1] - used[4]
    print(f"the last half grew by {grown} KB")
    return int(grown > options.limit)


if __name__ == "__main__":
    sys.exit(main())
