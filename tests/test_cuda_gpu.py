"""The CUDA kernels on a GPU: everything the emulator cannot show. Skipped where there is none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers_emulator import tf32_allowed
from helpers_lstm import NAMES, Case, make_inputs
from helpers_triton import compare, on_device

import fast_s2s
from fast_s2s import backends, ops, reference

if not torch.cuda.is_available() or not backends.cuda_loaded:
    pytest.skip(f"no GPU with the CUDA library: {backends.cuda_reason}", allow_module_level=True)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASES = [
    Case(1, 1, 1),
    Case(1, 3, 17),
    Case(63, 3, 17, lengths=True, reset=True, reverse=True),
    Case(5, 1, 500),
    Case(7, 33, 128, lengths=True),
    Case(9, 16, 512, reset=True),
    Case(6, 8, 1024),
    Case(4, 130, 300, lengths=True, reverse=True),
    Case(3, 4, 2500, bias=False),
    Case(1, 1, 3, projection=1),
    Case(9, 5, 100, projection=33, lengths=True, reset=True, reverse=True),
    Case(5, 40, 700, projection=512, lengths=True),
    Case(4, 8, 2048, projection=640),
]


@pytest.fixture(autouse=True)
def _native():
    with fast_s2s.backend("native"):
        yield


@pytest.mark.parametrize("save", [reference.SAVE_GATES, reference.SAVE_CELLS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, dtype, save, assert_close):
    compare(make_inputs(case, dtype), assert_close, save=save)


@pytest.mark.parametrize("projection", [0, 60])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_variant_gives_the_same_bits(dtype, projection, monkeypatch):
    # plans choose few of them for these sizes
    case = Case(9, 37, 200, projection=projection, lengths=True, reset=True)
    inputs = on_device(make_inputs(case, dtype))
    names = (*NAMES, *(f"d {name}" for name in inputs.names))
    expected = inputs.run()
    forms = [("block", 1), ("grid", 1), ("stream", 1), *(("cluster", n) for n in (2, 4, 8, 16))]
    for variant, blocks in forms:
        if blocks > 1 and torch.cuda.get_device_capability() < (9, 0):
            continue
        monkeypatch.setenv("FAST_S2S_CUDA_VARIANT", variant)
        monkeypatch.setenv("FAST_S2S_CUDA_CLUSTER", str(blocks))
        for name, ours, theirs in zip(names, inputs.run(), expected, strict=True):
            assert torch.equal(ours, theirs), (variant, blocks, name)


@pytest.mark.parametrize("hidden", [64, 256, 768, 1536])
def test_a_thousand_runs_give_the_same_bits(hidden):
    inputs = on_device(make_inputs(Case(20, 12, hidden, lengths=True), torch.bfloat16))
    first = inputs.run()
    for _ in range(1000):
        assert all(torch.equal(a, b) for a, b in zip(first, inputs.run(), strict=True))


@pytest.mark.parametrize("hidden", [64, 512, 1024])
def test_cuda_graph(hidden):
    inputs = on_device(make_inputs(Case(6, 3, hidden, lengths=True)))
    arguments = (*inputs.arguments([t.detach() for t in inputs.tensors]), reference.SAVE_NONE)
    with torch.no_grad():
        expected = ops.lstm_forward(*arguments)[0]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = ops.lstm_forward(*arguments)[0]
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("hidden", [64, 512, 1024])
def test_cuda_graph_of_forward_and_backward(hidden):
    inputs = on_device(make_inputs(Case(6, 3, hidden, lengths=True), torch.bfloat16))
    # what torch makes at its first call may not be made while capturing
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = inputs.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = inputs.run()
    for tensor in found:
        tensor.detach().zero_()
    for _ in range(3):
        graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_two_streams_at_once():
    inputs = [on_device(make_inputs(Case(50, 4, 512))) for _ in range(2)]
    expected = [i.run()[0] for i in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    for _ in range(20):
        found = []
        for stream, i in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append(i.run()[0])
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_threads_launch_one_kernel_with_as_much_shared_memory_as_each_needs():
    # the most that a kernel may have is the kernel's, not the launch's
    inputs = [on_device(make_inputs(Case(3, 5, hidden), torch.bfloat16)) for hidden in (256, 512)]
    expected = [i.run() for i in inputs]
    torch.cuda.synchronize()

    def repeat(index: int) -> bool:
        found = [inputs[index].run() for _ in range(200)]
        return all(map(torch.equal, found[-1], expected[index]))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(repeat, [0, 1, 0, 1]))


def test_no_memory_is_lost():
    # by torch's allocator, which all of it comes from: other processes share the device
    inputs = on_device(make_inputs(Case(3, 2, 200)))
    inputs.run()
    before = torch.cuda.memory_allocated()
    for _ in range(10_000):
        inputs.run()
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("options", [{}, {"proj_size": 100}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_directions_at_once(dtype, options, assert_close):
    lstm = fast_s2s.LSTM(70, 300, bidirectional=True, **options).to("cuda", dtype)
    twin = fast_s2s.LSTM(70, 300, bidirectional=True, **options).double()
    twin.load_state_dict({name: value.double() for name, value in lstm.state_dict().items()})
    x = torch.randn(9, 11, 70).to(dtype)
    lengths = torch.randint(0, 10, (11,))
    results = []
    for module, value in ((lstm, x.cuda()), (twin, x.double())):
        value.requires_grad_()
        with fast_s2s.backend("native" if module is lstm else "reference"):
            y, (h, c) = module(value, lengths=lengths)
        (y.square().sum() + h.sum() + c.square().sum()).backward()
        results.append([y, h, c, value.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours.cpu(), theirs, "bidirectional", dtype)


@pytest.mark.parametrize("hidden", [64, 512, 1024])
def test_tf32_follows_torchs_switch(hidden, assert_close):
    inputs = on_device(make_inputs(Case(5, 4, hidden)))
    exact = inputs.run()
    with tf32_allowed():
        rough = inputs.run()
    assert not torch.equal(rough[0], exact[0])
    assert_close(rough[0].cpu(), exact[0].cpu(), "y", torch.float16)


def test_a_whole_cluster_or_grid_that_has_no_room_is_planned_again():
    # what a second process with most of the SMs leaves cannot be had here; a kernel that fills them
    # delays a cooperative launch, and must not make it fail
    inputs = on_device(make_inputs(Case(20, 4, 1024), torch.bfloat16))
    expected = inputs.run()[0]
    busy, mine = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(busy):
        a = torch.randn(8192, 8192, device="cuda")
        for _ in range(20):
            a = (a @ a).clamp(-1, 1)
    with torch.cuda.stream(mine):
        found = inputs.run()[0]
    torch.cuda.synchronize()
    assert torch.equal(found, expected)
