"""One folder per deployable."""
