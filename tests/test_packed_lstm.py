"""`PackedLSTM` beside the LSTM of the numbers that it stores, and `pack_lstm`."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from helpers_native import AVAILABLE, instruction_set, needs_native
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fast_s2s
from fast_s2s import PackedLSTM, pack_lstm
from fast_s2s.stored import store

DTYPES = (torch.int8, torch.bfloat16, torch.float32, torch.float64)
KINDS = [
    {},
    {"num_layers": 3},
    {"bidirectional": True},
    {"bidirectional": True, "num_layers": 2, "proj_size": 5, "bias": False},
    {"num_layers": 2, "proj_size": 1},
]
# of `fast_s2s.LSTM` alone
VARIANTS = [
    {"norm": "layer", "num_layers": 2},
    {"zoneout_hidden": 0.1, "zoneout_cell": 0.3},
    {"norm": "layer", "zoneout_cell": 0.2, "bidirectional": True, "num_layers": 2, "proj_size": 3},
]


def made(dtype: torch.dtype, kind: type = nn.LSTM, sizes: tuple[int, int] = (7, 17), **options):
    """An LSTM, packed; and in float64 one of the numbers that are stored."""
    lstm = kind(*sizes, **options).to(torch.float64 if dtype == torch.float64 else torch.float32)
    exact = fast_s2s.LSTM(*sizes, **options).double()
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            stored = parameter.double()
            if parameter.dim() == 2:
                stored = store(parameter, dtype).dense(torch.float64)
            getattr(exact, name).copy_(stored)
    return PackedLSTM.of(lstm, dtype), exact.eval()


def drawn(packed: PackedLSTM, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=packed.bias_l0.dtype)


def states(packed: PackedLSTM, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = packed.num_layers * (2 if packed.bidirectional else 1), batch
    sizes = packed.proj_size or packed.hidden_size, packed.hidden_size
    return tuple(drawn(packed, *rows, size) for size in sizes)


def double(hx):
    return tuple(part.double() for part in hx)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", KINDS, ids=str)
@torch.no_grad()
def test_what_an_lstm_of_its_numbers_computes(backend, options, dtype, assert_close):
    packed, exact = made(dtype, **options)
    for steps, batch in ((1, 1), (6, 3), (63, 1)):
        x, hx = drawn(packed, steps, batch, 7), states(packed, batch)
        for given in (None, hx):
            y, (h, c) = packed(x, given)
            expected, (h_n, c_n) = exact(x.double(), given and double(given))
            assert y.dtype == h.dtype == c.dtype == packed.bias_l0.dtype
            assert y.is_contiguous()
            for name, ours, theirs in zip("yhc", (y, h, c), (expected, h_n, c_n), strict=True):
                assert_close(ours, theirs, f"{name}, {steps} steps")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_layer_norm_and_zoneout(options, dtype, assert_close):
    packed, exact = made(dtype, fast_s2s.LSTM, **options)
    for lstm in (packed, exact):
        for (name, value), seed in zip(sorted(tensors_of(lstm, "norm")), range(99), strict=False):
            value.copy_(torch.randn(value.shape, generator=torch.manual_seed(seed)))
            assert name.startswith("norm")
    packed.load_state_dict(packed.state_dict())
    x, hx = drawn(packed, 6, 3, 7), states(packed, 3)
    with fast_s2s.backend("reference"):
        expected, (h_n, c_n) = exact(x.double(), double(hx), lengths=[6, 0, 4])
    for again in (packed, pickle.loads(pickle.dumps(packed))):
        y, (h, c) = again(x, hx, lengths=[6, 0, 4])
        for name, ours, theirs in zip("yhc", (y, h, c), (expected, h_n, c_n), strict=True):
            assert_close(ours, theirs, name)
    assert all(f"{name}={value}" in repr(packed) for name, value in options.items() if "_" in name)


def tensors_of(lstm, prefix: str):
    parts = {**dict(lstm.named_parameters()), **dict(lstm.named_buffers())}
    return [(name, value.detach()) for name, value in parts.items() if name.startswith(prefix)]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 500)])
@torch.no_grad()
def test_sizes(backend, sizes, assert_close):
    packed, exact = made(torch.int8, sizes=sizes, num_layers=2)
    x = drawn(packed, 3, 2, sizes[0])
    assert_close(packed(x)[0], exact(x.double())[0], "y")


@needs_native
@pytest.mark.parametrize("isa", AVAILABLE)
@torch.no_grad()
def test_what_is_no_number_stays_in_its_row(isa, assert_close):
    lstm = nn.LSTM(40, 8)
    x = torch.randn(5, 3, 40)
    with_nan, tiny = x.clone(), x * 1e-36
    # between numbers that are larger and smaller, wherever vectors begin
    with_nan[2, 1, [0, 20, 36]] = torch.tensor([100.0, torch.nan, 0.5])
    with instruction_set(isa):
        packed = pack_lstm(lstm, torch.int8)
        y, expected = packed(with_nan)[0], packed(x)[0]
        assert_close(packed(tiny)[0], packed(torch.zeros_like(x))[0], "tiny")
    assert y[2:, 1].isnan().all()
    y[2:, 1] = expected[2:, 1]
    assert torch.equal(y, expected)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=str)
@torch.no_grad()
def test_rows_of_different_lengths(backend, options, assert_close):
    packed, exact = made(torch.int8, **options)
    x, hx, lengths = drawn(packed, 6, 4, 7), states(packed, 4), [2, 6, 0, 5]
    y, (h, c) = packed(x, hx, lengths=lengths)
    expected, (h_n, c_n) = exact(x.double(), double(hx), lengths=lengths)
    for name, ours, theirs in zip("yhc", (y, h, c), (expected, h_n, c_n), strict=True):
        assert_close(ours, theirs, name)
    sequence = pack_padded_sequence(x[:, :2], torch.tensor([2, 6]), enforce_sorted=False)
    given = tuple(part[:, :2].contiguous() for part in hx)
    of_sequence, (h_2, _) = packed(sequence, given)
    assert_close(pad_packed_sequence(of_sequence)[0], expected[:, :2], "of a PackedSequence")
    assert_close(h_2, h_n[:, :2], "h of a PackedSequence")


@torch.no_grad()
def test_shapes_of_input(backend, assert_close):
    packed, _ = made(torch.int8, batch_first=True, bidirectional=True)
    x = drawn(packed, 3, 5, 7)
    y, (h, c) = packed(x)
    assert y.shape == (3, 5, 34) and h.shape == c.shape == (2, 3, 17)
    one, (h_1, c_1) = packed(x[1])
    for name, ours, theirs in zip("yhc", (one, h_1, c_1), (y[1], h[:, 1], c[:, 1]), strict=True):
        assert_close(ours, theirs.double(), f"{name}, unbatched")
    again, _ = packed(x, (torch.zeros_like(h), torch.zeros_like(c)))
    assert torch.equal(again, y)
    step = None
    causal, _ = made(torch.bfloat16, batch_first=True)
    whole, _ = causal(x)
    for t in range(5):
        now, step = causal(x[:, t : t + 1], step)
        assert_close(now[:, 0], whole[:, t].double(), f"step {t}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_what_is_stored_is_small_and_loads(backend, dtype):
    packed, _ = made(dtype, num_layers=2, bidirectional=True)
    other, _ = made(dtype, num_layers=2, bidirectional=True)
    x = drawn(packed, 4, 2, 7)
    expected = packed(x)[0]
    assert not torch.equal(other(x)[0], expected)
    matrices = [t for t in packed.state_dict().values() if t.dim() == 2]
    assert len(matrices) == 8 and all(t.dtype == dtype for t in matrices)
    assert not list(packed.parameters())
    file = io.BytesIO()
    torch.save(packed.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x)[0], expected)
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(twin(x)[0], expected)
        other_weights = made(dtype, num_layers=2, bidirectional=True)[0].state_dict()
        twin.load_state_dict(other_weights)
        assert not torch.equal(twin(x)[0], expected)
    assert torch.equal(packed(x)[0], expected)
    # what others are told of types is not told to what is stored
    assert torch.equal(packed.half().to(torch.bfloat16).double().float()(x)[0], expected)


@torch.no_grad()
def test_a_pack_does_not_follow_its_lstm(backend):
    lstm = nn.LSTM(7, 9)
    packed, x = PackedLSTM.of(lstm, torch.float32), torch.randn(4, 2, 7)
    before = packed(x)[0]
    for parameter in lstm.parameters():
        parameter.mul_(2)
    assert torch.equal(packed(x)[0], before)


@torch.no_grad()
def test_models(backend):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.LSTM(7, 7, dropout=0.5, num_layers=2)
            self.same, self.ours = self.first, fast_s2s.LSTM(7, 5, batch_first=True)
            self.cell, self.deep = nn.LSTMCell(5, 5), nn.ModuleList([nn.LSTM(5, 5)])

    model = Twice()
    assert pack_lstm(model) is model
    assert model.first is model.same and isinstance(model.deep[0], PackedLSTM)
    assert isinstance(model.ours, PackedLSTM) and model.ours.batch_first
    assert type(model.cell) is nn.LSTMCell
    x = torch.randn(3, 2, 7)
    model.train()
    assert torch.equal(model.first(x)[0], model.eval().first(x)[0])
    before = model.first
    assert pack_lstm(model).first is before
    alone = pack_lstm(nn.LSTM(7, 5), torch.bfloat16)
    assert isinstance(alone, PackedLSTM) and alone.weight_dtype == torch.bfloat16
    assert str(alone) == "PackedLSTM(7, 5, dtype=torch.bfloat16)"


@torch.no_grad()
def test_what_a_module_has_beside_its_weights():
    hooked = nn.LSTM(7, 5)
    seen = []
    hooked.register_forward_hook(lambda module, given, found: seen.append(module))
    own = nn.LSTM(7, 5)
    own.forward = lambda *given: "its own"
    tied = nn.utils.parametrizations.weight_norm(nn.LSTM(7, 5), "weight_hh_l0")
    model = nn.ModuleList([hooked, own, tied, fast_s2s.LSTM(7, 5, norm="layer")])
    with pytest.warns(UserWarning, match="pack_lstm: left a .*LSTM, .*, as it is") as warned:
        pack_lstm(model)
    assert len(warned) == 2 and {each.filename for each in warned} == {__file__}
    assert model[1](torch.zeros(2, 1, 7)) == "its own"
    model[0](torch.zeros(2, 1, 7))
    assert seen == [model[0]] and isinstance(model[0], PackedLSTM)
    assert isinstance(model[3], PackedLSTM) and model[3].norm == "layer"


@needs_native
@torch.no_grad()
def test_compiles():
    packed, _ = made(torch.int8, bidirectional=True)
    x = drawn(packed, 4, 2, 7)
    compiled = torch.compile(packed, fullgraph=True)
    assert torch.equal(compiled(x)[0], packed(x)[0])


@needs_native
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
@torch.no_grad()
def test_is_exported_but_not_traced():
    packed, _ = made(torch.int8, bidirectional=True)
    x, some = drawn(packed, 4, 2, 7), torch.export.Dim.DYNAMIC
    exported = torch.export.export(packed, (x,), dynamic_shapes=({0: some, 1: some},)).module()
    other = drawn(packed, 3, 5, 7)
    assert torch.equal(exported(other)[0], packed(other)[0])
    with pytest.raises(
        RuntimeError, match=r"PackedLSTM: expected no torch\.jit\.trace, whose inter"
    ):
        torch.jit.trace(packed, (x,))


@torch.no_grad()
def test_autocast_rounds_nothing(backend):
    packed, _ = made(torch.int8)
    x = drawn(packed, 4, 2, 7)
    expected = packed(x)[0]
    with torch.autocast("cpu"):
        assert torch.equal(packed(x)[0], expected)
        rounded = packed(x.bfloat16())[0]
    assert torch.equal(rounded, packed(x.bfloat16().float())[0])


def test_gradients_are_refused_rather_than_lost(backend):
    packed, _ = made(torch.int8)
    x = drawn(packed, 4, 2, 7)
    assert not packed(x)[0].requires_grad
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="PackedLSTM has no gradients: expected a call inside"):
        packed(x)
    learned = torch.zeros(1, 2, 17, requires_grad=True)
    with pytest.raises(RuntimeError, match="PackedLSTM has no gradients: expected a call inside"):
        packed(x.detach(), (learned, torch.zeros(1, 2, 17)))
    with torch.no_grad():
        packed(x)
    with torch.inference_mode():
        packed(x)


def test_what_runs():
    packed, _ = made(torch.int8)
    with fast_s2s.backend("reference"):
        assert packed.backend_choice().backend == "reference"
    on_meta = packed.to("meta")
    assert on_meta.backend_choice().backend == "reference"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PackedLSTM(3, 4), TypeError, r"PackedLSTM: expected PackedLSTM.of\(lstm, dtype\)"),
        (lambda: PackedLSTM.of(nn.GRU(3, 4)), TypeError, "lstm: expected a torch.nn.LSTM or fast"),
        (
            lambda: PackedLSTM.of(PackedLSTM.of(nn.LSTM(3, 4))),
            TypeError,
            "lstm: expected a torch.n",
        ),
        (lambda: PackedLSTM.of(3), TypeError, "lstm: expected a torch.nn.LSTM or fast_s2s.LSTM"),
        (
            lambda: PackedLSTM.of(nn.LSTM(3, 4), torch.float16),
            ValueError,
            "dtype: expected one of torch.float32, torch.float64, torch.bfloat16, torch.int8, got",
        ),
        (lambda: PackedLSTM.of(nn.LSTM(3, 4), "int8"), ValueError, "dtype: expected one of torch"),
        (
            lambda: PackedLSTM.of(nn.LSTM(3, 4, device="meta")),
            ValueError,
            "lstm: expected weights on the CPU, got some on meta",
        ),
        (lambda: pack_lstm(3), TypeError, "model: expected a torch.nn.Module, got int"),
        (lambda: made(torch.int8)[0](torch.zeros(2, 1, 6)), RuntimeError, "input.size.-1. must be"),
        (lambda: made(torch.int8)[0](torch.zeros(0, 1, 7)), RuntimeError, "Expected sequence len"),
        (
            lambda: made(torch.int8)[0](torch.zeros(2, 1, 7).double()),
            ValueError,
            "input: expected dtype torch.float32, got torch.float64",
        ),
        (
            lambda: made(torch.int8)[0](
                torch.zeros(2, 1, 7), reset=torch.zeros(2, 1, dtype=torch.bool)
            ),
            ValueError,
            "reset: expected None, which is all that a PackedLSTM takes",
        ),
        (
            lambda: made(torch.int8)[0](torch.zeros(2, 1, 7), lengths=[3]),
            ValueError,
            r"lengths: expected values in 0\.\.2, got 3",
        ),
        (
            lambda: made(torch.int8)[0](torch.zeros(2, 1, 7), (torch.zeros(1, 1, 3),) * 2),
            RuntimeError,
            "Expected hidden",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_int8_sums_fit_in_32_bits():
    """Of the largest bytes and weights, in as many columns as are taken."""
    assert store(torch.ones(1, 66_311), torch.int8).values.sum(dtype=torch.int64) * 255 < 2**31
    with pytest.raises(ValueError, match="dtype: expected another than int8 for a matrix of 66312"):
        store(torch.ones(1, 66_312), torch.int8)
