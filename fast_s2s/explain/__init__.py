"""What a model does with one input, step by step, and how to look at it: docs/attention.md."""

from __future__ import annotations

from fast_s2s.explain.figure import save_png as save_png
from fast_s2s.explain.page import page as page
from fast_s2s.explain.trace import Alternative as Alternative
from fast_s2s.explain.trace import Trace as Trace
from fast_s2s.explain.trace import trace as trace
