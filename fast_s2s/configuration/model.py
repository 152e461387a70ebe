"""What a model is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fast_s2s.checks import check_bool, check_finite, check_integer, check_mapping, check_number
from fast_s2s.configuration.common import (
    check_special_tokens,
    check_special_tokens_fit,
    from_dict,
)

MODEL_TYPE = "fast_s2s"

_PROBABILITIES = ("recurrent_dropout", "weight_dropout", "zoneout_hidden", "zoneout_cell")
_LSTM_OPTIONS = ("variational_dropout", "norm", "forget_bias", "recurrent_init")

DECODER_DTYPES = ("float32", "bfloat16", "float16", "int8")
ATTENTION_KINDS = ("dot", "general", "additive")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The architecture of a `Seq2Seq`.

    src_vocab_size:  tokens of the source vocabulary, the special ones included
    tgt_vocab_size:  tokens of the target vocabulary, likewise
    embedding_size:  size of the token embeddings
    hidden_size:     size of the hidden states; of each direction, if bidirectional
    num_layers:      layers of the encoder and of the decoder
    encoder_layers:  layers of the encoder, where it differs
    decoder_layers:  layers of the decoder, where it differs
    bidirectional:   the encoder reads both ways
    dropout:         probability, on embeddings, between layers and before the output projection
    variational_dropout: each mask of `dropout` is the same at all steps of a row
    recurrent_dropout: probability, on h_{t-1} inside the LSTMs, one mask for all steps of a row
    weight_dropout:  probability, on single recurrent weights of the LSTMs
    zoneout_hidden:  probability that a unit of h stays as it was
    zoneout_cell:    probability that a unit of c stays as it was
    norm:            None, or "layer": layer norm inside the LSTMs
    forget_bias:     what the bias of the forget gates begins with; None: as torch's
    recurrent_init:  how the recurrent weights begin: uniform as torch's, or orthogonal
    tie_embeddings:  the decoder's embedding is the output projection's weight; embedding_size and
                     hidden_size must be equal
    label_smoothing: of the training loss, as in `torch.nn.functional.cross_entropy`
    attention:       how the decoder looks back at the encoder's outputs: "dot", "general" or
                     "additive"; None, not at all: the context is of fixed size
    attention_heads: parts that attention is cut into, each with weights of its own; a divisor of
                     hidden_size
    input_feeding:   each step also reads what attention found in the step before; training then
                     goes step by step, which is several times slower
    decoder_dtype:   type of the weights that `generate` multiplies by, "float32", "bfloat16",
                     "float16" or "int8", set by `Seq2Seq.compile_decoder`; None, the parameters'
    pad_token_id:    fills rows, in both vocabularies
    bos_token_id:    the decoder's first input
    eos_token_id:    the target's end

    Raises TypeError or ValueError naming the field that does not fit.
    """

    src_vocab_size: int
    tgt_vocab_size: int
    embedding_size: int = 256
    hidden_size: int = 512
    num_layers: int = 1
    encoder_layers: int | None = None
    decoder_layers: int | None = None
    bidirectional: bool = False
    dropout: float = 0.0
    variational_dropout: bool = False
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    zoneout_hidden: float = 0.0
    zoneout_cell: float = 0.0
    norm: str | None = None
    forget_bias: float | None = None
    recurrent_init: Literal["uniform", "orthogonal"] = "uniform"
    tie_embeddings: bool = False
    label_smoothing: float = 0.0
    attention: str | None = None
    attention_heads: int = 1
    input_feeding: bool = False
    decoder_dtype: str | None = None
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        for name in ("embedding_size", "hidden_size", "num_layers", "src_vocab_size"):
            check_integer(name, getattr(self, name), 1)
        for name in ("encoder_layers", "decoder_layers"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        for name in ("bidirectional", "tie_embeddings", "variational_dropout", "input_feeding"):
            check_bool(name, getattr(self, name))
        for name in ("dropout", "label_smoothing", *_PROBABILITIES):
            check_number(name, getattr(self, name), 0.0, 1.0)
        if self.norm not in (None, "layer"):
            raise ValueError(f"norm: expected None or 'layer', got {self.norm!r}")
        if self.recurrent_init not in ("uniform", "orthogonal"):
            raise ValueError(
                f"recurrent_init: expected 'uniform' or 'orthogonal', got {self.recurrent_init!r}"
            )
        if self.forget_bias is not None:
            check_finite("forget_bias", self.forget_bias)
        self._check_attention()
        if self.decoder_dtype is not None and self.decoder_dtype not in DECODER_DTYPES:
            raise ValueError(
                f"decoder_dtype: expected None or one of {', '.join(DECODER_DTYPES)}, "
                f"got {self.decoder_dtype!r}"
            )
        if self.tie_embeddings and self.embedding_size != self.hidden_size:
            raise ValueError(
                "tie_embeddings: expected embedding_size == hidden_size, "
                f"got {self.embedding_size} and {self.hidden_size}"
            )
        check_integer("tgt_vocab_size", self.tgt_vocab_size, 4)
        check_special_tokens(self)
        check_special_tokens_fit(self, self.tgt_vocab_size)
        if self.pad_token_id >= self.src_vocab_size:
            raise ValueError(
                f"pad_token_id: expected an id below src_vocab_size = {self.src_vocab_size}, "
                f"got {self.pad_token_id}"
            )

    def _check_attention(self) -> None:
        check_integer("attention_heads", self.attention_heads, 1)
        if self.attention is None:
            for name, off in (("attention_heads", 1), ("input_feeding", False)):
                if getattr(self, name) != off:
                    raise ValueError(
                        f"{name}: expected {off} without attention, got {getattr(self, name)}"
                    )
            return
        if self.attention not in ATTENTION_KINDS:
            raise ValueError(
                f"attention: expected None or one of {', '.join(ATTENTION_KINDS)}, "
                f"got {self.attention!r}"
            )
        if self.attention == "dot" and self.bidirectional:
            raise ValueError(
                "attention: expected 'general' or 'additive' with a bidirectional encoder, whose "
                "outputs are twice as wide as the decoder's, got 'dot'"
            )
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"attention_heads: expected a divisor of hidden_size = {self.hidden_size}, "
                f"got {self.attention_heads}"
            )

    @property
    def memory_size(self) -> int:
        """Of each output of the encoder."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def num_hidden_states(self) -> int:
        """Hidden states of the decoder: of its layers, and what input feeding feeds."""
        return self.num_decoder_layers + (1 if self.input_feeding else 0)

    @property
    def lstm_options(self) -> dict[str, Any]:
        """Those fields that are options of `fast_s2s.LSTM` by the same names."""
        return {name: getattr(self, name) for name in (*_LSTM_OPTIONS, *_PROBABILITIES)}

    @property
    def has_dropout(self) -> bool:
        """Whether anything is left to chance in training mode."""
        return any(getattr(self, name) > 0 for name in ("dropout", *_PROBABILITIES))

    @property
    def num_encoder_layers(self) -> int:
        """Layers of the encoder."""
        return self.num_layers if self.encoder_layers is None else self.encoder_layers

    @property
    def num_decoder_layers(self) -> int:
        """Layers of the decoder."""
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON values, and the kind of model they describe."""
        return {
            "model_type": MODEL_TYPE,
            "architectures": ["Seq2Seq"],
            **dataclasses.asdict(self),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Seq2SeqConfig:
        """The inverse of `to_dict`.

        Raises TypeError or ValueError naming the key that does not fit.
        """
        check_mapping("values", values)
        fields = dict(values)
        model_type = fields.pop("model_type", None)
        if model_type != MODEL_TYPE:
            raise ValueError(f"model_type: expected {MODEL_TYPE!r}, got {model_type!r}")
        fields.pop("architectures", None)
        return from_dict(cls, fields)
