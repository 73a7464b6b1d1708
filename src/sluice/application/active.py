"""The active configuration: the release and the policy that decide now, followed where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from sluice.application.ports import Scorer
from sluice.domain.policy.policy import Policy
from sluice.errors import SluiceError

T = TypeVar("T")
H_co = TypeVar("H_co", covariant=True)
N_co = TypeVar("N_co", covariant=True)


class Followed(Protocol[H_co, N_co]):
    """What may be replaced, whole, while it is used."""

    def current(self) -> H_co:
        """What is active."""
        ...

    @property
    def refused(self) -> SluiceError | None:
        """Why what lies there now is not active; None if it is."""
        ...

    def poll(self) -> N_co | None:
        """What has just replaced it, None if nothing has. Raises a SluiceError if what lies there
        now is wrong: then nothing changes, and the same is not looked at again."""
        ...


class ActiveConfiguration:
    """Both of them.

    activated: told what ("release" or "policy") and the id that is active from now on. refused:
    told what, and why. refusing: told with every poll whether what lies there is refused.
    """

    def __init__(
        self,
        releases: Followed[Scorer | None, Scorer],
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
        """Take over what changed; what is wrong is refused, reported, and changes nothing."""
        self._follow("release", self.releases.poll, lambda scorer: scorer.release)
        self._follow("policy", self.policies.poll, lambda policy: policy.id)
        self._refusing("release", self.releases.refused is not None)
        self._refusing("policy", self.policies.refused is not None)

    def _follow(self, what: str, poll: Callable[[], T | None], name: Callable[[T], str]) -> None:
        try:
            fresh = poll()
        except SluiceError as error:
            self._refused(what, error)
            return
        if fresh is not None:
            self._activated(what, name(fresh))
