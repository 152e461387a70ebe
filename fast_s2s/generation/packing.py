"""Packed weights that follow a model's: packed again when, and only when, they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from fast_s2s.attention import Attention
from fast_s2s.decoding import (
    AttentionWeights,
    DecoderWeights,
    LayerWeights,
    PackedDecoder,
    pack_decoder,
)
from fast_s2s.decoding.encoder import EncoderWeights, PackedEncoder, pack_whole_encoder
from fast_s2s.device import settled
from fast_s2s.lstm import LSTM

Packed = TypeVar("Packed", PackedDecoder, PackedEncoder)


class _Seen(NamedTuple):
    """A weight as it was packed. The alias keeps its memory from being given to another one."""

    alias: Tensor
    version: int

    def is_still(self, weight: Tensor) -> bool:
        alias = self.alias
        # in this order: a tensor made in inference mode has no version, and is set to no other one
        return (
            weight.is_set_to(alias)
            and weight.dtype == alias.dtype
            and weight._version == self.version
        )


class _Last(NamedTuple):
    """A pack and what it was made of. sums: of the weights' numbers, where they were looked at."""

    seen: list[_Seen]
    sums: list[float] | None
    kind: _Kind
    pack: object


# its type, and what of the formula is no tensor
_Kind = tuple[torch.dtype | None, tuple[float, float]]


class PackedCache:
    """The last pack, with what it was made of. Copies and pickles of it are empty.

    Changes are seen by a tensor's memory and version. torch's fused optimizers write without a new
    version, and so does who writes through `.data`, as many do whose deep copy of a model holds its
    moving average: of a model that has been `used_with_gradients`, and of a deep copy until `clear`
    is called, sums of all weights are compared too.
    """

    def __init__(self) -> None:
        # one tuple, replaced as a whole: another thread sees the old one or the new one
        self._last: _Last | None = None
        self._by_content = self._copied = False

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedCache, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedCache:
        cache = PackedCache()
        cache._copied = True
        return cache

    def get(self, weights: DecoderWeights, dtype: torch.dtype | None) -> PackedDecoder:
        """`pack_decoder(weights, dtype)`, or what it gave before if nothing has changed.

        On the CPU, which has no kernels for float16, float16's numbers are float32.
        """
        kind = dtype, weights.layers[0].zoneout
        return self._kept(_flat(weights), kind, lambda: _served(pack_decoder(weights, dtype)))

    def get_encoder(self, weights: EncoderWeights, dtype: torch.dtype) -> PackedEncoder:
        """`pack_whole_encoder`, likewise."""
        kind = dtype, weights.layers[0].zoneout
        return self._kept(_flat_encoder(weights), kind, lambda: pack_whole_encoder(weights, dtype))

    def _kept(self, tensors: list[Tensor], kind: _Kind, pack: Callable[[], Packed]) -> Packed:
        last = self._last
        sums = self._look(tensors)
        if (
            last is not None
            and last.kind == kind
            and last.sums == sums
            and len(last.seen) == len(tensors)
            and all(map(_Seen.is_still, last.seen, tensors))
        ):
            return cast(Packed, last.pack)
        # tensors made in inference mode have no version
        versioned = not any(tensor.is_inference() for tensor in tensors)
        # before packing: a change meanwhile, by another thread, is one since
        seen = [_Seen(tensor.detach(), tensor._version) for tensor in tensors if versioned]
        packed = pack()
        # the next call may be on another stream
        if versioned and settled(tensors[0].device):
            self._last = _Last(seen, sums, kind, packed)
        return packed

    def _look(self, tensors: list[Tensor]) -> list[float] | None:
        trained = self._by_content and any(tensor.requires_grad for tensor in tensors)
        if not (trained or self._copied):
            return None
        if tensors[0].is_cuda and torch.cuda.is_current_stream_capturing():
            # a graph that is being captured waits for no number, and must not pack either
            return None if self._last is None else self._last.sums
        return _sums(tensors)

    def used_with_gradients(self) -> None:
        """From now on weights may change without a trace."""
        self._by_content = True

    def clear(self) -> None:
        """Pack anew at the next call. A copy is then as any other model: no moving average."""
        self._last, self._copied = None, False


def _sums(tensors: list[Tensor]) -> list[float]:
    """Of all numbers and of their squares."""
    with torch.no_grad():
        found = []
        for tensor in tensors:
            flat = tensor.detach().reshape(-1)
            # half precision would round the sums themselves
            flat = flat.float() if flat.dtype.itemsize < 4 else flat
            found += [flat.sum(), torch.dot(flat, flat)]
        return torch.stack(found).tolist()


def _served(pack: PackedDecoder) -> PackedDecoder:
    if pack.dtype == torch.float16 and pack.device.type == "cpu":
        return pack.as_float32()
    return pack


def decoder_weights(
    embedding: Tensor,
    lstm: LSTM,
    output_weight: Tensor,
    output_bias: Tensor | None,
    attention: Attention | None = None,
    *,
    feeding: bool = False,
) -> DecoderWeights:
    """The tensors of a decoder made of modules."""
    attending = None
    if attention is not None:
        query = None if attention.query is None else attention.query.weight
        attending = AttentionWeights(
            attention.output.weight, attention.heads, feeding, query, attention.score
        )
    return DecoderWeights(embedding, layer_weights(lstm), output_weight, output_bias, attending)


def layer_weights(lstm: LSTM) -> tuple[LayerWeights, ...]:
    """Of each layer, and of each direction of it."""
    layers = []
    weights = lstm._weights()
    norms: Any = lstm._norms() or [(None,) * 4] * len(weights)
    zoneout: Any = lstm.zoneout
    for (w_ih, w_hh, *rest), of_layer in zip(weights, norms, strict=True):
        b_ih, b_hh = rest[:2] if lstm.bias else (None, None)
        w_hr = rest[-1] if lstm.proj_size else None
        layers.append(LayerWeights(w_ih, w_hh, b_ih, b_hh, w_hr, *of_layer, *zoneout))
    return tuple(layers)


def _flat(weights: DecoderWeights) -> list[Tensor]:
    ends = (weights.embedding, weights.output_weight, weights.output_bias)
    parts = [*ends, *(weights.attention or ())]
    parts += [part for layer in weights.layers for part in layer]
    return [part for part in parts if isinstance(part, Tensor)]


def _flat_encoder(weights: EncoderWeights) -> list[Tensor]:
    parts = [weights.embedding, *(part for layer in weights.layers for part in layer)]
    parts += [part for linear in (*weights.bridges, weights.key or ()) for part in linear]
    return [part for part in parts if isinstance(part, Tensor)]
