"""`Seq2Seq` over the variants of the LSTM: it trains, generates, and is saved."""

from __future__ import annotations

import pytest
import torch
from helpers_training import toy_model

from fast_s2s.dropout import VariationalDropout
from fast_s2s.seq2seq import Seq2Seq, Seq2SeqConfig

VARIANTS = {
    "norm": "layer",
    "zoneout_hidden": 0.1,
    "zoneout_cell": 0.2,
    "recurrent_dropout": 0.1,
    "weight_dropout": 0.1,
    "dropout": 0.1,
    "variational_dropout": True,
    "forget_bias": 1.0,
    "recurrent_init": "orthogonal",
}
SRC = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0], [5, 5, 2, 0]])


@pytest.fixture
def model():
    model = toy_model(num_layers=2, bidirectional=True, **VARIANTS).eval()
    # so that different inputs have different outputs
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(3)
    return model


def test_options_reach_both_lstms(model):
    for lstm in (model.encoder, model.decoder):
        assert lstm.norm == "layer" and lstm.recurrent_init == "orthogonal"
        assert lstm.regularization.zoneout_cell == 0.2 and lstm.regularization.weight_dropout == 0.1
        assert (lstm.norm_weight_ih_l0 == 1).all()
    assert isinstance(model.dropout, VariationalDropout)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generate_is_the_step_loop(model, num_beams):
    found = model.generate(SRC, max_new_tokens=6, num_beams=num_beams)
    if num_beams == 1:
        state, token = model.encode(SRC), torch.ones(3, dtype=torch.int64)
        expected, over = [token], torch.zeros(3, dtype=torch.bool)
        for _ in range(found.size(1) - 1):
            logits, state = model.step(token, state)
            logits[:, [0, 1]] = -torch.inf
            token = logits.argmax(1).masked_fill(over, 0)
            over |= token == 2
            expected.append(token)
        assert torch.equal(found, torch.stack(expected, 1))
    # each row as if it were alone
    for index, row in enumerate(SRC):
        alone = model.generate(row[row != 0].unsqueeze(0), max_new_tokens=6, num_beams=num_beams)
        assert torch.equal(found[index, : alone.size(1)], alone[0])


def test_one_call_is_the_steps(model, assert_close):
    """Teacher forcing over the whole target and step by step, which the kernels do not serve."""
    tgt = torch.tensor([[4, 5, 2], [6, 6, 2], [8, 2, 0]])
    logits = model.double()(SRC, tgt).logits
    state, token = model.encode(SRC), torch.ones(3, dtype=torch.int64)
    for t in range(2):
        step, state = model.step(token, state)
        assert_close(step, logits[:, t], f"step {t}")
        token = tgt[:, t]


def test_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = Seq2Seq.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again.generate(SRC), model.generate(SRC))
    small = again.compile_decoder("int8")
    small.save_pretrained(tmp_path / "int8")
    loaded = Seq2Seq.from_pretrained(tmp_path / "int8")
    assert torch.equal(loaded.generate(SRC), small.generate(SRC))
    # what only training sees does not keep the kernels from decoding
    assert toy_model(recurrent_dropout=0.1, weight_dropout=0.1).eval().compile_decoder("int8")


def test_training_has_gradients_everywhere_and_chance(model):
    tgt = torch.tensor([[4, 5, 2], [6, 6, 2], [8, 2, 0]])
    losses = [model.train()(SRC, tgt).loss for _ in range(3)]
    assert len({loss.item() for loss in losses}) == 3
    losses[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    # chance in training mode alone turns generation into a step loop
    only = toy_model(weight_dropout=0.5).train()
    assert only._runs_by_modules() and not only.eval()._runs_by_modules()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("norm", "batch", "norm: expected None or 'layer'"),
        ("zoneout_hidden", 2, "zoneout_hidden: expected a number in"),
        ("recurrent_init", "zero", "recurrent_init: expected 'uniform' or 'orthogonal'"),
        ("variational_dropout", 1, "variational_dropout: expected a bool"),
        ("forget_bias", "one", "forget_bias: expected a number"),
    ],
)
def test_config_refuses(field, value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Seq2SeqConfig(src_vocab_size=9, tgt_vocab_size=9, **{field: value})
