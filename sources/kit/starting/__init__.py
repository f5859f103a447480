"""Where a source starts."""
