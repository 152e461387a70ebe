"""That the emulator's tests bite: each of these faults, put into a kernel, must make a run fail."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers_lstm import Case
from helpers_mutations import (
    BACKWARD,
    FP32,
    SMALL,
    Mutation,
    build_chosen,
    check,
    distinct_runs,
    is_found_out,
)

REVERSE = Case(5, 11, 40, lengths=True, reset=True, reverse=True)
CELL = Case(1, 5, 40)
# W partly in registers, partly in shared memory, partly in L2
MIXED = {"weight_registers": 8, "shared_bytes": 90_000}
STEPWISE = {"cooperative": 0}
SEQUENCE, OPERAND = "sequence_cuda.cuh", "operand_cuda.cuh"
FORWARD_FILE, BACKWARD_FILE = "forward_cuda.cuh", "backward_cuda.cuh"
ELEMENTWISE = "elementwise_cuda.cuh"

MUTATIONS = [
    # barriers
    Mutation(
        "no barrier after the prologue",
        FORWARD_FILE,
        "exchange_.clear_padding();\n    sync_threads();",
        "exchange_.clear_padding();",
    ),
    Mutation(
        "no barrier between steps",
        SEQUENCE,
        "if constexpr (kVariant == Variant::kBlock) {\n      sync_threads();",
        "if constexpr (kVariant == Variant::kBlock) {",
    ),
    Mutation(
        "arrives before its part is there",
        FORWARD_FILE,
        "      const int kept = step(s);\n"
        "      const bool goes_on = s + 1 < rows_.steps() && s + 2 <= last;\n"
        "      if (goes_on) exchange_.arrive();\n",
        "      const bool goes_on = s + 1 < rows_.steps() && s + 2 <= last;\n"
        "      if (goes_on) exchange_.arrive();\n"
        "      const int kept = step(s);\n",
        "cluster",
    ),
    Mutation(
        "arrives before its gradients are there",
        BACKWARD_FILE,
        "      const int kept = phase(p);\n",
        "      if (p < rows_.steps() && p + 1 < end) exchange_.arrive();\n"
        "      const int kept = phase(p);\n",
        "grid",
        recompiled=[BACKWARD],
    ),
    Mutation(
        "a peer left out",
        SEQUENCE,
        "hop = 1 + lane() / kLanes;",
        "hop = 2 + lane() / kLanes;",
        "cluster",
    ),
    Mutation(
        "peers may not have begun",
        SEQUENCE,
        "anything is put into their memory\n    if constexpr (kVariant == Variant::kCluster) {",
        "anything is put into their memory\n    if constexpr (false) {",
        "cluster",
    ),
    Mutation(
        "a strip copied before all lanes wrote it",
        SEQUENCE,
        "      sync_warp();\n      constexpr int kWords",
        "      constexpr int kWords",
        "cluster",
    ),
    Mutation(
        "arrives before the block is done",
        "../cuda/primitives.cuh",
        "  sync_threads();\n  if (thread_rank() == 0) add_release(counter, 1);",
        "  if (thread_rank() == 0) add_release(counter, 1);",
        "stream",
    ),
    Mutation(
        "only one thread waits",
        "../cuda/primitives.cuh",
        "      if (++polls == kSpinLimit) trap();\n  }\n  sync_threads();",
        "      if (++polls == kSpinLimit) trap();\n  }",
        "stream",
    ),
    Mutation(
        "waits for the step before", SEQUENCE, "l_.ranks) * (n + 1));", "l_.ranks) * n);", "grid"
    ),
    Mutation(
        "waits for a rank too many",
        SEQUENCE,
        "l_.ranks) * (n + 1)",
        "l_.ranks) * (n + 1) + 1",
        "grid",
    ),
    Mutation(
        "copies not waited for", SEQUENCE, "copy_async_wait<0>();", "copy_async_wait<1>();", "grid"
    ),
    Mutation(
        "copies seen by their own thread alone",
        SEQUENCE,
        "copy_async_wait<0>();\n    sync_threads();",
        "copy_async_wait<0>();",
        "grid",
    ),
    Mutation(
        "partial sums without a barrier",
        SEQUENCE,
        "    sync_threads();\n    if (share_.k_group > 0) return;",
        "    if (share_.k_group > 0) return;",
    ),
    # buffers
    Mutation("one buffer in shared memory", SEQUENCE, "kGrid ? 0 : n % 2;", "kGrid ? 0 : 0 * n;"),
    Mutation(
        "one buffer in peers", SEQUENCE, "kGrid ? 0 : n % 2;", "kGrid ? 0 : 0 * n;", "cluster"
    ),
    Mutation(
        "one buffer in L2",
        SEQUENCE,
        "buffer_ + n % 2 * to_second_",
        "buffer_ + 0 * n * to_second_",
        "grid",
    ),
    Mutation("one buffer of partial sums", SEQUENCE, "    turn_ ^= 1;\n", ""),
    Mutation(
        "padding left unwritten", SEQUENCE, "i < 2 * l_.rows * words;", "i < l_.rows * words;"
    ),
    # fragments
    Mutation("halves of a k-tile swapped", OPERAND, "? lane() / 8 :", "? (lane() / 8 ^ 1) :"),
    Mutation(
        "tiles of rows swapped",
        OPERAND,
        "b[n + i / 2][i % 2] = both[i];",
        "b[n + i % 2][i / 2] = both[i];",
        device={"row_tiles": 4},
        case=Case(3, 40, 40),
    ),
    Mutation(
        "fragments from L2 swapped",
        OPERAND,
        "j * 32 + half * 16",
        "j * 32 + (1 - half) * 16",
        "stream",
    ),
    Mutation(
        "registers of A swapped",
        ELEMENTWISE,
        "row = lane / 4 + 8 * (r % 2), byte = 4 * (lane % 4) + 16 * (r / 2);",
        "row = lane / 4 + 8 * (r / 2), byte = 4 * (lane % 4) + 16 * (r % 2);",
        recompiled=SMALL,
    ),
    Mutation(
        "gates g and o swapped",
        FORWARD_FILE,
        "g_o[e], g_o[2 + e]}",
        "g_o[2 + e], g_o[e]}",
    ),
    Mutation(
        "a share of the depth left out",
        SEQUENCE,
        "for (int k = 1; k < l_.k_groups",
        "for (int k = 2; k < l_.k_groups",
    ),
    Mutation(
        "tiles in shared memory off",
        OPERAND,
        "s * share_.k_count - held();",
        "s * share_.k_count;",
        device=MIXED,
    ),
    Mutation(
        "tiles in L2 off by one",
        OPERAND,
        "fetch(a, s, j);\n      add(a, own, j,",
        "fetch(a, s, j - 1);\n      add(a, own, j,",
        device=MIXED,
    ),
    Mutation(
        "no low parts of float32",
        OPERAND,
        "    mma_tf32(d, high_a, low_b);\n",
        "",
        recompiled=FP32,
        dtype=torch.float32,
    ),
    # rows and steps
    Mutation(
        "a length off by one",
        FORWARD_FILE,
        "runs[e] = t < length &&",
        "runs[e] = t <= length &&",
    ),
    Mutation(
        "a last step off by one",
        SEQUENCE,
        "shape_.reverse ? 0 : length(row) - 1;",
        "shape_.reverse ? 0 : length(row) - 2;",
    ),
    Mutation(
        "a first step off by one",
        SEQUENCE,
        "shape_.reverse ? length(row) - 1 : 0;",
        "shape_.reverse ? length(row) : 0;",
        recompiled=[BACKWARD],
        case=REVERSE,
    ),
    Mutation(
        "resets a step late",
        FORWARD_FILE,
        "ahead_.reset_next[e] = rows_.reset_byte(rows_.time(s + 1), r);",
        "ahead_.reset_next[e] = rows_.reset_byte(t, r);",
    ),
    Mutation(
        "a reset keeps the cell",
        FORWARD_FILE,
        "runs && !resets ? shared_load",
        "runs && (resets || true) ? shared_load",
    ),
    Mutation(
        "input of the step before",
        FORWARD_FILE,
        "      prefetch(s + 1, 0, 0);",
        "      prefetch(s, 0, 0);",
        case=Case(4, 3, 40),
    ),
    Mutation(
        "nothing past the longest row",
        FORWARD_FILE,
        "      zero_past_the_tile();\n",
        "",
        case=Case(5, 9, 20, lengths=True),
    ),
    Mutation(
        "no b_hh",
        FORWARD_FILE,
        "        if (d_.b_hh != nullptr) sum += read(io(d_.b_hh), at);\n",
        "",
    ),
    Mutation(
        "rows of later launches",
        SEQUENCE,
        "row0 = args.first_row + static_cast",
        "row0 = static_cast",
        "grid",
        device={"shared_bytes": 30_000},
        case=Case(2, 70, 130),
    ),
    Mutation(
        "cells lost between launches",
        FORWARD_FILE,
        "if (args_.carried != nullptr) carry(true);",
        "if (false) carry(true);",
        "stream",
        STEPWISE,
    ),
    # backward
    Mutation(
        "a reset lets gradients through",
        BACKWARD_FILE,
        "dh[e] = resets ? 0.0f : product[e];",
        "dh[e] = resets ? product[e] : product[e];",
        recompiled=[BACKWARD],
    ),
    Mutation(
        "rows that rest lose their gradient",
        BACKWARD_FILE,
        "if (inside(row, output) && !ran(e)) dh",
        "if (inside(row, output) && p == 0) dh",
        recompiled=[BACKWARD],
    ),
    Mutation(
        "no initial cell",
        BACKWARD_FILE,
        "c_prev = read(d_.c0, rows[e % 2], nearest(unit));",
        "c_prev = 0;",
        recompiled=[BACKWARD],
    ),
    Mutation(
        "gates of the step before",
        BACKWARD_FILE,
        "      prefetch(p + 1, 0, 0);",
        "      prefetch(p, 0, 0);",
        recompiled=[BACKWARD],
    ),
    Mutation(
        "gradients lost between launches",
        BACKWARD_FILE,
        "        store(at + half, shared_load<float>(dc_at(row, unit)));\n",
        "",
        "stream",
        STEPWISE,
        recompiled=[BACKWARD],
    ),
    Mutation(
        "outputs of both directions over each other",
        FORWARD_FILE,
        "static_cast<int64_t>(l_.directions) * l_.outputs;",
        "static_cast<int64_t>(l_.outputs);",
        case=Case(5, 11, 40, lengths=True, reset=True),
        both=True,
    ),
    Mutation(
        "the other direction's gradient of y",
        BACKWARD_FILE,
        "static_cast<int64_t>(l_.directions) * l_.outputs;",
        "static_cast<int64_t>(l_.outputs);",
        recompiled=[BACKWARD],
        case=Case(5, 11, 40, lengths=True, reset=True),
        both=True,
    ),
    # small kernels
    Mutation(
        "sum over half of the lanes",
        "cell_cuda.cuh",
        "int mask = 16;",
        "int mask = 8;",
        recompiled=SMALL,
        case=CELL,
    ),
    Mutation(
        "the state of the step after",
        ELEMENTWISE,
        "s.reverse ? s.batch : -s.batch",
        "s.reverse ? -s.batch : s.batch",
        recompiled=SMALL,
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
