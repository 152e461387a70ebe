"""Honest timing: two sides in turns, neither before its results are right.

What `fast-s2s bench` and the suite in `benchmarks/` have in common.
"""
