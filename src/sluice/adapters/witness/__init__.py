"""A witness: what it remembers, and how it is asked."""
