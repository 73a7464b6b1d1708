"""Time stamp authorities."""
