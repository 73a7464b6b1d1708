"""Verbs of this environment, by the entry point group ``sluice.verbs``: parse, call, print."""
