"""Decisions and labels to parquet: the feature log."""
