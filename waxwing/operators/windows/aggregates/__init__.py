"""What a window computes of its records: aggregates, the parts they are made of, and the values that these take."""
