"""Keeps the online store in step with decisions and labels."""
