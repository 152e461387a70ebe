"""The recipes: their settings are those of `train`, and SCAN is learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from fast_s2s.cli import build_parser, main
from fast_s2s.cli.options import build_settings, read_settings_file
from fast_s2s.seq2seq import Seq2SeqConfig
from fast_s2s.training import TrainingConfig

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_settings_are_understood(path):
    parser = build_parser().parse_args(["train"]).parser
    settings = read_settings_file(str(path), parser)
    names = {name.replace("-", "_") for name in yaml.safe_load(path.read_text())}
    assert names == settings.keys() - {"run", "parser"}
    build_settings(TrainingConfig, settings)
    build_settings(Seq2SeqConfig, settings, src_vocab_size=30, tgt_vocab_size=30)
    # what its comments say to type
    commands = [line[2:] for line in path.read_text().splitlines() if line.startswith("# fast-s2s")]
    assert commands
    for command in commands:
        build_parser().parse_args(command.split()[1:])


@pytest.mark.slow
def test_scan_is_learned(tmp_path, capsys):
    """The whole of it: the command line, training, and the test set of the simple split."""
    recipe = FOLDER / "scan.yaml"
    threads = torch.get_num_threads()
    run = str(tmp_path / "run")
    try:
        assert main(["train", "--config", str(recipe), "--output", run, "--threads=1"]) == 0
        assert main(["evaluate", "--dataset=scan", "--model", run, "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["inputs"] == 4182
    assert scores["exact_match"] >= 99
