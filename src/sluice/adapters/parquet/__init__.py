"""The archive of decisions and labels as parquet."""
