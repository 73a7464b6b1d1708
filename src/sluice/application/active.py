"""The active configuration: the release and the policy that decide now, followed where they lie.

What lies there comes into force in two steps: ``look`` loads it safely, or refuses it with a code;
``take`` puts it in force. What else must be asked of a candidate is asked in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sluice.application.ports import Scorer
from sluice.domain.policy.policy import Policy
from sluice.errors import SluiceError, Unavailable

N = TypeVar("N")
H_co = TypeVar("H_co", covariant=True)
INTERNAL = "internal"
"""Code of a refusal: looking at it ended in a way that nobody foresaw."""


class Followed(Protocol[H_co, N]):
    """What may be replaced, whole, while it is used."""

    def current(self) -> H_co:
        """What is active."""
        ...

    @property
    def refused(self) -> SluiceError | None:
        """Why what lies there now is not active; None if it is."""
        ...

    def look(self) -> N | None:
        """A candidate: what lies there now, loaded whole; None if it did not change.

        Blocks its thread, holds up no other. Raises a SluiceError if what lies there is wrong: then
        nothing changes, and the same is not looked at again; Unavailable if it could not be looked
        at now, and will be next time.
        """
        ...

    def take(self, candidate: N, /) -> None:
        """Put a candidate in force, for all threads at once."""
        ...


class ActiveConfiguration:
    """Both of them.

    activated: told what ("release" or "policy") and the id that is active from now on. refused:
    told what, and why. refusing: told with every poll whether what lies there is refused.
    """

    def __init__(
        self,
        releases: Followed[Scorer | None, Any],
        policies: Followed[Policy, Policy],
        *,
        activated: Callable[[str, str], None],
        refused: Callable[[str, SluiceError], None],
        refusing: Callable[[str, bool], None] = lambda _what, _now: None,
    ) -> None:
        self.releases = releases
        self.policies = policies
        self._activated = activated
        self._refused = refused
        self._refusing = refusing
        activated("policy", policies.current().id)
        self.poll()

    def poll(self) -> None:
        """Take over what changed; what is wrong is refused, reported, and changes nothing.

        May take long, and belongs into a thread of its own. Raises Unavailable if something could
        not be looked at now; the rest was.
        """
        late = [
            self._follow("release", self.releases, lambda scorer: scorer.release),
            self._follow("policy", self.policies, lambda policy: policy.id),
        ]
        for error in late:
            if error is not None:
                raise error

    def _follow(
        self, what: str, followed: Followed[object, N], name: Callable[[N], str]
    ) -> Unavailable | None:
        try:
            candidate = followed.look()
            if candidate is not None:
                followed.take(candidate)
                self._activated(what, name(candidate))
        except Unavailable as error:
            return error
        except SluiceError as error:
            self._refused(what, error)
        except Exception as error:  # it may be wrong in any way, and must not end the following
            self._refused(what, _unforeseen(error))
            self._refusing(what, True)
            return None
        self._refusing(what, followed.refused is not None)
        return None


def _unforeseen(error: Exception) -> SluiceError:
    return SluiceError(f"{type(error).__name__}: {error}", code=INTERNAL)
