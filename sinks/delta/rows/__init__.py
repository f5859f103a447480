"""Rows as data files of a Delta table."""
