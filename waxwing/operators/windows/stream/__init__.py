"""A fold: from batches of a partition to pieces, one for every bucket."""
