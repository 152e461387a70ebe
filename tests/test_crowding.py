"""Calls take one thread while other programs want the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from helpers_native import needs_native

from benchmarks import crowded

SECOND = 1_000_000_000


@pytest.fixture
def crowding():
    from fast_s2s._C import Crowding

    return Crowding()


@needs_native
def test_a_thread_that_had_its_core_changes_nothing(crowding):
    crowding.waited_for(now=SECOND, elapsed=1000, delayed=333)
    assert crowding.threads(most=4, now=SECOND) == 4
    crowding.waited_for(now=SECOND, elapsed=1000, delayed=334)
    assert crowding.threads(most=4, now=SECOND) == 1


@needs_native
def test_pauses_grow_while_it_stays_so_and_are_forgotten(crowding):
    def pause(now: int) -> int:
        """How long it goes alone after being told."""
        crowding.waited_for(now=now, elapsed=2, delayed=1)
        low, high = now, now + 10 * SECOND
        assert (crowding.threads(most=2, now=low), crowding.threads(most=2, now=high)) == (1, 2)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if crowding.threads(2, middle) == 1 else (low, middle)
        return high - now

    now, pauses = 100 * SECOND, []
    for _ in range(12):
        pauses.append(pause(now))
        # soon after it was over
        now += pauses[-1] + pauses[-1] // 2
    first = pauses[0]
    assert pauses[:4] == [first, 2 * first, 4 * first, 8 * first]
    assert pauses[-1] == pauses[-2] == SECOND
    assert pause(now + 3 * SECOND) == first


@needs_native
def test_what_is_told_meanwhile_does_not_count(crowding):
    crowding.waited_for(now=SECOND, elapsed=2, delayed=1)
    for _ in range(5):
        crowding.waited_for(now=SECOND + 1, elapsed=2, delayed=1)
    # five times twice as long would be
    assert crowding.threads(most=2, now=SECOND + SECOND // 20) == 2


@needs_native
@pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="Linux does not tell here"
)
def test_the_system_tells_how_long_a_thread_waited():
    from fast_s2s._C import waited_for_core

    before = waited_for_core()
    assert 0 <= before <= waited_for_core()


# calls of every kind that has a team, and what each leaves: a thread more, or none
SCRIPT = """
import os, sys, time
import torch
import fast_s2s
from fast_s2s import _C

torch.set_num_threads(1)
torch.manual_seed(0)

def threads():
    return len(os.listdir("/proc/self/task"))

lstm = fast_s2s.LSTM(64, 400).eval()
x = torch.randn(9, 16, 64)
model = fast_s2s.Seq2Seq(src_vocab_size=9, tgt_vocab_size=300, embedding_size=64, hidden_size=400)
src = torch.randint(3, 9, (4, 6))

def results():
    with torch.inference_mode():
        y, _ = lstm(x)
        return y, model.eval().generate(src, max_new_tokens=9)

if sys.argv[1] == "crowded":
    # for a minute
    _C.crowding.waited_for(time.monotonic_ns() + 60_000_000_000, 2, 1)
# what packs weights is torch's, and has threads of its own
results()
torch.set_num_threads(2)
before = threads()
found = results()
print(threads() - before)
torch.save(found, sys.argv[2])
"""


@needs_native
@pytest.mark.parametrize(("room", "more"), [("1", 0), ("0", 1)])
def test_a_call_takes_one_thread_and_gives_the_same(tmp_path, room, more):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    found = {}
    for kind in ("free", "crowded"):
        file = tmp_path / f"{kind}.pt"
        done = subprocess.run(
            [sys.executable, str(script), kind, str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "FAST_S2S_MAKE_ROOM": room},
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == (more if kind == "crowded" else 1)
        found[kind] = torch.load(file)
    for ours, theirs in zip(found["free"], found["crowded"], strict=True):
        assert torch.equal(ours, theirs)


def test_the_command_counts_calls_of_processes_side_by_side(capsys):
    assert crowded.main(["--processes", "2", "--seconds", "0.2", "--shape", "4", "1", "8"]) == 0
    out = capsys.readouterr().out
    assert "T=4 B=1 H=8" in out
    for side in ("fast_s2s", "nn.LSTM"):
        (line,) = [line for line in out.splitlines() if line.startswith(f"| {side} ")]
        alone, together = (float(cell.split()[0]) for cell in line.split("|")[2:4])
        assert alone > 0 and together > 0
