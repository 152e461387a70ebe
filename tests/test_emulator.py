"""The emulator itself: fragment layouts as the PTX manual has them, and that it bites."""

from __future__ import annotations

import ctypes

import pytest
import torch


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def call(function, *arguments) -> str:
    function.restype = ctypes.c_char_p
    return function(*arguments).decode()


# the PTX manual, "Matrix Fragments for mma.m16n8k16" and ".m16n8k8": element i of a lane's a, b, d
def a16(lane, i):
    row = lane // 4 + (8 if i in (2, 3, 6, 7) else 0)
    return row, lane % 4 * 2 + i % 2 + (8 if i >= 4 else 0)


def b16(lane, i):
    return lane % 4 * 2 + i % 2 + (8 if i >= 2 else 0), lane // 4


def a_tf32(lane, i):
    return lane // 4 + (8 if i in (1, 3) else 0), lane % 4 + (4 if i >= 2 else 0)


def b_tf32(lane, i):
    return lane % 4 + 4 * i, lane // 4


def d_element(lane, i):
    return lane // 4 + (8 if i >= 2 else 0), lane % 4 * 2 + i % 2


def scatter(matrix, layout, count):
    return torch.stack(
        [torch.stack([matrix[layout(lane, i)] for i in range(count)]) for lane in range(32)]
    )


@pytest.mark.parametrize("kind", ["bf16", "fp16", "tf32"])
def test_matrix_product_fragments(emulator, kind):
    depth = 8 if kind == "tf32" else 16
    a, b, d = torch.randn(16, depth), torch.randn(depth, 8), torch.randn(16, 8)
    if kind == "tf32":
        a, b = ((t.view(torch.int32) & ~0x1FFF).view(torch.float32) for t in (a, b))
        fragments = scatter(a, a_tf32, 4), scatter(b, b_tf32, 2)
    else:
        dtype = torch.bfloat16 if kind == "bf16" else torch.float16
        a, b = a.to(dtype), b.to(dtype)
        fragments = scatter(a, a16, 8), scatter(b, b16, 4)
        a, b = a.float(), b.float()
    sums = scatter(d, d_element, 4).contiguous()
    number = ["bf16", "fp16", "tf32"].index(kind)
    operands = [pointer(t) for t in (*fragments, sums)]
    assert call(emulator.library.emulator_mma, number, *operands) == ""
    torch.testing.assert_close(sums, scatter(d + a @ b, d_element, 4))


def test_operands_not_rounded_to_tf32_are_an_error(emulator):
    a, b, d = torch.full((32, 4), 0.1), torch.ones(32, 2), torch.zeros(32, 4)
    wrong = call(emulator.library.emulator_mma, 2, pointer(a), pointer(b), pointer(d))
    assert "operand not rounded to tf32" in wrong


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_load_matrices(emulator, count, transposed):
    rows = torch.arange(64 * count, dtype=torch.int16)
    out = torch.zeros(32, count, dtype=torch.int32)
    load = emulator.library.emulator_ldmatrix
    assert call(load, count, int(transposed), pointer(rows), pointer(out)) == ""
    matrices = rows.view(count, 8, 8)
    if transposed:
        matrices = matrices.transpose(1, 2)
    pairs = out.view(torch.int16).view(32, count, 2)
    for lane in range(32):
        # "thread i holds row i / 4, elements 2·(i % 4) and the next"
        column = 2 * (lane % 4)
        assert torch.equal(pairs[lane], matrices[:, lane // 4, column : column + 2])


RIGHT = [
    ("block barrier", 1, 1),
    ("named barrier", 1, 1),
    ("warp barrier", 1, 1),
    ("shuffle", 1, 1),
    ("copy waited for", 1, 1),
    ("copy group waited for", 1, 1),
    ("cluster", 4, 2),
    ("grid", 8, 1),
    # more blocks than multiprocessors, one after another
    ("block barrier", 30, 1),
    ("cluster", 30, 2),
]
WRONG = [
    ("no block barrier", 1, 1, "race: read|unwritten"),
    ("warp barrier between warps", 1, 1, "race: read|unwritten"),
    ("no warp barrier", 1, 1, "race: read|unwritten"),
    ("overwritten while read", 1, 1, "race: (read|write)"),
    ("unwritten shared memory", 1, 1, "shared memory, offset .* unwritten"),
    ("unwritten global memory", 1, 1, "global memory, offset .* unwritten"),
    ("shared memory out of bounds", 1, 1, r"offset 4096 \+ 4 is beyond 4096 bytes"),
    ("misaligned shared memory", 1, 1, "misaligned offset 2"),
    ("global memory out of bounds", 1, 1, "global memory: read out of bounds"),
    ("write to an input", 1, 1, "global memory: write to an input"),
    ("named barrier for too many", 1, 1, "deadlock: 64 threads wait at sync_named"),
    ("half of the block at a barrier", 1, 1, "deadlock: 32 threads wait at sync_threads, first bl"),
    ("lanes at different operations", 1, 1, "lanes of one warp meet at"),
    ("copy not waited for", 1, 1, "unwritten"),
    ("copy left behind", 1, 1, "copies that nobody waited for|race"),
    ("cluster without barrier", 2, 2, "race|unwritten"),
    ("cluster without barrier before", 2, 2, "the peer may not have begun"),
    ("cluster barrier never waited for", 2, 2, "arrived twice"),
    ("peer that has ended", 2, 2, "the peer has ended"),
    ("grid without waiting", 8, 1, "race|unwritten"),
    ("grid without arriving", 8, 1, "trap"),
    ("trap", 1, 1, "block 0 warp . lane .*: trap"),
]


def test_float16_is_torchs(emulator):
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    # each number, what lies between it and the next, ties among them, and any bits
    between = torch.nextafter(halves, torch.zeros(())), (halves + halves.roll(-1)) / 2
    any_bits = torch.randint(-(2**31), 2**31, (2**18,)).to(torch.int32).view(torch.float32)
    values = torch.cat((halves, *between, any_bits, any_bits * 1e-30))
    found = torch.empty(len(values), dtype=torch.float16)
    back = torch.empty_like(values)
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (values, found, back))
    emulator.library.emulator_half(*pointers, ctypes.c_int64(len(values)))
    assert torch.equal(back.nan_to_num(7.0), found.float().nan_to_num(7.0))
    expected, numbers = values.half(), ~values.isnan()
    assert torch.equal(found.isnan(), ~numbers)
    assert torch.equal(found[numbers].view(torch.int16), expected[numbers].view(torch.int16))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "blocks", "cluster"), RIGHT)
def test_right_kernels_pass(emulator, name, blocks, cluster, seed):
    emulator.configure(seed=seed + 1)
    run = emulator.library.emulator_scenario
    assert call(run, name.encode(), blocks, cluster, int(name == "grid")) == ""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "blocks", "cluster", "message"), WRONG, ids=lambda v: str(v)[:30])
def test_wrong_kernels_are_found_out(emulator, name, blocks, cluster, message, seed):
    emulator.configure(seed=seed + 1)
    run = emulator.library.emulator_scenario
    cooperative = int(name.startswith("grid"))
    with pytest.raises(RuntimeError, match=message):
        raise RuntimeError(call(run, name.encode(), blocks, cluster, cooperative))


@pytest.mark.parametrize(
    ("blocks", "cluster", "cooperative", "properties", "message"),
    [
        (9, 1, 1, {}, "too many blocks in cooperative launch"),
        (1, 1, 1, {"cooperative": 0}, "cooperative launch is not supported"),
        (4, 4, 0, {"max_cluster": 2}, "cluster larger than the device has"),
        (3, 2, 0, {}, "not whole clusters"),
        (1, 1, 0, {"shared_bytes": 4095}, "more shared memory than a block may have"),
    ],
)
def test_launches_a_device_refuses(emulator, blocks, cluster, cooperative, properties, message):
    emulator.configure(**properties)
    run = emulator.library.emulator_scenario
    assert message in call(run, b"shuffle", blocks, cluster, cooperative)
