"""Whole flows as a user starts them, measured from outside."""
