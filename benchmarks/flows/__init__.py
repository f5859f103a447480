"""Flows of other record shapes than orders, and orders into memory. Run by `python -m bytewax.run benchmarks.flows.NAME`."""
