"""The whole generation in one call: embedding, layers, projection, choice, feedback.

`pack_decoder` stores a decoder's weights, `initial_state` says where to begin, `decode` generates.
`pack_encoder` and `read` are for an LSTM that only reads; `pack_transducer`, `transducer_greedy`
and `transducer_beam` for speech (docs/transducer.md), `pack_forecaster` and `forecast`
for time series (docs/forecasting.md). Semantics, random numbers, formats and
limits: docs/decode.md.
"""

from __future__ import annotations

from fast_s2s.decoding.api import DecodeResult as DecodeResult
from fast_s2s.decoding.api import DecodeState as DecodeState
from fast_s2s.decoding.api import decode as decode
from fast_s2s.decoding.api import initial_state as initial_state
from fast_s2s.decoding.api import read as read
from fast_s2s.decoding.automaton import Automaton as Automaton
from fast_s2s.decoding.forecasting import Forecast as Forecast
from fast_s2s.decoding.forecasting import ForecasterWeights as ForecasterWeights
from fast_s2s.decoding.forecasting import PackedForecaster as PackedForecaster
from fast_s2s.decoding.forecasting import forecast as forecast
from fast_s2s.decoding.forecasting import pack_forecaster as pack_forecaster
from fast_s2s.decoding.joined import JoinedDecoder as JoinedDecoder
from fast_s2s.decoding.joined import can_join as can_join
from fast_s2s.decoding.linear import LinearWeights as LinearWeights
from fast_s2s.decoding.options import DecodeOptions as DecodeOptions
from fast_s2s.decoding.pack import pack_decoder as pack_decoder
from fast_s2s.decoding.pack import pack_encoder as pack_encoder
from fast_s2s.decoding.packed import PackedDecoder as PackedDecoder
from fast_s2s.decoding.transducer import PackedTransducer as PackedTransducer
from fast_s2s.decoding.transducer import TransducerResult as TransducerResult
from fast_s2s.decoding.transducer import TransducerState as TransducerState
from fast_s2s.decoding.transducer import TransducerWeights as TransducerWeights
from fast_s2s.decoding.transducer import pack_transducer as pack_transducer
from fast_s2s.decoding.transducer import transducer_greedy as transducer_greedy
from fast_s2s.decoding.transducer_beam import TransducerBeamResult as TransducerBeamResult
from fast_s2s.decoding.transducer_beam import TransducerBeamState as TransducerBeamState
from fast_s2s.decoding.transducer_beam import transducer_beam as transducer_beam
from fast_s2s.decoding.weights import AttentionWeights as AttentionWeights
from fast_s2s.decoding.weights import DecoderWeights as DecoderWeights
from fast_s2s.decoding.weights import LayerWeights as LayerWeights
