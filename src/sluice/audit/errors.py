"""What can be wrong with what an auditor was given."""


class Malformed(ValueError):  # noqa: N818 - what it is, as in sluice.errors
    """It is not of the form that the specification asks for: nothing can be said of it."""


class Refuted(ValueError):  # noqa: N818
    """It is well-formed and not true: somebody changed something."""


class Tampered(Refuted):
    """A log is not the one that its checkpoints tell of.

    first: index of the first entry that it may be. until: the last of them, exclusive; first + 1
    where it is known which one.
    """

    def __init__(self, what: str, *, first: int, until: int) -> None:
        super().__init__(what)
        self.first = first
        self.until = until
