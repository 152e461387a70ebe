"""What a `Seq2Seq` is made of: its modules, from its configuration."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fast_s2s.attention import Attention
from fast_s2s.configuration import Seq2SeqConfig
from fast_s2s.lstm import LSTM


class Bridge(nn.Module):
    """From both directions of an encoder layer to a decoder layer, weights for each of them:

    h0 = tanh(W_h [h_forward; h_backward]),  c0 = W_c [c_forward; c_backward]
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

        def linears() -> nn.ModuleList:
            sizes = (2 * hidden_size, hidden_size)
            return nn.ModuleList(
                nn.Linear(*sizes, bias=False, device=device, dtype=dtype) for _ in range(num_layers)
            )

        self.h = linears()
        self.c = linears()

    def weights(self, kind: Literal["h", "c"]) -> list[Tensor]:
        """W of each layer, (hidden_size, 2·hidden_size)."""
        return [linear.weight for linear in getattr(self, kind)]

    def forward(self, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """h, c: (layers, B, 2·hidden_size) -> h0, c0: (layers, B, hidden_size)."""
        h0 = torch.stack([linear(layer) for linear, layer in zip(self.h, h, strict=True)])
        c0 = torch.stack([linear(layer) for linear, layer in zip(self.c, c, strict=True)])
        return h0.tanh(), c0


def embedding(config: Seq2SeqConfig, vocab_size: int, **factory: Any) -> nn.Embedding:
    """Of a vocabulary of this size. factory: device and dtype, as everywhere here."""
    weight = torch.empty(vocab_size, config.embedding_size, **factory)
    layer = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=config.pad_token_id)
    # drawn on the meta device they would import torch's compiler: longer than to load a model
    if not weight.is_meta:
        layer.reset_parameters()
    return layer


def encoder(config: Seq2SeqConfig, **factory: Any) -> LSTM:
    """Over embeddings."""
    layers, size = config.num_encoder_layers, config.embedding_size
    return _lstm(config, size, layers, config.bidirectional, **factory)


def decoder(config: Seq2SeqConfig, **factory: Any) -> LSTM:
    """Over embeddings, and what input feeding feeds."""
    size = config.embedding_size + (config.hidden_size if config.input_feeding else 0)
    return _lstm(config, size, config.num_decoder_layers, False, **factory)


def bridge(config: Seq2SeqConfig, **factory: Any) -> Bridge | None:
    """Where the encoder is bidirectional."""
    if not config.bidirectional:
        return None
    return Bridge(config.num_decoder_layers, config.hidden_size, **factory)


def attention(config: Seq2SeqConfig, **factory: Any) -> Attention | None:
    """Where there is one."""
    if config.attention is None:
        return None
    sizes = (config.hidden_size, config.memory_size, config.attention_heads)
    return Attention(config.attention, *sizes, **factory)


def _lstm(
    config: Seq2SeqConfig, size: int, layers: int, bidirectional: bool, **factory: Any
) -> LSTM:
    return LSTM(
        size,
        config.hidden_size,
        layers,
        batch_first=True,
        # torch warns about dropout between layers where there is only one
        dropout=config.dropout if layers > 1 else 0.0,
        bidirectional=bidirectional,
        **config.lstm_options,
        **factory,
    )
