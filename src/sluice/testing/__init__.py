"""Fakes for the ports, factories, and the suites that a fake and its adapter both pass."""
