"""That the tests of the CUDA decode bite: each of these faults in it must make a run fail."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import assert_close
from helpers_attention import Case, Shape, make_case
from helpers_cuda_decode import Emulated
from helpers_decode import EOS, Size, make
from helpers_decode_compare import assert_kept_close
from helpers_emulator import Emulator
from helpers_mutations import build_chosen, is_found_out

from fast_s2s.decoding import DecodeOptions
from fast_s2s.decoding.contract import Keep

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.int8: "int8"}


class Mutation(NamedTuple):
    """`old`, once in the file, becomes `new`; found by a decoder of this type of weights."""

    name: str
    file: str
    old: str
    new: str
    dtype: torch.dtype = torch.float32
    hidden: int = 20

    @property
    def recompiled(self) -> list[str]:
        return [f"csrc/decode/decode_cuda_{_NAMES[self.dtype]}.cu"]


MUTATIONS = [
    Mutation(
        "blocks do not wait for the choice",
        "decode_cuda.cuh",
        "    barrier_.wait();\n    network_.swap_states();",
        "    network_.swap_states();",
    ),
    Mutation(
        "sums read before they are there",
        "product_cuda.cuh",
        "put_partial(sums);\n        sync_threads();",
        "put_partial(sums);",
    ),
    Mutation(
        "the first of the states read ahead for all",
        "product_cuda.cuh",
        "values[ahead - 1] = values[ahead];",
        "values[ahead] = values[ahead - 1];",
        hidden=100,
    ),
    Mutation(
        "biases of another unit",
        "network_cuda.cuh",
        "before.start[gate] = load(start + 4 * gate);",
        "before.start[gate] = load(start + 4 * (gate ^ 1));",
    ),
    Mutation(
        "states of a slot's place, not of its parent's",
        "network_cuda.cuh",
        "hidden(0, first, live_.parent(i)); };",
        "hidden(0, first, i); };",
    ),
    Mutation(
        "no low parts of the states",
        "operands_cuda.cuh",
        "    mma_tf32(d, high, b.low);\n",
        "",
    ),
    Mutation(
        "a continuation taken again and again",
        "beam_cuda.cuh",
        "better(last, found) && ",
        "",
    ),
    Mutation(
        "tokens of a slot's place, not of its parent's",
        "beam_cuda.cuh",
        "sequence(row.turn, slot_of(row, i)), sequence(1 - row.turn, slot)",
        "sequence(row.turn, slot), sequence(1 - row.turn, slot)",
    ),
    Mutation(
        "queries read before they are there",
        "decode_cuda.cuh",
        "network_.find_queries(count_);\n      barrier_.wait();",
        "network_.find_queries(count_);",
    ),
    Mutation(
        "scores read before they are there",
        "decode_cuda.cuh",
        "memory_.score(count_);\n    barrier_.wait();",
        "memory_.score(count_);",
    ),
    Mutation(
        "contexts read before they are there",
        "decode_cuda.cuh",
        "memory_.mix(count_, kept_);\n    barrier_.wait();",
        "memory_.mix(count_, kept_);",
    ),
    Mutation(
        "attention's output read before it is there",
        "decode_cuda.cuh",
        "network_.join_contexts(count_);\n    barrier_.wait();",
        "network_.join_contexts(count_);",
    ),
    Mutation(
        "the memory of a beam, not of its row",
        "attention_cuda.cuh",
        "live_.slot(i) / width_;",
        "live_.slot(i);",
    ),
    Mutation(
        "steps past the length",
        "attention_cuda.cuh",
        "const int64_t steps = length(i);",
        "const int64_t steps = m_.steps;",
    ),
    Mutation(
        "scores of the first head for all",
        "attention_cuda.cuh",
        "const float* found = scores(i, head);",
        "const float* found = scores(i, 0);",
    ),
    Mutation(
        "weights that do not add up to one",
        "attention_cuda.cuh",
        "steps > 0 ? sum / softmax.total : 0.0f",
        "steps > 0 ? sum : 0.0f",
    ),
    Mutation(
        "no score of additive attention",
        "attention_cuda.cuh",
        "load(network_.score() + at) * DeviceMath::tanh(q + k)",
        "DeviceMath::tanh(q + k)",
    ),
    Mutation(
        "what was fed is not kept of ended rows",
        "slots_cuda.cuh",
        "    for (int layer = 0; layer < l_.states; ++layer)\n"
        "      for_threads(l_.output,\n"
        "                  [&](int64_t i) { store(hidden_at(to",
        "    for (int layer = 0; layer < l_.layers; ++layer)\n"
        "      for_threads(l_.output,\n"
        "                  [&](int64_t i) { store(hidden_at(to",
    ),
    Mutation(
        "all steps kept in the place of the first",
        "decode_cuda.cuh",
        "    kept_.next_step();\n",
        "",
    ),
    Mutation(
        "logits kept by place, not by slot",
        "decode_cuda.cuh",
        "kept_.keep_logit(live_.slot(i), token, logit);",
        "kept_.keep_logit(i, token, logit);",
    ),
    Mutation(
        "weights of attention kept by place, not by slot",
        "attention_cuda.cuh",
        "kept.keep_attention(live_.slot(i),",
        "kept.keep_attention(i,",
    ),
    Mutation(
        "weights of attention are not kept inside a prefix",
        "decode_cuda.cuh",
        "|| l_.feeding || kept_.attention())",
        "|| l_.feeding)",
    ),
    Mutation(
        "the parent of a kept step is itself",
        "beam_cuda.cuh",
        "kept_.goes_on(slot, token, slot_of(row, i));",
        "kept_.goes_on(slot, token, slot);",
    ),
    Mutation(
        "beams drawn with the noise of the first",
        "beam_cuda.cuh",
        "row.position,\n                         slot % width_);",
        "row.position,\n                         0);",
    ),
    Mutation(
        "what is drawn stays in the order of the noise",
        "beam_cuda.cuh",
        "if (row.by_chance) sort_drawn(row, count);",
        "",
    ),
    Mutation(
        "a temperature that leaves the sum as it was",
        "scores_cuda.cuh",
        "      shift_ /= divisor;\n",
        "",
    ),
    Mutation(
        "values of float16 weights the wrong way round",
        "operands_cuda.cuh",
        "value_of(first, 0), value_of(second, 0)",
        "value_of(first, 1), value_of(second, 0)",
        torch.float16,
    ),
    Mutation(
        "values of int8 weights the wrong way round",
        "operands_cuda.cuh",
        "pair_of(first, 0), pair_of(second, 0)",
        "pair_of(first, 1), pair_of(second, 0)",
        torch.int8,
    ),
    Mutation(
        "the recurrent matrix by the scales of the input's",
        "product_cuda.cuh",
        "bit_copy<float>(scales[2 + i / 2])",
        "bit_copy<float>(scales[i / 2])",
        torch.int8,
    ),
    Mutation(
        "the scales of a row's neighbour",
        "product_cuda.cuh",
        "sums[m][n][i] * bit_copy<float>(scales[i / 2]) +",
        "sums[m][n][i] * bit_copy<float>(scales[i % 2]) +",
        torch.int8,
    ),
]
DRAWN = {
    "num_beams": 3,
    "num_return_sequences": 3,
    "do_sample": True,
    "seed": torch.arange(4),
    "temperature": 2.0,
}
OPTIONS = {
    "greedy": {},
    "beam": {"num_beams": 3, "num_return_sequences": 3},
    "drawn": {**DRAWN, "keep": Keep.SCORES | Keep.LOGITS},
    "attentive": {
        **DRAWN,
        "prefix": torch.tensor([[5, 6]]).expand(4, 2),
        "keep": Keep.ATTENTION,
    },
}


ATTENTION = [
    Shape(heads=2, values=20, steps=5),
    Shape(heads=2, additive=True, feeding=True, keys=11, steps=34),
]


def check(emulator: Emulator, dtype: torch.dtype, hidden: int) -> None:
    """Raises an error if a run does not give what the reference does."""
    torch.manual_seed(0)
    emulator.configure(only=2, sms=3)
    size = Size(hidden=hidden, vocab=30)
    cases = [Case(*make(size, 4, dtype, sharpness=3), None)]
    cases += [make_case(size, shape, 4, dtype, sharpness=3) for shape in ATTENTION]
    for case, (name, kind) in product(cases, OPTIONS.items()):
        if kind.get("keep", Keep(0)) & Keep.ATTENTION and case.memory is None:
            continue
        options = DecodeOptions(max_new_tokens=6, eos_token_id=[EOS, 3, 4], **kind)
        expected = case.on_reference(options)
        actual = case._replace(decoder=Emulated(case.decoder, emulator)).run(options)
        assert torch.equal(actual.tokens, expected.tokens), name
        assert_kept_close(actual, expected, name)
        for ours, theirs in zip(actual.state[:2], expected.state[:2], strict=True):
            if ours is not None:
                assert_close(ours.h, theirs.h, name)
                assert_close(ours.c, theirs.c, name)


@pytest.fixture(scope="module")
def mutants(request, _emulator_library) -> dict[str, Future[Path]]:
    return build_chosen(request, "csrc/decode")


@pytest.mark.parametrize(
    ("dtype", "hidden"), sorted({(m.dtype, m.hidden) for m in MUTATIONS}, key=str), ids=str
)
def test_the_kernel_as_it_is_passes(emulator, dtype, hidden):
    check(emulator, dtype, hidden)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_mutant_is_found_out(emulator, mutants, mutation):
    library = mutants[mutation.name].result()
    found = is_found_out(library, partial(check, dtype=mutation.dtype, hidden=mutation.hidden))
    assert found, f"no test would notice: {mutation.name}"
