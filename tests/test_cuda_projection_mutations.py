"""That the emulator's tests of projections bite, as `test_cuda_mutations.py` does for the rest."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest
from helpers_lstm import Case
from helpers_mutations import SMALL, Mutation, build_chosen, check, distinct_runs, is_found_out

FORWARD = ["csrc/lstm/projected_forward_cuda_bf16.cu"]
BACKWARD = ["csrc/lstm/projected_backward_cuda_bf16.cu"]
PROJECTION = Case(5, 11, 70, projection=33, lengths=True, reset=True)
FORWARD_FILE, BACKWARD_FILE = "forward_cuda.cuh", "backward_cuda.cuh"
PROJECTION_FILE = "projection_cuda.cuh"

MUTATIONS = [
    Mutation(
        "a projection that does not wait",
        PROJECTION_FILE,
        "    exchange_.wait(n);\n",
        "    if (n > 0) exchange_.wait(n);\n",
        "grid",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "one counter for both exchanges",
        PROJECTION_FILE,
        "args.projection_counters,",
        "args.counters,",
        "stream",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "an output more than there is",
        PROJECTION_FILE,
        "weights_.strip(s) * kStripRows + lane() / 4;",
        "weights_.strip(s) * kStripRows + lane() / 4 + 1;",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "no padding behind what is projected",
        PROJECTION_FILE,
        "    exchange_.clear_padding();\n",
        "",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "what is projected kept from peers",
        FORWARD_FILE,
        "        projection_.strip_done(s, row, strip);\n",
        "",
        "cluster",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "a projected state kept from peers",
        FORWARD_FILE,
        "          if (s + 1 < rows_.steps()) exchange_.strip_done(s + 1, row, strip);\n",
        "",
        "cluster",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "an initial projected state kept from peers",
        FORWARD_FILE,
        "[&](int row, int strip) { exchange_.strip_done(0, row, strip); });",
        "[&](int, int) {});",
        "cluster",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "strips of the other product's width",
        FORWARD_FILE,
        "Projection<Operand, kVariant, kRowTiles, kStripBytes>",
        "Projection<Operand, kVariant, kRowTiles, kStateBytes>",
        "cluster",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "rows past the tile's left unwritten",
        FORWARD_FILE,
        "          if (s + 1 < rows_.steps()) put(s + 1, row, output, h);\n",
        "          if (s + 1 < rows_.steps() && row < place_.rows) put(s + 1, row, output, h);\n",
        recompiled=FORWARD,
        case=PROJECTION,
    ),
    Mutation(
        "gradients of outputs kept from peers",
        BACKWARD_FILE,
        "      projection_.strip_done(p, row, strip);\n",
        "",
        "cluster",
        recompiled=BACKWARD,
        case=PROJECTION,
    ),
    Mutation(
        "gradients of gates kept from peers",
        BACKWARD_FILE,
        "[&](int row, int strip) { exchange_.strip_done(p, row, strip); });",
        "[&](int, int) {});",
        "cluster",
        recompiled=BACKWARD,
        case=PROJECTION,
    ),
    Mutation(
        "no gradient of y",
        BACKWARD_FILE,
        "dh[e] += to_float(ahead_.grad_y[e]);",
        "dh[e] += 0;",
        recompiled=BACKWARD,
        case=PROJECTION,
    ),
    Mutation(
        "a transposed projection packed along the wrong side",
        "lstm_cuda.cu",
        "h, r, k_tiles, 1, h, words",
        "h, r, k_tiles, 1, r, words",
        recompiled=SMALL,
        case=PROJECTION,
    ),
]


@pytest.fixture(scope="module")
def mutants(request, _emulator_library) -> dict[str, Future[Path]]:
    return build_chosen(request, "csrc/lstm")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_mutant_is_found_out(emulator, mutants, mutation):
    library = mutants[mutation.name].result()
    assert is_found_out(library, partial(check, run=mutation)), (
        f"no test would notice: {mutation.name}"
    )


@pytest.mark.parametrize("run", distinct_runs(MUTATIONS), ids=lambda m: f"{m.variant} {m.case}")
def test_the_kernels_as_they_are_pass_the_same_runs(emulator, run):
    check(emulator, run)
