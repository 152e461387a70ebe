"""The report is what the committed results say; results of two runs are told apart."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from benchmarks import compare, gpu_page, page, plots, series
from benchmarks.results import FOLDER, Result, collect, read, suite_of

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = collect()
COMMITTED = sorted(FOLDER.glob("*.json"))


def one(suite: str) -> Result:
    return next(result for result in RESULTS if result.suite == suite)


# the page


def test_the_committed_page_is_generated_from_the_committed_results():
    found = (DOCS / page.NAME).read_text(encoding="utf-8")
    assert found == page.page(RESULTS, gpu_page.collect(FOLDER)), "python -m benchmarks report"


def test_the_committed_pictures_show_the_committed_results():
    image = pytest.importorskip("PIL.Image")
    shown = set()
    for result in RESULTS:
        for name in plots.pictures(result):
            path = DOCS / "images" / plots.file_name(name, result)
            with image.open(path) as picture:
                assert picture.text["Description"] == plots.digest(name, result), path
            shown.add(path.name)
            assert path.stat().st_size < 200_000
    text = (DOCS / page.NAME).read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(images/(.*?)\)", text)) == shown
    assert {path.name for path in (DOCS / "images").glob("*-*.png")} >= shown


def test_losses_are_shown_as_losses():
    result = one("lstm")
    text = page.page([result], [])
    losses = [r for r in result.measured(kind="time") if r["ratio"]["median"] < 1]
    worst = text.split("### Worst cases")[1].split("###")[0]
    lines = [line for line in worst.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == len(losses) or not losses
    for row in losses:
        assert any(row["shape"] in line and row["peer"] in line for line in lines), row["name"]
    assert f"In {len(losses)} of " in worst


def test_the_newest_commit_counts_and_its_files_are_one_result(tmp_path):
    old, new, late = (copy.deepcopy(read(COMMITTED[0])) for _ in range(3))
    old["machine"] |= {"commit": "a", "date": "2026-01-01T00:00:00+00:00"}
    new["machine"] |= {"commit": "b", "date": "2026-01-02T00:00:00+00:00"}
    late["machine"] |= {"commit": "b", "date": "2026-01-03T00:00:00+00:00"}
    unavailable = next(i for i, r in enumerate(new["rows"]) if r["status"] == "unavailable")
    name = new["rows"][unavailable]["name"]
    new["rows"][unavailable] = {**new["rows"][0], "name": name}
    late["rows"] = [late["rows"][unavailable], {**late["rows"][0], "name": "late"}]
    for label, document in (("o", old), ("n", new), ("l", late)):
        (tmp_path / f"{label}.json").write_text(json.dumps(document))
    quick = copy.deepcopy(late)
    quick["options"]["quick"] = True
    (tmp_path / "quick.json").write_text(json.dumps(quick))
    (result,) = collect(tmp_path)
    assert len(result.documents) == 2 and result.machine["date"].startswith("2026-01-03")
    rows = {row["name"]: row for row in result.rows}
    assert len(rows) == len(new["rows"]) + 1 and "late" in rows
    assert rows[name]["status"] == "measured"


def test_grids_hold_the_ratios_of_the_rows():
    result = one("lstm")
    grid = series.grids(result)[0]
    (row,) = (
        r
        for r in result.measured(peer="nn.LSTM", steps=64, batch=1, hidden=256, training=False)
        if r["workload"]["dtype"] == "float32" and not r["workload"]["bidirectional"]
    )
    at = grid["ratio"][grid["batch"].index(1)][grid["hidden"].index(256)]
    assert at == row["ratio"]["median"]


def test_the_command_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert page.main(["--output", str(tmp_path)]) == 0
    pictures = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert pictures == sorted(plots.file_name(n, r) for r in RESULTS for n in plots.pictures(r))
    assert (tmp_path / page.NAME).read_text() == (DOCS / page.NAME).read_text()


def test_a_gpu_is_not_measured_until_it_is(tmp_path):
    assert "Not yet measured" in page.page([], [])
    document = copy.deepcopy(read(COMMITTED[0]))
    document |= {"suite": "gpu"}
    document["machine"] |= {"gpu": "A GPU", "cuda": "13.0", "cudnn": 9}
    for row in document["rows"][:4]:
        row["workload"] |= {"steps": 512, "dtype": "bfloat16"}
    probe = {"name": "L2 load", "blocks": 1, "cluster": 1, "ns": 5.0, "ns_least": 4, "ns_most": 6}
    failure = {"name": "grid exchange", "blocks": 2, "cluster": 1, "failure": "too | large"}
    clusters = {"name": "clusters at once", "blocks": 112, "cluster": 16, "clusters": 7}
    latency = {"device": "A GPU", "probes": [probe, failure, clusters]}
    for name, means in (("gpu", True), ("emulator", False)):
        (tmp_path / name).mkdir()
        text = json.dumps({**latency, "times_mean_something": means})
        (tmp_path / name / "latency.json").write_text(text)
    (tmp_path / "gpu" / "gpu.json").write_text(json.dumps(document))
    (result,) = collect(tmp_path)
    text = page.page([result], gpu_page.collect(tmp_path))
    assert "Not yet" not in text and "## GPU: A GPU" in text
    assert text.count("## Exchanges") == 1
    assert "| L2 load | 1 | 1 | 5 (4–6) |" in text
    assert "| grid exchange | 2 | 1 | too / large |" in text
    assert "| clusters at once | 112 | 16 | 7 clusters |" in text


# comparing


@pytest.fixture
def pair(tmp_path):
    """Two copies of a committed result, and the exit status of comparing them as changed."""
    old = read(COMMITTED[0])
    new = copy.deepcopy(old)

    def run(*arguments: str) -> int:
        paths = [tmp_path / "old.json", tmp_path / "new.json"]
        for path, document in zip(paths, (old, new), strict=True):
            path.write_text(json.dumps(document))
        return compare.main([*map(str, paths), *arguments])

    return old, new, run


def scale(row: dict, ours: float, peer: float = 1.0) -> None:
    for side, factor in (("ours", ours), ("peer", peer)):
        row["seconds"][side] = {k: v * factor for k, v in row["seconds"][side].items()}
    row["ratio"] = {k: v * peer / ours for k, v in row["ratio"].items()}


def test_nothing_changed(pair, capsys):
    _, new, run = pair
    assert run() == 0
    assert capsys.readouterr().out.endswith(f"{len(new['rows'])} same\n")


@pytest.mark.parametrize(("ours", "status"), [(1.3, 1), (1.02, 0), (0.7, 0)])
def test_slower_rows_fail_the_command(pair, ours, status, capsys):
    _, new, run = pair
    scale(new["rows"][0], ours)
    assert run() == status
    shown = capsys.readouterr().out
    assert (f"slower: {new['rows'][0]['name']}: +30.0% (counts from 5.0%)" in shown) == (ours > 1.1)
    assert ("1 faster" in shown) == (ours < 1)


def test_a_slower_machine_is_no_change_of_ours(pair, capsys):
    _, new, run = pair
    scale(new["rows"][0], 1.3, 1.3)
    assert run() == 0
    # where the other side is ours too, it is no witness
    new["rows"][0]["peer"] = "fast_s2s float32"
    assert run() == 1


def test_a_change_within_the_spread_does_not_count(pair, capsys):
    _, new, run = pair
    scale(new["rows"][0], 1.3)
    for summary in (new["rows"][0]["seconds"]["ours"], new["rows"][0]["ratio"]):
        summary["p25"], summary["p75"] = summary["median"] * 0.7, summary["median"] * 1.1
    assert run() == 0


def test_figures_of_a_busy_machine_are_uncertain(pair, capsys):
    _, new, run = pair
    scale(new["rows"][0], 1.3)
    new["rows"][0]["load"]["other_cores"] = 0.5
    assert run() == 0
    assert "uncertain" in capsys.readouterr().out


def test_a_row_that_fails_now_is_broken(pair, capsys):
    _, new, run = pair
    new["rows"][0] |= {"status": "refused", "reason": "fast_s2s: error over 3e-05"}
    new["rows"][1] |= {"status": "unavailable", "reason": "not installed"}
    gone = new["rows"].pop()["name"]
    assert run() == 1
    shown = capsys.readouterr().out
    assert "1 broken" in shown and "2 missing" in shown and f"missing: {gone}" in shown


def test_other_machines_are_refused_and_other_torches_warned_of(pair, capsys):
    old, new, run = pair
    new["machine"]["torch"] = "3.0"
    assert run() == 0
    assert "warning: torch was '2.13.0+cpu' and is '3.0'" in capsys.readouterr().err
    new["machine"]["threads"] = old["machine"]["threads"] + 1
    assert run() == 2 and run("--anyway") == 0
    assert "threads was" in capsys.readouterr().err


def test_what_is_no_result_is_refused(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text("[]")
    assert compare.main([str(path), str(COMMITTED[0])]) == 2
    assert "expected format" in capsys.readouterr().err


def test_early_files_do_not_name_their_suite():
    found = {path.name: suite_of(read(path)) for path in COMMITTED}
    assert set(found.values()) == {"lstm", "decode", "norm", "forecast"}
    for name, suite in found.items():
        assert name.startswith(suite)
