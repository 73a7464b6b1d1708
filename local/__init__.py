"""All of Sluice on one machine: broker, store, services; for development, the demo and tests."""
