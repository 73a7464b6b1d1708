"""What is followed comes into force whole, or is refused; following it ends with nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.application.active import ActiveConfiguration
from sluice.errors import Misconfigured, SluiceError, Unavailable


class Named:
    """A release or a policy."""

    def __init__(self, name: str) -> None:
        self.release = self.id = name


class Lying:
    """What lies in a folder: names to load, and errors to be met, one a look."""

    def __init__(self, first: str, *lies: str | Exception) -> None:
        self.active = Named(first)
        self.lies = [*lies]
        self.refused: SluiceError | None = None

    def current(self) -> Any:
        return self.active

    def look(self) -> Any:
        lies = self.lies.pop(0) if self.lies else None
        if isinstance(lies, Exception):
            self.refused = lies if isinstance(lies, Misconfigured) else None
            raise lies
        return Named(lies) if lies else None

    def take(self, candidate: Named) -> None:
        self.active = candidate


class Followed:
    """Both, and what is told of them."""

    def __init__(self, releases: Lying, policies: Lying) -> None:
        self.told: list[tuple[str, str]] = []
        self.refusing: dict[str, bool] = {}
        self.active = ActiveConfiguration(
            releases,
            policies,
            activated=lambda what, name: self.told.append((what, name)),
            refused=lambda what, error: self.told.append((what, error.code)),
            refusing=self.refusing.__setitem__,
        )


@pytest.mark.parametrize(
    "error",
    [ValueError("month"), TypeError(), OverflowError(), IndexError(), RecursionError(), OSError()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_look_raises_is_a_refusal_and_the_next_look_comes(error: Exception) -> None:
    policies = Lying("p-1", error, error, "p-2")
    followed = Followed(Lying("r-1", "r-2", "", "r-3"), policies)
    assert followed.told == [("policy", "p-1"), ("release", "r-2"), ("policy", "internal")]
    assert followed.refusing == {"release": False, "policy": True}
    followed.active.poll()
    assert policies.current().id == "p-1"
    followed.active.poll()
    assert policies.current().id == "p-2"
    assert followed.told[3:] == [("policy", "internal"), ("release", "r-3"), ("policy", "p-2")]
    assert followed.refusing == {"release": False, "policy": False}


def test_what_is_wrong_is_refused_by_its_code_and_changes_nothing() -> None:
    releases = Lying("r-1", Misconfigured("it is slow", code="too_slow"))
    followed = Followed(releases, Lying("p-1"))
    assert followed.told[1:] == [("release", "too_slow")]
    assert followed.refusing == {"release": True, "policy": False}
    assert releases.current().release == "r-1"


def test_what_cannot_be_looked_at_now_is_no_refusal_and_holds_up_nothing_else() -> None:
    followed = Followed(Lying("r-1"), Lying("p-1"))
    followed.active.releases.lies = [Unavailable("no process", code="not_started")]  # type: ignore[attr-defined]
    followed.active.policies.lies = ["p-2"]  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="no process"):
        followed.active.poll()
    assert followed.told[1:] == [("policy", "p-2")]
