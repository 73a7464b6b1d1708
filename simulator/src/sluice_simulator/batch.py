"""Some authorizations with their truth: as Arrow tables, or as the structs that are sent."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa

from sluice.domain.records.authorization import Authorization, Channel, ThreeDs
from sluice.domain.records.label import Label
from sluice.domain.records.texts import optional_fields
from sluice_simulator import geography as geo
from sluice_simulator import identifiers as ids
from sluice_simulator.config import Config
from sluice_simulator.exemptions import EXEMPTIONS, exemptions
from sluice_simulator.labels import DAY_US, WAYS
from sluice_simulator.people import Cards, Merchants
from sluice_simulator.rows import CHANNELS, KINDS, THREE_DS, Bools, Ints, Rows, is_fraud
from sluice_simulator.seasons import day_date

AUTHORIZATION_FIELDS = Authorization.__struct_fields__
LABEL_FIELDS = Label.__struct_fields__
_OPTIONAL = optional_fields(Authorization)
_CHANNELS = [Channel(c) for c in CHANNELS]
_THREE_DS = [t and ThreeDs(t) for t in THREE_DS]


class Bank(Protocol):
    """What of a world its rows are spelt out with."""

    config: Config
    seed: int
    cards: Cards
    merchants: Merchants


class Batch:
    """(n,) rows of one world, by time. Columns are made when asked for."""

    def __init__(self, world: Bank, rows: Rows) -> None:
        self.world, self.rows = world, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fraud(self) -> Bools:
        """(n,) the truth."""
        return is_fraud(self.rows)

    def authorizations(self) -> pa.Table:
        """One column for each field of Authorization, and nothing else."""
        rows, world = self.rows, self.world
        home = world.cards.home[rows["card"]]
        country = world.merchants.country[rows["merchant"]]
        n = len(rows)
        columns = {
            **self._keys(),
            "v": pa.array(np.ones(n, np.int64)),
            "event_at": pa.array(rows["event_us"]),
            "mcc": _names(geo.MCCS, world.merchants.category[rows["merchant"]]),
            "channel": _names(CHANNELS, rows["channel"]),
            "amount_minor": pa.array(rows["amount"]),
            "currency": _names(geo.CURRENCIES, country),
            "merchant_country": _names(geo.CODES, country),
            "card_country": _names(geo.CODES, home),
            "region": _names(geo.REGIONS, geo.REGION_OF[home]),
            "tenant": _names([world.config.tenant], np.zeros(n, np.int64)),
            "ip_prefix": ids.prefixes(rows["ip"]),
            "three_ds": _names(THREE_DS, rows["three_ds"]),
            "sca_exemption": _names(EXEMPTIONS, self._exemptions()),
        }
        # An optional field that this world knows nothing of is null.
        absent = {name: pa.nulls(n, pa.string()) for name in _OPTIONAL - set(columns)}
        return pa.table({name: (columns | absent)[name] for name in AUTHORIZATION_FIELDS})

    def truth(self) -> pa.Table:
        """authorization_id, is_fraud, kind, campaign_id, known_at.

        kind: the campaign's, or why an innocent row looks odd, or null. known_at: µs or null.
        """
        rows = self.rows
        known = pa.array(rows["known_us"], mask=rows["known_us"] == 0)
        return pa.table(
            {
                "authorization_id": self._ids(),
                "is_fraud": pa.array(self.fraud),
                "kind": _names(KINDS, rows["kind"]),
                "campaign_id": self._campaigns(),
                "known_at": known,
            }
        )

    def labels(self) -> pa.Table:
        """One column for each field of Label; the reported rows, by known_at."""
        rows = self.rows[self.rows["way"] > 0]
        rows = rows[np.lexsort((rows["low"], rows["known_us"]))]
        batch = Batch(self.world, rows)
        n = len(rows)
        columns = {
            **batch._keys(),
            "v": pa.array(np.ones(n, np.int64)),
            "event_at": pa.array(rows["event_us"]),
            "known_at": pa.array(rows["known_us"]),
            "is_fraud": pa.array(np.ones(n, bool)),
            "kind": _names([way and way[0] for way in WAYS], rows["way"]),
            "source": _names([way and way[1] for way in WAYS], rows["way"]),
            "tenant": _names([self.world.config.tenant], np.zeros(n, np.int64)),
            "channel": _names(CHANNELS, rows["channel"]),
        }
        # A world's reports come once, and have neither an id nor a reason of their own.
        types = {"withdraws": pa.int64()}
        absent = {
            name: pa.nulls(n, types.get(name, pa.string()))
            for name in set(LABEL_FIELDS) - set(columns)
        }
        return pa.table({name: (columns | absent)[name] for name in LABEL_FIELDS})

    def structs(self) -> list[Authorization]:
        """The rows as they are sent."""
        rows = self.rows
        table = self.authorizations()
        enums = {
            "channel": [_CHANNELS[c] for c in rows["channel"].tolist()],
            "three_ds": [_THREE_DS[t] for t in rows["three_ds"].tolist()],
            "sca_exemption": [EXEMPTIONS[e] for e in self._exemptions().tolist()],
        }
        names = [name for name in AUTHORIZATION_FIELDS if name != "v"]
        columns = [enums.get(name) or table.column(name).to_pylist() for name in names]
        return [
            Authorization(**dict(zip(names, values, strict=True)))
            for values in zip(*columns, strict=True)
        ]

    def label_structs(self) -> list[Label]:
        """The labels of the reported rows, by known_at."""
        return [Label(**row) for row in self.labels().to_pylist()]

    def _exemptions(self) -> Ints:
        world = self.world
        home = world.cards.home[self.rows["card"]]
        return exemptions(self.rows, home, world.merchants, world.seed)

    def _ids(self) -> pa.Array:
        return ids.uuid7(self.rows["event_us"], self.rows["high"], self.rows["low"])

    def _campaigns(self) -> pa.Array:
        """``kind/date/number``, null outside campaigns."""
        rows = self.rows
        inside = rows["campaign_day"] >= 0
        names = [
            f"{KINDS[kind]}/{day_date(day)}/{number}"
            for kind, day, number in rows[inside][["kind", "campaign_day", "campaign_no"]].tolist()
        ]
        place = np.cumsum(inside) - 1
        return pa.array(names, pa.string()).take(pa.array(place, mask=~inside))

    def _keys(self) -> dict[str, pa.Array]:
        """The identifiers that authorizations and labels share."""
        rows, world = self.rows, self.world
        seed, day = world.seed, rows["event_us"] // DAY_US
        card = rows["card"].astype(np.int64)
        merchant = rows["merchant"].astype(np.int64)
        owner = world.cards.owner[card]
        opened = world.merchants.generation(merchant, day)
        device = rows["device"]
        return {
            "authorization_id": self._ids(),
            "card_token": self._letters("card_", ids.CARD, card, world.cards.generation(card, day)),
            "customer_id": self._letters(
                "c_", ids.CUSTOMER, owner, world.cards.generation(owner, day)
            ),
            "merchant_id": self._letters("m_", ids.MERCHANT, merchant, opened),
            "terminal_id": ids.letters(
                "t_", ids.mix(seed, ids.TERMINAL, merchant, opened, rows["terminal"])
            ),
            "device_id": ids.letters("d_", ids.mix(seed, ids.DEVICE, device), device == 0),
        }

    def _letters(self, prefix: str, purpose: int, slot: Ints, generation: Ints) -> pa.Array:
        return ids.letters(prefix, ids.mix(self.world.seed, purpose, slot, generation))


def _names(names: object, index: Ints) -> pa.Array:
    """(n,) index into names to strings; a None among the names is null."""
    texts = pa.array([None if x is None else str(x) for x in names], pa.string())  # type: ignore[attr-defined]
    return texts.take(pa.array(np.asarray(index, np.int64)))
