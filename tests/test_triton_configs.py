"""Which Triton kernel runs, and what each needs on every GPU it is meant for; needs no GPU."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import types

import pytest
import torch

from fast_s2s import backends

if not backends.triton_found:
    pytest.skip(f"no Triton: {backends.triton_reason}", allow_module_level=True)

from benchmarks import triton_resources as resources
from fast_s2s.kernels import configs
from fast_s2s.kernels.configs import Config, Sizes

HIDDEN = (1, 16, 17, 64, 100, 128, 200, 500, 512, 650, 1024, 1500, 4096)


@pytest.mark.parametrize("kind", [*configs.TYPES, "float64"])
@pytest.mark.parametrize("direction", configs.DIRECTIONS)
def test_every_size_has_a_kernel_that_can_run_it(direction, kind):
    for hidden, batch, steps, count in itertools.product(
        HIDDEN, (1, 3, 16, 33, 512, 5000), (1, 100, 70_000), (1, 108, 132)
    ):
        for projected in (False, True):
            sizes = Sizes(kind, steps, batch, hidden, projected, count)
            config = configs.choose(direction, sizes)
            assert configs.why_not(config, sizes) is None
            if projected or kind == "float64":
                assert config.variant == "cell"


@pytest.mark.parametrize(
    ("sizes", "variant"),
    [
        (Sizes("bfloat16", 100, 1, 64, multiprocessors=132), "single"),
        (Sizes("bfloat16", 100, 4096, 128, multiprocessors=132), "single"),
        (Sizes("bfloat16", 100, 16, 512, multiprocessors=132), "grid"),
        # one step has nothing to exchange
        (Sizes("bfloat16", 1, 16, 512, multiprocessors=132), "step"),
        # more programs than fit at once
        (Sizes("bfloat16", 100, 512, 512, multiprocessors=132), "step"),
        (Sizes("bfloat16", 100, 16, 512, multiprocessors=8), "step"),
        (Sizes("float32", 100, 4, 1024, multiprocessors=132), "grid"),
    ],
)
def test_the_table_chooses(sizes, variant):
    for direction in configs.DIRECTIONS:
        assert configs.choose(direction, sizes).variant == variant


@pytest.mark.parametrize("shared", [64 << 10, 99 << 10, 163 << 10])
def test_tiles_fit_into_a_devices_shared_memory(shared):
    """Of sm_75, of sm_86, sm_89 and sm_120, of sm_80: other rows, or at last the cell kernels."""
    table, differs = configs.table(), set()
    for direction, kind, hidden, batch in itertools.product(
        configs.DIRECTIONS, configs.TYPES, HIDDEN, (1, 16, 512)
    ):
        sizes = Sizes(kind, 100, batch, hidden, multiprocessors=108)
        config = configs.choose(direction, sizes._replace(shared=shared))
        rows = [row for row in table[direction] if row.config == config and kind in row.types]
        assert config.variant == "cell" or min(row.shared for row in rows) <= shared
        if config != configs.choose(direction, sizes):
            differs.add(config.variant)
    assert bool(differs) == (shared < 163 << 10)


def test_what_a_device_has_is_asked_of_triton(monkeypatch):
    from fast_s2s.kernels import layer

    asked = []
    utils = types.SimpleNamespace(
        get_device_properties=lambda index: asked.append(index) or {"max_shared_mem": 101376}
    )
    driver = types.SimpleNamespace(active=types.SimpleNamespace(utils=utils))
    monkeypatch.setattr("triton.runtime.driver", driver)
    layer._shared_bytes.cache_clear()
    try:
        assert [layer.shared_bytes(torch.device("cuda", 63)) for _ in range(2)] == [101376] * 2
        assert asked == [63] and layer.shared_bytes(torch.device("cpu")) > 1 << 20
    finally:
        layer._shared_bytes.cache_clear()


def test_the_table_knows_the_shared_memory_of_its_rows():
    kernels = stored()["kernels"]
    for direction, rows in configs.table().items():
        for row in rows:
            hidden = min(row.max_hidden, 1024)
            jobs = [
                job
                for job in resources.jobs()
                if (job.direction, job.config, job.hidden) == (direction, row.config, hidden)
                and job.type in row.types
            ]
            assert row.shared == max(kernels[job.name()]["shared"] for job in jobs) > 0


def test_a_grid_is_held_to_what_is_resident():
    config = Config("grid", 16, 32, 64)
    fits = Sizes("bfloat16", 10, 16, 512, multiprocessors=16)
    assert configs.why_not(config, fits) is None
    wide = fits._replace(batch=17)
    assert configs.why_not(config, wide) == "32 programs are not resident at once, 16 are"
    assert configs.why_not(config._replace(per_sm=2), wide) is None
    many = fits._replace(steps=2**28)
    assert "overflow the counters" in configs.why_not(config, many)
    with configs.forced(forward=config), pytest.raises(ValueError, match="not resident at once"):
        configs.choose("forward", wide)


def test_another_table_by_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    row = configs.Row(Config("step", 16, 16, 16, warps=2), ("float32",), max_batch=4)
    path.write_text(configs.dump({"forward": [row], "backward": []}))
    monkeypatch.setenv("FAST_S2S_TRITON_CONFIGS", str(path))
    assert configs.choose("forward", Sizes("float32", 9, 4, 512)) == row.config
    assert configs.choose("forward", Sizes("float32", 9, 5, 512)).variant == "cell"
    assert configs.choose("backward", Sizes("float32", 9, 4, 512)).variant == "cell"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"forward": []}', "not a table of Triton configurations: 'backward'"),
        (
            '{"forward": [{"config": {"variant": "fast", "block_b": 1, "block_u": 1}}], '
            '"backward": []}',
            "variant: expected one of .*, got 'fast'",
        ),
        ('{"forward": [{"config": {"warp": 3}}], "backward": []}', "unexpected keyword .*warp"),
        (
            '{"forward": [{"config": {"variant": "step", "block_b": 16, "block_u": 16}, '
            '"types": ["int8"]}], "backward": []}',
            "types: expected some of",
        ),
    ],
)
def test_a_bad_table_says_what_is_wrong(text, message, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        configs.table(str(path))
    assert str(path) in str(caught.value)


def test_tables_survive_their_file(tmp_path):
    path = tmp_path / "copy.json"
    path.write_text(configs.dump(configs.table()))
    assert configs.table(str(path)) == configs.table()


def test_tf32_is_used_where_torch_may(monkeypatch):
    from fast_s2s.kernels import launch, layer

    zeros = [torch.zeros(shape) for shape in ((1, 1, 1), (1, 2), (1, 2), (8, 1), (8, 2))]
    ours = layer.check(*zeros, *[None] * 5, False)
    assert ours.sizes().type == "float32"
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert ours.sizes().type == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    config = Config("step", 16, 16, 16)
    for kind, precision in (("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")):
        assert launch.constants(config, "forward", 64, kind)["PRECISION"] == precision


def stored():
    return json.loads(resources.RESOURCES.read_text())


def test_the_resources_file_is_of_these_kernels_and_within_every_limit():
    assert resources.compare(stored(), resources.jobs()) == []


def test_what_is_wrong_with_a_resources_file_is_seen():
    jobs = resources.jobs()
    job = next(j for j in jobs if j.config.variant == "grid" and j.type == "bfloat16")

    def complaints(**changes):
        content = stored()
        content["kernels"][job.name()].update(changes)
        return " ".join(resources.compare(content, jobs))

    assert "spills: 3 instructions, 0 bytes" in complaints(spills=3)
    assert "spills: 0 instructions, 8 bytes" in complaints(stack=8)
    assert "shared memory: 300000 >" in complaints(shared=300_000)
    assert "no tensor-core instructions" in complaints(tensor_core=0)
    more = job._replace(config=job.config._replace(per_sm=4))
    assert "registers" in " ".join(resources.complaints(more, resources.Usage(255, 0, 0, 0, 1)))
    content = stored()
    del content["kernels"][job.name()]
    content["kernels"]["old"] = {}
    content["source"] = "other"
    assert resources.compare(content, jobs) == [
        "the kernels changed since it was written",
        f"{job.name()}: not in the file",
        "old: in the file, not in the table",
    ]


def test_one_for_each_covers_every_configuration_and_target():
    jobs = resources.jobs()
    few = resources.one_for_each(jobs)
    assert {(j.direction, j.config) for j in few} == {(j.direction, j.config) for j in jobs}
    assert {j.target for j in few} == set(resources.TARGETS)
    assert len(few) == len({(j.direction, j.config) for j in jobs})


def test_the_kernels_compile_to_what_the_file_says():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.triton_resources", "--quick"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 complaints" in done.stdout


def test_resources_refuse_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.triton_resources"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "unset it" in done.stdout
