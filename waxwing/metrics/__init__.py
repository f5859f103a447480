"""What a run counts and shows."""
