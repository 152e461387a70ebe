"""How the programs of one launch wait for each other: counters that only grow.

All programs of a batch tile share a counter, zero at launch. A program stores its part of a step,
then adds one (release); before it reads the other parts of step s it waits until the counter has
reached s times the number of programs (acquire). It needs every program to be resident: the launch
is cooperative, which fails at once where they are not.
"""

import triton
import triton.language as tl


@triton.jit
def publish(counter):
    """What this program stored is there for all who see the count."""
    # every thread's stores come before the one thread that counts
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, target, ok, SPINS: tl.constexpr):
    """Waits until the counter has reached target. False if it did not within SPINS looks, or if
    `ok` says that it failed before: a lost program makes NaNs, not a hang."""
    left = tl.where(ok, SPINS, 0)
    while (left > 0) & (tl.load(counter, volatile=True) < target):
        left -= 1
    # orders the loads that follow after the stores of those who counted
    seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    return seen >= target
