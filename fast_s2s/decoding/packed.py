"""A decoder's weights, stored in a type of choice and packed once for many calls."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast_s2s import backends
from fast_s2s.decoding import ops as ops
from fast_s2s.decoding import reference
from fast_s2s.decoding.contract import AttentionSizes, Header
from fast_s2s.decoding.reference import DenseAttention, DenseDecoder, DenseLayer
from fast_s2s.decoding.weights import (
    CPU_DTYPES,
    CUDA_DTYPES,
    DTYPES,
)
from fast_s2s.device import settled
from fast_s2s.reference import Variant, accumulate_dtype
from fast_s2s.stored import Stored


class StoredAttention(NamedTuple):
    """`AttentionWeights`, stored; `score` is of type acc."""

    output: Stored
    heads: int
    feeding: bool
    query: Stored | None
    score: Tensor | None


@dataclass(frozen=True, eq=False)
class PackedDecoder:
    """Weights ready for `decode`. Made by `pack_decoder`; later changes of a model do not reach it.

    dtype:     of the matrices: float32, float64, bfloat16, float16 or int8
    acc:       of states, biases, embeddings and sums: float64 for float64, else float32
    table:     whether layer 0 looks up embedding · W_ihᵀ + bias instead of multiplying
    embedding: acc (V, E)
    layers:    (w_ih, w_hh, w_hr or None) per layer
    biases:    acc, (4H,) per layer, b_ih + b_hh, then (V,)
    output:    (V, R)
    attending: the weights of attention, if any
    norms:     layer norm: acc, norm_ih, norm_hh (4H,), norm_c and its bias (H,) per layer; or none
    zoneout:   the parts of h and of c that stay as they were
    """

    dtype: torch.dtype
    table: bool
    embedding: Tensor
    layers: tuple[tuple[Stored, Stored, Stored | None], ...]
    biases: tuple[Tensor, ...]
    output: Stored
    attending: StoredAttention | None = None
    norms: tuple[tuple[Tensor, ...], ...] = ()
    zoneout: tuple[float, float] = (0.0, 0.0)

    @property
    def acc(self) -> torch.dtype:
        return accumulate_dtype(self.dtype)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def backend(self) -> str:
        """What serves this decoder's tensors: see `fast_s2s.backends`."""
        return self.choice.backend

    @property
    def choice(self) -> backends.Choice:
        """`backend`, and why."""
        varies = bool(self.norms) or any(self.zoneout)
        return choose_backend(self.device.type, self.dtype, "layer norm or zoneout" * varies)

    @property
    def vocab_size(self) -> int:
        return self.output.values.size(0)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        return self.layers[0][1].values.size(0) // 4

    @property
    def output_size(self) -> int:
        """Of each layer: hidden_size, or that of the projection."""
        return self.output.values.size(1)

    @property
    def attention(self) -> AttentionSizes | None:
        attending = self.attending
        if attending is None:
            return None
        size = self.output_size
        keys = size if attending.query is None else attending.query.values.size(0)
        values = attending.output.values.size(1) - size
        return AttentionSizes(values, keys, attending.feeding, attending.heads)

    def as_float32(self) -> PackedDecoder:
        """The same numbers as float32, for which there are kernels where there are any."""
        attending = self.attending
        if attending is not None:
            output, query = _as_float32(attending.output), attending.query
            query = None if query is None else _as_float32(query)
            attending = attending._replace(output=output, query=query)
        layers = tuple(
            (_as_float32(w_ih), _as_float32(w_hh), None if w_hr is None else _as_float32(w_hr))
            for w_ih, w_hh, w_hr in self.layers
        )
        return dataclasses.replace(
            self,
            dtype=torch.float32,
            layers=layers,
            output=_as_float32(self.output),
            attending=attending,
        ).ready()

    def ready(self) -> PackedDecoder:
        """Itself, laid out now for the native op rather than in the first call."""
        if self.backend == "native":
            _ = self.packed
        return self

    def run(
        self,
        state: Sequence[Tensor],
        memory: Sequence[Tensor],
        rules: Sequence[Tensor],
        options: Sequence[int],
        parameters: Sequence[float],
        max_steps: int,
    ) -> list[Tensor]:
        """The op `decode`, or its reference."""
        if self.backend == "reference":
            dense = self.dense
            return reference.decode(dense, state, memory, rules, options, parameters, max_steps)
        return torch.ops.fast_s2s.decode.default(
            self.packed, self.header, state, memory, rules, options, parameters, max_steps
        )

    @property
    def dense(self) -> DenseDecoder:
        """For the reference: the stored numbers, all in acc; made once, but for a CUDA graph."""
        kept: DenseDecoder | None = self.__dict__.get("_dense")
        if kept is None:
            kept = self._made_dense()
            # the next call may be on another stream
            if settled(self.device):
                self.__dict__["_dense"] = kept
        return kept

    def _made_dense(self) -> DenseDecoder:
        layers = tuple(
            DenseLayer(
                w_ih.dense(self.acc),
                w_hh.dense(self.acc),
                bias,
                None if w_hr is None else w_hr.dense(self.acc),
                self._variant(index),
            )
            for index, ((w_ih, w_hh, w_hr), bias) in enumerate(
                zip(self.layers, self.biases, strict=False)
            )
        )
        return DenseDecoder(
            self.embedding,
            layers,
            self.output.dense(self.acc),
            self.biases[-1],
            None if self.attending is None else _dense_attention(self.attending, self.acc),
        )

    def _variant(self, layer: int) -> Variant | None:
        if not (self.norms or any(self.zoneout)):
            return None
        norms = self.norms[layer] if self.norms else (None,) * 4
        norm_ih, norm_hh, norm_c, norm_c_bias = norms
        return Variant(norm_ih, norm_hh, norm_c, norm_c_bias, None, *self.zoneout)

    @functools.cached_property
    def packed(self) -> Tensor:
        """For the native op: uint8, laid out for this machine's vectors or this GPU; not a file
        format.
        """
        # autocast is for a model's own products, not for what is kept beyond it
        with torch.autocast(self.device.type, enabled=False):
            return torch.ops.fast_s2s.decode_pack(*self.pack_arguments())

    @functools.cached_property
    def header(self) -> list[int]:
        """`Header` of the native op."""
        sizes, attending = self.attention, self.attending
        header = Header(
            DTYPES.index(self.dtype),
            self.num_layers,
            self.hidden_size,
            self.output_size,
            self.vocab_size,
            4 * self.hidden_size if self.table else self.embedding.size(1),
            self._projected,
            self.table,
            normed=bool(self.norms),
        )
        if sizes is not None and attending is not None:
            header = header._replace(
                heads=attending.heads,
                keys=sizes.keys,
                values=sizes.values,
                additive=attending.query is not None,
                feeding=attending.feeding,
            )
        return [int(number) for number in header]

    @property
    def _projected(self) -> bool:
        return self.layers[0][2] is not None

    def pack_arguments(self) -> tuple[Any, ...]:
        """Of the op `decode_pack`."""
        matrices = [matrix for layer in self.layers for matrix in layer if matrix is not None]
        inputs = self.embedding
        if self.table:
            size = inputs.size(1)
            first = matrices.pop(0)
            inputs = inputs @ first.dense(self.acc)[:, :size].t()
            if not self.norms:
                inputs = inputs + self.biases[0]
            if first.values.size(1) > size:
                # what input feeding feeds is still to be multiplied
                matrices.insert(0, Stored(first.values[:, size:].contiguous(), first.scale))
        biases, norms = list(self.biases), []
        if self.norms:
            # behind the norms rather than in front of the products
            norms = [
                torch.cat((bias, *of_layer))
                for bias, of_layer in zip(biases, self.norms, strict=False)
            ]
            biases[:-1] = map(torch.zeros_like, biases[:-1])
        attending = self.attending
        if attending is not None:
            if attending.query is not None and attending.score is not None:
                matrices.append(attending.query)
                biases.insert(-1, attending.score)
            matrices.append(attending.output)
        matrices.append(self.output)
        attends = (0, False, False)
        if attending is not None:
            attends = (attending.heads, attending.query is not None, attending.feeding)
        return (
            [matrix.values for matrix in matrices],
            [matrix.scale for matrix in matrices if matrix.scale is not None],
            biases,
            norms,
            inputs,
            self.num_layers,
            self._projected,
            self.table,
            *attends,
            *self.zoneout,
        )


def choose_backend(device_type: str, dtype: torch.dtype, variant: str = "") -> backends.Choice:
    """What runs `decode` for weights of this type, and why.

    variant: what makes the layers' formula another than `torch.nn.LSTM`'s, in words
    """
    choice = backends.current(device_type, accumulate_dtype(dtype))
    if choice.backend == "reference":
        return choice
    why_not = backends.unsupported("native", device_type, accumulate_dtype(dtype), variant)
    if why_not is None and dtype not in (CUDA_DTYPES if device_type == "cuda" else CPU_DTYPES):
        why_not = f"no native {device_type} decode of {dtype} weights"
    if why_not is not None:
        return backends.Choice("reference", f"native: {why_not}; triton: no decode")
    return backends.Choice("native", choice.reason)


def choose_cpu_backend(device_type: str, dtype: torch.dtype, what: str) -> backends.Choice:
    """As `choose_backend`, for ops that are there for the CPU alone; `what` is: "forecasts are"."""
    choice = choose_backend(device_type, dtype)
    if choice.backend == "native" and device_type != "cpu":
        return backends.Choice("reference", f"native: {what} for the CPU alone")
    return choice


def read_packed(
    packs: Sequence[PackedDecoder],
    h: Tensor,
    c: Tensor,
    inputs: Tensor,
    lengths: Tensor,
    *,
    outputs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op `decode_read`, which is there for the CPU, or `reference.read`, which says what it
    does. Packs are of one kind, without attention, and without a table for values; of two
    directions they have one layer each.
    """
    first = packs[0]
    device = h.device.type
    if device != "cpu" or choose_backend(device, first.dtype).backend == "reference":
        dense = [pack.dense for pack in packs]
        return reference.read(dense, h, c, inputs, lengths, outputs=outputs)
    return torch.ops.fast_s2s.decode_read.default(
        [pack.packed for pack in packs], first.header, h, c, inputs, lengths, outputs
    )


def _as_float32(matrix: Stored) -> Stored:
    return Stored(matrix.dense(torch.float32), None)


def _dense_attention(stored: StoredAttention, acc: torch.dtype) -> DenseAttention:
    query = None if stored.query is None else stored.query.dense(acc)
    output = stored.output.dense(acc)
    return DenseAttention(output, stored.heads, stored.feeding, query, stored.score)
