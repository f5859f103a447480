"""Waxwing against the raw limit and against peers: `python -m benchmarks`."""
