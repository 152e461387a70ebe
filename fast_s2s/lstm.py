"""`LSTM` and `LSTMCell`: drop in for torch's, with fused kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fast_s2s import functional
from fast_s2s.checks import check_lengths
from fast_s2s.lstm_options import LSTMOptions

State = tuple[Tensor, Tensor]


class LSTM(LSTMOptions):
    """`torch.nn.LSTM` with kernels of its own: same arguments, parameters, results and errors.

    `forward` takes two more keyword arguments, `lengths` and `reset`. Formula: see `torch.nn.LSTM`,
    and for `norm` and zoneout `fast_s2s.reference.Variant`.

    An `nn.RNNBase` but no `nn.LSTM`: `torch.compile` refuses to trace any instance of that class.
    """

    # "save" or "recompute"; a class attribute, so that converted and older modules have it too
    memory: str = "save"

    def __init__(
        self,
        *args: Any,
        memory: str = "save",
        norm: str | None = None,
        variational_dropout: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        zoneout_hidden: float = 0.0,
        zoneout_cell: float = 0.0,
        forget_bias: float | None = None,
        recurrent_init: str = "uniform",
        **kwargs: Any,
    ) -> None:
        """LSTM(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
        bidirectional=False, proj_size=0, device=None, dtype=None), checked as `torch.nn.LSTM` does.

        memory: what training keeps for the backward pass, per step, row and hidden unit: "save"
                four gates and the cell state (20 bytes in float32; with layer norm 36); "recompute"
                the cell state (4 bytes), at the price of computing the gates twice
        norm:   None or "layer", of W_ih x, W_hh h and c
        forget_bias:    what b_ih + b_hh of the forget gates begin with; None: as torch does
        recurrent_init: "uniform" as torch does, or "orthogonal": of each gate's part of weight_hh,
                        Saxe et al. 2014, https://arxiv.org/abs/1312.6120
        variational_dropout, recurrent_dropout, weight_dropout, zoneout_hidden, zoneout_cell:
                        see `fast_s2s.functional.Regularization`

        Layer norm and zoneout, and recurrent dropout in training, have kernels on the CPU; on a
        GPU such calls run on the reference backend, as `backend_choice` says.

        Raises ValueError for another `memory`, `norm` or `recurrent_init`, a probability outside
        0..1 or a `forget_bias` without biases; TypeError and ValueError as torch does.
        """
        super().__init__("LSTM", *args, **kwargs)
        functional.check_memory(memory)
        self.memory = memory
        self._set_regularization(
            variational_dropout, recurrent_dropout, weight_dropout, zoneout_hidden, zoneout_cell
        )
        self._set_initialization(norm, forget_bias, recurrent_init)

    def extra_repr(self) -> str:
        """As torch prints it, and the further options where they are not the defaults."""
        extra = {} if self.memory == "save" else {"memory": self.memory}
        return super().extra_repr() + self._format({**extra, **self.options()})

    # torch's own checks, and so torch's own messages
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args: Any = nn.LSTM.check_forward_args
    permute_hidden: Any = nn.LSTM.permute_hidden

    @property
    def _flat_weights(self) -> list[Tensor | None]:  # type: ignore[override]
        # torch caches this list and must notice when weights are swapped; derived, it is always
        # right
        return [self._weight(name) for name in self._flat_weights_names]

    def _weight(self, name: str) -> Any:
        # parametrised weights are attributes only; plain ones are found faster where torch keeps
        # them
        parameter = self._parameters.get(name)
        return getattr(self, name, None) if parameter is None else parameter

    def _init_flat_weights(self) -> None:
        pass

    def _update_flat_weights(self) -> None:
        pass

    def _replicate_for_data_parallel(self) -> Any:
        # torch's would copy its cached list of weights
        return nn.Module._replicate_for_data_parallel(self)  # type: ignore[no-untyped-call]

    def flatten_parameters(self) -> None:
        """Nothing to do: the kernels take the parameters as they are."""

    def forward(  # type: ignore[override]
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run the whole sequence.

        input:   (L, N, I), (N, L, I) with `batch_first`, (L, I) unbatched, or a PackedSequence
        hx:      h_0 (D·layers, N, R) and c_0 (D·layers, N, H), without N if unbatched; default
                 zeros
        lengths: (N,) integers in 0..L, a tensor or a sequence; rows need no sorting. Outputs past a
                 row's length are zero, h_n and c_n are its state there, the reverse direction
                 starts from its last step
        reset:   bool, shaped as input without the features; the state is zero before the steps
                 where it is true (episodes in reinforcement learning, documents packed in one row).
                 The reverse direction forgets at the same boundaries

        Returns the output (L, N, D·R), shaped or packed like the input, and (h_n, c_n), shaped like
        hx.

        Raises ValueError or RuntimeError for input that does not fit, with torch's own message
        where torch has one.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None or reset is not None:
                raise ValueError(
                    "lengths, reset: expected None with a PackedSequence, which has its own lengths"
                )
            _check_types(input.data, hx)
            return self._forward_packed(input, hx)
        if isinstance(input, fx.Proxy):
            return _recorded(self, input, hx, lengths=lengths, reset=reset)
        _check_types(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        if hx is not None:
            _check_state_dims(hx, batched)
        reset = _check_reset(reset, input)
        batch_dim = 0 if self.batch_first else 1
        if not batched:
            input = input.unsqueeze(batch_dim)
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            reset = None if reset is None else reset.unsqueeze(batch_dim)
        batch = input.size(batch_dim)
        if not self._fits(input, hx, batch):
            # says what is wrong, slowly
            self.check_forward_args(input, hx or self._zero_state(input, batch), None)
            self._check_same_kind(input, hx)
        if self.batch_first:
            input = input.transpose(0, 1)
            reset = None if reset is None else reset.transpose(0, 1)
        if lengths is not None:
            lengths = check_lengths("lengths", lengths, input.size(1), input.size(0), input.device)
        output, (h_n, c_n) = self._run(input, hx, lengths, reset)
        if self.batch_first:
            output = output.transpose(0, 1)
        if not batched:
            return output.squeeze(batch_dim), (h_n.squeeze(1), c_n.squeeze(1))
        return output, (h_n, c_n)

    def _forward_packed(
        self, packed: PackedSequence, hx: State | None
    ) -> tuple[PackedSequence, State]:
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        if hx is None:
            hx = self._zero_state(data, int(batch_sizes[0]))
        # before rows are picked out of the states, however many these have
        self.check_forward_args(data, hx, batch_sizes)
        self._check_same_kind(data, hx)
        hx = self.permute_hidden(hx, sorted_indices)
        padded, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        ragged = int(batch_sizes[-1]) < int(batch_sizes[0])
        output, state = self._run(padded, hx, lengths.to(data.device) if ragged else None, None)
        output = pack_padded_sequence(output, lengths).data
        repacked = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return repacked, self.permute_hidden(state, unsorted_indices)

    def _run(
        self, x: Tensor, hx: State | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        if x.size(0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return functional.lstm(
            x,
            hx,
            self._weights(),
            bias=self.bias,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            training=self.training,
            lengths=lengths,
            reset=reset,
            memory=self.memory,
            norms=self._norms(),
            regularization=self.regularization,
        )

    def _weights(self) -> list[list[Tensor]]:
        """By layer and direction."""
        try:
            # torch leaves out what is None
            found: Any = [[self._parameters[name] for name in names] for names in self._all_weights]
            return found
        except KeyError:
            return [[self._weight(name) for name in names] for names in self._all_weights]

    def _fits(self, input: Tensor, hx: State | None, batch: int) -> bool:
        """Whether `check_forward_args` and `_check_same_kind` have nothing to say, as fast as can
        be.
        """
        if input.size(-1) != self.input_size or not _alike(input, self._weight("weight_ih_l0"), hx):
            return False
        if hx is None:
            return True
        rows = self.num_layers * (2 if self.bidirectional else 1), batch
        sizes = (*rows, self.proj_size or self.hidden_size), (*rows, self.hidden_size)
        return (hx[0].shape, hx[1].shape) == sizes

    def _check_same_kind(self, input: Tensor, hx: State | None) -> None:
        states = {} if hx is None else {"hx[0]": hx[0], "hx[1]": hx[1]}
        _check_same_kind(input, {**states, "weight_ih_l0": self._weight("weight_ih_l0")})

    def _zero_state(self, input: Tensor, batch: int) -> State:
        layers = self.num_layers * (2 if self.bidirectional else 1)
        h = input.new_zeros(layers, batch, self.proj_size or self.hidden_size)
        c = input.new_zeros(layers, batch, self.hidden_size)
        return h, c


class LSTMCell(nn.LSTMCell):
    """`torch.nn.LSTMCell` with kernels of its own: same arguments, results and errors."""

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """One step: input (N, I) or (I,), hx = h and c (N, H) or (H,) -> the next (h, c).

        hx defaults to zeros.

        Raises ValueError or RuntimeError for input that does not fit, with torch's own messages.
        """
        if isinstance(input, fx.Proxy):
            return _recorded(self, input, hx)
        if not self.hidden_size:
            # torch takes it; there is nothing for a kernel to do
            return super().forward(input, hx)
        _check_types(input, hx)
        batched = input.dim() == 2
        # once: parametrised ones are computed anew at each look
        weights = self._weights()
        if not batched or not self._fits(input, hx, weights[0]):
            # says what is wrong, slowly
            input, hx = self._checked(input, hx, weights[0])
        if hx is None:
            zeros = input.new_zeros(input.size(0), self.hidden_size)
            hx = (zeros, zeros)
        h, c = functional.lstm_cell(input, hx, *weights)
        return (h, c) if batched else (h.squeeze(0), c.squeeze(0))

    def _weights(self) -> tuple[Any, ...]:
        own = self._parameters
        try:
            return own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"]
        except KeyError:  # parametrised ones are attributes only
            return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _fits(self, input: Tensor, hx: State | None, weight: Tensor) -> bool:
        """Whether `_checked` has nothing to say of a batch."""
        if input.size(1) != self.input_size or not _alike(input, weight, hx):
            return False
        size = (input.size(0), self.hidden_size)
        return hx is None or (hx[0].shape == size and hx[1].shape == size)

    def _checked(
        self, input: Tensor, hx: State | None, weight: Tensor
    ) -> tuple[Tensor, State | None]:
        """Both, batched."""
        if input.dim() not in (1, 2):
            raise ValueError(f"LSTMCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for index, value in enumerate(hx or ()):
            if value.dim() not in (1, 2):
                raise ValueError(
                    f"LSTMCell: Expected hx[{index}] to be 1D or 2D, got {value.dim()}D instead"
                )
            # torch accepts (H,) states beside a batch of one row, but only by accident
            if value.dim() != input.dim():
                raise RuntimeError(
                    f"hx[{index}]: expected {input.dim()}D, as the input is, got {value.dim()}D"
                )
        if input.dim() == 1:
            input = input.unsqueeze(0)
            hx = None if hx is None else (hx[0].unsqueeze(0), hx[1].unsqueeze(0))
        self._check_sizes(input, hx or ())
        states = {} if hx is None else {"hx[0]": hx[0], "hx[1]": hx[1]}
        _check_same_kind(input, {**states, "weight_ih": weight})
        return input, hx

    def _check_sizes(self, input: Tensor, hx: Sequence[Tensor]) -> None:
        if input.size(1) != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.size(1)} expected {self.input_size}"
            )
        for index, value in enumerate(hx):
            if value.size(0) != input.size(0):
                raise RuntimeError(
                    f"Input batch size {input.size(0)} doesn't match hidden{index} "
                    f"batch size {value.size(0)}"
                )
            if value.size(1) != self.hidden_size:
                raise RuntimeError(
                    f"hidden{index} has inconsistent hidden_size: got {value.size(1)}, "
                    f"expected {self.hidden_size}"
                )


def _recorded(module: nn.Module, input: fx.Proxy, hx: Any, **options: Any) -> Any:
    """The call as `torch.fx` records those of torch's own layers: whole, by the module's name."""
    tracer: Any = input.tracer
    arguments = (input,) if hx is None else (input, hx)
    given = {name: value for name, value in options.items() if value is not None}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, given)


def _check_types(input: object, hx: object) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"input: expected a tensor, got {type(input).__name__}")
    if hx is None:
        return
    kind = type(hx).__name__
    if isinstance(hx, (tuple, list)):
        if len(hx) == 2 and all(isinstance(state, Tensor) for state in hx):
            return
        kinds = " and ".join(type(state).__name__ for state in hx)
        kind = kinds if len(hx) == 2 else f"{len(hx)} of them"
    raise TypeError(f"hx: expected a pair of tensors, h and c, got {kind}")


def _check_reset(reset: Tensor | None, input: Tensor) -> Tensor | None:
    if reset is None:
        return None
    if not isinstance(reset, Tensor) or reset.dtype != torch.bool:
        kind = reset.dtype if isinstance(reset, Tensor) else type(reset).__name__
        raise ValueError(f"reset: expected a bool tensor, got {kind}")
    if reset.shape != input.shape[:-1]:
        raise ValueError(
            f"reset: expected shape {tuple(input.shape[:-1])}, the input's without features, "
            f"got {tuple(reset.shape)}"
        )
    if reset.device.type not in ("cpu", input.device.type):
        raise ValueError(
            f"reset: expected on the CPU or the input's device {input.device}, got {reset.device}"
        )
    return reset.to(input.device)


def _check_state_dims(hx: State, batched: bool) -> None:
    dims = 3 if batched else 2
    if hx[0].dim() != dims or hx[1].dim() != dims:
        kind = "batched 3-D" if batched else "unbatched 2-D"
        raise RuntimeError(
            f"For {kind} input, hx and cx should also be {dims}-D but got "
            f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
        )


def _alike(input: Tensor, weight: Tensor, hx: State | None) -> bool:
    """Whether all are of one type, on one device."""
    dtype, device = input.dtype, input.device
    if weight.dtype != dtype or weight.device != device or dtype.is_complex:
        return False
    return hx is None or (
        hx[0].dtype == dtype == hx[1].dtype and hx[0].device == device == hx[1].device
    )


def _check_same_kind(input: Tensor, others: dict[str, Tensor]) -> None:
    """Everything on one device and, where autocast does not see to it, of one type."""
    device, dtype = input.device, input.dtype
    if dtype.is_complex:
        raise ValueError(f"input: expected a real floating-point dtype, got {dtype}")
    for name, other in others.items():
        if other.device != device:
            raise RuntimeError(
                f"{name}: expected on the input's device {device}, got {other.device}"
            )
        mixes_float64 = torch.float64 in (dtype, other.dtype)
        if other.dtype != dtype and (
            mixes_float64 or functional.autocast_dtype(device.type) is None
        ):
            raise RuntimeError(f"{name}: expected the input's dtype {dtype}, got {other.dtype}")
