"""From a simulated history to a table that a model may learn from, through the serving kernel.

A row is what the decider would have seen: features finalised at the authorization's own time from
states that knew a label only since its ``known_at``. What a model is trained on is what was known
on the day of training; what it is judged by is the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from sluice.adapters.files.history import history_from, labels_from
from sluice.application.backfill import Coded, History, backfill
from sluice.domain.clock import DAY_US, from_datetime, to_datetime
from sluice.domain.features import catalogue
from sluice.domain.policy.fx import Fx
from sluice_simulator.config import Config
from sluice_simulator.history import write
from sluice_simulator.world import World

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEVER_KNOWN = np.iinfo(np.int64).max
TRAINED_ON = tuple(f.name for f in catalogue.FEATURES if catalogue.look_back(f))
"""What a model takes. What looks back without a bound is left to policies: it would read one number
in a store that has run for years and another in a training set that begins last spring."""
_TAUGHT_COLUMNS = [catalogue.INDEX[name] for name in TRAINED_ON]


def trained_on(features: Ints) -> Ints:
    """(n, catalogue.N) to (n, len(TAUGHT)), copied."""
    return features[:, _TAUGHT_COLUMNS]


@dataclass(frozen=True, slots=True)
class Table:
    """n authorizations of one world, by time.

    features: (n, catalogue.N). fraud: the truth. known_us: since when a report of fraud is known,
    NEVER_KNOWN without one; false claims are reported too.
    """

    features: Ints
    history: History
    fraud: Bools
    known_us: Ints
    digest: str

    @property
    def event_us(self) -> Ints:
        """(n,) microseconds UTC."""
        return self.history.event_at

    @property
    def card(self) -> Ints:
        """(n,) codes of the cards."""
        return self.history.card_token.codes

    @property
    def amount_minor(self) -> Ints:
        """(n,) in the reference currency."""
        return self.features[:, catalogue.INDEX["amount_minor"]]

    def rows(self, chosen: Bools | Ints) -> Table:
        """Some of the rows, copied."""
        at: Ints = np.arange(len(self.fraud))[chosen]
        return Table(
            self.features[at],
            _history_rows(self.history, at),
            self.fraud[at],
            self.known_us[at],
            self.digest,
        )

    def without(self, view: str, fx: Fx) -> Ints:
        """(n, catalogue.N) the features that are served while a view is missing.

        The kernel runs again with an entity of its own for each row, never seen before.
        """
        field = _ID_FIELDS[view]
        coded: Coded = getattr(self.history, field)
        n = len(coded.codes)
        codes = np.where(coded.codes < 0, -1, np.arange(n))
        cold_starts: dict[str, Any] = {field: Coded(codes, [f"never-{i}" for i in range(n)])}
        alone = replace(self.history, **cold_starts)
        mine = [i for i, f in enumerate(catalogue.FEATURES) if f.entity == view]
        features = self.features.copy()
        features[:, mine] = backfill(alone, fx).features[:, mine]
        return features

    def between(self, first_us: int, until_us: int) -> Bools:
        """(n,) true where first <= event < until."""
        return (self.event_us >= first_us) & (self.event_us < until_us)

    def reported(self, at_us: int) -> Bools:
        """(n,) what is known of each row at a time: the labels of a training on that day."""
        return self.known_us <= at_us

    def untainted(self, at_us: int) -> Bools:
        """(n,) rows of cards of which no fraud was known at a time (the Handbook's protocol)."""
        known = np.unique(self.card[self.reported(at_us)])
        return ~np.isin(self.card, known)


_ID_FIELDS = {"terminal": "terminal_id", "merchant": "merchant_id", "device": "device_id"}


def _history_rows(history: History, at: Ints) -> History:
    """Some rows of a history; texts stay coded."""
    columns: dict[str, Any] = {}
    for field in fields(history):
        column = getattr(history, field.name)
        if isinstance(column, Coded):
            columns[field.name] = Coded(column.codes[at], column.values)
        elif isinstance(column, np.ndarray):
            columns[field.name] = column[at]
        else:
            columns[field.name] = [column[i] for i in at.tolist()]
    return History(**columns)


def simulate(folder: Path, *, seed: int, cards: int, days: int, start: date, bp: float) -> None:
    """Write a world's history, unless the same one is there already."""
    config = Config(cards=cards, fraud_bp=bp)
    wanted = {
        "config_digest": config.digest(),
        "seed": seed,
        "start": start.isoformat(),
        "days": days,
    }
    about = folder / "world.json"
    if about.exists():
        found = msgspec.json.decode(about.read_bytes())
        if all(found[key] == value for key, value in wanted.items()):
            return
    write(World(config, seed), start, days, folder)


def read(folder: Path, fx: Fx, *, threads: int = 2) -> Table:
    """Run a history and its labels through the kernel. About 1.3 kB of memory a row."""
    authorizations = pq.read_table(folder / "authorizations.parquet")
    truth = pq.read_table(folder / "truth.parquet")
    order = np.argsort(authorizations.column("event_at").to_numpy(), kind="stable")
    history = history_from(authorizations)
    labels = labels_from(pq.read_table(folder / "labels.parquet"))
    made = backfill(history, fx, labels, threads=threads)
    known = truth.column("known_at").fill_null(NEVER_KNOWN).to_numpy()[order]
    return Table(
        features=made.features,
        history=history,
        fraud=truth.column("is_fraud").to_numpy()[order],
        known_us=known,
        digest=digest(folder),
    )


def digest(folder: Path) -> str:
    """SHA-256 over the digests of the history's files."""
    about = msgspec.json.decode((folder / "world.json").read_bytes())
    return hashlib.sha256(msgspec.json.encode(about["sha256"], order="sorted")).hexdigest()


def joined_digest(digests: Sequence[str]) -> str:
    """One SHA-256 for several histories."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def day(start: date, number: int) -> int:
    """Microseconds at which day ``number`` after the start begins, UTC."""
    first = to_datetime(0).replace(year=start.year, month=start.month, day=start.day)
    return from_datetime(first) + number * DAY_US


def undersample(label: Bools, negatives: int, rng: np.random.Generator) -> Ints:
    """Rows of all positives and ``negatives`` times as many others, in order of time.

    The odds in the sample are higher than in the world by :func:`prior_shift`.
    """
    positive = np.flatnonzero(label)
    negative = np.flatnonzero(~label)
    wanted = min(len(negative), negatives * len(positive))
    return np.sort(np.r_[positive, rng.choice(negative, wanted, replace=False)])


def prior_shift(label: Bools, chosen: Ints) -> float:
    """What undersampling adds to the logit: minus the log of the share of negatives kept."""
    kept = (~label[chosen]).sum() / (~label).sum()
    return float(-np.log(kept))
