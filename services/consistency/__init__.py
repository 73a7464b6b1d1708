"""A sample of served vectors, recomputed from the archive all the time."""
