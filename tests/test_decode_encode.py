"""Encoding: the op `decode_encode` beside its reference, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from helpers_native import AVAILABLE, instruction_set, needs_native

from fast_s2s import backends
from fast_s2s.decoding.encoder import (
    EncoderWeights,
    LinearWeights,
    PackedEncoder,
    pack_whole_encoder,
)
from fast_s2s.decoding.weights import LayerWeights

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int8)
PAIRS = [0, 0, 1]


def random_encoder(
    hidden: int = 17,
    directions: int = 2,
    layers: int = 2,
    *,
    bridged: bool = True,
    keys: int | None = 23,
    sizes: tuple[int, int] = (11, 5),
    start: int | None = None,
    varied: bool = False,
) -> EncoderWeights:
    """varied: with layer norm and zoneout; sizes: vocabulary and embedding; start: what decoder
    layers start from, `PAIRS` of them
    """
    vocab, embedding = sizes
    joined = directions * hidden

    def layer(inputs: int) -> LayerWeights:
        parts = [torch.randn(4 * hidden, size) * 0.3 for size in (inputs, hidden)]
        plain = LayerWeights(*parts, torch.randn(4 * hidden), torch.randn(4 * hidden), None)
        if not varied:
            return plain
        norms = [torch.randn(size) for size in (4 * hidden, 4 * hidden, hidden, hidden)]
        return LayerWeights(*plain[:5], *norms, 0.1, 0.3)

    def linear(outputs: int, *, bias: bool) -> LinearWeights:
        return LinearWeights(torch.randn(outputs, joined), torch.randn(outputs) if bias else None)

    inputs = [embedding if index < directions else joined for index in range(layers * directions)]
    bridges = [linear(start or hidden, bias=index % 2 == 1) for index in range(2 * len(PAIRS))]
    return EncoderWeights(
        torch.randn(vocab, embedding),
        tuple(map(layer, inputs)),
        directions,
        tuple(bridges) if bridged else (),
        None if keys is None else linear(keys, bias=True),
    )


def given(batch: int = 5, steps: int = 7, vocab: int = 11):
    lengths = torch.randint(0, steps + 1, (batch,))
    lengths[:2] = torch.tensor([0, steps])[:batch]
    return torch.randint(0, vocab, (batch, steps)), lengths


def assert_as_reference(packed: PackedEncoder, tokens, lengths, assert_close, **options):
    found = packed.run(tokens, lengths, PAIRS, **options)
    with backends.backend("reference"):
        expected = packed.run(tokens, lengths, PAIRS, **options)
    acc = found.h.dtype
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        assert ours.dtype == acc == packed.layers[0].acc
        assert_close(ours, theirs, name, acc)
    return found


@needs_native
@pytest.mark.parametrize("isa", AVAILABLE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_the_reference_finds(isa, dtype, assert_close):
    with instruction_set(isa):
        for hidden, directions, keys in ((17, 2, 23), (1, 2, 1), (64, 1, 64), (33, 1, None)):
            weights = random_encoder(hidden, directions, keys=keys, bridged=directions == 2)
            packed = pack_whole_encoder(weights, dtype)
            found = assert_as_reference(
                packed, *given(), assert_close, outputs=True, feeding=hidden == 17
            )
            other = random_encoder(hidden, directions, keys=keys, varied=True)
            other = pack_whole_encoder(other, dtype)
            assert_as_reference(other, *given(), assert_close, outputs=True)
            assert (found.keys is found.values) == (keys is None)
            assert found.h.shape == (len(PAIRS) + (hidden == 17), 5, hidden)


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_rows_wide_layers_and_threads(threads, assert_close):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        packed = pack_whole_encoder(random_encoder(40, 2, keys=200, start=150), torch.float32)
        # more rows of keys than are multiplied at once
        assert_as_reference(packed, *given(batch=40), assert_close, outputs=True)
        assert_as_reference(packed, *given(batch=1), assert_close, outputs=True)
        none = given(batch=0)
        assert packed.run(*none, PAIRS, outputs=True).keys.shape == (0, 7, 200)
    finally:
        torch.set_num_threads(before)


@needs_native
def test_without_outputs_there_are_none():
    packed = pack_whole_encoder(random_encoder(keys=None), torch.float32)
    tokens, lengths = given()
    whole = packed.run(tokens, lengths, PAIRS, outputs=True)
    found = packed.run(tokens, lengths, PAIRS, outputs=False)
    assert torch.equal(found.h, whole.h) and torch.equal(found.c, whole.c)
    assert found.values.shape == (0, 7, 34)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_whatever_the_rest(dtype):
    packed = pack_whole_encoder(random_encoder(keys=130), dtype)
    tokens, lengths = given(batch=30)
    whole = packed.run(tokens, lengths, PAIRS, outputs=True)
    for row in (0, 1, 7, 29):
        one = packed.run(tokens[row : row + 1], lengths[row : row + 1], PAIRS, outputs=True)
        assert torch.equal(one.h[:, 0], whole.h[:, row])
        assert torch.equal(one.c[:, 0], whole.c[:, row])
        assert torch.equal(one.values[0], whole.values[row])
        assert torch.equal(one.keys[0], whole.keys[row])
        assert not one.keys[0, int(lengths[row]) :].any()


@needs_native
@pytest.mark.parametrize("outputs", [False, True])
def test_opcheck(outputs):
    packed = pack_whole_encoder(random_encoder(keys=23 if outputs else None), torch.float32)
    arguments = *packed._arguments, *given(), 2, 2, PAIRS, True, outputs, True
    torch.library.opcheck(torch.ops.fast_s2s.decode_encode.default, arguments)


@needs_native
def test_the_op_looks_at_everything():
    packed = pack_whole_encoder(random_encoder(), torch.float32)
    other = pack_whole_encoder(random_encoder(start=16), torch.float32)
    packs, headers = packed._arguments
    others, other_headers = other._arguments
    tokens, lengths = given()
    good = [packs, headers, tokens, lengths, 2, 2, PAIRS, True, True, False]
    for at, value, message in (
        (0, packs[:-2], "headers: expected 126 numbers, got 154"),
        (1, headers[:-1], "headers: expected 154 numbers, got 153"),
        (2, tokens[0], "tokens: expected shape"),
        (2, tokens - 11, r"inputs: expected values in 0\.\.10"),
        (2, tokens.int(), "tokens: expected dtype Long"),
        (3, lengths + 8, r"lengths: expected values in 0\.\.7"),
        (3, lengths[1:], "lengths: expected shape"),
        (4, 0, "layers: expected at least 1, got 0"),
        (4, 1, "pairs: expected values in 0..0, got 1"),
        (4, 3, "packed: expected 12 tensors, with outputs one more for keys, got 11"),
        (5, 3, "directions: expected 1, or 2 with bridges, got 3"),
        (5, 1, "packed: expected 8 tensors"),
        (6, [0, 2, 1], r"pairs: expected values in 0\.\.1, got 2"),
        (7, False, "directions: expected 1, or 2 with bridges, got 2"),
        (8, False, "packed: expected 10 tensors, with outputs one more for keys, got 11"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fast_s2s.decode_encode.default(*good[:at], value, *good[at + 1 :])
    size = len(headers) // len(packs)
    mixed = [*packs[:5], others[5], *packs[6:]]
    mixed_headers = headers[: 5 * size] + other_headers[5 * size : 6 * size] + headers[6 * size :]
    with pytest.raises(RuntimeError, match="packed: expected bridges of 17 outputs, got 16"):
        torch.ops.fast_s2s.decode_encode.default(mixed, mixed_headers, *good[2:])
    smaller, smaller_headers = pack_whole_encoder(random_encoder(16), torch.float32)._arguments
    mixed = [*smaller[:2], *packs[2:]], smaller_headers[: 2 * size] + headers[2 * size :]
    with pytest.raises(RuntimeError, match="packed: expected layers of 16 units, got 17"):
        torch.ops.fast_s2s.decode_encode.default(*mixed, *good[2:])
    # a layer is no linear layer, nor the other way round
    turned = [*packs[4:], *packs[:4]], headers[4 * size :] + headers[: 4 * size]
    with pytest.raises(RuntimeError, match="packed: expected weights of at least one layer"):
        torch.ops.fast_s2s.decode_encode.default(*turned, *good[2:])
    layers = [packs[0]] * len(packs), headers[:size] * len(packs)
    with pytest.raises(RuntimeError, match="packed: expected weights without a table for values"):
        torch.ops.fast_s2s.decode_encode.default(*layers, *good[2:])


@needs_native
def test_weights_of_a_linear_layer_do_not_generate():
    packed = pack_whole_encoder(random_encoder(hidden=8), torch.float32)
    packs, headers = packed._arguments
    size = len(headers) // len(packs)
    with pytest.raises(RuntimeError, match="packed: expected weights of at least one layer"):
        torch.ops.fast_s2s.decode_read.default(
            packs[-1:], headers[-size:], *[torch.zeros(1, 1, 1)] * 2, *given(), False
        )
    none = torch.empty(3, 0)
    for more in ((True, False, 0), (False, True, 0), (False, False, 1)):
        with pytest.raises(RuntimeError, match="projected, table, heads: expected none"):
            torch.ops.fast_s2s.decode_pack(
                *([torch.ones(3, 2)], [], [torch.ones(3)], [], none),
                *(0, *more, False, False, 0.0, 0.0),
            )
    with pytest.raises(RuntimeError, match=r"inputs: expected \(V, 0\) without layers"):
        torch.ops.fast_s2s.decode_pack(
            *([torch.ones(3, 2)], [], [torch.ones(3)], [], torch.ones(3, 1)),
            *(0, False, False, 0, False, False, 0.0, 0.0),
        )
