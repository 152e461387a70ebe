"""`inputs_embeds`: what stands in place of the source's embeddings."""

from __future__ import annotations

import pytest
import torch
from helpers_seq2seq import ARCHITECTURES, make_batch, make_model

from fast_s2s import Ensemble, Seq2Seq


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_are_as_good_as_tokens(architecture, assert_close):
    model, batch = make_model(**ARCHITECTURES[architecture]), make_batch()
    embeds = model.src_embedding(batch.src).detach().requires_grad_()
    args = batch.tgt, batch.src_lengths, batch.tgt_lengths
    expected = model(batch.src, *args)
    found = model(None, *args, inputs_embeds=embeds)
    assert_close(found.loss, expected.loss, "loss", torch.float64)
    assert_close(found.logits, expected.logits, "logits", torch.float64)
    # each embedding's gradient is the sum over the places where it stood
    (gradient,) = torch.autograd.grad(found.loss, embeds)
    (wanted,) = torch.autograd.grad(expected.loss, model.src_embedding.weight)
    summed = torch.zeros_like(wanted).index_add(0, batch.src.flatten(), gradient.flatten(0, 1))
    # that of pad is never trained
    kept = torch.arange(len(wanted)) != model.config.pad_token_id
    assert_close(summed[kept], wanted[kept], "gradient", torch.float64)
    state = model.encode(inputs_embeds=embeds, src_lengths=batch.src_lengths)
    of_tokens = model.encode(batch.src, batch.src_lengths)
    assert_close(state.h, of_tokens.h, "h", torch.float64)
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        tokens = model.generate(inputs_embeds=embeds, src_lengths=batch.src_lengths, **options)
        # not from the tokens: that reads by other kernels, and weights so sharp make much of a bit
        assert torch.equal(tokens, model.generate(state=of_tokens, **options))


def test_all_steps_count_unless_lengths_say_otherwise():
    model, batch = make_model(attention="dot"), make_batch()
    embeds = torch.randn(3, 5, 8, dtype=torch.float64)
    given = model(inputs_embeds=embeds, tgt=batch.tgt[:3], src_lengths=[5, 5, 5])
    assert torch.equal(model(inputs_embeds=embeds, tgt=batch.tgt[:3]).logits, given.logits)
    # what lies past a row's end does not matter
    behind = embeds.clone()
    behind[1, 2:] = torch.nan
    whole = model.encode(inputs_embeds=embeds, src_lengths=[5, 2, 0])
    cut = model.encode(inputs_embeds=behind, src_lengths=[5, 2, 0])
    assert torch.equal(whole.h, cut.h)
    tokens = model.generate(inputs_embeds=behind, src_lengths=[5, 2, 0])
    assert torch.equal(tokens, model.generate(inputs_embeds=embeds, src_lengths=[5, 2, 0]))


def test_in_parts():
    model = make_model(attention="general", num_layers=2)
    embeds = torch.randn(3, 7, 8, dtype=torch.float64)
    whole = model.encode(inputs_embeds=embeds)
    _, so_far = model.encode(inputs_embeds=embeds[:, :4], return_state=True)
    joined = model.encode(inputs_embeds=embeds[:, 4:], state=so_far)
    torch.testing.assert_close(joined.h, whole.h)
    assert torch.equal(model.generate(state=joined), model.generate(state=whole))


def test_an_ensemble_of_models_of_one_embedding_size():
    models = [make_model(), make_model(attention="dot")]
    embeds = torch.randn(2, 4, 8, dtype=torch.float64)
    same = Ensemble(models[:1] * 2).generate(inputs_embeds=embeds)
    assert torch.equal(same, models[0].generate(inputs_embeds=embeds))
    assert len(Ensemble(models).generate(inputs_embeds=embeds)) == 2
    with pytest.raises(ValueError, match="inputs_embeds: expected shape"):
        Ensemble([models[0], make_model(embedding_size=9)]).generate(inputs_embeds=embeds)


EMBEDS = torch.zeros(2, 3, 8)
BAD = {
    "both": ({"src": torch.full((2, 3), 3), "inputs_embeds": EMBEDS}, ValueError, "got both"),
    "type": ({"inputs_embeds": [0.0]}, TypeError, "inputs_embeds: expected a tensor"),
    "dtype": ({"inputs_embeds": EMBEDS.double()}, ValueError, "expected dtype torch.float32"),
    "size": ({"inputs_embeds": EMBEDS[..., :7]}, ValueError, r"embedding_size\), got \(2, 3, 7\)"),
    "steps": ({"inputs_embeds": EMBEDS[:, :0]}, ValueError, "expected at least one step"),
    "lengths": (
        {"inputs_embeds": EMBEDS, "src_lengths": [1, 4]},
        ValueError,
        r"src_lengths: expected values in 0\.\.3",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    model = make_model(torch.float32)
    given, error, message = BAD[name]
    for call in (model.generate, model.encode):
        with pytest.raises(error, match=message):
            call(**given)
    with pytest.raises(error, match=message):
        model(tgt=torch.full((2, 2), 3), **given)


def test_neither_source_nor_target():
    model = make_model(torch.float32)
    with pytest.raises(ValueError, match="src, inputs_embeds: expected one of them, got neither"):
        model.encode()
    with pytest.raises(TypeError, match="tgt: expected a tensor, got None"):
        model(torch.full((2, 3), 3))
    with pytest.raises(ValueError, match="state: expected None beside src, src_lengths or inputs"):
        model.generate(inputs_embeds=EMBEDS, state=model.encode(inputs_embeds=EMBEDS))


def test_learns_from_features():
    torch.manual_seed(0)
    # which of three directions each step points to
    directions = torch.eye(3)
    model = Seq2Seq(src_vocab_size=3, tgt_vocab_size=6, embedding_size=3, hidden_size=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def data() -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.randint(0, 3, (64, 3))
        features = directions[which] + 0.1 * torch.randn(64, 3, 3)
        return features, torch.cat((which + 3, torch.full((64, 1), model.config.eos_token_id)), 1)

    for _ in range(150):
        features, tgt = data()
        loss = model(inputs_embeds=features, tgt=tgt).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, tgt = data()
    said = model.eval().generate(inputs_embeds=features, max_new_tokens=4)
    assert (said[:, 1:] == tgt).all(1).float().mean() > 0.9
