"""A log's tiles, checkpoint and journal as files."""
