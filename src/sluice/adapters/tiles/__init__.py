"""A log's tiles, checkpoint and write-ahead files as files."""
