"""LSTM sequence-to-sequence for PyTorch with kernels of its own."""

from fast_s2s.backends import backend as backend
from fast_s2s.convert import from_torch as from_torch
from fast_s2s.convert import replace_lstm as replace_lstm
from fast_s2s.convert import to_torch as to_torch
from fast_s2s.lstm import LSTM as LSTM
from fast_s2s.lstm import LSTMCell as LSTMCell
