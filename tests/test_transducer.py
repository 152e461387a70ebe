"""The transducer's greedy search beside one so plain that it can be read at a glance."""

from __future__ import annotations

import pytest
import torch
from helpers_decode import DTYPES, Size
from helpers_native import AVAILABLE, instruction_set, needs_native
from helpers_transducer import Case, plain_search, random_frames, random_transducer
from torch import nn

import fast_s2s
from fast_s2s import backends
from fast_s2s.decoding import (
    LinearWeights,
    PackedTransducer,
    TransducerState,
    TransducerWeights,
    pack_transducer,
    transducer_greedy,
)

CASES = [
    Case(),
    Case(activation="relu", blank=10),
    Case(durations=(0, 1, 2, 3, 4), blank=3),
    Case(durations=(0,), activation="relu"),
    Case(Size(2, 17, 29, 6), joined=33),
    Case(Size(1, 1, 3, 2), joined=1),
    Case(Size(2, 20, 40, 7, projection=9), joined=9, projected=False, durations=(1, 3)),
    Case(Size(1, 33, 70, 5, bias=False), joined=50),
    Case(Size(2, 17, 29, 6, norm=True, zoneout=(0.1, 0.3)), joined=33),
    Case(Size(1, 20, 40, 7, projection=9, norm=True), joined=9, projected=False),
]


def packed_as(case: Case, weights: TransducerWeights, dtype: torch.dtype, table: str = "auto"):
    return pack_transducer(
        weights,
        blank=case.blank,
        activation=case.activation,
        durations=case.durations,
        dtype=dtype,
        table=table,
    )


def assert_as_plain(case, weights, encoded, lengths, found, max_symbols, assert_close):
    """Of all rows; returns how many tokens there were."""
    assert found.lengths.dtype == found.tokens.dtype == found.frames.dtype == torch.int64
    for row, length in enumerate(lengths.tolist()):
        plain = plain_search(weights, case, encoded[row, :length], max_symbols)
        count = int(found.lengths[row])
        assert found.tokens[row, :count].tolist() == plain.tokens, row
        assert found.frames[row, :count].tolist() == plain.frames, row
        expected = torch.tensor(plain.scores, dtype=torch.float64)
        assert_close(found.token_scores[row, :count], expected, "scores", found.state.h.dtype)
        assert (found.tokens[row, count:] == case.blank).all()
        assert (found.frames[row, count:] == -1).all() and not found.token_scores[row, count:].any()
        assert_close(found.state.h[:, row], plain.h, "h")
        assert_close(found.state.c[:, row], plain.c, "c")
        assert int(found.state.token[row]) == (plain.tokens or [case.blank])[-1]
        assert int(found.state.skip[row]) == plain.skip
    assert found.tokens.size(1) == int(found.lengths.max())
    return int(found.lengths.sum())


@pytest.mark.parametrize("table", ["on", "off"])
@pytest.mark.parametrize("max_symbols", [1, 3, 10])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_backend_finds_what_the_plain_search_finds(
    backend, case, max_symbols, table, assert_close
):
    weights = random_transducer(case)
    encoded, lengths = random_frames(case)
    transducer = packed_as(case, weights, torch.float64, table)
    found = transducer_greedy(transducer, encoded, lengths, max_symbols=max_symbols)
    count = assert_as_plain(case, weights, encoded, lengths, found, max_symbols, assert_close)
    assert count > 5, "a case that tests nothing"


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_equals_reference(case, dtype, assert_close):
    weights = random_transducer(case)
    encoded, lengths = random_frames(case, batch=7, frames=40)
    with backends.backend("reference"):
        transducer = packed_as(case, weights, dtype)
        expected = transducer_greedy(transducer, encoded, lengths)
    for isa in AVAILABLE:
        with instruction_set(isa):
            found = transducer_greedy(packed_as(case, weights, dtype), encoded, lengths)
        for name in ("tokens", "lengths", "frames"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (isa, name)
        acc = expected.state.h.dtype
        assert_close(found.token_scores, expected.token_scores, f"scores on {isa}", acc)
        for name, ours, theirs in zip(
            TransducerState._fields, found.state, expected.state, strict=True
        ):
            assert ours.dtype == theirs.dtype
            assert_close(ours, theirs, f"{name} on {isa}", acc)


@pytest.mark.parametrize("blank_bias", [-100.0, 3.0, 100.0])
def test_rows_that_never_stop_choosing_or_never_begin(backend, blank_bias, assert_close):
    case = Case(joined=20)
    weights = random_transducer(case, blank_bias)
    encoded, lengths = random_frames(case, batch=3)
    transducer = packed_as(case, weights, torch.float64)
    found = transducer_greedy(transducer, encoded, lengths, max_symbols=4)
    assert_as_plain(case, weights, encoded, lengths, found, 4, assert_close)
    if blank_bias == -100:
        assert torch.equal(found.lengths, 4 * lengths)
    if blank_bias == 100:
        assert found.tokens.shape == (3, 0)


def test_a_frame_counts_its_own_symbols(backend, assert_close):
    case = Case(durations=(0, 1))
    weights = random_transducer(case, blank_bias=-100)
    weights.output.bias[-2:] = 0
    encoded, lengths = random_frames(case, frames=40)
    transducer = packed_as(case, weights, torch.float64)
    found = transducer_greedy(transducer, encoded, lengths, max_symbols=3)
    assert_as_plain(case, weights, encoded, lengths, found, 3, assert_close)
    most = found.frames[0].bincount()
    assert most.min() == 1 and most.max() == 3


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pieces_give_what_the_whole_gives(backend, case):
    transducer = packed_as(case, random_transducer(case), torch.float32)
    encoded, lengths = random_frames(case, batch=4, frames=23)
    encoded = encoded.float()
    whole = transducer_greedy(transducer, encoded, lengths)
    state, tokens, frames = None, [[] for _ in lengths], [[] for _ in lengths]
    for first in range(0, 23, 5):
        piece = encoded[:, first : first + 5]
        ends = (lengths - first).clamp(0, piece.size(1))
        found = transducer_greedy(transducer, piece, ends, state=state)
        state = found.state
        # a row that is over stands beyond its last frame: its skip counts from there
        for row, count in enumerate(found.lengths.tolist()):
            tokens[row] += found.tokens[row, :count].tolist()
            frames[row] += (found.frames[row, :count] + first).tolist()
    for row, count in enumerate(whole.lengths.tolist()):
        assert tokens[row] == whole.tokens[row, :count].tolist(), row
        assert frames[row] == whole.frames[row, :count].tolist(), row
    assert torch.equal(state.h, whole.state.h) and torch.equal(state.c, whole.state.c)
    assert torch.equal(state.token, whole.state.token)


@pytest.mark.parametrize("durations", [(), (0, 2, 5)])
def test_a_state_of_ones_own(backend, durations, assert_close):
    case = Case(Size(2, 9, 13, 4), durations=durations)
    weights = random_transducer(case)
    encoded, _ = random_frames(case, batch=3, frames=12)
    h, c = (torch.randn(2, 3, 9, dtype=torch.float64) for _ in range(2))
    token, skip = torch.tensor([4, 0, 12]), torch.tensor([0, 3, 15])
    transducer = packed_as(case, weights, torch.float64)
    state = TransducerState(h, c, token, skip)
    found = transducer_greedy(transducer, encoded, state=state)
    for row in range(3):
        begin = h[:, row], c[:, row], int(token[row]), int(skip[row])
        plain = plain_search(weights, case, encoded[row], 10, begin)
        count = int(found.lengths[row])
        assert found.tokens[row, :count].tolist() == plain.tokens
        assert found.frames[row, :count].tolist() == plain.frames
        assert_close(found.state.h[:, row], plain.h, "h")
        assert int(found.state.skip[row]) == plain.skip
    assert int(found.lengths[2]) == 0 and int(found.state.skip[2]) == 3
    assert torch.equal(state.h, h) and torch.equal(state.skip, torch.tensor([0, 3, 15]))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_whatever_the_rest_and_the_threads(dtype):
    case = Case(Size(2, 65, 150, 8), joined=70, durations=(0, 1, 2))
    transducer = packed_as(case, random_transducer(case), dtype)
    encoded, lengths = random_frames(case, batch=21, frames=30)
    whole = transducer_greedy(transducer, encoded, lengths)
    assert int(whole.lengths.sum()) > 100
    for row in range(21):
        one = slice(row, row + 1)
        found = transducer_greedy(transducer, encoded[one], lengths[one])
        count = int(found.lengths)
        assert torch.equal(found.tokens[0], whole.tokens[row, :count])
        assert torch.equal(found.token_scores[0], whole.token_scores[row, :count])
        assert torch.equal(found.state.h[:, 0], whole.state.h[:, row])
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for _ in range(5):
            again = transducer_greedy(transducer, encoded, lengths)
            assert torch.equal(again.tokens, whole.tokens)
            assert torch.equal(again.token_scores, whole.token_scores)
            assert all(map(torch.equal, again.state, whole.state))
        alone = transducer_greedy(transducer, encoded[:1], lengths[:1])
        assert torch.equal(alone.tokens[0], whole.tokens[0, : alone.tokens.size(1)])


def test_what_is_not_a_number_is_never_chosen(backend):
    """Where no token is left, the frame is passed over."""
    case = Case(durations=(0, 1, 2))
    weights = random_transducer(case, blank_bias=-100)
    bias = weights.output.bias
    bias[5], bias[-1] = torch.nan, torch.nan
    transducer = packed_as(case, weights, torch.float32)
    encoded = random_frames(case, batch=2)[0].float()
    found = transducer_greedy(transducer, encoded, max_symbols=2)
    assert found.lengths.min() > 5 and not (found.tokens == 5).any()
    encoded[0, 3:] = torch.nan
    found = transducer_greedy(transducer, encoded, max_symbols=2)
    assert found.frames[0].max() < 3 < found.frames[1].max()
    assert found.token_scores.isfinite().all()
    endless = weights.output._replace(bias=bias.nan_to_num(torch.inf))
    transducer = packed_as(case, weights._replace(output=endless), torch.float32)
    found = transducer_greedy(transducer, encoded[1:], max_symbols=2)
    assert (found.tokens == 5).all() and found.frames.tolist() == [list(range(0, 14, 2))]


def test_edges(backend):
    case = Case()
    transducer = packed_as(case, random_transducer(case), torch.float32)
    assert transducer.choice == transducer.predictor.choice
    for batch, frames in ((0, 5), (3, 0), (0, 0)):
        found = transducer_greedy(transducer, torch.randn(batch, frames, 12))
        assert found.tokens.shape == found.frames.shape == (batch, 0)
        assert found.state.h.shape == (1, batch, 8)
        assert torch.equal(found.state.token, torch.zeros(batch, dtype=torch.int64))
    encoded = torch.randn(2, 9, 12)
    found = transducer_greedy(transducer, encoded)
    other_strides = encoded.transpose(0, 1).contiguous().transpose(0, 1)
    listed = transducer_greedy(transducer, other_strides, [9, 9])
    assert torch.equal(found.tokens, listed.tokens)
    wide = transducer_greedy(transducer, encoded.double().requires_grad_(), torch.tensor([9, 9]))
    assert torch.equal(found.tokens, wide.tokens) and not wide.token_scores.requires_grad
    with torch.autocast("cpu"):
        cast = transducer_greedy(transducer, encoded)
    assert torch.equal(found.token_scores, cast.token_scores)


@pytest.mark.parametrize("kind", [nn.LSTM, fast_s2s.LSTM])
def test_weights_of_modules(backend, kind, assert_close):
    embedding, output = nn.Embedding(13, 6), nn.Linear(20, 13 + 2, bias=False)
    for lstm, projection in (
        (kind(6, 20, 2, bias=False), None),
        (kind(6, 24, 1, proj_size=10), nn.Linear(10, 20)),
    ):
        weights = TransducerWeights.of(embedding, lstm, output, projection)
        transducer = pack_transducer(weights, blank=12, durations=(1, 2))
        exact = TransducerWeights(
            weights.embedding.detach().double(),
            tuple(
                type(layer)(
                    *(part.detach().double() if torch.is_tensor(part) else part for part in layer)
                )
                for layer in weights.layers
            ),
            LinearWeights(output.weight.detach().double(), None),
            projection and LinearWeights(*(p.detach().double() for p in projection.parameters())),
        )
        hidden, out = lstm.hidden_size, lstm.proj_size or lstm.hidden_size
        size = Size(lstm.num_layers, hidden, 13, 6, projection=out if lstm.proj_size else 0)
        case = Case(size, joined=20, durations=(1, 2), blank=12)
        encoded = 3 * torch.randn(3, 15, 20)
        found = transducer_greedy(transducer, encoded)
        lengths = torch.full((3,), 15)
        args = case, exact, encoded.double(), lengths, found, 10
        assert assert_as_plain(*args, assert_close) > 5


def test_layers_that_are_modules_of_their_own(backend):
    embedding, output, whole = nn.Embedding(13, 20), nn.Linear(20, 13), nn.LSTM(20, 20, 2)
    parts = nn.ModuleList([nn.LSTM(20, 20), nn.LSTM(20, 20)])
    for name, parameter in whole.named_parameters():
        setattr(parts[int(name[-1])], name[:-1] + "0", parameter)
    encoded = 3 * torch.randn(2, 15, 20)
    one, other = (
        transducer_greedy(
            pack_transducer(TransducerWeights.of(embedding, lstm, output), blank=0), encoded
        )
        for lstm in (whole, parts)
    )
    assert one.lengths.min() > 3 and torch.equal(one.token_scores, other.token_scores)


def test_a_pack_does_not_follow_its_model(backend):
    embedding, lstm, output = nn.Embedding(9, 6), nn.LSTM(6, 20), nn.Linear(20, 9)
    transducer = pack_transducer(TransducerWeights.of(embedding, lstm, output), blank=0)
    encoded = 3 * torch.randn(2, 15, 20)
    before = transducer_greedy(transducer, encoded)
    with torch.no_grad():
        for module in (embedding, lstm, output):
            for parameter in module.parameters():
                parameter.mul_(-1.5)
    after = transducer_greedy(transducer, encoded)
    assert torch.equal(before.tokens, after.tokens)
    assert torch.equal(before.token_scores, after.token_scores)


@needs_native
@pytest.mark.parametrize("projected", [False, True])
def test_opcheck(projected):
    case = Case(joined=8, projected=projected, durations=(0, 1))
    transducer = packed_as(case, random_transducer(case), torch.float32)
    encoded, lengths = random_frames(case)
    arguments = (
        *transducer.arguments,
        list(transducer.initial_state(5)),
        encoded.float(),
        lengths,
        [0, 1],
        0,
        3,
        True,
    )
    # how many tokens are found is known when they are: the test of tracing wants it before
    torch.library.opcheck(
        torch.ops.fast_s2s.transducer_greedy.default,
        arguments,
        test_utils=("test_schema", "test_faketensor"),
    )


def test_what_is_packed_is_named():
    case = Case()
    transducer = packed_as(case, random_transducer(case), torch.bfloat16)
    assert isinstance(transducer, PackedTransducer)
    assert (transducer.vocab_size, transducer.joined_size) == (11, 12)
    assert transducer.acc == torch.float32 and transducer.device.type == "cpu"
