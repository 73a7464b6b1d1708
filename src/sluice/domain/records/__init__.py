"""What goes over topics and HTTP, and the values in it. Loads no numba."""
