"""What is computed: shapes, the same random weights and inputs for every side, the right answer."""

from __future__ import annotations

import copy
import functools
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# largest error over largest value, against float64. Gradients of weights sum over all steps and
# rows; bfloat16 rounds each output, and maybe each gate, to 2^-9, float16 to 2^-12
TOLERANCE = {"float32": 3e-5, "bfloat16": 2e-2, "float16": 5e-3}
# cuDNN multiplies float32 as tf32 unless told otherwise
CUDA_FLOAT32_TOLERANCE = 5e-3

State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """One LSTM call: `steps` times `batch` rows, hidden size `hidden`.

    training:      forward and the gradients of the input and all weights for a given gradient of
                   the output. Else inference
    ragged:        lengths drawn uniformly from 1..steps, one row as long as steps
    inputs:        input size; None: `hidden`
    bidirectional: both directions
    proj:          size of the projected state; 0: none
    """

    steps: int
    batch: int
    hidden: int
    layers: int = 1
    dtype: str = "float32"
    training: bool = False
    ragged: bool = False
    inputs: int | None = None
    bidirectional: bool = False
    proj: int = 0

    def __str__(self) -> str:
        parts = [f"T={self.steps} B={self.batch} H={self.hidden}"]
        parts += [f"I={self.inputs}"] if self.inputs else []
        parts += [f"L={self.layers}"] if self.layers > 1 else []
        parts += [f"proj={self.proj}"] if self.proj else []
        parts += ["bidirectional"] if self.bidirectional else []
        parts += [self.dtype] if self.dtype != "float32" else []
        parts += ["ragged"] if self.ragged else []
        return " ".join([*parts, "fwd+bwd" if self.training else "inference"])

    @property
    def torch_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def plain(self) -> bool:
        """One direction, no projection, as wide in as out."""
        return not (self.inputs or self.bidirectional or self.proj)

    @property
    def directions(self) -> int:
        return 1 + self.bidirectional

    @property
    def input_size(self) -> int:
        return self.inputs or self.hidden

    @property
    def output_size(self) -> int:
        """Of one direction."""
        return self.proj or self.hidden

    def layer_inputs(self) -> list[int]:
        """Width of what each layer reads."""
        above = self.directions * self.output_size
        return [self.input_size] + (self.layers - 1) * [above]

    def flops(self, tokens: int) -> float:
        """Of the matrix products over `tokens` steps of a row; backward counts as two forwards."""
        step = 4 * self.hidden * self.output_size + self.hidden * self.proj
        weights = sum(4 * self.hidden * width + step for width in self.layer_inputs())
        forward = 2.0 * tokens * self.directions * weights
        return 3 * forward if self.training else forward

    def weight_bytes(self) -> float:
        """Weights that one inference call reads: W_hh once a step, W_ih once."""
        step = 4 * self.hidden * self.output_size + self.hidden * self.proj
        once = sum(4 * self.hidden * width for width in self.layer_inputs())
        numbers = self.directions * (self.layers * self.steps * step + once)
        return float(numbers * self.torch_dtype.itemsize)

    def weights_size(self) -> int:
        """Bytes of all weight matrices."""
        step = 4 * self.hidden * self.output_size + self.hidden * self.proj
        numbers = sum(4 * self.hidden * width + step for width in self.layer_inputs())
        return self.directions * numbers * self.torch_dtype.itemsize


class Problem:
    """A workload's tensors, drawn from a seed of its own, and its results in float64."""

    def __init__(self, workload: Workload, device: torch.device | str = "cpu") -> None:
        self.workload = workload
        self.device = torch.device(device)
        steps, batch = workload.steps, workload.batch
        layers, width = workload.layers * workload.directions, workload.output_size
        # the generator is the workload's own: a filtered run has the same inputs as a full one
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(str(workload).encode()))
            self._module = self.make_module()
            self._x = torch.randn(steps, batch, workload.input_size)
            self._hx = (
                torch.randn(layers, batch, width),
                torch.randn(layers, batch, workload.hidden),
            )
            self._cotangent = torch.randn(steps, batch, workload.directions * width)
            # on the CPU, where packing wants them
            self.lengths = torch.randint(1, steps + 1, (batch,)) if workload.ragged else None
        if self.lengths is not None:
            self.lengths[-1] = steps
            self._cotangent *= self._valid

    def make_module(self) -> nn.LSTM:
        """The layers that every side has the weights of."""
        workload = self.workload
        return nn.LSTM(
            workload.input_size,
            workload.hidden,
            workload.layers,
            bidirectional=workload.bidirectional,
            proj_size=workload.proj,
        ).to(workload.torch_dtype)

    def run(self, module: nn.Module, x: Tensor, hx: State) -> tuple[Tensor, State]:
        """A whole call of such a module in float64, for the right answer."""
        found: tuple[Tensor, State]
        if self.lengths is None:
            found = module(x, hx)
            return found
        packed = pack_padded_sequence(x, self.lengths, enforce_sorted=False)
        packed, state = module(packed, hx)
        y, _ = pad_packed_sequence(packed, total_length=self.workload.steps)
        return y, state

    @property
    def _valid(self) -> Tensor:
        assert self.lengths is not None
        return (torch.arange(self.workload.steps).unsqueeze(1) < self.lengths).unsqueeze(2)

    @property
    def valid(self) -> Tensor:
        """Bool (T, B, 1): the steps inside each row's length."""
        return self._valid.to(self.device)

    @property
    def device_lengths(self) -> Tensor | None:
        """The lengths beside the other tensors."""
        return None if self.lengths is None else self.lengths.to(self.device)

    @property
    def tokens(self) -> int:
        """Steps of rows, without padding."""
        if self.lengths is not None:
            return int(self.lengths.sum())
        return self.workload.steps * self.workload.batch

    @property
    def tolerance(self) -> float:
        """Largest error over largest value that a side may have."""
        if self.device.type == "cuda" and self.workload.dtype == "float32":
            return CUDA_FLOAT32_TOLERANCE
        return TOLERANCE[self.workload.dtype]

    def module(self, dtype: torch.dtype | None = None) -> nn.LSTM:
        """A fresh `nn.LSTM` with the weights, by default of the workload's type."""
        module = copy.deepcopy(self._module)
        return module.to(self.device, dtype or self.workload.torch_dtype)

    def x(self, dtype: torch.dtype | None = None) -> Tensor:
        """(T, B, I); rounded to the workload's type whatever `dtype`. Requires grad in training."""
        return self._cast(self._x, dtype).requires_grad_(self.workload.training)

    def hx(self, dtype: torch.dtype | None = None) -> State:
        """h_0 (layers, B, R) and c_0 (layers, B, H); rounded as `x`."""
        return self._cast(self._hx[0], dtype), self._cast(self._hx[1], dtype)

    def cotangent(self, dtype: torch.dtype | None = None) -> Tensor:
        """Gradient of the output, as large, zero past the lengths; rounded as `x`."""
        return self._cast(self._cotangent, dtype)

    def _cast(self, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        own = self.workload.torch_dtype
        return tensor.to(self.device, own, copy=True).to(dtype or own)

    @functools.cached_property
    def expected(self) -> dict[str, Tensor]:
        """y, h_n, c_n and in training d_x and d_<weight>, by `nn.LSTM` in float64."""
        module, x, hx = self.module(torch.float64), self.x(torch.float64), self.hx(torch.float64)
        y, (h_n, c_n) = self.run(module, x, hx)
        found = {"y": y, "h_n": h_n, "c_n": c_n}
        if self.workload.training:
            leaves = {"x": x, **dict(module.named_parameters())}
            gradients = torch.autograd.grad(y, list(leaves.values()), self.cotangent(torch.float64))
            found |= gradient_names(leaves, gradients)
        return {name: tensor.detach() for name, tensor in found.items()}


def gradient_names(leaves: dict[str, Tensor], gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The gradients by the names the gate knows them by."""
    return {f"d_{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
