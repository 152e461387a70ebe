"""`Seq2Seq` against the same model built of torch's own modules; construction, loss, gradients."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from helpers_seq2seq import (
    ARCHITECTURES,
    BOS,
    EOS,
    PAD,
    SIZES,
    TGT_VOCAB,
    TorchSeq2Seq,
    make_batch,
    make_model,
)

from fast_s2s.seq2seq import Seq2Seq, Seq2SeqConfig


def forward(model, batch):
    return model(batch.src, batch.tgt, batch.src_lengths, batch.tgt_lengths)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_logits_equal_those_of_torch_modules_row_by_row(architecture, dtype, backend, assert_close):
    model = make_model(dtype, **ARCHITECTURES[architecture])
    batch = make_batch()

    logits = forward(model, batch).logits

    reference = TorchSeq2Seq(model)
    assert logits.shape == (*batch.tgt.shape, TGT_VOCAB)
    for row, (src, src_length, tgt, tgt_length) in enumerate(zip(*batch, strict=True)):
        expected = reference.logits(src[:src_length], tgt[:tgt_length])
        assert_close(logits[row, :tgt_length], expected, f"logits of row {row}")


def test_teacher_forcing_equals_stepping(assert_close):
    model = make_model(num_layers=2, bidirectional=True)
    batch = make_batch()
    output = model(batch.src, batch.tgt, tgt_lengths=[6] * 5)

    state = model.encode(batch.src)
    token = torch.full((5,), BOS)
    for t in range(batch.tgt.size(1)):
        logits, state = model.step(token, state)
        assert_close(output.logits[:, t], logits, f"logits of step {t}")
        token = batch.tgt[:, t]
    assert_close(output.state.h, state.h, "h")
    assert_close(output.state.c, state.c, "c")
    assert torch.equal(output.state.token, token)


def test_state_is_that_after_each_rows_last_input(assert_close):
    model = make_model(num_layers=2)
    batch = make_batch()

    state = forward(model, batch).state

    for row, (src, src_length, tgt, tgt_length) in enumerate(zip(*batch, strict=True)):
        alone = model(src[None, :src_length], tgt[None, :tgt_length]).state
        assert_close(state.h[:, row], alone.h[:, 0], f"h of row {row}")
        assert_close(state.c[:, row], alone.c[:, 0], f"c of row {row}")
        assert state.token[row] == tgt[tgt_length - 1]
    assert state.finished.all()


def test_lengths_default_to_the_last_token_that_is_not_pad():
    model = make_model()
    batch = make_batch()
    given, derived = forward(model, batch), model(batch.src, batch.tgt)
    assert torch.equal(given.logits, derived.logits)
    assert torch.equal(given.loss, derived.loss)


def test_a_pad_inside_a_row_is_read_but_not_scored(assert_close):
    model = make_model()
    src, tgt = torch.tensor([[4, PAD, 5]]), torch.tensor([[6, PAD, 7, EOS]])
    output = model(src, tgt)
    reference = TorchSeq2Seq(model)
    logits = reference.logits(src[0], tgt[0])
    assert_close(output.logits[0], logits, "logits")
    assert_close(output.loss, F.cross_entropy(logits[[0, 2, 3]], tgt[0, [0, 2, 3]]), "loss")


def test_what_lies_past_the_length_does_not_matter():
    model = make_model(bidirectional=True)
    batch = make_batch()
    expected = forward(model, batch)
    junk = batch._replace(
        src=torch.where(batch.src == PAD, 7, batch.src),
        tgt=torch.where(batch.tgt == PAD, 8, batch.tgt),
    )
    output = forward(model, junk)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.state.h, expected.state.h)


def test_a_row_without_tokens_starts_from_a_zero_context():
    model = make_model()
    state = model.encode(torch.tensor([[PAD, PAD], [4, 5]]))
    assert not state.h[:, 0].any() and not state.c[:, 0].any()
    assert state.h[:, 1].any()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_loss_equals_masked_cross_entropy_written_out(label_smoothing, assert_close):
    model = make_model(label_smoothing=label_smoothing)
    batch = make_batch()
    reference = TorchSeq2Seq(model)
    plain = reference.loss(batch)
    smooth = reference.loss(batch, label_smoothing)

    assert_close(forward(model.eval(), batch).loss, plain, "loss in eval mode")
    assert_close(forward(model.train(), batch).loss, smooth, "loss in training mode")
    assert torch.equal(plain, smooth) == (label_smoothing == 0.0)


def test_loss_without_any_target_token_is_zero():
    model = make_model()
    loss = model(make_batch().src, torch.zeros(5, 3, dtype=torch.int64)).loss
    assert loss.item() == 0.0
    loss.backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_those_of_torch_modules(architecture, backend, assert_close):
    model = make_model(label_smoothing=0.1, **ARCHITECTURES[architecture]).train()
    batch = make_batch()
    reference = TorchSeq2Seq(model)

    forward(model, batch).loss.backward()

    reference.loss(batch, label_smoothing=0.1).backward()
    expected = dict(reference.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert sorted(names) == sorted(expected)
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
        assert_close(parameter.grad, expected[name].grad, name)


def test_gradients_reach_the_parameters_through_the_state():
    model = make_model()
    batch = make_batch()
    state = forward(model, batch).state
    grads = torch.autograd.grad(state.h.sum() + state.c.sum(), model.encoder.weight_ih_l0)
    assert grads[0].any()


def test_a_training_step_lowers_the_loss():
    model = Seq2Seq(**SIZES, embedding_size=8, hidden_size=16, bidirectional=True)
    batch = make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = forward(model, batch).loss.item()
    for _ in range(100):
        optimizer.zero_grad()
        forward(model, batch).loss.backward()
        optimizer.step()
    assert forward(model, batch).loss.item() < 0.1 * first
    # what was learnt by heart comes back
    tokens = model.eval().generate(batch.src, batch.src_lengths, max_new_tokens=6)
    assert torch.equal(tokens[:, 1:], batch.tgt[:, : tokens.size(1) - 1])


def test_dropout_acts_in_training_mode_only():
    model = make_model(dropout=0.5, num_layers=2)
    batch = make_batch()
    quiet = forward(model, batch).logits
    assert torch.equal(quiet, forward(model, batch).logits)
    model.train()
    assert not torch.equal(quiet, forward(model, batch).logits)
    assert (model.encoder.dropout, model.decoder.dropout, model.dropout.p) == (0.5, 0.5, 0.5)


def test_dropout_of_everything_leaves_the_bias():
    model = make_model(dropout=1.0).train()
    logits = forward(model, make_batch()).logits
    assert torch.equal(logits, model.output_projection.bias.expand_as(logits))


def test_tied_embeddings_are_one_parameter():
    model = make_model(**ARCHITECTURES["tied"])
    for same in (model, copy.deepcopy(model), make_model(**ARCHITECTURES["tied"]).float()):
        assert same.output_projection.weight is same.tgt_embedding.weight
        assert "output_projection.weight" not in dict(same.named_parameters())
    assert (
        Seq2Seq(**SIZES, tie_embeddings=True, embedding_size=512).tgt_embedding.weight.std() < 0.1
    )


def test_fresh_models_read_pad_as_zero_and_are_equal_for_equal_seeds():
    for fields in ({}, {"tie_embeddings": True, "embedding_size": 512}):
        models = []
        for _ in range(2):
            torch.manual_seed(5)
            models.append(Seq2Seq(**SIZES, **fields))
        first, second = (model.state_dict() for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not first["src_embedding.weight"][PAD].any()
        assert not first["tgt_embedding.weight"][PAD].any()


def test_device_and_dtype():
    model = Seq2Seq(**SIZES, bidirectional=True, device="meta", dtype=torch.bfloat16)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (model.device, model.dtype) == (torch.device("meta"), torch.bfloat16)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_is_close_and_its_loss_is_float32(how, assert_close):
    model = make_model(torch.float32, num_layers=2)
    with torch.no_grad():
        # weights of the usual size: the comparison is about rounding, not about chaos
        for parameter in model.parameters():
            parameter.mul_(0.1)
    batch = make_batch()
    expected = forward(model, batch)
    if how == "weights":
        output = forward(model.bfloat16(), batch)
        assert model.generate(batch.src, max_new_tokens=3).shape == (5, 4)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            output = forward(model, batch)
            _, state = model.generate(batch.src, max_new_tokens=3, return_state=True)
            model.generate(state=state, max_new_tokens=2)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert_close(output.logits, expected.logits, "logits")
    assert_close(output.loss, expected.loss, "loss", torch.bfloat16)


def test_empty_batch():
    model = make_model()
    empty = torch.zeros(0, 3, dtype=torch.int64)
    output = model(empty, empty)
    assert output.logits.shape == (0, 3, TGT_VOCAB)
    assert output.loss.item() == 0.0


def test_config_or_keyword_arguments():
    config = Seq2SeqConfig(**SIZES, hidden_size=32)
    assert Seq2Seq(config).config == Seq2Seq(**SIZES, hidden_size=32).config == config
    with pytest.raises(TypeError, match="config: expected no keyword arguments beside it"):
        Seq2Seq(config, hidden_size=3)
    with pytest.raises(TypeError, match="config: expected a Seq2SeqConfig, got dict"):
        Seq2Seq({"hidden_size": 3})


def test_config_goes_to_a_dict_and_back():
    config = Seq2SeqConfig(**SIZES, decoder_layers=2, dropout=0.3, eos_token_id=7)
    assert Seq2SeqConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["model_type"] == "fast_s2s"
    assert (config.num_encoder_layers, config.num_decoder_layers) == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dropout = 0.0
