"""LSTM sequence-to-sequence for PyTorch with kernels of its own."""

from importlib import metadata as _metadata

from fast_s2s import onnx as onnx
from fast_s2s.backends import backend as backend
from fast_s2s.bundled import G2P as G2P
from fast_s2s.bundled import g2p as g2p
from fast_s2s.configuration import GenerationConfig as GenerationConfig
from fast_s2s.configuration import Seq2SeqConfig as Seq2SeqConfig
from fast_s2s.convert import from_torch as from_torch
from fast_s2s.convert import replace_lstm as replace_lstm
from fast_s2s.convert import restore_lstm as restore_lstm
from fast_s2s.convert import to_torch as to_torch
from fast_s2s.ensemble import Ensemble as Ensemble
from fast_s2s.generation import Automaton as Automaton
from fast_s2s.generation import DecoderState as DecoderState
from fast_s2s.generation import EncoderState as EncoderState
from fast_s2s.generation import GenerateOutput as GenerateOutput
from fast_s2s.hypotheses import HypothesisList as HypothesisList
from fast_s2s.lstm import LSTM as LSTM
from fast_s2s.lstm import LSTMCell as LSTMCell
from fast_s2s.packed_lstm import PackedLSTM as PackedLSTM
from fast_s2s.packed_lstm import pack_lstm as pack_lstm
from fast_s2s.pipeline import TextPipeline as TextPipeline
from fast_s2s.prediction import Prediction as Prediction
from fast_s2s.reranking import RerankingPipeline as RerankingPipeline
from fast_s2s.seq2seq import Seq2Seq as Seq2Seq
from fast_s2s.seq2seq import Seq2SeqOutput as Seq2SeqOutput
from fast_s2s.text import Vocabulary as Vocabulary
from fast_s2s.text import load_tokenizer as load_tokenizer

try:
    __version__ = _metadata.version("fast-s2s")
except _metadata.PackageNotFoundError:
    # a source folder that was never installed
    __version__ = "unknown"
