"""A dataset as training sees it: features as floats, who counts as labelled, each row's weight, and
the card's authorizations before it.

Nothing here knows where the rows came from. Splits, catalogue and seed are the manifest's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sluice.adapters.parquet.dataset import dataset_digest, read_manifest, read_split
from sluice.application.dataset_manifest import TRAIN, VALIDATION, Manifest
from sluice.domain.clock import SECOND_US
from sluice.domain.features import catalogue
from sluice.domain.features.events import event_row, event_rows
from sluice.domain.features.kernel import Kernel
from sluice.domain.records.authorization import Authorization, Channel
from sluice.domain.records.entity import EntityKind
from sluice.errors import Rejected

from sluice_models.run import ID

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

SHARE_MIN = 0.25
"""Of the frauds of an age that are known. Below it, a row without a label says too little to be
called genuine, and a fraud would stand for more than four: such rows are unlabelled traffic."""
FRAUDS_MIN = 20
"""Of a train split, and half of it of a validation split: below, a figure on it is a lottery."""
PAST = 32
"""Authorizations of the card that a teacher looks back on, this one not counted."""
STEP = ("present", "amount_minor", "age_s", "same_terminal", "same_merchant", "same_mcc",
        "same_region", "same_channel")  # fmt: skip
"""Columns of one authorization of the card's past; same: as that of the row it is the past of."""
MAY_MISS: tuple[EntityKind, ...] = ("terminal", "merchant", "device")
"""Views that a decider may have to do without. Without the card's it does not ask a model."""

_SAME = ("terminal_id", "merchant_id", "mcc", "region", "channel")


@dataclass(frozen=True, slots=True)
class Rows:
    """A split of n rows.

    features: (n, f). labelled: (n,) whether the row has a label to learn from: one that is known,
    or none at an age at which most frauds are. weight: (n,) how many authorizations the row stands
    for: the dataset's weight, and for a fraud one over the share of its age that is known. share:
    (n,) that share, as it went into the weight. place: (n,) of the rows in the timeline.
    """

    name: str
    ids: pa.ChunkedArray
    features: Floats
    fraud: Bools
    labelled: Bools
    weight: Doubles
    share: Doubles
    place: Ints


@dataclass(frozen=True, slots=True)
class Timeline:
    """All N rows of the dataset, for what a card did before a row.

    card: (N,) codes. before: (N, PAST) places of the card's latest rows before each, the oldest
    first, -1 where there is none. same: (N, 5) codes of terminal, merchant, category, region and
    channel, -1 for null.
    """

    event_us: Ints
    card: npt.NDArray[np.int32]
    amount_minor: Floats
    same: npt.NDArray[np.int32]
    before: npt.NDArray[np.int32]

    def past(self, place: Ints) -> Floats:
        """(m, PAST + 1, len(STEP)) of m rows: what the card did, and the row itself last."""
        at = np.concatenate([self.before[place], place[:, None].astype(np.int32)], axis=1)
        present = at >= 0
        out = np.zeros((*at.shape, len(STEP)), np.float32)
        out[..., 0] = present
        out[..., 1] = self.amount_minor[at]
        out[..., 2] = (self.event_us[place][:, None] - self.event_us[at]) / SECOND_US
        own = self.same[place][:, None, :]
        out[..., 3:] = (self.same[at] == own) & (own >= 0)
        out[~present] = 0
        return out


@dataclass(frozen=True)
class Material:
    """What one training has to learn from and to score."""

    folder: Path
    manifest: Manifest
    digest: str
    names: tuple[str, ...]
    timeline: Timeline
    _begins: dict[str, int]
    _kept: dict[str, Rows] = field(default_factory=dict)

    def rows(self, split: str) -> Rows:
        """A split that is needed again and again; kept."""
        if split not in self._kept:
            self._kept[split] = self.load(split)
        return self._kept[split]

    def load(self, split: str) -> Rows:
        """A split, from its files. Takes some 2 kB a row while it reads."""
        table = read_split(
            self.folder,
            split,
            [ID, *self.names, "is_fraud", "maturity", "weight", "reported_share"],
        )
        features = np.empty((len(table), len(self.names)), np.float32)
        for i, name in enumerate(self.names):
            features[:, i] = table[name].to_numpy()
        fraud = table["is_fraud"].to_numpy().astype(np.bool_)
        reported = table["reported_share"].to_numpy().astype(np.float64)
        share = np.maximum(reported, SHARE_MIN)
        weight = table["weight"].to_numpy().astype(np.float64)
        known = pc.equal(table["maturity"], "known").to_numpy()
        begins = self._begins[split]
        return Rows(
            name=split,
            ids=table[ID],
            features=features,
            fraud=fraud,
            labelled=(weight > 0) & (known | (reported >= SHARE_MIN)),
            weight=np.where(fraud, weight / share, weight),
            share=share,
            place=np.arange(begins, begins + len(table)),
        )

    def has(self, split: str) -> bool:
        """Whether the dataset has a split."""
        return split in self._begins

    @property
    def splits(self) -> list[str]:
        """Every split's name, in the manifest's order."""
        return list(self._begins)


def read_material(folder: Path) -> Material:
    """A dataset that can be trained on.

    Raises Rejected: no dataset, one of another catalogue, one without a train or validation split,
    a split with too few frauds or no genuine row; Corrupt for a file that is not the manifest's.
    """
    manifest = read_manifest(folder)
    for name, fix in ((TRAIN, ""), (VALIDATION, "--validation 7d")):
        if name not in [split.name for split in manifest.splits]:
            raise Rejected(
                f"the dataset has no split {name}",
                where=str(folder),
                fix=f"build it again {fix}".rstrip() + ": docs/how-to/build-a-training-set.md",
                code="no_split",
            )
    begins: dict[str, int] = {}
    tables: list[pa.Table] = []
    for split in manifest.splits:
        begins[split.name] = sum(len(table) for table in tables)
        tables.append(read_split(folder, split.name, _of_timeline()))
    material = Material(
        folder,
        manifest,
        dataset_digest(folder),
        tuple(manifest.features),
        _timeline(pa.concat_tables(tables)),
        begins,
    )
    for name, least in ((TRAIN, FRAUDS_MIN), (VALIDATION, FRAUDS_MIN // 2)):
        _check_classes(material.rows(name), least, folder)
    return material


def _check_classes(rows: Rows, least: int, folder: Path) -> None:
    frauds = int((rows.fraud & rows.labelled).sum())
    genuine = int((~rows.fraud & rows.labelled).sum())
    if frauds < least or not genuine:
        raise Rejected(
            f"{rows.name} has {frauds} frauds and {genuine} genuine rows with a label, at least "
            f"{least} frauds and one genuine row are needed",
            where=str(folder),
            fix="build it over a longer time, or wait until more labels are known",
            code="empty_class",
        )


def _of_timeline() -> list[str]:
    return ["event_at", "card_token", "amount_minor", *_SAME]


def _timeline(table: pa.Table) -> Timeline:
    event_us = table["event_at"].to_numpy()
    card = _codes(table["card_token"])
    order = np.lexsort((event_us, card))  # stable: rows of one moment stay as they lie
    sorted_card = card[order]
    before = np.full((len(order), PAST), -1, np.int32)
    for k in range(1, min(PAST, max(len(order) - 1, 0)) + 1):
        alike = sorted_card[k:] == sorted_card[:-k]
        before[order[k:][alike], PAST - k] = order[:-k][alike]
    return Timeline(
        event_us,
        card,
        table["amount_minor"].to_numpy().astype(np.float32),
        np.stack([_codes(table[name]) for name in _SAME], axis=1),
        before,
    )


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """A number for each text, the same for the same text; -1 for null."""
    indices = pc.dictionary_encode(column.combine_chunks())
    if isinstance(indices, pa.ChunkedArray):
        indices = indices.combine_chunks()
    found: npt.NDArray[np.int32] = indices.indices.fill_null(-1).to_numpy().astype(np.int32)
    return found


@dataclass(frozen=True)
class Missing:
    """What features read while a view is missing, as a decider gives them: the kernel's, for an
    entity that was never seen.

    Each is a number of its own, or the row's amount.
    """

    names: Sequence[str]
    _values: Floats
    _amounts: Bools
    _amount_at: int
    _device_at: int

    @staticmethod
    def of(names: Sequence[str]) -> Missing:
        """For columns of the catalogue."""
        made = np.stack([_unseen(amount) for amount in (12_345, 67_890)])
        columns = [catalogue.INDEX[name] for name in names]
        first, second = made[:, columns]
        return Missing(
            names,
            first.astype(np.float32),
            (first == 12_345) & (second == 67_890),
            _index(names, "amount_minor"),
            _index(names, "has_device"),
        )

    def without(self, features: Floats, view: EntityKind) -> Floats:
        """(n, f) as they are served while the view is missing; a copy."""
        out = features.copy()
        named = np.ones(len(out), np.bool_)
        if view == "device" and self._device_at >= 0:
            named = out[:, self._device_at] > 0
        for i, name in enumerate(self.names):
            if catalogue.FEATURES[catalogue.INDEX[name]].entity != view:
                continue
            amount = self._amounts[i] and self._amount_at >= 0
            unseen = out[named, self._amount_at] if amount else self._values[i]
            out[named, i] = unseen
        return out


def _index(names: Sequence[str], name: str) -> int:
    return list(names).index(name) if name in names else -1


def _unseen(amount_minor: int) -> Ints:
    """(N,) catalogue features of an authorization of whose card all is known, and nothing of
    whatever else it names."""
    auth = Authorization(
        authorization_id="unseen",
        event_at=1_700_000_000_000_000,
        card_token="unseen",
        terminal_id="unseen",
        merchant_id="unseen",
        device_id="unseen",
        amount_minor=amount_minor,
        currency="EUR",
        mcc="5411",
        channel=Channel.ECOM,
        merchant_country="DE",
        card_country="DE",
        region="unseen",
        tenant="unseen",
    )
    states = tuple(None if view in MAY_MISS else b"" for view in catalogue.VIEWS)
    found = Kernel().finalise(event_rows([event_row(auth, amount_minor)]), [states], [()])
    return found.features[0]
