"""Attention in models: what training and generation make of it, and what is returned of it.

Logits, gradients, tokens and states of whole models with attention are compared with torch's
modules in test_seq2seq.py and test_generation.py: architectures of helpers_seq2seq.py.
"""

from __future__ import annotations

import pytest
import torch
from helpers_seq2seq import (
    ARCHITECTURES,
    EOS,
    PAD,
    SRC_VOCAB,
    TGT_VOCAB,
    TorchSeq2Seq,
    assert_same_state,
    make_batch,
    make_model,
)

from fast_s2s import DecoderState, Seq2Seq
from fast_s2s.attention import Attention

ATTENDING = [name for name, fields in ARCHITECTURES.items() if "attention" in fields]


@pytest.mark.parametrize("architecture", ATTENDING)
def test_padding_does_not_leak(architecture, assert_close):
    model = make_model(torch.float32, **ARCHITECTURES[architecture])
    batch = make_batch()

    def forward(src):
        return model(src, *batch[2:3], batch.src_lengths, batch.tgt_lengths, output_attentions=True)

    expected = forward(batch.src)
    other = forward(torch.where(batch.src == PAD, 7, batch.src))
    assert torch.equal(other.logits, expected.logits)
    assert torch.equal(other.loss, expected.loss)
    assert torch.equal(other.cross_attentions[0], expected.cross_attentions[0])
    # more of it
    wider = forward(torch.nn.functional.pad(batch.src, (0, 5)))
    assert_close(wider.logits, expected.logits, "logits", torch.float32)
    assert not wider.cross_attentions[0][..., 7:].any()
    # and as many other rows as one likes
    alone = model(batch.src[1:2, : batch.src_lengths[1]], batch.tgt[1:2])
    assert_close(alone.logits[0], expected.logits[1], "logits of one row", torch.float32)


@pytest.mark.parametrize("architecture", ATTENDING)
def test_weights_equal_those_of_the_reference(architecture, assert_close):
    model = make_model(**ARCHITECTURES[architecture])
    batch = make_batch()
    output = model(*batch[::2], *batch[1::2], output_attentions=True)
    (weights,) = output.cross_attentions
    heads = model.config.attention_heads
    assert weights.shape == (5, heads, batch.tgt.size(1), batch.src.size(1))
    reference = TorchSeq2Seq(model)
    for row, (src, src_length, tgt, tgt_length) in enumerate(zip(*batch, strict=True)):
        _, expected = reference.unroll(src[:src_length], tgt[:tgt_length])
        actual = weights[row, :, :tgt_length, :src_length].transpose(0, 1)
        assert_close(actual, torch.stack(expected), f"weights of row {row}")
    plain = model(*batch[::2], *batch[1::2])
    assert plain.cross_attentions is None and torch.equal(plain.logits, output.logits)


def test_a_row_without_source_has_no_weights_and_finite_gradients():
    for kind in ("dot", "additive"):
        model = make_model(attention=kind)
        src, tgt = torch.tensor([[4, 5], [PAD, PAD]]), torch.tensor([[5, EOS], [6, EOS]])
        output = model(src, tgt, output_attentions=True)
        assert not output.cross_attentions[0][1].any()
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_empty_batch():
    model = make_model(attention="additive", attention_heads=2)
    empty = torch.zeros(0, 3, dtype=torch.int64)
    assert model(empty, empty, output_attentions=True).logits.shape == (0, 3, TGT_VOCAB)
    assert model.generate(empty).shape == (0, 1)


@pytest.mark.parametrize("architecture", ATTENDING)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "seed": 3}],
    ids=["greedy", "beams", "sampling"],
)
def test_weights_of_generation_are_those_of_teacher_forcing(architecture, options, assert_close):
    model = make_model(**ARCHITECTURES[architecture])
    batch = make_batch()
    source = batch.src, batch.src_lengths
    options = {**options, "max_new_tokens": 6}
    output = model.generate(
        *source, output_attentions=True, return_dict_in_generate=True, **options
    )
    assert torch.equal(output.sequences, model.generate(*source, **options))
    times = len(output.lengths) // 5
    src, src_lengths = (part.repeat_interleave(times, 0) for part in source)
    with torch.no_grad():
        forced = model(
            src, output.sequences[:, 1:], src_lengths, output.lengths, output_attentions=True
        )
    for row, length in enumerate(output.lengths.tolist()):
        for step in range(length):
            slot = row if output.beam_indices is None else int(output.beam_indices[row, step])
            actual = output.cross_attentions[step][0]
            assert actual.shape[1:] == (model.config.attention_heads, 1, 7)
            expected = forced.cross_attentions[0][row, :, step]
            assert_close(actual[slot, :, 0], expected, f"row {row}, step {step}", torch.float32)


@pytest.mark.parametrize("architecture", ATTENDING)
@pytest.mark.parametrize("beams", [1, 3])
def test_resuming_and_rows_that_move(architecture, beams):
    model = make_model(**ARCHITECTURES[architecture])
    batch = make_batch(rows=6)
    options = {"num_beams": beams, "return_state": True}
    whole, last = model.generate(batch.src, batch.src_lengths, max_new_tokens=6, **options)
    if beams == 1:
        head, state = model.generate(batch.src, batch.src_lengths, max_new_tokens=2, **options)
        tail, state = model.generate(state=state, max_new_tokens=4, **options)
        assert torch.equal(torch.cat((head, tail[:, 1:]), 1), whole)
        assert_same_state(state, last)
    # states of narrower sources join wider ones
    parts = [
        model.encode(batch.src[:2, :-1].contiguous(), batch.src_lengths[:2].clamp(max=6)),
        model.encode(batch.src[2:], batch.src_lengths[2:]),
    ]
    merged = DecoderState.merge(parts).select([5, 1, 3])
    lengths = [(row, int(batch.src_lengths[row])) for row in (5, 1, 3)]
    expected = model.generate(
        batch.src[[5, 1, 3]],
        [length if row != 1 else min(length, 6) for row, length in lengths],
        max_new_tokens=6,
        num_beams=beams,
    )
    assert torch.equal(model.generate(state=merged, max_new_tokens=6, num_beams=beams), expected)
    twice = model.generate(state=merged.expand(2), max_new_tokens=6, num_beams=beams)
    assert torch.equal(twice, expected.repeat_interleave(2, 0))


def test_source_in_parts_of_different_lengths(assert_close):
    model = make_model(attention="additive", num_layers=2)
    src = torch.randint(3, SRC_VOCAB, (3, 7))
    first, second = torch.tensor([3, 1, 0]), torch.tensor([2, 4, 1])
    _, state = model.encode(src[:, :3], first, return_state=True)
    context = model.encode(src[:, 3:], second, state=state)
    for row in range(3):
        whole = torch.cat((src[row, : first[row]], src[row, 3 : 3 + second[row]]))
        expected = model.encode(whole.unsqueeze(0))
        assert context.memory.lengths[row] == len(whole)
        for ours, theirs in zip(context.memory[:2], expected.memory[:2], strict=True):
            assert_close(ours[row, : len(whole)], theirs[0], f"memory of row {row}")


def test_dropout_of_everything_leaves_the_bias():
    for feeding in (False, True):
        model = make_model(attention="general", dropout=1.0, input_feeding=feeding).train()
        batch = make_batch()
        logits = model(batch.src, batch.tgt).logits
        assert torch.equal(logits, model.output_projection.bias.expand_as(logits))


def test_dropout_at_generation_takes_the_model_itself():
    model = make_model(attention="additive", dropout=0.5, input_feeding=True).train()
    batch = make_batch()
    tokens = {tuple(model.generate(batch.src, max_new_tokens=5).flatten()) for _ in range(4)}
    assert len(tokens) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_stored_weights(dtype):
    model = make_model(torch.float32, attention="additive", bidirectional=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.2)
    batch = make_batch()
    expected = model(batch.src, batch.tgt).logits
    weights = model._decoder_weights()
    assert weights.attention.query is model.attention.query.weight
    model.compile_decoder(dtype)
    output = model.generate(
        batch.src, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
    )
    # a share of the logits' own spread
    error = (output.logits[0] - expected[:, 0]).abs().max() / expected[:, 0].std()
    assert error < {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.int8: 0.05}[dtype]
    # packed again when a weight of attention changes
    with torch.no_grad():
        model.attention.output.weight.zero_()
    output = model.generate(
        batch.src, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
    )
    torch.testing.assert_close(output.logits[0], model.output_projection.bias.expand(5, -1))


def test_a_saved_model_is_the_same(tmp_path):
    model = make_model(attention="general", attention_heads=2, input_feeding=True)
    model.save_pretrained(tmp_path)
    loaded = Seq2Seq.from_pretrained(tmp_path)
    assert loaded.config == model.config
    batch = make_batch()
    assert torch.equal(loaded.generate(batch.src), model.generate(batch.src))


def test_autocast_and_bfloat16(assert_close):
    for kind in ("dot", "additive"):
        model = make_model(torch.float32, attention=kind)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.1)
        batch = make_batch()
        expected = model(*batch[::2], *batch[1::2]).logits
        with torch.autocast("cpu", torch.bfloat16):
            output = model(*batch[::2], *batch[1::2])
            _, state = model.generate(batch.src, max_new_tokens=3, return_state=True)
            model.generate(state=state, max_new_tokens=2)
        assert_close(output.logits, expected, "logits under autocast")
        assert_close(model.bfloat16()(*batch[::2], *batch[1::2]).logits, expected, "bfloat16")
        assert model.generate(batch.src, max_new_tokens=3).shape == (5, 4)


def test_module_prints_its_kind():
    assert "additive, heads=2" in repr(Attention("additive", 4, 8, 2))


def state_with(**changes):
    state = make_model(attention="dot").encode(make_batch().src)
    return state._replace(memory=state.memory._replace(**changes))


BAD_STATES = {
    "none": (
        lambda: state_with()._replace(memory=None),
        TypeError,
        "state.memory: expected a Memory, as encode gives with attention, got NoneType",
    ),
    "values": (
        lambda: state_with(values=torch.zeros(5, 7, 8, dtype=torch.float64)),
        ValueError,
        "state.memory.values: expected shape (batch, steps, size), got (5, 7, 8)",
    ),
    "keys": (
        lambda: state_with(keys=torch.zeros(5, 6, 16, dtype=torch.float64)),
        ValueError,
        "state.memory.keys: expected shape (batch, steps, size) = (5, 7, 16), got (5, 6, 16)",
    ),
    "dtype": (
        lambda: state_with(keys=torch.zeros(5, 7, 16, dtype=torch.float16)),
        ValueError,
        "state.memory.keys: expected dtype torch.float64, got torch.float16",
    ),
    "lengths": (
        lambda: state_with(lengths=torch.tensor([7, 7, 8, 7, 7])),
        ValueError,
        "state.memory.lengths: expected lengths in 0..7, got 8 at state.memory.lengths[2]",
    ),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_bad_states(case):
    state, error, message = BAD_STATES[case]
    model = make_model(attention="dot")
    for call in (
        lambda: model.generate(state=state()),
        lambda: model.step(torch.zeros(5).long(), state()),
    ):
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value) == message


def test_other_bad_input():
    plain, attending = make_model(), make_model(attention="dot")
    batch = make_batch()
    with pytest.raises(ValueError, match="state.memory: expected None without attention"):
        plain.generate(state=attending.encode(batch.src))
    with pytest.raises(ValueError, match="states: expected a memory in all or in none"):
        DecoderState.merge([plain.encode(batch.src), attending.encode(batch.src)])
    with pytest.raises(ValueError, match="output_attentions: expected False for a model without"):
        plain(batch.src, batch.tgt, output_attentions=True)
    with pytest.raises(TypeError, match="output_attentions: expected a bool, got 1"):
        attending(batch.src, batch.tgt, output_attentions=1)


def error_after(updates, **fields):
    """Of reversing 20 symbols: the share of wrong tokens after so many updates."""
    torch.manual_seed(0)
    model = Seq2Seq(
        src_vocab_size=14, tgt_vocab_size=14, embedding_size=16, hidden_size=48, **fields
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    eos = torch.full((32, 1), EOS)
    for _ in range(updates):
        src = torch.randint(3, 14, (32, 20))
        tgt = torch.cat((src.flip(1), eos), 1)
        loss = model(src, tgt).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    tokens = model.eval().generate(src, max_new_tokens=21, min_new_tokens=21)
    return (tokens[:, 1:21] != tgt[:, :20]).float().mean().item()


def test_attention_learns_long_sequences_that_a_fixed_context_does_not():
    assert error_after(400, attention="general") < 0.15
    assert error_after(400) > 0.4
