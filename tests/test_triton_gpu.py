"""What only a GPU shows of the Triton kernels: many programs at once, graphs, no second compile."""

from __future__ import annotations

import pytest
import torch
from helpers_lstm import Case, make_inputs
from helpers_triton import DEVICE, call_on_device, compare, on_device
from helpers_variant_call import Call

import fast_s2s
from fast_s2s import backends, ops, reference

if not torch.cuda.is_available() or backends.unsupported("triton", "cuda", torch.float32):
    pytest.skip("no GPU with triton", allow_module_level=True)

from fast_s2s.kernels import configs


@pytest.fixture(autouse=True)
def _triton():
    with fast_s2s.backend("triton"):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("direction", configs.DIRECTIONS)
@pytest.mark.parametrize("index", range(max(map(len, configs.table().values()))))
def test_every_row_of_the_table(index, direction, dtype, assert_close):
    rows = configs.table()[direction]
    kind = str(dtype).removeprefix("torch.")
    if index >= len(rows) or kind not in rows[index].types:
        pytest.skip("no such row for this type")
    row = rows[index]
    hidden = min(row.max_hidden, 700)
    case = Case(33, min(row.max_batch, 35), hidden, inputs=20, lengths=True, reset=True)
    with configs.forced(**{direction: row.config}):
        compare(make_inputs(case, dtype), assert_close)
        compare(make_inputs(case.__class__(9, 1, hidden - 3, reverse=True), dtype), assert_close)


def test_a_thousand_runs_of_a_grid_give_the_same_bits():
    inputs = on_device(make_inputs(Case(20, 40, 256), torch.bfloat16))
    config = configs.Config("grid", 16, 32, 64)
    with configs.forced(config, config):
        first = inputs.run()
        for _ in range(1000):
            assert all(torch.equal(a, b) for a, b in zip(first, inputs.run(), strict=True))


@pytest.mark.parametrize("kernel", ["step", "grid", "single"])
def test_cuda_graph(kernel):
    inputs = on_device(make_inputs(Case(6, 3, 48, lengths=True)))
    arguments = (*inputs.arguments([t.detach() for t in inputs.tensors]), reference.SAVE_NONE)
    config = configs.Config(kernel, 16, 64 if kernel == "single" else 16, 16)
    with configs.forced(config), torch.no_grad():
        expected = ops.lstm_forward(*arguments)[0]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = ops.lstm_forward(*arguments)[0]
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("projection", [0, 16])
def test_cuda_graph_of_layer_norm(projection):
    case = Case(6, 3, 48, projection=projection, lengths=True, reset=True)
    call = call_on_device(Call(case, torch.float32))
    arguments = [t.detach() if isinstance(t, torch.Tensor) else t for t in call.arguments()]
    forward = torch.ops.fast_s2s.lstm_variant_forward_triton
    backward = torch.ops.fast_s2s.lstm_variant_backward_triton

    def run():
        y, h_n, c_n, *saved = forward(*arguments)
        found = backward(*call.inputs.cotangents, *arguments[:-1], y, *saved, True, True)
        return [y, h_n, c_n, *found]

    expected = run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    for result in results:
        result.zero_()
    graph.replay()
    assert all(map(torch.equal, results, expected))


def test_two_streams_at_once():
    inputs = [on_device(make_inputs(Case(50, 4, 128))) for _ in range(2)]
    config = configs.Config("grid", 16, 32, 64)
    with configs.forced(config, config):
        expected = [i.run()[0] for i in inputs]
        streams = [torch.cuda.Stream() for _ in inputs]
        for _ in range(20):
            found = []
            for stream, i in zip(streams, inputs, strict=True):
                with torch.cuda.stream(stream):
                    found.append(i.run()[0])
            torch.cuda.synchronize()
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_another_length_or_batch_does_not_compile_again():
    import triton

    compiled = []
    hook = triton.knobs.runtime.jit_post_compile_hook
    triton.knobs.runtime.jit_post_compile_hook = lambda **facts: compiled.append(facts)
    try:
        for kernel in ("step", "grid", "single"):
            config = configs.Config(kernel, 16, 64, 16)
            with configs.forced(config, config):
                on_device(make_inputs(Case(7, 3, 48))).run()
                before = len(compiled)
                for steps, batch in ((1, 1), (16, 16), (33, 5)):
                    on_device(make_inputs(Case(steps, batch, 48))).run()
                inputs = on_device(make_inputs(Case(7, 3, 48)))
                # as parts of larger arrays, which begin anywhere: c0, and h0 but in the step kernel
                for index in (2,) if kernel == "step" else (1, 2):
                    whole = torch.zeros(3 * 48 + 1, device=DEVICE)
                    part = whole[1:].view(3, 48).copy_(inputs.tensors[index].detach())
                    inputs.tensors[index] = part.requires_grad_()
                inputs.run()
                assert len(compiled) == before, kernel
        call_on_device(Call(Case(7, 3, 48, lengths=True, reset=True), torch.float32)).run()
        before = len(compiled)
        for steps, batch in ((1, 1), (16, 16), (33, 5)):
            case = Case(steps, batch, 48, lengths=True, reset=True)
            call_on_device(Call(case, torch.float32)).run()
        assert len(compiled) == before, "layer norm"
    finally:
        triton.knobs.runtime.jit_post_compile_hook = hook
    assert DEVICE == "cuda"
