"""Reading features: the compiled plan beside Feast's SDK, in one process, taking turns."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from feast import FeatureStore

from benchmarks.processes import MEASURED
from benchmarks.report import Row, better
from benchmarks.testbed import Testbed, feast_repository
from sluice.adapters.feast.finalise import Request
from sluice.adapters.layout import FEATURES, JOIN_KEYS
from sluice.bootstrap import store_at
from sluice.domain.features import catalogue
from sluice.domain.features.events import event_row, event_rows
from sluice.domain.features.kernel import Kernel
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.entity import ENTITY_KINDS

TARGET = ">= 10x"
AUTHORIZATIONS = 2_000
"""Drawn from the traffic; each request is for other ones."""
BATCHES = (1, 100)
ROUNDS = 15
_SEED = 5
_OWN = (*Request.__struct_fields__, *JOIN_KEYS.values())


class _Ours:
    """States and features as decider and featurizer read them."""

    def __init__(self, url: str, testbed: Testbed) -> None:
        self._store = store_at(url).states()
        self._kernel = Kernel()
        self._fx = testbed.fx

    def states(self, auths: Sequence[Authorization]) -> list[list[bytes]]:
        """(n,) lists of four."""
        asked = [
            (kind, key)
            for auth in auths
            for kind in ENTITY_KINDS
            if (key := getattr(auth, JOIN_KEYS[kind])) is not None
        ]
        found = iter(self._store.read(asked))
        return [
            [next(found), next(found), next(found), b"" if a.device_id is None else next(found)]
            for a in auths
        ]

    def features(self, auths: Sequence[Authorization]) -> list[list[int]]:
        """(n,) lists of the catalogue's."""
        states = self.states(auths)
        rows = [event_row(a, self._fx.to_reference(a.amount_minor, a.currency)) for a in auths]
        served = self._kernel.finalise(event_rows(rows), states, [()] * len(auths))
        features: list[list[int]] = served.features.tolist()
        return features

    def close(self) -> None:
        self._store.close()


class _Theirs:
    """The same through ``get_online_features``."""

    def __init__(self, repository: Path, testbed: Testbed) -> None:
        self._feast = FeatureStore(repo_path=str(repository))
        self._states = self._feast.get_feature_service("states")
        self._features = self._feast.get_feature_service("catalogue")
        self._fx = testbed.fx

    def states(self, auths: Sequence[Authorization]) -> list[list[bytes]]:
        keys = [{name: getattr(a, name) or "" for name in JOIN_KEYS.values()} for a in auths]
        found = self._feast.get_online_features(self._states, keys).to_dict()
        columns = [found[FEATURES[kind]] for kind in ENTITY_KINDS]
        return [[state or b"" for state in row] for row in zip(*columns, strict=True)]

    def features(self, auths: Sequence[Authorization]) -> list[list[int]]:
        found = self._feast.get_online_features(
            self._features, [self._request(a) for a in auths]
        ).to_dict()
        columns = [found[name] for name in catalogue.NAMES]
        return [list(row) for row in zip(*columns, strict=True)]

    def _request(self, auth: Authorization) -> dict[str, object]:
        given = {name: getattr(auth, name, None) for name in _OWN}
        given["reference_amount_minor"] = self._fx.to_reference(auth.amount_minor, auth.currency)
        return {name: v if isinstance(v, int) else str(v or "") for name, v in given.items()}


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """CPU of the reader per authorization; the values are compared each time."""
    drawn = random.Random(_SEED).sample(testbed.traffic.values, AUTHORIZATIONS)
    auths = [msgspec.json.decode(value, type=Authorization) for value in drawn]
    rows = []
    with testbed.store() as embedded:
        repository = feast_repository(testbed.folder / "feast-read", embedded.host_port)
        ours, theirs = _Ours(embedded.url, testbed), _Theirs(repository, testbed)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, MEASURED)
        try:
            for n in BATCHES:
                rows += [
                    _row(f"four states, {n} a request", ours.states, theirs.states, auths, n),
                    _row(f"143 features, {n} a request", ours.features, theirs.features, auths, n),
                ]
        finally:
            os.sched_setaffinity(0, before)
            ours.close()
    return rows, [
        f"{AUTHORIZATIONS:,} authorizations of the traffic, whose entities have "
        f"{testbed.scale.history_days} days of history; median of {ROUNDS} rounds, ours and "
        "Feast's "
        "SDK in turn in one process on one core, the store on the others",
        "every value of every round is equal to the SDK's, states and features alike",
        "processor time of the client alone; features include the kernel on both sides",
    ]


def _row(
    name: str,
    ours: Callable[[Sequence[Authorization]], object],
    theirs: Callable[[Sequence[Authorization]], object],
    auths: Sequence[Authorization],
    n: int,
) -> Row:
    assert ours(auths[:n]) == theirs(auths[:n])  # also warms both
    pairs = []
    for r in range(ROUNDS):
        chosen = [auths[(r * n * 10 + i) % len(auths)] for i in range(10 * n)]
        requests = [chosen[at : at + n] for at in range(0, len(chosen), n)]
        mine, took = _timed(ours, requests)
        other, took_sdk = _timed(theirs, requests)
        assert mine == other, f"{name}: the SDK reads other values"
        pairs.append((took / len(chosen), took_sdk / len(chosen)))
    return better(
        name,
        "µs of CPU an authorization",
        1e6 * statistics.median(p[0] for p in pairs),
        1e6 * statistics.median(p[1] for p in pairs),
        target=TARGET if n == 1 else "",
    )


def _timed(
    read: Callable[[Sequence[Authorization]], object], requests: list[list[Authorization]]
) -> tuple[list[object], float]:
    began = time.process_time()
    answers = [read(request) for request in requests]
    return answers, time.process_time() - began
