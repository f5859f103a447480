"""Readings into files, Delta tables and topics."""
