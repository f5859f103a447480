"""What tables that are files have in common: their columns in Arrow, the keys that divide them."""
