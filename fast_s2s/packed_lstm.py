"""`PackedLSTM`: an LSTM for inference whose weights are small, and packed once for all calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fast_s2s import backends
from fast_s2s.attention import values_in
from fast_s2s.convert import swap_modules, unusual
from fast_s2s.decoding.packed import PackedDecoder, choose_cpu_backend, read_packed
from fast_s2s.decoding.weights import CPU_DTYPES
from fast_s2s.lstm import LSTM, State
from fast_s2s.reference import accumulate_dtype
from fast_s2s.stored import Stored, store

M = TypeVar("M", bound=nn.Module)

_FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_MATRICES = ("weight_ih", "weight_hh", "weight_hr")


class PackedLSTM(LSTM):
    """What an LSTM computes in evaluation, from matrices stored as int8 or bfloat16, without
    gradients.

    Made by `PackedLSTM.of` or `pack_lstm`. `forward` is that of `LSTM`, but for `reset`, which it
    has not. Input, states, sums and output are float32 (float64 for float64 weights): only matrices
    are rounded. Buffers hold them, so `state_dict` has a quarter of the bytes with int8, and loads.

    Native on the CPU: `backend_choice` says what runs, and why.
    """

    weight_dtype: torch.dtype
    _packs: list[list[PackedDecoder]]
    # of the last call without any: its steps, rows and device, and the tensor
    _lengths: tuple[tuple[int, int, torch.device], Tensor] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Raises TypeError: a `PackedLSTM` is made of an LSTM."""
        raise TypeError("PackedLSTM: expected PackedLSTM.of(lstm, dtype)")

    @classmethod
    @torch.no_grad()
    def of(cls, lstm: nn.LSTM | LSTM, dtype: torch.dtype = torch.int8) -> PackedLSTM:
        """A copy of its weights, stored as `dtype`: int8 with a scale for each row, bfloat16,
        float32 or float64. Forward hooks go with it, and layer norm and zoneout.

        Raises TypeError for what is no LSTM, ValueError for another dtype, complex numbers or
        weights that are not on the CPU.
        """
        if not isinstance(lstm, (nn.LSTM, LSTM)) or isinstance(lstm, PackedLSTM):
            got = type(lstm).__name__
            raise TypeError(f"lstm: expected a torch.nn.LSTM or fast_s2s.LSTM, got {got}")
        if dtype not in CPU_DTYPES:
            raise ValueError(_dtype_message(dtype))
        if any(parameter.is_complex() for parameter in lstm.parameters()):
            raise ValueError("lstm: expected real numbers, got complex ones")
        device = lstm.weight_ih_l0.device
        if device.type != "cpu":
            raise ValueError(f"lstm: expected weights on the CPU, got some on {device}")
        plain = LSTM(
            *(lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bias, lstm.batch_first),
            bidirectional=lstm.bidirectional,
            proj_size=lstm.proj_size,
            device="meta",
            **_variant_of(lstm),
        )
        made = cls.__new__(cls)
        made.__dict__.update(plain.__dict__)
        made._parameters.clear()
        for name in _FORWARD_HOOKS:
            made.__dict__[name] = lstm.__dict__[name].copy()
        made.weight_dtype = dtype
        for suffix in made._suffixes():
            made._keep(suffix, lstm)
        made._packs = made._packed()
        return made.eval()

    def _suffixes(self) -> list[str]:
        """Of the weights of each layer and direction."""
        return [names[0].removeprefix("weight_ih") for names in self._all_weights]

    def _keep(self, suffix: str, lstm: nn.Module) -> None:
        for name in _MATRICES[: 3 if self.proj_size else 2]:
            stored = store(getattr(lstm, name + suffix), self.weight_dtype)
            self.register_buffer(name + suffix, stored.values)
            if stored.scale is not None:
                self.register_buffer(f"{name}_scale{suffix}", stored.scale)
        acc = accumulate_dtype(self.weight_dtype)
        biases = [getattr(lstm, name + suffix) for name in ("bias_ih", "bias_hh") if self.bias]
        total = torch.zeros(4 * self.hidden_size, dtype=acc)
        for bias in biases:
            total += bias.to(acc)
        self.register_buffer("bias" + suffix, total)
        for name in self._norms_of(suffix):
            self.register_buffer(name, getattr(lstm, name).to(acc, copy=True))

    def _norms_of(self, suffix: str) -> list[str]:
        """The names of the parameters of layer norm of a layer and direction, if it has any."""
        if self.norm is None:
            return []
        return [name for name, _ in self._norm_names() if name.endswith(suffix)]

    def _packed(self) -> list[list[PackedDecoder]]:
        """For each call of the op its packs: of all layers, or of a layer's two directions."""
        suffixes = self._suffixes()
        if not self.bidirectional:
            return [[self._pack(suffixes)]]
        return [
            [self._pack([suffix]) for suffix in suffixes[first : first + 2]]
            for first in range(0, len(suffixes), 2)
        ]

    def _pack(self, suffixes: list[str]) -> PackedDecoder:
        layers, biases, norms = [], [], []
        for suffix in suffixes:
            norms.append(tuple(getattr(self, name) for name in self._norms_of(suffix)))
            found = [
                Stored(getattr(self, name + suffix), getattr(self, f"{name}_scale{suffix}", None))
                for name in _MATRICES[: 3 if self.proj_size else 2]
            ]
            layers.append((found[0], found[1], found[2] if self.proj_size else None))
            biases.append(getattr(self, "bias" + suffix))
        # values are read, and none is written: a vocabulary of one stands for none
        first = layers[0]
        embedding = biases[0].new_zeros(1, first[0].values.size(1))
        output = store(biases[0].new_zeros(1, first[1].values.size(1)), self.weight_dtype)
        none = biases[0].new_zeros(1)
        packed = PackedDecoder(
            self.weight_dtype,
            False,
            embedding,
            tuple(layers),
            (*biases, none),
            output,
            norms=() if self.norm is None else tuple(norms),
            zoneout=self.zoneout,
        )
        if packed.backend == "native" and packed.device.type == "cpu":
            # now, rather than in the first call, which torch.compile may trace
            _ = packed.packed, packed.header
        return packed

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """As torch does, but that another type of the input is no reason to convert the model."""
        acc = accumulate_dtype(self.weight_dtype)
        if input.dtype != acc and not torch._C._is_any_autocast_enabled():
            raise ValueError(f"input: expected dtype {acc}, got {input.dtype}")
        super().check_input(input, batch_sizes)

    def backend_choice(self) -> backends.Choice:
        """Which backend runs this layer, and why."""
        device = self._weight("bias_l0").device.type
        return choose_cpu_backend(device, self.weight_dtype, "packed weights are")

    def extra_repr(self) -> str:
        """As an LSTM's, and how the matrices are stored."""
        return f"{super().extra_repr()}, dtype={self.weight_dtype}"

    def _weight(self, name: str) -> Any:
        # for the checks of `forward`, which compare the input's type and device with a weight's
        return self._buffers["bias_l0"]

    def _run(
        self, x: Tensor, hx: State | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        if reset is not None:
            raise ValueError("reset: expected None, which is all that a PackedLSTM takes")
        given = (x,) if hx is None else (x, *hx)
        if torch.is_grad_enabled() and any(value.requires_grad for value in given):
            raise RuntimeError(
                "PackedLSTM has no gradients: expected a call inside torch.no_grad() or "
                "torch.inference_mode(), or input that needs none"
            )
        if torch.jit.is_tracing():
            raise RuntimeError(
                "PackedLSTM: expected no torch.jit.trace, whose interpreter cannot call its op; "
                "torch.export and torch.compile take it"
            )
        if x.size(0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        acc = accumulate_dtype(self.weight_dtype)
        if lengths is None:
            lengths = self._whole_lengths(x)
        h, c = self._zero_state(x, x.size(1)) if hx is None else hx
        h, c, y = values_in(h, acc), values_in(c, acc), values_in(x, acc).transpose(0, 1)
        # a model's own products are autocast's, those of packed weights are not
        if torch._C._is_any_autocast_enabled():
            with torch.autocast(x.device.type, enabled=False):
                h_n, c_n, y = self._read(h, c, y, lengths)
        else:
            h_n, c_n, y = self._read(h, c, y, lengths)
        # dense, as torch's is; with `batch_first` it is turned back
        output = y.transpose(0, 1)
        return output if self.batch_first else output.contiguous(), (h_n, c_n)

    def _read(
        self, h: Tensor, c: Tensor, x: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h_n, c_n and the output (N, L, D·R) of x (N, L, I)."""
        if len(self._packs) == 1:
            return read_packed(self._packs[0], h, c, x, lengths, outputs=True)
        ends: list[list[Tensor]] = []
        for packs, h_0, c_0 in zip(self._packs, h.split(2), c.split(2), strict=True):
            *end, x = read_packed(packs, h_0, c_0, x, lengths, outputs=True)
            ends.append(end)
        h_n, c_n = (torch.cat(parts) for parts in zip(*ends, strict=True))
        return h_n, c_n, x

    def _whole_lengths(self, x: Tensor) -> Tensor:
        """(N,) of as many steps as there are; the last one, if it fits."""
        steps, batch = x.shape[:2]
        last = self._lengths
        if torch.compiler.is_compiling():
            return torch.full((batch,), steps, device=x.device)
        if last is None or last[0] != (steps, batch, x.device):
            # made where inference mode is off too, by whoever comes first
            with torch.inference_mode(False):
                made = torch.full((batch,), steps, device=x.device)
            self._lengths = last = (steps, batch, x.device), made
        return last[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLSTM:
        """Moves buffers to another device; their types are what they are."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(buffer).device)
        self._packs = self._packed()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # packs are for this machine's vectors
        return {**self.__dict__, "_packs": [], "_lengths": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._packs = self._packed()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._packs = self._packed()


def pack_lstm(model: M, dtype: torch.dtype = torch.int8) -> M:
    """Swap every `torch.nn.LSTM` and `fast_s2s.LSTM` inside `model` for a `PackedLSTM`, in place.

    Returns the model; a model that is itself an LSTM is returned packed. A module used in several
    places stays one module. Subclasses (parametrised modules too), modules with a `forward` of
    their own, and those of a `Seq2Seq`, which packs by itself (see `compile_decoder`), are left
    alone, with a warning; LSTMCells without one.

    Raises TypeError for anything but a module, ValueError as `PackedLSTM.of`.
    """
    if dtype not in CPU_DTYPES:
        raise ValueError(_dtype_message(dtype))
    return swap_modules(
        model,
        "pack_lstm",
        lambda module: isinstance(module, (nn.LSTM, LSTM)) and not isinstance(module, PackedLSTM),
        _why_not,
        lambda module: PackedLSTM.of(module, dtype),  # type: ignore[arg-type]
    )


def _why_not(module: nn.Module) -> str:
    if type(module) not in (nn.LSTM, LSTM):
        return "a subclass"
    return unusual(module)


def _variant_of(lstm: nn.LSTM | LSTM) -> dict[str, Any]:
    """Its options that count in evaluation."""
    if not isinstance(lstm, LSTM):
        return {}
    hidden, cell = lstm.zoneout
    return {"norm": lstm.norm, "zoneout_hidden": hidden, "zoneout_cell": cell}


def _dtype_message(dtype: object) -> str:
    return f"dtype: expected one of {', '.join(map(str, CPU_DTYPES))}, got {dtype!r}"
