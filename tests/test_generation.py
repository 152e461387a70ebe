"""Generation against a step-by-step loop over torch's own modules."""

from __future__ import annotations

import pytest
import torch
from helpers_seq2seq import (
    ARCHITECTURES,
    BOS,
    EOS,
    PAD,
    TGT_VOCAB,
    TorchSeq2Seq,
    assert_same_state,
    make_batch,
    make_model,
)

from fast_s2s.generation import GenerationConfig, search

MAX_NEW_TOKENS = 12


def expected_tokens(model, batch, max_new_tokens=MAX_NEW_TOKENS, min_new_tokens=0):
    reference = TorchSeq2Seq(model)
    rows = [
        reference.generate(src[:length], max_new_tokens, min_new_tokens)[0]
        for src, length in zip(batch.src, batch.src_lengths, strict=True)
    ]
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def counting_steps(monkeypatch):
    """What is appended to: one item for each step."""
    steps = []
    decode = search.decode

    def counting(*arguments):
        result = decode(*arguments)
        steps.extend([1] * result.steps)
        return result

    monkeypatch.setattr(search, "decode", counting)
    return steps


def favour_eos(model, bias):
    with torch.no_grad():
        model.output_projection.bias[EOS] += bias
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_a_loop_over_torch_modules(architecture, dtype, backend):
    model = make_model(dtype, **ARCHITECTURES[architecture])
    batch = make_batch(rows=8)
    seen = set()
    # rows end later and later
    for bias in (4.0, -2.0, -2.0):
        favour_eos(model, bias)

        tokens = model.generate(batch.src, batch.src_lengths, max_new_tokens=MAX_NEW_TOKENS)

        assert torch.equal(tokens, expected_tokens(model, batch))
        assert tokens.dtype == torch.int64
        seen |= {tuple(row) for row in tokens.tolist()}
    # the comparison means something: rows differ, and end at different steps
    assert len(seen) > 5
    assert len({len(row) - row.count(PAD) for row in seen}) > 2


def test_states_equal_those_of_rows_alone(assert_close):
    model = favour_eos(make_model(num_layers=2), 1.0)
    batch = make_batch(rows=8)

    tokens, state = model.generate(
        batch.src, batch.src_lengths, max_new_tokens=MAX_NEW_TOKENS, return_state=True
    )

    reference = TorchSeq2Seq(model)
    for row, (src, length) in enumerate(zip(batch.src, batch.src_lengths, strict=True)):
        expected, h, c = reference.generate(src[:length], MAX_NEW_TOKENS)
        assert state.finished[row] == (expected[-1] == EOS)
        assert_close(state.h[:, row], h, f"h of row {row}")
        assert_close(state.c[:, row], c, f"c of row {row}")
    assert torch.equal(state.token, tokens[:, -1])
    assert state.finished.any() and not state.finished.all()


@pytest.mark.parametrize("first", [1, 2, 5, MAX_NEW_TOKENS])
def test_resuming_equals_one_long_call(first):
    model = favour_eos(make_model(num_layers=2, bidirectional=True), 1.2)
    batch = make_batch(rows=8)
    whole, whole_state = model.generate(
        batch.src, batch.src_lengths, max_new_tokens=2 * MAX_NEW_TOKENS, return_state=True
    )

    head, state = model.generate(
        batch.src, batch.src_lengths, max_new_tokens=first, return_state=True
    )
    tail, state = model.generate(
        state=state, max_new_tokens=2 * MAX_NEW_TOKENS - first, return_state=True
    )

    assert torch.equal(tail[:, 0], head[:, -1])
    assert torch.equal(torch.cat((head, tail[:, 1:]), dim=1), whole)
    assert_same_state(state, whole_state)


def test_resuming_meets_finished_and_unfinished_rows():
    model = favour_eos(make_model(num_layers=2, bidirectional=True), 1.2)
    batch = make_batch(rows=8)
    _, state = model.generate(batch.src, batch.src_lengths, max_new_tokens=5, return_state=True)
    assert state.finished.any() and not state.finished.all()


def test_resuming_a_finished_batch_adds_nothing(monkeypatch):
    model = favour_eos(make_model(), 100.0)
    batch = make_batch()
    head, state = model.generate(batch.src, batch.src_lengths, return_state=True)
    steps = counting_steps(monkeypatch)

    tail = model.generate(state=state)

    assert torch.equal(tail, head[:, -1:])
    assert not steps


def test_goes_on_from_an_encoded_context_and_from_a_teacher_forced_prefix():
    model = favour_eos(make_model(), -5.0)
    batch = make_batch()
    whole = model.generate(batch.src, batch.src_lengths, max_new_tokens=8)
    assert torch.equal(
        model.generate(state=model.encode(batch.src, batch.src_lengths), max_new_tokens=8), whole
    )

    prefix = whole[:, 1:4].contiguous()
    output = model(batch.src, prefix, batch.src_lengths)

    tail = model.generate(state=output.state, max_new_tokens=5)
    assert torch.equal(tail, whole[:, 3:])


def test_stops_when_every_row_is_done(monkeypatch):
    model = favour_eos(make_model(), 1.5)
    batch = make_batch(rows=4)
    steps = counting_steps(monkeypatch)

    tokens = model.generate(batch.src, batch.src_lengths, max_new_tokens=500)

    longest = expected_tokens(model, batch, 500).size(1) - 1
    assert len(steps) == longest == tokens.size(1) - 1 < 500
    assert (tokens == EOS).any(1).all()


def test_stops_at_max_new_tokens(monkeypatch):
    model = favour_eos(make_model(), -100.0)
    steps = counting_steps(monkeypatch)
    tokens = model.generate(make_batch().src, max_new_tokens=7)
    assert tokens.shape == (5, 8)
    assert len(steps) == 7


@pytest.mark.parametrize("min_new_tokens", [0, 1, 4])
def test_min_new_tokens_holds_back_eos(min_new_tokens):
    model = favour_eos(make_model(), 100.0)
    batch = make_batch()

    tokens = model.generate(batch.src, batch.src_lengths, min_new_tokens=min_new_tokens)

    assert torch.equal(tokens, expected_tokens(model, batch, min_new_tokens=min_new_tokens))
    assert (tokens[:, 1 : 1 + min_new_tokens] > EOS).all()
    assert (tokens[:, 1 + min_new_tokens] == EOS).all()


def test_never_generates_pad_or_bos():
    model = make_model()
    with torch.no_grad():
        model.output_projection.bias[[PAD, BOS]] = 100.0
    tokens = model.generate(make_batch().src, max_new_tokens=6)[:, 1:]
    ended = (tokens == EOS).cumsum(1) - (tokens == EOS).long()
    assert (tokens[ended == 0] >= EOS).all()
    assert (tokens[ended > 0] == PAD).all()


def test_ties_go_to_the_lowest_id():
    model = make_model()
    with torch.no_grad():
        model.output_projection.weight.zero_()
        model.output_projection.bias.zero_()
        model.output_projection.bias[[5, 7, 9]] = 1.0
    assert (model.generate(make_batch().src, max_new_tokens=3)[:, 1:] == 5).all()


def test_special_tokens_may_have_any_ids():
    model = make_model(pad_token_id=9, bos_token_id=4, eos_token_id=6)
    with torch.no_grad():
        model.output_projection.bias[[9, 4]] = 100.0
        model.output_projection.bias[6] += 2.0
    src = torch.tensor([[3, 5, 9], [0, 1, 2], [8, 9, 9], [1, 7, 2]])

    tokens = model.generate(src, max_new_tokens=20)

    assert (tokens[:, 0] == 4).all()
    for row in tokens[:, 1:].tolist():
        end = row.index(6) if 6 in row else len(row)
        assert not {4, 9} & set(row[:end])
        assert set(row[end + 1 :]) <= {9}


def test_config_gives_defaults_and_arguments_override():
    model = favour_eos(make_model(), -100.0)
    src = make_batch().src
    model.generation_config = GenerationConfig(max_new_tokens=4)
    assert model.generate(src).size(1) == 5
    assert model.generate(src, max_new_tokens=2).size(1) == 3
    assert model.generate(src, generation_config=GenerationConfig(max_new_tokens=6)).size(1) == 7


def test_own_loop_over_step_equals_generate():
    model = favour_eos(make_model(num_layers=2), -100.0)
    batch = make_batch()
    with torch.no_grad():
        state = model.encode(batch.src, batch.src_lengths)
        token = torch.full((5,), BOS)
        columns = [token]
        for _ in range(6):
            logits, state = model.step(token, state)
            assert logits.shape == (5, TGT_VOCAB)
            logits[:, [PAD, BOS]] = -torch.inf
            token = logits.argmax(1)
            columns.append(token)
    expected = model.generate(batch.src, batch.src_lengths, max_new_tokens=9)
    assert torch.equal(torch.stack(columns, 1), expected[:, :7])
    rest = model.generate(state=state._replace(token=token), max_new_tokens=3)
    assert torch.equal(rest, expected[:, 6:])


def test_runs_without_gradients_and_leaves_the_model_as_it_was():
    model = make_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens, state = model.generate(make_batch().src, max_new_tokens=3, return_state=True)
    assert tokens.is_inference() and not state.h.requires_grad
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_empty_batch():
    model = make_model()
    tokens = model.generate(torch.zeros(0, 3, dtype=torch.int64))
    assert tokens.shape == (0, 1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens: expected an integer >= 1, got 0"),
        ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens: expected an integer, got 2.0"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens: expected an integer, got True"),
        ({"min_new_tokens": -1}, ValueError, "min_new_tokens: expected an integer >= 0, got -1"),
        (
            {"max_new_tokens": 3, "min_new_tokens": 4},
            ValueError,
            "min_new_tokens: expected at most max_new_tokens = 3, got 4",
        ),
        ({"eos_token_id": -1}, ValueError, "eos_token_id: expected an integer >= 0, got -1"),
        ({"eos_token_id": None}, TypeError, "eos_token_id: expected an integer, got None"),
        ({"eos_token_id": 0}, ValueError, "expected different ids, got (0, 1, 0)"),
    ],
)
def test_bad_generation_config(changes, error, message):
    with pytest.raises(error) as raised:
        GenerationConfig(**changes)
    assert message in str(raised.value)


def _state(model, **changes):
    return model.encode(make_batch().src)._replace(**changes)


BAD_CALLS = {
    "nothing": (lambda m: m.generate(), ValueError, "src: expected a tensor, or inputs_embeds"),
    "src and state": (
        lambda m: m.generate(make_batch().src, state=_state(m)),
        ValueError,
        "state: expected None beside src",
    ),
    "lengths and state": (
        lambda m: m.generate(src_lengths=make_batch().src_lengths, state=_state(m)),
        ValueError,
        "state: expected None beside src",
    ),
    "max_new_tokens": (
        lambda m: m.generate(make_batch().src, max_new_tokens=-1),
        ValueError,
        "max_new_tokens: expected an integer >= 1, got -1",
    ),
    "min_new_tokens": (
        lambda m: m.generate(make_batch().src, max_new_tokens=2, min_new_tokens=3),
        ValueError,
        "min_new_tokens: expected at most max_new_tokens = 2, got 3",
    ),
    "config": (
        lambda m: m.generate(make_batch().src, generation_config={"max_new_tokens": 3}),
        TypeError,
        "generation_config: expected a fast_s2s.GenerationConfig, got dict",
    ),
    "config of another vocabulary": (
        lambda m: m.generate(
            make_batch().src, generation_config=GenerationConfig(eos_token_id=TGT_VOCAB)
        ),
        ValueError,
        f"eos_token_id: expected an id below tgt_vocab_size = {TGT_VOCAB}, got {TGT_VOCAB}",
    ),
    "state": (
        lambda m: m.generate(state=(1, 2)),
        TypeError,
        "state: expected a DecoderState, got tuple",
    ),
    "state.h": (lambda m: m.generate(state=_state(m, h=3)), TypeError, "state.h: expected a ten"),
    "state.h shape": (
        lambda m: m.generate(state=_state(m, h=torch.zeros(2, 5, 16).double())),
        ValueError,
        "state.h: expected shape (decoder layers, batch, hidden_size) = (1, 5, 16), got (2, 5, 16)",
    ),
    "state.h dimensions": (
        lambda m: m.generate(state=_state(m, h=torch.zeros(5, 16).double())),
        ValueError,
        "state.h: expected shape (decoder layers, batch, hidden_size), got (5, 16)",
    ),
    "state.c batch": (
        lambda m: m.generate(state=_state(m, c=torch.zeros(1, 4, 16).double())),
        ValueError,
        "state.c: expected shape (decoder layers, batch, hidden_size) = (1, 5, 16), got (1, 4, 16)",
    ),
    "state.h dtype": (
        lambda m: m.generate(state=_state(m, h=torch.zeros(1, 5, 16))),
        ValueError,
        "state.h: expected dtype torch.float64, got torch.float32",
    ),
    "state.h device": (
        lambda m: m.generate(state=_state(m, h=torch.zeros(1, 5, 16).double().to("meta"))),
        ValueError,
        "state.h: expected a tensor on cpu, got one on meta",
    ),
    "state.token shape": (
        lambda m: m.generate(state=_state(m, token=torch.zeros(4, dtype=torch.int64))),
        ValueError,
        "state.token: expected shape (batch,) = (5,), got (4,)",
    ),
    "state.token range": (
        lambda m: m.generate(state=_state(m, token=torch.tensor([3, 3, 13, 3, 3]))),
        ValueError,
        "state.token: expected token ids in 0..12, got 13 at state.token[2]",
    ),
    "state.finished dtype": (
        lambda m: m.generate(state=_state(m, finished=torch.zeros(5))),
        ValueError,
        "state.finished: expected dtype torch.bool, got torch.float32",
    ),
    "step token shape": (
        lambda m: m.step(torch.zeros(5, 1, dtype=torch.int64), _state(m)),
        ValueError,
        "token: expected shape (batch,) = (5,), got (5, 1)",
    ),
    "step token dtype": (
        lambda m: m.step(torch.zeros(5), _state(m)),
        ValueError,
        "token: expected dtype torch.int64, got torch.float32",
    ),
    "step token range": (
        lambda m: m.step(torch.full((5,), -1), _state(m)),
        ValueError,
        "token: expected token ids in 0..12, got -1 at token[0]",
    ),
    "step state": (
        lambda m: m.step(torch.zeros(5, dtype=torch.int64), None),
        TypeError,
        "state: expected a DecoderState, got NoneType",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input(case):
    call, error, message = BAD_CALLS[case]
    with pytest.raises(error) as raised:
        call(make_model())
    assert message in str(raised.value)
