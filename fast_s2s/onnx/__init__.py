"""A `Seq2Seq` as an ONNX file, for programs without PyTorch. User documentation: docs/onnx.md."""

from fast_s2s.onnx.check import Checked as Checked
from fast_s2s.onnx.check import check as check
from fast_s2s.onnx.check import check_bytes as check_bytes
from fast_s2s.onnx.export import MODEL_FILE as MODEL_FILE
from fast_s2s.onnx.export import export as export
from fast_s2s.onnx.export import serialize as serialize
