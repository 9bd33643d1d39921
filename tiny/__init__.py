"""Tiny models for tests and benchmarks: random weights in the format of the real ones."""
