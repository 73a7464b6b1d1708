"""What can be wrong with what an auditor was given."""


class Malformed(ValueError):  # noqa: N818 - what it is, as in sluice.errors
    """It is not of the form that the specification asks for: nothing can be said of it."""


class Refuted(ValueError):  # noqa: N818
    """It is well-formed and not true: somebody changed something."""
