"""Encoder and decoder states: input in parts, rows that come and go."""

from __future__ import annotations

import pytest
import torch
from helpers_seq2seq import ARCHITECTURES, BOS, assert_same_state, make_batch, make_model

from fast_s2s import DecoderState, EncoderState

ONE_WAY = [name for name, fields in ARCHITECTURES.items() if not fields.get("bidirectional")]


@pytest.mark.parametrize("architecture", ONE_WAY)
@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6], [3], [6]], ids=str)
def test_input_in_parts_equals_one_pass(architecture, cuts, assert_close):
    model = make_model(**ARCHITECTURES[architecture])
    batch = make_batch(rows=6)
    expected = model.encode(batch.src, batch.src_lengths)
    state = context = None
    edges = [0, *cuts, batch.src.size(1)]
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        # rows that are over have length 0 from there on
        lengths = (batch.src_lengths - begin).clamp(0, end - begin)
        part = batch.src[:, begin:end].contiguous()
        context, state = model.encode(part, lengths, state=state, return_state=True)
    assert isinstance(state, EncoderState)
    assert_close(context.h, expected.h, "h")
    assert_close(context.c, expected.c, "c")
    # not long: these weights make chaos of the last bits
    whole = model.generate(batch.src, batch.src_lengths, max_new_tokens=16)
    assert torch.equal(model.generate(state=context, max_new_tokens=16), whole)


def test_gradients_flow_through_the_parts(assert_close):
    model = make_model()
    batch = make_batch()

    def gradients(*contexts):
        model.zero_grad()
        (contexts[-1].h.sum() + contexts[-1].c.sum()).backward()
        return [parameter.grad.clone() for parameter in model.encoder.parameters()]

    expected = gradients(model.encode(batch.src, [7] * 5))
    _, state = model.encode(batch.src[:, :3], [3] * 5, return_state=True)
    actual = gradients(model.encode(batch.src[:, 3:], [4] * 5, state=state))
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, "gradient")


def test_rows_of_encoder_states():
    model = make_model(num_layers=2)
    batch = make_batch(rows=4)
    _, state = model.encode(batch.src, batch.src_lengths, return_state=True)
    again = EncoderState.merge([state.select([3, 0]), state.select(torch.tensor([1, 2]))])
    assert torch.equal(again.h, state.h[:, [3, 0, 1, 2]])
    assert torch.equal(again.c, state.c[:, [3, 0, 1, 2]])


def generated(rows=4):
    model = make_model(num_layers=2)
    batch = make_batch(rows=rows)
    options = {"max_new_tokens": 4, "return_state": True}
    return model, model.generate(batch.src, batch.src_lengths, **options)[1]


def test_select_and_expand():
    _, state = generated()
    for rows in (torch.tensor([2, 0, 2]), [2, 0, 2]):
        chosen = state.select(rows)
        for name in ("h", "c"):
            assert torch.equal(getattr(chosen, name), getattr(state, name)[:, [2, 0, 2]])
        for name in ("token", "finished", "node", "history", "position"):
            assert torch.equal(getattr(chosen, name), getattr(state, name)[[2, 0, 2]])
    mask = torch.tensor([True, False, True, True])
    assert_same_state(state.select(mask), state.select([0, 2, 3]))
    assert_same_state(state.expand(2), state.select([0, 0, 1, 1, 2, 2, 3, 3]))
    assert state.select([]).h.shape == (2, 0, 16)
    fresh = DecoderState(state.h, state.c).expand(3)
    assert fresh.h.shape == (2, 12, 16) and fresh.token is None


def test_merge():
    model, state = generated()
    assert_same_state(DecoderState.merge([state]), state)
    parts = [state.select([0]), state.select([1, 2]), state.select([3])]
    assert_same_state(DecoderState.merge(parts), state)
    fresh = model.encode(make_batch(rows=2).src)
    merged = DecoderState.merge([fresh, state], bos_token_id=BOS)
    assert merged.token.tolist() == [BOS, BOS, *state.token.tolist()]
    assert merged.position.tolist() == [0, 0, *state.position.tolist()]
    assert not merged.finished[:2].any()
    both = DecoderState.merge([fresh, fresh])
    assert both.token is None and both.h.shape == (2, 4, 16)


def state_of(**changes):
    return generated()[1]._replace(**changes)


MODEL = make_model()
SRC = make_batch().src
BAD = {
    "merge nothing": (lambda: DecoderState.merge([]), TypeError, "states: expected a sequence of"),
    "merge one": (
        lambda: DecoderState.merge(state_of()),
        TypeError,
        "states: expected a sequence of DecoderState",
    ),
    "merge others": (
        lambda: DecoderState.merge([state_of(), 3]),
        TypeError,
        "states[1]: expected DecoderState, got int",
    ),
    "merge encoders": (
        lambda: EncoderState.merge([state_of()]),
        TypeError,
        "states[0]: expected EncoderState, got DecoderState",
    ),
    "merge without bos": (
        lambda: DecoderState.merge([state_of(), state_of(token=None)]),
        ValueError,
        "bos_token_id: expected an id, since only some",
    ),
    "select range": (
        lambda: state_of().select([0, 4]),
        ValueError,
        "rows: expected rows in 0..3, got 4 at rows[1]",
    ),
    "select kind": (lambda: state_of().select("ab"), TypeError, "rows: expected a tensor or a seq"),
    "select mask": (
        lambda: state_of().select(torch.tensor([True])),
        ValueError,
        "rows: expected shape (batch,) = (4,), got (1,)",
    ),
    "expand": (lambda: state_of().expand(0), ValueError, "times: expected an integer >= 1, got 0"),
    "encode state": (
        lambda: MODEL.encode(SRC, state=state_of()),
        TypeError,
        "state: expected an EncoderState, got DecoderState",
    ),
    "encode rows": (
        lambda: MODEL.encode(SRC, state=MODEL.encode(SRC[:2], return_state=True)[1]),
        ValueError,
        "state: expected 5 rows, as src has, got 2",
    ),
    "encode layers": (
        lambda: MODEL.encode(SRC, state=make_model(num_layers=2).encode(SRC, return_state=True)[1]),
        ValueError,
        "state.h: expected shape (encoder layers, batch, hidden_size) = (1, 5, 16), got (2, 5, 16)",
    ),
    "encode flag": (
        lambda: MODEL.encode(SRC, return_state=1),
        TypeError,
        "return_state: expected a bool",
    ),
    "encode both ways": (
        lambda: make_model(bidirectional=True).encode(SRC, return_state=True),
        ValueError,
        "state, return_state: expected neither with a bidirectional encoder",
    ),
    "history alone": (
        lambda: make_model(num_layers=2).generate(state=state_of(position=None)),
        ValueError,
        "state.position: expected one beside state.history, or neither",
    ),
    "position": (
        lambda: make_model(num_layers=2).generate(
            state=state_of(position=torch.tensor([1, 2, 3, 9]))
        ),
        ValueError,
        "state.position: expected lengths in 0..4, got 9 at state.position[3]",
    ),
    "node": (
        lambda: make_model(num_layers=2).generate(state=state_of(node=torch.zeros(3).long())),
        ValueError,
        "state.node: expected shape (batch,) = (4,), got (3,)",
    ),
    "constraint": (
        lambda: make_model(num_layers=2).generate(state=state_of(constraint=torch.zeros(4))),
        ValueError,
        "state.constraint: expected dtype torch.int64, got torch.float32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_states(case):
    call, error, message = BAD[case]
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("attention", [None, "general"])
def test_double_precision_models_go_on_as_they_were_packed(dtype, attention):
    model = make_model(attention=attention).compile_decoder(dtype)
    assert model.dtype == torch.float64
    batch = make_batch()
    whole = model.generate(batch.src, batch.src_lengths, max_new_tokens=6)
    first, state = model.generate(batch.src, batch.src_lengths, max_new_tokens=3, return_state=True)
    rest = model.generate(state=state, max_new_tokens=3)
    assert torch.equal(torch.cat((first, rest[:, 1:]), 1)[:, : whole.size(1)], whole)


@pytest.mark.parametrize("native", [False, True])
def test_a_state_keeps_its_own_lengths(native):
    model = make_model(attention="general", dropout=0.0 if native else 0.5).train()
    batch = make_batch()
    lengths = batch.src_lengths.clone()
    context = model.encode(batch.src, lengths)
    with torch.no_grad():
        context = context if not native else model._context(batch.src, lengths)
    kept = context.memory.lengths.clone()
    # a buffer of the caller's, filled again
    lengths.fill_(1)
    assert torch.equal(context.memory.lengths, kept)
