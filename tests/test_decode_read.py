"""Reading: the op `decode_read`, its reference, and `read`."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers_decode import Size, random_context, random_weights
from helpers_native import AVAILABLE, instruction_set, needs_native

import fast_s2s
from fast_s2s.decoding import (
    AttentionWeights,
    PackedDecoder,
    pack_decoder,
    pack_encoder,
    read,
    reference,
)
from fast_s2s.decoding.packed import read_packed

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int8)
LENGTHS = torch.tensor([6, 0, 3, 5])


def given(
    size: Size,
    directions: int,
    dtype: torch.dtype,
    batch: int = 4,
    steps: int = 6,
    *,
    values: bool = False,
):
    """Packs, and what `read_packed` takes: tokens, or values."""
    table = "off" if values else "auto"
    packs = [pack_encoder(*random_weights(size)[:2], dtype, table) for _ in range(directions)]
    h, c = random_context(
        Size(size.layers * directions, size.hidden, projection=size.projection), batch
    )
    acc = packs[0].acc
    inputs = torch.randint(0, size.vocab, (batch, steps))
    if values:
        inputs = torch.randn(batch, steps, size.embedding, dtype=acc)
    return packs, h.to(acc), c.to(acc), inputs


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize(
    ("layers", "directions", "projection"), [(2, 1, 0), (2, 1, 3), (1, 2, 0), (1, 2, 3)]
)
@pytest.mark.parametrize(
    "variant", [{}, {"norm": "layer"}, {"norm": "layer", "zoneout_hidden": 0.2}], ids=str
)
def test_reading_is_what_an_lstm_does(
    backend, layers, directions, projection, variant, outputs, assert_close
):
    size = Size(
        layers=layers,
        projection=projection,
        norm="norm" in variant,
        zoneout=(variant.get("zoneout_hidden", 0.0), 0.0),
    )
    weights = [random_weights(size) for _ in range(directions)]
    embedding = weights[0].embedding
    packs = [pack_encoder(embedding, each.layers) for each in weights]
    lstm = fast_s2s.LSTM(
        *(5, 8, layers),
        batch_first=True,
        proj_size=projection,
        bidirectional=directions == 2,
        **variant,
    )
    lstm = lstm.double().eval()
    every = [layer for each in weights for layer in each.layers]
    flat = [part for layer in every for part in layer[:5] if part is not None]
    norms = [part for layer in every for part in layer.norms if part is not None]
    h, c = random_context(Size(layers * directions, projection=projection), 4)
    tokens = torch.randint(0, 11, (4, 6))
    with torch.no_grad():
        for name, weight in zip(lstm._flat_weights_names, flat, strict=True):
            getattr(lstm, name).copy_(weight)
        if norms:
            for (name, _), weight in zip(lstm._norm_names(), norms, strict=True):
                getattr(lstm, name).copy_(weight)
        with fast_s2s.backend("reference"):
            y, (h_n, c_n) = lstm(embedding[tokens], (h, c), lengths=LENGTHS)
    actual = read_packed(packs, h, c, tokens, LENGTHS, outputs=outputs)
    expected = h_n, c_n, y if outputs else y[:0]
    for name, ours, theirs in zip(("h", "c", "outputs"), actual, expected, strict=True):
        assert_close(ours, theirs, name)
    if directions == 1:
        for name, ours, theirs in zip(
            "hc", read(packs[0], h, c, tokens, LENGTHS), actual, strict=False
        ):
            assert torch.equal(ours, theirs), name


@needs_native
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "directions"),
    [(Size(), 2), (Size(3, 33, 20, 7, projection=17), 1), (Size(1, 70, 5, 16, bias=False), 2)],
    ids=str,
)
def test_native_equals_reference(dtype, size, directions, values, assert_close):
    packs, h, c, inputs = given(size, directions, dtype, values=values)
    dense = [pack.dense for pack in packs]
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    expected = reference.read(dense, h, c, inputs, LENGTHS, outputs=True)
    for isa in AVAILABLE:
        with instruction_set(isa):
            again = [PackedDecoder(**vars_of(pack)) for pack in packs]
            actual = read_packed(again, h, c, inputs, LENGTHS, outputs=True)
        for name, ours, theirs in zip(("h", "c", "outputs"), actual, expected, strict=True):
            assert_close(ours, theirs, f"{name} on {isa}", exact)


def vars_of(pack: PackedDecoder) -> dict:
    """Its fields, without what was packed for an instruction set."""
    return {name: getattr(pack, name) for name in PackedDecoder.__dataclass_fields__}


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (7, 150), (300, 5)])
def test_values_of_any_number(backend, batch, steps, assert_close):
    """As one product, and in parts: by steps, and by rows of a step."""
    packs, h, c, values = given(Size(hidden=200), 2, torch.float32, batch, steps, values=True)
    lengths = torch.randint(0, steps + 1, (batch,))
    exact = [PackedDecoder(**{**vars_of(pack), "dtype": torch.float64}).dense for pack in packs]
    wide = [part.double() for part in (h, c, values)]
    actual = read_packed(packs, h, c, values, lengths, outputs=True)
    expected = reference.read(exact, *wide, lengths, outputs=True)
    for name, ours, theirs in zip(("h", "c", "outputs"), actual, expected, strict=True):
        assert_close(ours, theirs, name)


def test_edges(backend):
    packs, h, c, tokens = given(Size(), 1, torch.float32)
    whole = read(packs[0], h, c, tokens, torch.full((4,), 6))
    assert torch.equal(read(packs[0], h, c, tokens)[0], whole[0])
    assert torch.equal(read(packs[0], h, c, tokens[:, :0])[0], h)
    nobody = read_packed(packs, h[:, :0], c[:, :0], tokens[:0], LENGTHS[:0], outputs=True)
    assert [part.shape for part in nobody] == [(1, 0, 8), (1, 0, 8), (0, 6, 8)]
    packs, h, c, values = given(Size(), 1, torch.float32, values=True)
    for rows, steps in ((0, 6), (4, 0)):
        parts = h[:, :rows], c[:, :rows], values[:rows, :steps], LENGTHS[:rows].clamp(max=steps)
        found = read_packed(packs, *parts, outputs=True)
        assert torch.equal(found[0], h[:, :rows]) and found[2].shape == (rows, steps, 8)


@needs_native
@pytest.mark.parametrize(
    ("hidden", "directions", "values"), list(product([64, 600], [1, 2], [False, True]))
)
def test_threads_change_nothing(hidden, directions, values):
    """With threads of its own for each direction, for parts of each, or both."""
    batch, size = 1 if hidden == 600 else 40, Size(hidden=hidden, vocab=50)
    packs, h, c, tokens = given(size, directions, torch.float32, batch, 12, values=values)
    lengths = torch.randint(0, 13, (batch,))
    lengths[0] = 12
    expected = read_packed(packs, h, c, tokens, lengths, outputs=True)
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        for _ in range(40):
            actual = read_packed(packs, h, c, tokens, lengths, outputs=True)
            assert all(map(torch.equal, actual, expected)), threads


@needs_native
@pytest.mark.parametrize("values", [False, True])
def test_a_row_does_not_depend_on_the_others(values):
    packs, h, c, tokens = given(Size(hidden=33), 2, torch.float32, batch=20, values=values)
    lengths = torch.randint(0, 7, (20,))
    whole = read_packed(packs, h, c, tokens, lengths, outputs=True)
    for row in range(20):
        one = slice(row, row + 1)
        h_n, c_n, y = read_packed(
            packs, h[:, one], c[:, one], tokens[one], lengths[one], outputs=True
        )
        assert torch.equal(h_n, whole[0][:, one]) and torch.equal(c_n, whole[1][:, one])
        assert torch.equal(y, whole[2][one])


@needs_native
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("outputs", [False, True])
def test_opcheck(outputs, values):
    packs, h, c, tokens = given(Size(projection=3), 2, torch.float32, values=values)
    arguments = [pack.packed for pack in packs], packs[0].header, h, c, tokens, LENGTHS, outputs
    torch.library.opcheck(torch.ops.fast_s2s.decode_read.default, arguments)


def test_bad_input_is_told_by_name(backend):
    packs, h, c, tokens = given(Size(), 1, torch.float32)
    (packed,) = packs
    for arguments, error, message in (
        ((h[:, :2], c, tokens), ValueError, "c: expected shape"),
        ((h, c, tokens[0]), ValueError, "tokens: expected shape"),
        ((h, c, tokens + 11), ValueError, r"tokens: expected token ids in 0\.\.10"),
        ((h, c, tokens.int()), ValueError, "tokens: expected dtype torch.int64"),
        ((h, c, tokens, LENGTHS + 1), ValueError, r"lengths: expected lengths in 0\.\.6, got 7"),
        ((h, c, tokens, LENGTHS[:3]), ValueError, "lengths: expected shape"),
        ((h, c, tokens, [1, 2, 3, 4]), TypeError, "lengths: expected a tensor"),
    ):
        with pytest.raises(error, match=message):
            read(packed, *arguments)
    weights = random_weights(Size())
    attending = weights._replace(attention=AttentionWeights(torch.randn(8, 16)))
    with pytest.raises(ValueError, match="packed: expected layers without attention"):
        read(pack_decoder(attending, torch.float32), h, c, tokens)


@needs_native
def test_the_op_looks_at_everything_too():
    packs, h, c, tokens = given(Size(), 2, torch.float32)
    packed, header = [pack.packed for pack in packs], packs[0].header
    deep = given(Size(layers=2), 1, torch.float32)[0][0]
    values = torch.randn(4, 6, 5)
    good = [packed, header, h, c, tokens, LENGTHS, True]
    for at, value, message in (
        (0, [], "packed: expected weights of one direction or of two, got 0"),
        (0, [packed[0], deep.packed], "header: expected that of the packed weights"),
        (1, deep.header, "header: expected that of the packed weights"),
        (2, h[:1], "h: expected shape"),
        (3, c.double(), "c: expected dtype Float"),
        (4, tokens - 11, r"inputs: expected values in 0\.\.10"),
        (4, values.double(), "packed: expected weights without a table for values"),
        (5, LENGTHS - 1, r"lengths: expected values in 0\.\.6"),
        (5, LENGTHS[:2], "lengths: expected shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fast_s2s.decode_read.default(*good[:at], value, *good[at + 1 :])
    without, *_ = given(Size(), 2, torch.float32, values=True)
    good[:2] = [pack.packed for pack in without], without[0].header
    for wrong, message in (
        (values.double(), "inputs: expected dtype Float"),
        (values[..., :4], "inputs: expected shape"),
        (values[0], "inputs: expected shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fast_s2s.decode_read.default(*good[:4], wrong, *good[5:])
    with pytest.raises(RuntimeError, match="packed: expected one layer in each of two directions"):
        torch.ops.fast_s2s.decode_read.default([deep.packed] * 2, deep.header, *good[2:])
