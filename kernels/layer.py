"""What forward and backward on Triton share: checked arguments, neighbouring steps."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fast_s2s.kernels import configs
from fast_s2s.reference import accumulate_dtype


class Layer(NamedTuple):
    """Checked, dense arguments that forward and backward share; `bias` is both, summed."""

    x: Tensor
    h0: Tensor
    c0: Tensor
    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor | None
    w_hr: Tensor | None
    lengths: Tensor | None
    reset: Tensor | None
    reverse: bool

    @property
    def acc(self) -> torch.dtype:
        """The type of the cell state and of sums."""
        return accumulate_dtype(self.x.dtype)

    def sizes(self) -> configs.Sizes:
        """What the choice of a kernel depends on."""
        name = str(self.x.dtype).removeprefix("torch.")
        if name == "float32" and torch.backends.cuda.matmul.fp32_precision == "tf32":
            name = "tf32"
        return configs.Sizes(
            name,
            self.x.size(0),
            self.x.size(1),
            self.c0.size(1),
            self.w_hr is not None,
            multiprocessors(self.x.device),
            shared_bytes(self.x.device),
        )

    def padded(self, *width: int, dtype: torch.dtype | None = None) -> Tensor:
        """An array (T, B, width) whose part past a row's length no kernel writes: zero there."""
        shape = (*self.x.shape[:2], *width)
        if self.lengths is None:
            return self.x.new_empty(shape, dtype=dtype)
        return self.x.new_zeros(shape, dtype=dtype)


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; the interpreter runs one program after another, so there it is one."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def shared_bytes(device: torch.device) -> int:
    """Of shared memory that a program may have; the interpreter has no bound."""
    if device.type != "cuda":
        return 1 << 30
    return _shared_bytes(torch.cuda.current_device() if device.index is None else device.index)


@functools.lru_cache(maxsize=64)
def _shared_bytes(index: int) -> int:
    import triton

    # by which triton itself refuses a launch
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    return int(properties["max_shared_mem"])


def check(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> Layer:
    """The arguments, dense; RuntimeError names the first that does not fit.

    Values of `lengths` on a GPU are not looked at, which would wait for the device; the kernels
    take them as if clipped to 0..T.
    """
    if x.dim() != 3:
        raise RuntimeError(f"x: expected (T, B, I), got {x.dim()} dimensions")
    if w_hh.dim() != 2:
        raise RuntimeError(f"w_hh: expected (4H, R), got {w_hh.dim()} dimensions")
    steps, batch, inputs = x.shape
    if w_hh.size(0) % 4 or w_hh.size(0) == 0:
        raise RuntimeError(f"w_hh: expected a first dimension 4H, got {w_hh.size(0)}")
    hidden, output = w_hh.size(0) // 4, w_hh.size(1)
    if w_hr is None and output != hidden:
        raise RuntimeError(
            f"w_hh: expected (4H, H) = ({4 * hidden}, {hidden}) without w_hr, got R = {output}"
        )
    dense_h0 = dense("h0", h0, x, (batch, output))
    dense_c0 = dense("c0", c0, x, (batch, hidden))
    dense_w_ih = dense("w_ih", w_ih, x, (4 * hidden, inputs))
    dense_w_hh = dense("w_hh", w_hh, x, (4 * hidden, output))
    biases = [dense(n, b, x, (4 * hidden,)) for n, b in (("b_ih", b_ih), ("b_hh", b_hh))]
    acc = accumulate_dtype(x.dtype)
    there = [b.to(acc) for b in biases if b is not None]
    bias = None if not there else there[0] if len(there) == 1 else there[0] + there[1]
    w_hr = dense("w_hr", w_hr, x, (output, hidden))
    lengths = dense("lengths", lengths, x, (batch,), torch.int64)
    if lengths is not None and not lengths.is_cuda and lengths.numel():
        for value in (int(lengths.min()), int(lengths.max())):
            if not 0 <= value <= steps:
                raise RuntimeError(f"lengths: expected values in 0..{steps}, got {value}")
    reset = dense("reset", reset, x, (steps, batch), torch.bool)
    assert dense_h0 is not None and dense_c0 is not None
    assert dense_w_ih is not None and dense_w_hh is not None
    return Layer(x, dense_h0, dense_c0, dense_w_ih, dense_w_hh, bias, w_hr, lengths, reset, reverse)


def dense(
    name: str,
    tensor: Tensor | None,
    like: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> Tensor | None:
    if tensor is None:
        return None
    dtype = like.dtype if dtype is None else dtype
    if tensor.dtype != dtype:
        raise RuntimeError(f"{name}: expected dtype {dtype}, got {tensor.dtype}")
    if tensor.shape != shape:
        raise RuntimeError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    if tensor.device != like.device:
        raise RuntimeError(f"{name}: expected on {like.device}, got {tensor.device}")
    return tensor.contiguous()


def previous(layer: Layer, states: Tensor, initial: Tensor) -> Tensor:
    """The state (T, B, ·) each step starts from: `states` a step earlier, `initial` at a row's
    first step, zero where it is forgotten and past the row's length."""
    before = torch.empty_like(states)
    if layer.reverse:
        before[:-1] = states[1:]
        before[-1:] = initial
    else:
        before[1:] = states[:-1]
        before[:1] = initial
    if layer.lengths is not None:
        if layer.reverse:
            before = torch.where(_begins(layer, layer.lengths), initial, before)
        before = running(layer, before)
    if layer.reset is not None:
        before = before.masked_fill(layer.reset.unsqueeze(-1), 0)
    return before


def running(layer: Layer, padded: Tensor) -> Tensor:
    """Zero past each row's length, whatever lies there."""
    if layer.lengths is None:
        return padded
    steps = torch.arange(padded.size(0), device=padded.device).unsqueeze(1)
    return padded.masked_fill((steps >= layer.lengths).unsqueeze(-1), 0)


def _begins(layer: Layer, lengths: Tensor) -> Tensor:
    """Where rows begin that run from their end."""
    steps = torch.arange(layer.x.size(0), device=layer.x.device).unsqueeze(1)
    return (steps == lengths - 1).unsqueeze(-1)


def row_of(layer: Layer, padded: Tensor, *, first: bool) -> Tensor | None:
    """Each row's first or last step to run, (B, ·); None if it is the same step of all rows that
    is cheaper to take by its number."""
    steps = padded.size(0)
    if layer.lengths is None or first != layer.reverse:
        at = steps - 1 if layer.reverse == first else 0
        return padded[at] if steps else None
    index = (
        (layer.lengths - 1).clamp(0, max(steps - 1, 0)).view(1, -1, 1).expand(1, -1, padded.size(2))
    )
    return padded.gather(0, index).squeeze(0) if steps else None


def product(a: Tensor, weight: Tensor) -> Tensor:
    """a·weightᵀ over the last dimension, summed and returned in the type of sums."""
    flat = a.reshape(-1, a.size(-1))
    acc = accumulate_dtype(a.dtype)
    if flat.is_cuda and a.dtype != acc:
        out = torch.mm(flat, weight.t(), out_dtype=acc)
    else:
        out = flat.to(acc) @ weight.to(acc).t()
    return out.reshape(*a.shape[:-1], weight.size(0))
