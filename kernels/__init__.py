"""Triton kernels; installed as ``fast_s2s.kernels``."""
