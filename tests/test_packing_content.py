"""Packed weights: what they are made of, looked at only where it may change without a trace."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers_seq2seq import make_batch, make_model

import fast_s2s
from fast_s2s.decoding import reference
from fast_s2s.generation import packing


def change(model):
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_models_that_were_never_trained_pay_nothing(monkeypatch):
    looked = []
    monkeypatch.setattr(packing, "_sums", lambda tensors: looked.append(1))
    model, batch = make_model(), make_batch()
    with torch.no_grad():
        model(batch.src, batch.tgt)
    model.generate(batch.src)
    assert not looked
    model(batch.src, batch.tgt)
    model.generate(batch.src)
    assert looked


def test_a_change_while_packing_is_seen(monkeypatch):
    model, batch = make_model(), make_batch()
    pack = packing.pack_decoder

    def meanwhile(*arguments):
        packed = pack(*arguments)
        change(model)
        return packed

    with monkeypatch.context() as patched:
        patched.setattr(packing, "pack_decoder", meanwhile)
        model.generate(batch.src)
    copied = copy.deepcopy(model)
    assert torch.equal(model.generate(batch.src), copied.generate(batch.src))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_pack_stays_what_it_was(backend):
    model, batch = make_model(attention="additive"), make_batch()
    with fast_s2s.backend(backend), torch.no_grad():
        packed = packing.pack_decoder(model._decoder_weights())
        context = model.encode(batch.src, batch.src_lengths)
        token = torch.full((len(batch.src),), 1)
        before = reference.step(packed.dense, token, context.h, context.c, context.memory)
        for parameter in model.parameters():
            parameter.mul_(3)
        after = reference.step(packed.dense, token, context.h, context.c, context.memory)
    assert torch.equal(before.logits, after.logits)


def test_nothing_is_packed_while_a_graph_is_captured(monkeypatch):
    """A device's numbers cannot be waited for then."""

    class OnGPU(torch.Tensor):
        is_cuda = True

    weights = [torch.ones(3, requires_grad=True).as_subclass(OnGPU)]
    cache, packs = packing.PackedCache(), []
    cache.used_with_gradients()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for capturing in (False, True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda c=capturing: c)
        cache._kept(weights, None, lambda: packs.append(1) or packs)
    assert len(packs) == 1


def moving_average(average, model):
    """As most code for it does: through `.data`, without a new version."""
    for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
        mine.data.mul_(0.1).add_(theirs.data * 3)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_copy_sees_what_is_written_through_data(trained, frozen):
    model, batch = make_model(), make_batch()
    if trained:
        model(batch.src, batch.tgt).loss.backward()
    average = copy.deepcopy(model).requires_grad_(not frozen)
    options = {"max_new_tokens": 3, "return_dict_in_generate": True}
    before = average.generate(batch.src, **options)
    moving_average(average, model)
    after = average.generate(batch.src, **options)
    assert not torch.equal(after.token_scores, before.token_scores)
    fresh = pickle.loads(pickle.dumps(average)).generate(batch.src, **options)
    assert torch.equal(after.token_scores, fresh.token_scores)


def test_a_copy_that_is_compiled_pays_nothing(monkeypatch):
    looked = []
    sums = packing._sums
    monkeypatch.setattr(packing, "_sums", lambda tensors: looked.append(1) or sums(tensors))
    model, batch = copy.deepcopy(make_model()), make_batch()
    model.generate(batch.src)
    assert looked
    looked.clear()
    model.compile_decoder().generate(batch.src)
    pickle.loads(pickle.dumps(model)).generate(batch.src)
    assert not looked
