"""Swapping torch's modules for ours and back."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers_seq2seq import make_model
from torch import nn

import fast_s2s


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.again = self.encoder
        self.blocks = nn.ModuleList([nn.ModuleDict({"cell": nn.LSTMCell(10, 5)}), nn.GRU(5, 5)])

    def forward(self, x):
        y, _ = self.again(x)
        h, _ = self.blocks[0]["cell"](y[:, -1])
        return self.blocks[1](h)[0]


def test_replace_lstm_in_place():
    model = Model()
    x = torch.randn(3, 6, 4)
    expected = model(x)
    parameters = dict(model.named_parameters())
    assert fast_s2s.replace_lstm(model) is model
    assert type(model.encoder) is fast_s2s.LSTM and model.again is model.encoder
    assert type(model.blocks[0]["cell"]) is fast_s2s.LSTMCell
    assert type(model.blocks[1]) is nn.GRU
    assert all(parameters[name] is p for name, p in model.named_parameters())
    torch.testing.assert_close(model(x), expected)
    assert fast_s2s.replace_lstm(model) is model


def test_restore_lstm_is_the_inverse():
    model = Model()
    x = torch.randn(3, 6, 4)
    expected = model(x)
    parameters = dict(model.named_parameters())
    fast_s2s.replace_lstm(model)
    assert fast_s2s.restore_lstm(model) is model
    assert type(model.encoder) is nn.LSTM and model.again is model.encoder
    assert type(model.blocks[0]["cell"]) is nn.LSTMCell
    assert all(parameters[name] is p for name, p in model.named_parameters())
    assert torch.equal(model(x), expected)
    assert fast_s2s.restore_lstm(model) is model


def test_restore_lstm_leaves_what_torch_lacks_with_a_warning():
    class Own(fast_s2s.LSTM):
        pass

    model = nn.ModuleList([fast_s2s.LSTM(2, 3, norm="layer"), Own(2, 3), fast_s2s.LSTM(2, 3)])
    with pytest.warns(UserWarning, match="restore_lstm: left a") as caught:
        fast_s2s.restore_lstm(model)
    assert [type(module) for module in model] == [fast_s2s.LSTM, Own, nn.LSTM]
    reasons = ("one with options that torch's lacks", "a subclass of fast_s2s's")
    assert all(why in str(each.message) for why, each in zip(reasons, caught, strict=True))
    assert all(each.filename == __file__ for each in caught)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
        fast_s2s.restore_lstm(3)


def test_a_model_that_is_an_lstm():
    theirs = nn.LSTM(4, 5)
    ours = fast_s2s.replace_lstm(theirs)
    assert type(ours) is fast_s2s.LSTM and ours.weight_hh_l0 is theirs.weight_hh_l0
    assert type(fast_s2s.restore_lstm(ours)) is nn.LSTM


@pytest.mark.parametrize(
    ("theirs", "kind"),
    [(nn.LSTM(4, 5, 2, proj_size=3), fast_s2s.LSTM), (nn.LSTMCell(4, 5), fast_s2s.LSTMCell)],
)
def test_there_and_back(theirs, kind):
    calls = []
    theirs.eval()
    theirs.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(3, 4)
    expected = theirs(x)
    ours = fast_s2s.from_torch(theirs)
    assert type(ours) is kind and not ours.training
    back = fast_s2s.to_torch(ours)
    assert type(back) is type(theirs)
    for module in (ours, back):
        torch.testing.assert_close(module(x), expected)
        assert all(a is b for a, b in zip(module.parameters(), theirs.parameters(), strict=True))
    assert len(calls) == 3
    with torch.no_grad():
        next(ours.parameters()).zero_()
    torch.testing.assert_close(back(x), ours(x))


def test_registries_are_not_shared():
    theirs = nn.LSTM(4, 5)
    ours = fast_s2s.from_torch(theirs)
    ours.register_buffer("extra", torch.zeros(1))
    ours.weight_hh_l0 = nn.Parameter(torch.zeros(20, 5))
    assert "extra" not in theirs.state_dict()
    assert theirs.weight_hh_l0.any()


@pytest.mark.parametrize("convert", [fast_s2s.from_torch, fast_s2s.to_torch])
def test_other_modules_are_refused(convert):
    with pytest.raises(TypeError, match="module: expected .*LSTM or .*LSTMCell, got .*GRU"):
        convert(nn.GRU(4, 5))


def test_subclasses_are_left_with_a_warning():
    class Peephole(nn.LSTM):
        pass

    model = nn.Sequential(Peephole(4, 5), nn.LSTM(5, 5))
    with pytest.warns(UserWarning, match="left a Peephole, a subclass of torch's, as it is"):
        fast_s2s.replace_lstm(model)
    assert type(model[0]) is Peephole and type(model[1]) is fast_s2s.LSTM


def test_subclasses_of_ours_are_fast_already():
    class Cell(fast_s2s.LSTMCell):
        pass

    # warnings are errors here
    assert type(fast_s2s.replace_lstm(nn.Sequential(Cell(4, 5)))[0]) is Cell


def test_a_forward_put_into_one_module_is_not_lost():
    # it is bound to torch's module, which would go on running in the place of ours
    theirs = nn.LSTM(4, 5)
    theirs.forward = theirs.forward
    model = nn.Sequential(theirs, nn.LSTM(5, 5))
    with pytest.warns(UserWarning, match="left a LSTM, one with a forward of its own, as it is"):
        fast_s2s.replace_lstm(model)
    assert model[0] is theirs and type(model[1]) is fast_s2s.LSTM
    with pytest.raises(ValueError, match="module: expected real numbers and the forward"):
        fast_s2s.from_torch(theirs)


def test_what_compile_made_is_left_behind():
    theirs = nn.LSTM(4, 5)
    theirs.compile(backend="eager")
    ours = fast_s2s.from_torch(theirs)
    seen = []
    ours.forward = lambda x: seen.append(x)
    ours(torch.zeros(3, 4))
    assert len(seen) == 1


def test_hooks_of_loading_are_given_the_new_module():
    model, seen = nn.Sequential(nn.LSTM(4, 5)), []
    model[0].register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    fast_s2s.replace_lstm(model).load_state_dict(model.state_dict())
    assert seen == [model[0]]


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.LSTM(3, 4), nn.LSTM(4, 5, bidirectional=True)])
        self.cell = nn.LSTMCell(10, 2)

    def forward(self, x):
        x, state = self.layers[0](x)
        x, _ = self.layers[1](x)
        return self.cell(x[-1])[0] + state[0].sum()


def test_torch_fx_records_a_layer_whole_as_torchs_own():
    torch.manual_seed(0)
    theirs, x = Tagger(), torch.randn(6, 2, 3)
    ours = fast_s2s.replace_lstm(copy.deepcopy(theirs))
    graphs = [torch.fx.symbolic_trace(model) for model in (theirs, ours)]
    assert graphs[0].code == graphs[1].code
    torch.testing.assert_close(graphs[1](x), ours(x), rtol=0, atol=0)


def test_torch_fx_keeps_lengths():
    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = fast_s2s.LSTM(3, 4)

        def forward(self, x, lengths):
            return self.lstm(x, lengths=lengths)[0]

    model, x, lengths = Ragged(), torch.randn(6, 2, 3), torch.tensor([6, 2])
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x, lengths), model(x, lengths), rtol=0, atol=0)


def test_layers_of_a_seq2seq_stay():
    model = make_model()
    before = dict(model.named_modules())
    for convert, count in ((fast_s2s.restore_lstm, 2), (fast_s2s.pack_lstm, 2)):
        with pytest.warns(
            UserWarning, match="left a LSTM, which its Seq2Seq needs, as it is"
        ) as all:
            convert(model)
        assert len(all) == count and all[0].filename == __file__
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers_are_refused_rather_than_half_lost(dtype):
    model = nn.Sequential(nn.LSTM(2, 2, dtype=dtype), nn.LSTMCell(2, 2, dtype=dtype))
    with pytest.warns(UserWarning, match="left a LSTM.*, one of complex numbers, as it is"):
        fast_s2s.replace_lstm(model)
    with pytest.warns(UserWarning, match="left a LSTM, one of complex numbers, as it is"):
        fast_s2s.pack_lstm(model)
    assert type(model[0]) is nn.LSTM and type(model[1]) is nn.LSTMCell
    with pytest.raises(ValueError, match="lstm: expected real numbers, got complex ones"):
        fast_s2s.PackedLSTM.of(model[0])
    with pytest.raises(ValueError, match="module: expected real numbers and the forward of its c"):
        fast_s2s.from_torch(model[0])
    for ours, x in ((fast_s2s.LSTM, torch.ones(3, 1, 2)), (fast_s2s.LSTMCell, torch.ones(1, 2))):
        with pytest.raises(ValueError, match="input: expected a real floating-point dtype, got"):
            ours(2, 2, dtype=dtype)(x.to(dtype))
