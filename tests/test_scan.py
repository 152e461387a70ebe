"""SCAN: the grammar against examples of the paper, and the split."""

from __future__ import annotations

import pytest

from fast_s2s.cli import main
from fast_s2s.scan import scan_entries, scan_splits


# Lake and Baroni 2018, figure 1
@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "JUMP"),
        ("jump left", "LTURN JUMP"),
        ("jump around right", "RTURN JUMP RTURN JUMP RTURN JUMP RTURN JUMP"),
        ("turn left twice", "LTURN LTURN"),
        ("jump thrice", "JUMP JUMP JUMP"),
        ("jump opposite left and walk thrice", "LTURN LTURN JUMP WALK WALK WALK"),
        (
            "jump opposite left after walk around left",
            "LTURN WALK LTURN WALK LTURN WALK LTURN WALK LTURN LTURN JUMP",
        ),
        ("turn around left", "LTURN LTURN LTURN LTURN"),
        ("turn opposite right", "RTURN RTURN"),
    ],
)
def test_examples_of_the_paper(command, actions):
    names = {"LTURN": "I_TURN_LEFT", "RTURN": "I_TURN_RIGHT"}
    expected = " ".join(names.get(action, f"I_{action}") for action in actions.split())
    meanings = {entry.source: entry.targets for entry in scan_entries()}
    assert meanings[command] == (expected,)


def test_sizes():
    entries = scan_entries()
    assert len(entries) == len({entry.source for entry in entries}) == 20910
    # the longest, "jump around left thrice and run around right thrice"
    assert max(len(entry.targets[0].split()) for entry in entries) == 48
    assert max(len(entry.source.split()) for entry in entries) == 9
    splits = scan_splits()
    assert [len(part) for part in (splits.train, splits.dev, splits.test)] == [16228, 500, 4182]
    sources = [entry.source for part in (splits.train, splits.dev, splits.test) for entry in part]
    assert sorted(sources) == sorted(entry.source for entry in entries)
    # at random: of each kind about a fifth
    for word in ("after", "thrice", "jump"):
        share = sum(word in entry.source for entry in splits.test) / sum(word in s for s in sources)
        assert share == pytest.approx(0.2, abs=0.02)


def test_no_word_list_for_scan(tmp_path, capsys):
    flags = ["--dataset=scan", "--test-words=x", "--output", str(tmp_path / "run")]
    assert main(["train", *flags]) == 2
    assert "only with --dataset cmudict" in capsys.readouterr().err
