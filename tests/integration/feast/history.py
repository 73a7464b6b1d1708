"""Authorizations with what the decider's kernel makes of them, and the states they leave."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sluice.adapters.feast.finalise import Request
from sluice.adapters.layout import FEATURES, JOIN_KEYS, VIEW_NAMES
from sluice.application.ports import StateUpdate
from sluice.domain.features import states
from sluice.domain.features.events import event_row, event_rows
from sluice.domain.features.kernel import AUTHORIZATION, Ints, Kernel, scratch, update
from sluice.domain.records.authorization import Authorization, Channel, ThreeDs
from sluice.domain.records.entity import ENTITY_KINDS, EntityKind
from sluice.testing.factories import NOON_US, make_authorization

WRITTEN_AFTER_US = 5_000
"""The featurizer's lag: a state is there that long after the authorization it counts."""
OWN = [*Request.__struct_fields__, *JOIN_KEYS.values()]


@dataclass
class History:
    """(n,) authorizations in order of time, and features[i] as the decider would serve them."""

    authorizations: list[Authorization] = field(default_factory=list)
    features: list[list[int]] = field(default_factory=list)
    log: dict[EntityKind, list[tuple[str, bytes, int]]] = field(
        default_factory=lambda: {kind: [] for kind in ENTITY_KINDS}
    )
    """Every state there ever was: key, bytes, and when it was written."""

    def rows(self) -> list[dict[str, object]]:
        """What a caller of Feast sends."""
        return [request(auth) for auth in self.authorizations]

    def entity_frame(self) -> pd.DataFrame:
        """The same, as get_historical_features wants it."""
        frame = pd.DataFrame(self.rows())
        frame["event_timestamp"] = pd.to_datetime(frame["event_at"], unit="us", utc=True)
        return frame

    def write_log(self, root: Path) -> None:
        """The logs of states, where the feature repository looks for them.

        An entity begins with no state in 1970: Feast's dask join drops a row whose entity has
        states in the log, but none yet at the row's time.
        """
        for kind, rows in self.log.items():
            unseen = [(k, None, 0) for k in dict.fromkeys(k for k, _, _ in rows)]
            keys, packed, written = zip(*unseen, *rows, strict=True)
            table = pa.table(
                {
                    JOIN_KEYS[kind]: pa.array(keys, pa.string()),
                    FEATURES[kind]: pa.array(packed, pa.binary()),
                    "event_timestamp": pa.array(written, pa.timestamp("us", "UTC")),
                }
            )
            (root / VIEW_NAMES[kind]).mkdir(parents=True)
            pq.write_table(table, root / VIEW_NAMES[kind] / "part-0.parquet")

    def last_states(self) -> list[StateUpdate]:
        """What the online store holds at the end."""
        last = {(kind, key): (s, us) for kind, rows in self.log.items() for key, s, us in rows}
        return [StateUpdate(*entity, b"", s, us) for entity, (s, us) in last.items()]

    def served_at_the_end(self) -> Ints:
        """(n, N) each authorization judged again by the decider's kernel, from the last states."""
        now = {(kind, key): s for kind, rows in self.log.items() for key, s, _ in rows}
        rows = [event_row(auth, auth.amount_minor) for auth in self.authorizations]
        held = [
            [now.get((kind, key(auth, kind) or ""), b"") for kind in ENTITY_KINDS]
            for auth in self.authorizations
        ]
        return Kernel().finalise(event_rows(rows), held, [()] * len(rows)).features


def request(auth: Authorization) -> dict[str, object]:
    """One authorization as a request for features."""
    given = {name: getattr(auth, name, None) for name in OWN}
    given["reference_amount_minor"] = auth.amount_minor
    return {name: v if isinstance(v, int) else str(v or "") for name, v in given.items()}


def key(auth: Authorization, kind: EntityKind) -> str | None:
    return getattr(auth, JOIN_KEYS[kind])


def history(n: int, seed: int = 1) -> History:
    """n authorizations of a few cards over days, each applied before the next is judged."""
    rng = random.Random(seed)
    made, kernel, work = History(), Kernel(), scratch()
    held: dict[tuple[EntityKind, str], bytes] = {}
    at = NOON_US
    for i in range(n):
        at += rng.randrange(1_000_000, 3_600_000_000)
        ecom = rng.random() < 0.4
        auth = make_authorization(
            f"a-{seed}-{i}",
            event_at=at,
            card_token=f"card-{rng.randrange(9)}",
            merchant_id=f"merchant-{rng.randrange(4)}",
            terminal_id=f"terminal-{rng.randrange(5)}",
            device_id=f"device-{rng.randrange(3)}" if ecom else None,
            channel=Channel.ECOM if ecom else rng.choice((Channel.POS, Channel.CONTACTLESS)),
            three_ds=rng.choice((None, ThreeDs.FAILED, ThreeDs.FRICTIONLESS)) if ecom else None,
            mcc=rng.choice(("5411", "6011", "4829")),
            merchant_country=rng.choice(("BE", "DE", "US")),
            currency=rng.choice(("EUR", "USD")),
            amount_minor=rng.randrange(100, 60_000),
        )
        row = event_row(auth, auth.amount_minor, declined=rng.random() < 0.1)
        events = event_rows([row])
        entities = [(kind, key(auth, kind)) for kind in ENTITY_KINDS]
        before = [held.get((kind, k or ""), b"") for kind, k in entities]
        made.authorizations.append(auth)
        made.features.append(kernel.finalise(events, [before], [()]).features[0].tolist())
        change = np.array([[AUTHORIZATION, states.source(states.DECISIONS, 0), i, 0]], np.int64)
        for kind, k in entities:
            if k is not None:
                was = held.get((kind, k), b"")
                ((state,), _, _) = update(
                    [(kind, k)], [was], np.array([0, 1], np.int64), events, change, work
                )
                held[kind, k] = state
                made.log[kind].append((k, state, at + WRITTEN_AFTER_US))
    return made
