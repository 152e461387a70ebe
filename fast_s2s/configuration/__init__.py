"""What a model and a generation are made of: plain, checked values that go to JSON and back."""

from __future__ import annotations

from fast_s2s.configuration.common import check_special_tokens_fit as check_special_tokens_fit
from fast_s2s.configuration.generation import GenerationConfig as GenerationConfig
from fast_s2s.configuration.model import ATTENTION_KINDS as ATTENTION_KINDS
from fast_s2s.configuration.model import DECODER_DTYPES as DECODER_DTYPES
from fast_s2s.configuration.model import MODEL_TYPE as MODEL_TYPE
from fast_s2s.configuration.model import Seq2SeqConfig as Seq2SeqConfig
from fast_s2s.configuration.ranges import MOST as MOST
from fast_s2s.configuration.ranges import check_ranges as check_ranges
