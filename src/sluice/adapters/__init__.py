"""One folder per outside world. Foreign exceptions become ours here, and nowhere else."""
