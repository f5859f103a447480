"""A bucket: from pieces to closed rows, and the bytes of what is open."""
