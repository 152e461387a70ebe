"""The README and docs/: Python runs, command lines parse, files and make targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers_training import toy_model, toy_tokenizers

from fast_s2s.cli import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {
    path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))
}

# the folder of the model that README's examples use, made by `make demo`
DEMO = "runs/g2p-demo"


def blocks(text):
    """(language, code) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def python(text):
    return [code for language, code in blocks(text) if language == "python"]


def shell_lines(text):
    return [
        line
        for language, code in blocks(text)
        if not language
        for line in code.splitlines()
        if line
    ]


def inline(text):
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def commands(text):
    # `fast-s2s` alone is a name, not a command line
    return [t for t in (*shell_lines(text), *inline(text)) if t.startswith("fast-s2s ")]


PYTHON = python(README)
COMMANDS = [command for text in (README, *DOCS.values()) for command in commands(text)]
MAKE_TARGETS = {
    word
    for text in (*shell_lines(README), *inline(README))
    if text.startswith("make ")
    for word in text.split()[1:]
    if "=" not in word
}


@pytest.fixture
def demo_folder(tmp_path, monkeypatch):
    """A working directory with a small model where the demo leaves its own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    toy_model().save_pretrained(DEMO, *toy_tokenizers())
    return tmp_path


def test_there_is_something_to_check():
    assert len(PYTHON) >= 3 and len(COMMANDS) >= 8 and {"demo", "test"} <= MAKE_TARGETS


def test_python_blocks_run_in_order(demo_folder, capsys):
    for code in PYTHON:
        # a namespace for each: every block can be copied on its own
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", DOCS)
def test_python_of_a_document_runs_from_top_to_bottom(name, demo_folder):
    names = {"__name__": "__main__"}
    for code in python(DOCS[name]):
        exec(compile(code, name, "exec"), names)


def test_model_of_the_readme_learns(demo_folder):
    """What the README says of its training loop: it learns to write five symbols backwards."""
    (code,) = [code for code in PYTHON if "optimizer.step()" in code]
    names: dict = {}
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), names)
    model, src = names["model"], names["src"]
    generated = model.generate(src)
    right = (generated[:, 1:6] == src.flip(1)).all(1).float().mean()
    assert right > 0.9, f"{right:.0%} right"


def test_numbers_in_comments_are_those_printed(capsys):
    (code,) = [code for code in PYTHON if "fast_s2s.metrics" in code]
    exec(compile(code, "README.md", "exec"), {})
    wer, per = (float(text) for text in capsys.readouterr().out.split())
    said = re.search(r"# ([\d.]+), and 1 error in 9 phonemes: ([\d.]+)", code)
    assert (wer, round(per, 1)) == (float(said[1]), float(said[2]))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_lines_parse(command):
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    end = next((i for i, word in enumerate(words) if word in ("<", ">", "|")), len(words))
    build_parser().parse_args(words[1:end])


@pytest.mark.parametrize("target", sorted(MAKE_TARGETS))
def test_make_targets_exist(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE)


LINKS = [
    (folder, link)
    for folder, text in ((ROOT, README), *((ROOT / "docs", text) for text in DOCS.values()))
    for link in re.findall(r"\]\(([^)]+)\)", text)
]


@pytest.mark.parametrize(("folder", "link"), LINKS)
def test_linked_files_exist(folder, link):
    assert link.startswith(("https://", "#")) or (folder / link).exists()
