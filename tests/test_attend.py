"""The formula of attention: values, gradients, what lies past a row's length."""

from __future__ import annotations

import pytest
import torch

from fast_s2s.attention import Memory, attend

SHAPES = [(1, 1, 1, 1, 1), (3, 2, 63, 17, 17), (2, 5, 4, 500, 500), (3, 1, 7, 48, 16)]


def random_memory(rows, steps, values, keys, dtype=torch.float64):
    lengths = torch.randint(0, steps + 1, (rows,))
    lengths[0] = steps
    return Memory(
        torch.randn(rows, steps, values, dtype=dtype),
        torch.randn(rows, steps, keys, dtype=dtype),
        lengths,
    )


def attend_written_out(queries, memory, heads, score=None):
    """One query, head and step after the other; torch only for exp and tanh."""
    per_row = len(queries) // len(memory.lengths)
    contexts = torch.zeros(*queries.shape[:2], memory.values.size(2), dtype=torch.float64)
    weights = torch.zeros(
        len(queries), heads, queries.size(1), memory.values.size(1), dtype=torch.float64
    )
    for n, row in enumerate(range(len(queries))):
        values, keys, length = (part[row // per_row] for part in memory)
        for t in range(queries.size(1)):
            for head in range(heads):
                q = queries[n, t].chunk(heads)[head].double()
                total, mixed = 0.0, 0.0
                exps = []
                for s in range(int(length)):
                    k = keys[s].chunk(heads)[head].double()
                    if score is None:
                        product = (q * k).sum()
                    else:
                        product = (score.chunk(heads)[head].double() * torch.tanh(q + k)).sum()
                    exps.append(torch.exp(product))
                    total = total + exps[-1]
                for s, each in enumerate(exps):
                    weights[n, head, t, s] = each / total
                    mixed = mixed + each / total * values[s].chunk(heads)[head].double()
                if exps:
                    size = memory.values.size(2) // heads
                    contexts[n, t, head * size : (head + 1) * size] = mixed
    return contexts, weights


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("additive", [False, True], ids=["dot", "additive"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_attend_equals_the_formula_written_out(shape, additive, dtype, assert_close):
    rows, count, steps, values, keys = shape
    for heads in (1, 2, 4):
        if values % heads or keys % heads:
            continue
        memory = random_memory(rows, steps, values, keys, dtype)
        # several slots of a row, side by side, and scores of a size that does not overflow
        queries = torch.randn(rows * 2, count, keys, dtype=dtype) / keys**0.5
        score = torch.randn(keys, dtype=dtype) if additive else None
        context, weights = attend(queries, memory, heads, score)
        expected = attend_written_out(queries, memory, heads, score)
        assert_close(context, expected[0], "context", dtype)
        assert_close(weights, expected[1], "weights", dtype)
        over = memory.lengths.repeat_interleave(2) == 0
        assert not context[over].any() and not weights[over].any()


@pytest.mark.parametrize("additive", [False, True], ids=["dot", "additive"])
def test_gradients_of_attend(additive):
    memory = random_memory(3, 4, 6, 4)
    memory.lengths[1] = 0
    tensors = [torch.randn(6, 2, 4, dtype=torch.float64), memory.values, memory.keys]
    if additive:
        tensors.append(torch.randn(4, dtype=torch.float64))
    for tensor in tensors:
        tensor.requires_grad_()

    def call(queries, values, keys, *score):
        return attend(queries, Memory(values, keys, memory.lengths), 2, *score)

    assert torch.autograd.gradcheck(call, tensors)


@pytest.mark.parametrize("additive", [False, True], ids=["dot", "additive"])
def test_nothing_past_a_rows_length_counts(additive):
    memory = random_memory(4, 9, 6, 8, torch.float32)
    queries = torch.randn(4, 3, 8)
    score = torch.randn(8) if additive else None
    context, weights = attend(queries, memory, 2, score)
    for row, length in enumerate(memory.lengths.tolist()):
        memory.keys[row, length:] = 1e4
        memory.values[row, length:] = 1e4
    again, same = attend(queries, memory, 2, score)
    assert torch.equal(context, again) and torch.equal(weights, same)
