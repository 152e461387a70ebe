"""`generate`: from a decoder's state to sequences. Most of it is one call of `decode`.

`GenerationMixin` is what a model inherits. User documentation: docs/generation.md.
"""

from __future__ import annotations

from fast_s2s.configuration import GenerationConfig as GenerationConfig
from fast_s2s.decoding import Automaton as Automaton
from fast_s2s.generation.mixin import GenerationMixin as GenerationMixin
from fast_s2s.generation.output import GenerateOutput as GenerateOutput
from fast_s2s.generation.state import DecoderState as DecoderState
from fast_s2s.generation.state import EncoderState as EncoderState
