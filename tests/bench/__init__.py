"""Benchmarks: peers alternating in one run, medians of pairs, ratios. `python -m tests.bench NAME`."""
