"""One verb a file. Use cases speak to the outside only through :mod:`sluice.application.ports`."""
