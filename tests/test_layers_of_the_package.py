"""Who may import whom: nothing imports upward."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fast_s2s"

# from the bottom up; a module may import those of lower rows only. Rows hold modules that do not
# know each other, but for the parts of one package
ROWS = [
    {
        "_C",
        "scheduled_sampling",
        "reference",
        "extras",
        "checks",
        "device",
        "serialization",
        "stored",
        "attention",
    },
    {"backends", "kernels", "configuration", "tokenizer", "metrics", "hypotheses"},
    {"ops", "huggingface"},
    {"text"},
    {"data", "pretrained"},
    {"ops_both", "ops_cell", "ops_variant", "cmudict", "scan", "decoding"},
    {"functional"},
    {"lstm_options", "dropout"},
    {"lstm"},
    {"convert", "generation", "parts", "saving"},
    {"packed_lstm"},
    {"unrolled", "inputs"},
    {"seq2seq"},
    {"ensemble"},
    {"prediction"},
    {"pipeline"},
    {"reranking"},
    {"training", "bundled", "benchmarking", "explain", "onnx"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Top-level modules of the package that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fast_s2s":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fast_s2s."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fast_s2s.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_imports_upward(path):
    module = module_of(path)
    if module == "__init__":
        return
    assert module in RANK, f"{module}: give it a row in ROWS"
    for other in imported(path) - {module}:
        if other in RANK:
            assert RANK[other] < RANK[module], f"{module} imports {other}"
        else:
            # a name of the package itself, such as its version
            assert RANK[module] >= RANK["training"], f"{module} imports fast_s2s.{other}"
