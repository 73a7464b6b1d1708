"""States in, features out: the catalogue, the states and the compiled kernel."""
