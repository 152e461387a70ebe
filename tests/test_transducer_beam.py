"""`transducer_beam`: against all alignments and the reference, in pieces, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers_decode import DTYPES, Size
from helpers_native import AVAILABLE, instruction_set, needs_native
from helpers_transducer import Case, random_frames, random_transducer

from fast_s2s import backends
from fast_s2s.decoding import pack_transducer, transducer_beam, transducer_greedy
from fast_s2s.decoding.reference import step
from fast_s2s.decoding.transducer_beam_reference import BeamSlots

CASES = [
    Case(),
    Case(activation="relu", blank=10),
    Case(Size(2, 17, 29, 6), joined=33),
    Case(Size(1, 1, 3, 2), joined=1),
    Case(Size(2, 20, 40, 7, projection=9), joined=9, projected=False),
    Case(Size(1, 33, 70, 5, bias=False), joined=50),
    Case(Size(1, 12, 20, 5, norm=True, zoneout=(0.1, 0.0)), joined=16),
]


def packed_as(case: Case, weights, dtype: torch.dtype):
    return pack_transducer(weights, blank=case.blank, activation=case.activation, dtype=dtype)


def all_sequences(transducer, frames, most: int, max_symbols: int) -> dict[tuple[int, ...], float]:
    """log P of every sequence of up to `most` tokens, summed over its alignments: the forward
    algorithm of Graves 2012, of at most `max_symbols` tokens a frame.
    """
    dense, blank = transducer.dense, transducer.blank
    tokens = [token for token in range(transducer.vocab_size) if token != blank]
    found = {}
    for length in range(most + 1):
        for sequence in itertools.product(tokens, repeat=length):
            found[sequence] = forward(transducer, dense, frames, sequence, max_symbols)
    return found


def forward(transducer, dense, frames, sequence, max_symbols: int) -> float:
    begin = transducer.initial_state(1)
    h, c, log_probabilities = begin.h, begin.c, []
    for token in [transducer.blank, *sequence]:
        read = step(dense.predictor, torch.tensor([token]), h, c)
        h, c = read.h, read.c
        total = frames + read.logits
        joined = total.relu() if transducer.activation == "relu" else total.tanh()
        logits = joined @ dense.joiner.t() + dense.joiner_bias
        log_probabilities.append(logits.log_softmax(1))
    # of each number of tokens so far and, of these, in this frame
    ways = {(0, 0): torch.zeros((), dtype=torch.float64)}
    for frame in range(len(frames)):
        for tokens, symbols in itertools.product(range(len(sequence)), range(max_symbols)):
            if (tokens, symbols) in ways:
                way = ways[tokens, symbols] + log_probabilities[tokens][frame, sequence[tokens]]
                ways[tokens + 1, symbols + 1] = way
        after = {}
        for (tokens, _), way in ways.items():
            blank = way + log_probabilities[tokens][frame, transducer.blank]
            before = after.get((tokens, 0))
            after[tokens, 0] = blank if before is None else torch.logaddexp(before, blank)
        ways = after
    return float(ways.get((len(sequence), 0), torch.tensor(-torch.inf)))


@pytest.mark.parametrize("max_symbols", [1, 2])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_wide_beam_finds_every_sequence(backend, activation, max_symbols):
    """With room for all of them scores are the probabilities of sequences, not of ways to them."""
    case = Case(Size(hidden=6, vocab=3, embedding=4), joined=5, activation=activation, blank=1)
    transducer = packed_as(case, random_transducer(case), torch.float64)
    frames = random_frames(case, batch=1, frames=3)[0]
    expected = all_sequences(transducer, frames[0], 3 * max_symbols, max_symbols)
    expected = {tokens: score for tokens, score in expected.items() if score > -torch.inf}
    count = len(expected)
    assert count == (15 if max_symbols == 1 else 127)
    found = transducer_beam(
        transducer,
        frames,
        num_beams=count,
        num_return_sequences=count,
        max_symbols=max_symbols,
    )
    actual = {
        tuple(tokens[:length].tolist()): float(score)
        for tokens, length, score in zip(
            found.tokens[0], found.lengths[0], found.scores[0], strict=True
        )
    }
    assert actual.keys() == expected.keys()
    for tokens, score in expected.items():
        assert actual[tokens] == pytest.approx(score, rel=1e-9), tokens
    assert found.scores[0].tolist() == sorted(found.scores[0].tolist(), reverse=True)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_equals_reference(case, dtype, assert_close):
    weights = random_transducer(case, blank_bias=-2.0)
    encoded, lengths = random_frames(case, batch=5, frames=17)
    encoded *= 3
    options = {"num_beams": 4, "num_return_sequences": 3, "max_symbols": 3}
    with backends.backend("reference"):
        transducer = packed_as(case, weights, dtype)
        expected = transducer_beam(transducer, encoded, lengths, **options)
    assert expected.lengths.sum() > 15, "a case that tests nothing"
    for isa in AVAILABLE:
        with instruction_set(isa):
            found = transducer_beam(packed_as(case, weights, dtype), encoded, lengths, **options)
        acc = expected.state.slots.h.dtype
        assert_close(found.scores[:, 0], expected.scores[:, 0], f"best scores on {isa}", acc)
        if dtype != torch.float64:
            continue
        for name in ("tokens", "lengths", "frames"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (isa, name)
        slots = zip(BeamSlots._fields, found.state.slots, expected.state.slots, strict=True)
        for name, ours, theirs in slots:
            assert ours.dtype == theirs.dtype
            assert_close(ours.double(), theirs.double(), f"{name} on {isa}", acc)


def test_one_beam_without_merging_is_the_greedy_search(backend):
    """Where the blank is likelier than all tokens together, or less likely than one of them."""
    case = Case(Size(hidden=20, vocab=9), joined=24)
    transducer = packed_as(case, random_transducer(case), torch.float64)
    encoded, lengths = random_frames(case, batch=4, frames=20)
    greedy = transducer_greedy(transducer, 6 * encoded, lengths, max_symbols=1)
    found = transducer_beam(transducer, 6 * encoded, lengths, num_beams=8, max_symbols=1)
    same = [
        found.tokens[row, 0, : found.lengths[row, 0]].tolist()
        == greedy.tokens[row, : greedy.lengths[row]].tolist()
        for row in range(4)
    ]
    assert sum(same) >= 1 and greedy.lengths.sum() > 10
    # a beam is at least as likely as what was found greedily: scored as the only sequence of a beam
    assert (found.scores[:, 0] <= 0).all()


@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_pieces_give_what_the_whole_gives(backend, case):
    """Hypotheses go on too: their tokens are of all pieces."""
    transducer = packed_as(case, random_transducer(case), torch.float64)
    encoded, lengths = random_frames(case, batch=3, frames=11)
    options = {"num_return_sequences": 3, "max_symbols": 2}
    whole = transducer_beam(transducer, encoded, lengths, num_beams=3, **options)
    state = None
    for first in range(0, 11, 4):
        piece = encoded[:, first : first + 4]
        ends = (lengths - first).clamp(0, piece.size(1))
        found = transducer_beam(transducer, piece, ends, num_beams=3, state=state, **options)
        state = found.state
    parts = [*found[:4], *found.state.slots], [*whole[:4], *whole.state.slots]
    for ours, theirs in zip(*parts, strict=True):
        # torch's products of other numbers of rows round otherwise
        same = torch.equal if not ours.is_floating_point() else torch.allclose
        assert same(ours, theirs)
    assert torch.equal(found.state.slots.seen, lengths)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_whatever_the_rest_and_the_threads(dtype):
    case = Case(Size(2, 65, 150, 8), joined=70)
    transducer = packed_as(case, random_transducer(case, blank_bias=-3.0), dtype)
    encoded, lengths = random_frames(case, batch=9, frames=20)
    options = {"num_beams": 5, "num_return_sequences": 5}
    whole = transducer_beam(transducer, encoded, lengths, **options)
    assert int(whole.lengths.sum()) > 30, "a case that tests nothing"
    for row in range(9):
        one = slice(row, row + 1)
        found = transducer_beam(transducer, encoded[one], lengths[one], **options)
        count = found.tokens.size(2)
        assert torch.equal(found.tokens[0], whole.tokens[row, :, :count])
        assert torch.equal(found.scores[0], whole.scores[row])
        slots = slice(5 * row, 5 * row + 5)
        assert torch.equal(found.state.slots.h, whole.state.slots.h[:, slots])
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            for _ in range(3):
                again = transducer_beam(transducer, encoded, lengths, **options)
                assert torch.equal(again.tokens, whole.tokens)
                assert torch.equal(again.scores, whole.scores)
                assert all(map(torch.equal, again.state.slots, whole.state.slots))
    finally:
        torch.set_num_threads(1)


def test_length_penalty_orders_what_was_found(backend):
    case = Case()
    transducer = packed_as(case, random_transducer(case), torch.float64)
    encoded = random_frames(case, batch=2)[0]
    options = {"num_beams": 6, "num_return_sequences": 6}
    plain = transducer_beam(transducer, encoded, **options)
    found = transducer_beam(transducer, encoded, length_penalty=1.0, **options)
    for row in range(2):
        pairs = zip(plain.scores[row].tolist(), plain.lengths[row].tolist(), strict=True)
        expected = sorted((score / max(1, length) for score, length in pairs), reverse=True)
        assert found.scores[row].tolist() == pytest.approx(expected)
    assert torch.equal(found.state.slots.score, plain.state.slots.score)


def test_rows_that_never_begin(backend):
    case = Case(joined=20)
    transducer = packed_as(case, random_transducer(case, blank_bias=100.0), torch.float64)
    encoded, lengths = random_frames(case, batch=3)
    found = transducer_beam(transducer, encoded, lengths, max_symbols=2)
    assert not found.lengths.any() and found.tokens.shape == (3, 1, 0)


def test_what_is_not_a_number_is_never_chosen(backend):
    """Where no token is left, the frame is passed over; where no blank is, all go on."""
    case = Case()
    weights = random_transducer(case)
    bias = weights.output.bias
    bias[5] = torch.nan
    transducer = packed_as(case, weights, torch.float32)
    encoded = random_frames(case, batch=2)[0].float()
    found = transducer_beam(transducer, encoded, max_symbols=2)
    assert found.lengths.min() > 2 and not (found.tokens == 5).any()
    encoded[0, 3:] = torch.nan
    found = transducer_beam(transducer, encoded, max_symbols=2)
    assert found.frames[0].max() < 3 < found.frames[1].max() and found.scores.isfinite().all()
    bias[0] = torch.nan
    transducer = packed_as(case, weights, torch.float32)
    found = transducer_beam(transducer, encoded[1:], max_symbols=2)
    assert found.lengths.tolist() == [[28]] and found.scores.isfinite().all()
    assert found.frames.flatten().tolist() == [frame for frame in range(14) for _ in range(2)]


def test_edges(backend):
    case = Case()
    transducer = packed_as(case, random_transducer(case), torch.float32)
    for batch, frames in ((0, 5), (3, 0), (0, 0)):
        found = transducer_beam(transducer, torch.randn(batch, frames, 12), num_beams=2)
        assert found.tokens.shape == found.frames.shape == (batch, 1, 0)
        assert found.scores.shape == (batch, 1) and not found.scores.any()
        assert found.state.slots.h.shape == (1, 2 * batch, 8)
    encoded = torch.randn(2, 9, 12)
    found = transducer_beam(transducer, encoded)
    listed = transducer_beam(
        transducer, encoded.transpose(0, 1).contiguous().transpose(0, 1), [9, 9]
    )
    assert torch.equal(found.tokens, listed.tokens)
    with torch.autocast("cpu"):
        cast = transducer_beam(transducer, encoded.double().requires_grad_())
    assert torch.equal(found.scores, cast.scores) and not cast.scores.requires_grad
    # more beams than there are sequences
    few = Case(Size(hidden=3, vocab=2), joined=4)
    transducer = packed_as(few, random_transducer(few), torch.float32)
    encoded = random_frames(few, batch=1, frames=1)[0]
    found = transducer_beam(transducer, encoded, num_beams=9, num_return_sequences=9, max_symbols=2)
    assert (found.scores > -torch.inf).sum() == 3 and (found.tokens[0, 3:] == 0).all()
    again = transducer_beam(transducer, encoded, max_symbols=2, state=found.state)
    assert again.scores.isfinite().all()


@needs_native
@pytest.mark.parametrize("projected", [False, True])
def test_opcheck(projected):
    case = Case(joined=8, projected=projected)
    transducer = packed_as(case, random_transducer(case), torch.float32)
    encoded, lengths = random_frames(case)
    state = transducer_beam(transducer, encoded, lengths).state
    arguments = (*transducer.arguments, list(state.slots), encoded.float(), lengths, 0, 3, True)
    # how many tokens are found is known when they are: the test of tracing wants it before
    torch.library.opcheck(
        torch.ops.fast_s2s.transducer_beam.default,
        arguments,
        test_utils=("test_schema", "test_faketensor"),
    )


def slots_with(transducer, **changes):
    state = transducer_beam(transducer, torch.randn(5, 2, 12), num_beams=2).state
    return state._replace(slots=state.slots._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"transducer": 3}, TypeError, "transducer: expected a PackedTransducer, got int"),
        ({"encoded": 3}, TypeError, "encoded: expected a tensor"),
        ({"encoded": torch.zeros(5, 14, 11)}, ValueError, r"encoded: expected shape \(B, T, J\)"),
        ({"lengths": [1, 2]}, ValueError, r"lengths: expected shape \(5,\), one per row"),
        ({"num_beams": 0}, ValueError, "num_beams: expected an integer >= 1, got 0"),
        ({"num_return_sequences": 5}, ValueError, "num_return_sequences: expected an integer <= 4"),
        ({"max_symbols": 0}, ValueError, "max_symbols: expected an integer >= 1, got 0"),
        ({"length_penalty": "x"}, TypeError, "length_penalty: expected a number, got 'x'"),
        ({"state": 3}, TypeError, "state: expected a TransducerBeamState, got int"),
        ({"h": torch.zeros(1, 9, 8)}, ValueError, r"state.slots.h: expected shape \(L, B·W, R\)"),
        ({"token": torch.full((10,), 11)}, ValueError, "state.slots.token: expected token ids in"),
        ({"tokens": torch.zeros(10, 3)}, ValueError, "state.slots.tokens: expected dtype"),
        ({"counts": torch.full((10,), 99)}, ValueError, "state.slots.counts: expected numbers of"),
        ({"seen": 3}, TypeError, "state.slots.seen: expected a tensor, got 3"),
    ],
)
def test_what_is_refused(backend, changes, error, message):
    case = Case()
    transducer = packed_as(case, random_transducer(case), torch.float32)
    arguments = {"transducer": transducer, "encoded": random_frames(case)[0], **changes}
    parts = {name: arguments.pop(name) for name in BeamSlots._fields if name in changes}
    if parts:
        arguments["state"] = slots_with(transducer, **parts)
    with pytest.raises(error, match=message):
        transducer_beam(**arguments)


def test_durations_are_refused():
    case = Case(durations=(0, 1))
    transducer = pack_transducer(random_transducer(case), blank=0, durations=(0, 1))
    with pytest.raises(ValueError, match=r"transducer: expected one without durations, got \[0, 1"):
        transducer_beam(transducer, random_frames(case)[0])


@needs_native
def test_the_op_looks_at_everything_too():
    case = Case()
    transducer = packed_as(case, random_transducer(case), torch.float32)
    encoded, lengths = random_frames(case)
    slots = transducer_beam(transducer, encoded, lengths, num_beams=2).state.slots
    good = [*transducer.arguments, list(slots), encoded.float(), lengths, 0, 10, False]
    torch.ops.fast_s2s.transducer_beam.default(*good)

    def with_slot(at, value):
        return [*slots[:at], value, *slots[at + 1 :]]

    for at, value, message in (
        (0, good[0][:1], "packed: expected predictor, projection if there is one, and joiner"),
        (2, slots[:3], "state: expected 8 tensors, got 3"),
        (2, with_slot(0, slots[0].double()), "h: expected dtype Float, got Double"),
        (2, with_slot(1, slots[1][:, 1:]), "c: expected shape"),
        (2, with_slot(2, slots[2][1:]), "token: expected a multiple of 5 rows, got 9"),
        (2, with_slot(2, slots[2] - 20), r"token: expected values in 0\.\.10"),
        (2, with_slot(3, slots[3].float()), "score: expected dtype Double, got Float"),
        (2, with_slot(4, slots[4] + 99), "counts: expected values in"),
        (2, with_slot(5, slots[5] + 99), r"tokens: expected values in 0\.\.10"),
        (2, with_slot(6, slots[6][:, 1:]), "frames: expected shape"),
        (3, encoded, "encoded: expected dtype Float, got Double"),
        (4, lengths + 1, r"lengths: expected values in 0\.\.14, got 15"),
        (5, 11, r"blank: expected a token id in 0\.\.10, got 11"),
        (6, 0, "max_symbols: expected at least 1, got 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fast_s2s.transducer_beam.default(*good[:at], value, *good[at + 1 :])
