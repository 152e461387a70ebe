"""SCAN: commands such as "jump twice after run left", and the actions they mean.

Lake and Baroni 2018, https://arxiv.org/abs/1711.00350. There is no file to fetch: the grammar of
figures 6 and 7 in its supplement gives all 20,910 commands, each with one meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from fast_s2s.data import DatasetSplits, Entry

SIMPLE = "simple"
# of the published simple split: 16,728 commands to train on, 4,182 to test on
_TEST_SIZE = 4182
_DEV_SIZE = 500

_PRIMITIVES = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
_TURNS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
_TIMES = {"": 1, " twice": 2, " thrice": 3}

# a command and its actions
_Phrase = tuple[str, tuple[str, ...]]


def scan_entries() -> list[Entry]:
    """All commands with their actions, in the order of the grammar."""
    return [Entry(command, (" ".join(actions),)) for command, actions in _commands()]


def scan_splits() -> DatasetSplits:
    """The simple split: of all commands, 4,182 at random to test on, 16,728 to train on.

    Random is the order of the commands' SHA-1, the first being the test set: the sizes are the
    published split's, the commands are not. 500 of the training commands are set apart as dev.
    """
    entries = sorted(scan_entries(), key=lambda entry: hashlib.sha1(entry.source.encode()).digest())
    train = entries[_TEST_SIZE:]
    return DatasetSplits(SIMPLE, train[_DEV_SIZE:], train[:_DEV_SIZE], entries[:_TEST_SIZE])


def _commands() -> Iterator[_Phrase]:
    """C -> S and S | S after S | S"""
    sentences = list(_sentences())
    yield from sentences
    for first, done_first in sentences:
        for second, done_second in sentences:
            yield f"{first} and {second}", done_first + done_second
            yield f"{first} after {second}", done_second + done_first


def _sentences() -> Iterator[_Phrase]:
    """S -> V twice | V thrice | V"""
    for command, actions in _verbs():
        for word, times in _TIMES.items():
            yield command + word, actions * times


def _verbs() -> Iterator[_Phrase]:
    """V -> U | D | U opposite left | … | turn around right

    D -> U left | U right | turn left | turn right;  U -> walk | look | run | jump
    """
    acts: list[_Phrase] = [(word, (action,)) for word, action in _PRIMITIVES.items()]
    yield from acts
    # "turn" itself does nothing beyond the turning
    for word, action in [*acts, ("turn", ())]:
        for side, turn in _TURNS.items():
            yield f"{word} {side}", (turn, *action)
            yield f"{word} opposite {side}", (turn, turn, *action)
            yield f"{word} around {side}", (turn, *action) * 4
