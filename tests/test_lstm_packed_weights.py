"""Inference keeps packed weights from call to call, and is never wrong about what is in them."""

from __future__ import annotations

import copy
import ctypes
import itertools
import os
import pickle
import threading

import pytest
import torch
from helpers_native import needs_native
from torch import nn

import fast_s2s
from fast_s2s import backends

pytestmark = needs_native

STEPS = 6  # fewer than five read the weights as they are
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def make(dtype=torch.float32, **options):
    return fast_s2s.LSTM(9, 20, **options).to(dtype)


def infer(lstm, mode=torch.no_grad):
    weight = next(lstm.parameters())
    x = torch.linspace(-1, 1, STEPS * 3 * 9).reshape(STEPS, 3, 9).to(weight.dtype)
    with mode():
        return lstm(x)[0].clone()


def packed_since(count=0):
    return backends.extension.panels_packed() - count


def from_scratch(lstm):
    """The same to the bit, by a thread that has packed nothing yet."""
    result = []
    thread = threading.Thread(target=lambda: result.append(infer(lstm)))
    thread.start()
    thread.join()
    return result[0]


def assert_current(lstm, mode=torch.no_grad):
    """That `lstm` runs on its weights as they are now."""
    y = infer(lstm, mode)
    assert torch.equal(y, from_scratch(lstm))
    return y


def optimize(lstm, make_optimizer):
    optimizer = make_optimizer(lstm.parameters())
    lstm(torch.randn(STEPS, 3, 9, dtype=next(lstm.parameters()).dtype))[0].square().sum().backward()
    optimizer.step()


def in_place(lstm):
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.copy_(torch.randn_like(parameter))


def through_data(lstm):
    # as moving averages of weights are often written: no version counts it
    for parameter in lstm.parameters():
        parameter.data.mul_(0.9).add_(0.1)


def flip_signs_through_data(lstm):
    lstm.weight_hh_l0.data.neg_()


def one_weight_through_data(lstm):
    lstm.weight_hh_l0.data[3, 2] += 1


def swap_two_weights_through_data(lstm):
    lstm.weight_hh_l0.data[[0, 1]] = lstm.weight_hh_l0.data[[1, 0]]


def other_data(lstm):
    for parameter in lstm.parameters():
        parameter.data = torch.randn_like(parameter.data)


def as_numpy(lstm):
    lstm.weight_ih_l0.detach().view(torch.int16).numpy()[:] ^= 0x80


def by_address(lstm):
    # as another process would write to shared weights
    weight = lstm.weight_hh_l0
    ctypes.memset(weight.data_ptr(), 0, weight.numel() * weight.element_size())


def replace(lstm):
    lstm.weight_hh_l0 = nn.Parameter(torch.randn_like(lstm.weight_hh_l0))


def swap(lstm):
    first, second = lstm.weight_hh_l0, nn.Parameter(-lstm.weight_hh_l0.detach())
    torch.utils.swap_tensors(first, second)


def load(lstm):
    lstm.load_state_dict({k: torch.randn_like(v) for k, v in lstm.state_dict().items()})


def load_by_assignment(lstm):
    state = {k: torch.randn_like(v) for k, v in lstm.state_dict().items()}
    lstm.load_state_dict(state, assign=True)


def there_and_back(lstm):
    # through a type that loses bits, perhaps into memory that was freed
    dtype = next(lstm.parameters()).dtype
    lstm.half().to(dtype)


def in_inference_mode(lstm):
    with torch.inference_mode():
        lstm.weight_ih_l0.add_(1)


def vector(lstm):
    parameters = list(lstm.parameters())
    flat = nn.utils.parameters_to_vector(parameters)
    nn.utils.vector_to_parameters(torch.randn_like(flat), parameters)


CHANGES = {
    "sgd": lambda m: optimize(m, lambda p: torch.optim.SGD(p, lr=0.1, foreach=False)),
    "sgd foreach": lambda m: optimize(m, lambda p: torch.optim.SGD(p, lr=0.1, foreach=True)),
    "adam fused": lambda m: optimize(m, lambda p: torch.optim.Adam(p, lr=0.1, fused=True)),
    **{
        change.__name__: change
        for change in (
            in_place,
            through_data,
            flip_signs_through_data,
            one_weight_through_data,
            swap_two_weights_through_data,
            other_data,
            as_numpy,
            by_address,
            replace,
            swap,
            load,
            load_by_assignment,
            there_and_back,
            in_inference_mode,
            vector,
        )
    },
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change, dtype):
    for mode, options in itertools.product(MODES.values(), ({}, {"proj_size": 7})):
        lstm = make(dtype, **options)
        before = assert_current(lstm, mode)
        if change == "in_inference_mode" and mode is torch.no_grad:
            lstm.requires_grad_(False)
        with torch.inference_mode(False):
            CHANGES[change](lstm)
        # half keeps all bits of some bfloat16 numbers
        changed = not torch.equal(assert_current(lstm, mode), before)
        assert changed or (change == "there_and_back" and dtype == torch.bfloat16)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options", [{"num_layers": 2}, {"bidirectional": True, "proj_size": 7, "bias": False}], ids=str
)
def test_unchanged_weights_are_packed_once(options, dtype, mode):
    lstm = make(dtype, **options)
    first = infer(lstm, MODES[mode])
    count = packed_since()
    for other in MODES.values():
        assert torch.equal(infer(lstm, other), first)
    assert packed_since(count) == 0
    lstm.weight_ih_l0.data[0] += 1
    assert not torch.equal(infer(lstm), first)
    # only what has changed: one panel, as the first unit is in one
    assert packed_since(count) == 1


def test_training_keeps_nothing():
    lstm = make()
    count = packed_since()
    for _ in range(2):
        lstm(torch.randn(STEPS, 3, 9))[0].sum().backward()
    assert packed_since(count) == 0


def test_weights_change_between_training_and_evaluation():
    lstm = make(dtype=torch.float64, num_layers=2)
    optimizer = torch.optim.AdamW(lstm.parameters(), lr=0.1)
    seen = []
    for _ in range(3):
        seen.append(assert_current(lstm.eval()))
        lstm.train()(torch.randn(STEPS, 3, 9, dtype=torch.float64))[0].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_tied_weights():
    # w_ih and w_hh are one tensor, and so are both layers
    lstm = fast_s2s.LSTM(9, 9, num_layers=2)
    for name in ("weight_hh_l0", "weight_ih_l1", "weight_hh_l1"):
        setattr(lstm, name, lstm.weight_ih_l0)
    before = assert_current(lstm)
    lstm.weight_ih_l0.data.mul_(2)
    assert not torch.equal(assert_current(lstm), before)
    lstm.weight_hh_l0 = nn.Parameter(torch.randn(36, 9))
    assert_current(lstm)


def test_one_memory_for_matrices_of_several_shapes():
    flat = torch.randn(4 * 32 * 32)
    for _ in range(2):
        for inputs, hidden in ((16, 16), (32, 16), (16, 32), (32, 32), (5, 17)):
            lstm = fast_s2s.LSTM(inputs, hidden, bias=False)
            for weight in lstm.parameters():
                weight.data = flat[: weight.numel()].view_as(weight)
            x = torch.randn(STEPS, 2, inputs)
            with torch.no_grad(), fast_s2s.backend("reference"):
                expected = lstm(x)[0]
            with torch.no_grad():
                torch.testing.assert_close(lstm(x)[0], expected)


def test_copies_and_pickles_are_independent():
    lstm = make()
    y = infer(lstm)
    for twin in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert torch.equal(infer(twin), y)
        twin.weight_hh_l0.data.zero_()
        assert not torch.equal(assert_current(twin), y)
        assert torch.equal(infer(lstm), y)


def test_memory_of_a_model_that_is_gone():
    expected = []
    # sooner or later new weights lie where old ones did
    for _ in range(20):
        lstm = make()
        expected.append(assert_current(lstm))
        del lstm
    assert not torch.equal(expected[0], expected[1])


def test_autocast_casts_the_weights_of_now():
    lstm = make()
    x = torch.randn(STEPS, 3, 9)

    def run():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return lstm(x)[0]

    before = run()
    assert torch.equal(run(), before)
    lstm.weight_hh_l0.data.neg_()
    assert not torch.equal(run(), before)


def test_compiled_and_exported_models_see_changes():
    lstm = make()
    x = torch.randn(STEPS, 3, 9)
    exported = torch.export.export(lstm, (x,)).module()
    compiled = torch.compile(lstm, backend="aot_eager", fullgraph=True)
    for model, weight in ((compiled, lstm.weight_hh_l0), (exported, exported.weight_hh_l0)):
        with torch.no_grad():
            before = model(x)[0]
            assert torch.equal(model(x)[0], before)
            weight.data.neg_()
            assert not torch.equal(model(x)[0], before)


def test_threads_see_each_others_changes():
    lstm = make()
    barrier = threading.Barrier(3)
    results: dict[tuple[int, int], torch.Tensor] = {}

    def work(index):
        for turn in range(4):
            results[turn, index] = infer(lstm)
            barrier.wait()
            if index == 0:
                lstm.weight_hh_l0.data.add_(0.1)
            barrier.wait()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn in range(4):
        assert all(torch.equal(results[turn, 0], results[turn, index]) for index in (1, 2))
        assert turn == 0 or not torch.equal(results[turn, 0], results[turn - 1, 0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_sees_changes_to_shared_weights():
    lstm = make()
    lstm.share_memory()
    before = infer(lstm)
    child = os.fork()
    if child == 0:
        # what the parent packed is here too
        packed = packed_since()
        good = torch.equal(infer(lstm), before) and packed_since(packed) == 0
        lstm.weight_hh_l0.data.neg_()
        os._exit(0 if good and not torch.equal(infer(lstm), before) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    # the child's write is seen here
    assert not torch.equal(assert_current(lstm), before)


def test_the_oldest_go_first():
    # two matrices each, and 128 blocks are kept
    models = [make() for _ in range(100)]
    for lstm in models:
        infer(lstm)
    count = packed_since()
    infer(models[-1])
    assert packed_since(count) == 0
    infer(models[0])
    assert packed_since(count) > 0


def test_more_weights_than_are_kept():
    # 64 MiB are: these are 96
    lstm = fast_s2s.LSTM(1024, 1024, num_layers=3, bias=False)
    x = torch.randn(STEPS, 1, 1024)
    with torch.no_grad():
        first = lstm(x)[0]
        for _ in range(2):
            assert torch.equal(lstm(x)[0], first)
        lstm.weight_hh_l0.data.neg_()
        changed = lstm(x)[0]
    assert not torch.equal(changed, first)
    assert torch.equal(changed, copy.deepcopy(lstm)(x)[0])
