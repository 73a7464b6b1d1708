"""A messy run with everything that may differ from one decision to the next.

Two releases, two policies, both entrypoints, models that are not there, rules that the breaker left
out, and would-be declines that were let through.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sluice.adapters.onnx import load
from sluice.adapters.policyfiles import read_policy
from sluice.application.decide import DecisionPipeline
from sluice.application.once import Once
from sluice.application.ports import Scorer
from sluice.domain.clock import DAY_US
from sluice.domain.features import catalogue
from sluice.domain.policy.let_through import Draw, LetThrough
from sluice.domain.policy.policy import LeftOut, Policy
from sluice.domain.records.authorization import Authorization, EventTimeBounds
from sluice.domain.records.decision import ENTRYPOINTS, Decision
from sluice.domain.release import public_line
from sluice.testing.release import KEY, TRUSTED, make_release
from tests.integration.consistency.little import Little

SHARE = """
let_through: {share_ppm: 100000, amount_max_minor: 100000000, count_per_day: 2}
"""


@dataclass
class Holder:
    """What is in force now."""

    value: object

    def current(self):
        return self.value


@dataclass
class Breaker:
    """A watch that leaves out what it is told."""

    left_out: LeftOut = field(default_factory=dict)
    out_of_domain: bool = False

    def decided(self, *_: object) -> None: ...


@dataclass
class Mixed(Little):
    """See the module. root: where its policies, releases and keys come to lie."""

    root: Path = Path()
    steady: bool = False
    """One release, one policy, and nothing left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.releases, self.policies = self.root / "releases", self.root / "policies"
        self.trust = self.root / "trust.pub"
        self.trust.parent.mkdir(parents=True, exist_ok=True)
        self.trust.write_text(public_line(KEY.public_key(), "test"))
        folders = [
            make_release(
                self.releases / f"test-{seed}", seed=seed, tolerates=["device", "terminal"]
            )
            for seed in (1, 2)
        ]
        self._scorers: dict[str, list[Scorer]] = {
            entrypoint: [
                load(f, TRUSTED, catalogue.FEATURES, "EUR", entrypoint=entrypoint) for f in folders
            ]
            for entrypoint in ENTRYPOINTS
        }
        packs = [self.policies / "default", self.policies / "strict"]
        for pack in packs:
            shutil.copytree("policies/default", pack)
        text = (packs[1] / "policy.yaml").read_text()
        steps = "{challenge: 29000, review: 350000, decline: 530000}"
        assert steps in text
        text = text.replace(steps, "{challenge: 300000, review: 500000, decline: 600000}") + SHARE
        (packs[1] / "policy.yaml").write_text(text)
        self._packs: list[Policy] = [read_policy(pack, catalogue.FEATURES) for pack in packs]
        self.holders = Holder(None), Holder(self._packs[0])
        self.breaker = Breaker()
        self._room = True
        self._deciders = {
            entrypoint: DecisionPipeline(
                entrypoint=entrypoint,
                emitter=f"mixed-{entrypoint}",
                ids=Once(self.store, self.clock),
                scorer=self.holders[0],
                policy=self.holders[1],
                log=self,
                clock=self.clock,
                bounds=EventTimeBounds(max_age_us=400 * DAY_US),
                watch=self.breaker,
                draw=Draw(b"sixteen bytes or", self._has_room),
            )
            for entrypoint in ENTRYPOINTS
        }

    def run_now(self, auths: Sequence[Authorization]) -> None:
        """The same outside an event loop."""
        asyncio.run(self.run(auths))

    async def decide(self, auths: Sequence[Authorization]) -> list[Decision]:
        """By whatever is in force, which changes all the time."""
        rng = self._rng
        entrypoint = rng.choice(ENTRYPOINTS)
        if self.steady:
            self.holders[0].value = self._scorers[entrypoint][0]
            self.decider = self._deciders[entrypoint]
            return await super().decide(auths)
        scorer, policy = self.holders
        scorer.value = None if rng.random() < 0.1 else rng.choice(self._scorers[entrypoint])
        self.store.down |= scorer.value is None and rng.random() < 0.3
        policy.value = rng.choice(self._packs)
        rules = [rule.id for rule in policy.value.rules.rules]
        left_out = frozenset(f"rule {rule}" for rule in rng.sample(rules, 8))
        tenants = {auth.tenant for auth in auths}
        self.breaker.left_out = (
            {tenant: left_out | {"model"} if rng.random() < 0.3 else left_out for tenant in tenants}
            if rng.random() < 0.3
            else {}
        )
        self._room = rng.random() < 0.7
        self.decider = self._deciders[entrypoint]
        return await super().decide(auths)

    def _has_room(self, _limits: LetThrough, _amount_minor: int) -> bool:
        return self._room
