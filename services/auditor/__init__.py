"""Everything that is decided, and what becomes of it, into the compliance log."""
