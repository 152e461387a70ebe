"""Honest timing of fast_s2s beside its peers: `python -m benchmarks`."""
