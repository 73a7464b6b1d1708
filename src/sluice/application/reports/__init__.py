"""Answers to those who ask: documents made from what the compliance log holds, and nothing else."""
