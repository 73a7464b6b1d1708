"""The point-in-time join of features and labels, by Feast, a partition at a time.

Feast's own join copies the whole source several times, so it gets small ones: the feature
repository's views over one partition's rows and labels in two files of a temporary folder. The
offline store is the repository's. See docs/decisions/0014-training-sets-by-partition.md.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dask
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytz
from feast import Entity, FeatureStore, FileSource
from feast.errors import FeastObjectNotFoundException
from feast.feature_view import FeatureView
from feast.repo_config import RepoConfig, load_repo_config
from feast.utils import get_default_yaml_file_path

from sluice.adapters.feast import views
from sluice.adapters.feast.views import FEATURES_VIEW, LABEL_VIEW
from sluice.adapters.layout import PROJECT
from sluice.application.build_dataset import Rules, Served
from sluice.application.dataset import (
    NEVER_KNOWN,
    Hashes,
    Part,
    TimeSlice,
    check_part,
    check_unique,
    compromised,
    kept_by_hash,
    weights,
)
from sluice.application.dataset_manifest import MATURITIES, TRAIN
from sluice.application.maturity import ReportTimes
from sluice.domain.features import catalogue
from sluice.domain.records.outcome import Outcome
from sluice.domain.records.standing import RANKS, changes
from sluice.errors import Corrupt, Misconfigured, Rejected
from sluice.shown import shown

Ints = npt.NDArray[np.int64]

TOLD = ("is_fraud", "kind", "source")
"""What the label view says."""
READS_FILES = ("file", "dask", "duckdb")
"""Offline stores of Feast that can join what lies in parquet files."""
COMPRESSION_LEVEL = 3
ROW_GROUP = 32_768
SAYS_MAX = 300
"""Characters of what a library says."""


def bounded_features() -> Served:
    """Every feature of the catalogue of which something bounds how far back it looks: what a model
    may learn from before there is a release with features of its own."""
    names = [feature.name for feature in catalogue.FEATURES if catalogue.look_back(feature)]
    return Served(tuple(names), catalogue.DIGEST)


def feature_service(repo: Path, name: str) -> Served:
    """Look a feature service up in the applied repository.

    Raises Rejected for one that it does not have, Misconfigured for a repository that cannot be
    read, is not applied, or whose offline store does not read files.
    """
    store = _store(repo)
    try:
        service = store.get_feature_service(name)
    except FeastObjectNotFoundException:
        known = sorted(service.name for service in store.list_feature_services())
        raise Rejected(
            f"no feature service {name}",
            where=str(repo),
            fix=f"one of {', '.join(known)}" if known else "feast apply, in that folder",
            code="unknown_service",
        ) from None
    _applied_views(store, repo)
    names = [
        feature.name
        for projection in service.feature_view_projections
        for feature in projection.features
    ]
    digest = service.tags.get("catalogue", catalogue.DIGEST)
    if digest != catalogue.DIGEST:
        raise Rejected(
            f"{name} serves catalogue {digest}, this library knows {catalogue.DIGEST}",
            where=str(repo),
            fix="run the library of that catalogue, or feast apply",
            code="other_catalogue",
        )
    return Served(tuple(names), digest)


class Join:
    """Feast's join over one partition after another. One a process."""

    def __init__(self, repo: Path, features: Sequence[str], folder: Path, applied: bool) -> None:
        """applied: take the views from the repository's registry, not from the library. Raises
        Misconfigured."""
        # One thread a process: more would add their own copies, and processes fill the cores.
        dask.config.set(scheduler="synchronous")
        self._features = tuple(features)
        self._folder = folder
        given = _configuration(repo)
        owner, found = _applied_views(_store(repo), repo) if applied else _library_views()
        self._store = FeatureStore(
            config=RepoConfig(
                project=given.project,
                provider="local",
                registry=str(folder / "registry.db"),
                offline_store=given.offline_store.model_dump(),
                online_store=None,
                entity_key_serialization_version=3,
                repo_path=folder,
            )
        )
        self._store.registry.apply_entity(owner, given.project)
        for view in found:
            small = copy.copy(view)
            small.batch_source = FileSource(
                name=f"{view.name}_part",
                path=str(folder / f"{view.name}.parquet"),
                timestamp_field=view.batch_source.timestamp_field,
            )
            self._store.registry.apply_feature_view(small, given.project)

    def __call__(self, rows: pa.Table, labels: pa.Table, as_of_us: int) -> pa.Table:
        """Features and label of each row, in the order of rows.

        rows: authorization_id, unique, event_at, features as catalogue lists. labels:
        authorization_id, known_at, is_fraud, kind, source; none known after as_of, for Feast's file
        store drops an authorization that has only such. Returns the features, then is_fraud, kind
        and source, null where no label is known. Raises Corrupt if Feast's answer has other rows.
        """
        kinds = [pa.int64()] * len(self._features) + [pa.bool_(), pa.string(), pa.string()]
        names = [*self._features, *TOLD]
        if not len(rows):
            return pa.schema(zip(names, kinds, strict=True)).empty_table()
        ids = rows["authorization_id"]
        self._stage(
            FEATURES_VIEW,
            {"authorization_id": ids, "event_timestamp": _times(rows["event_at"])}
            | self._columns(rows["features"]),
        )
        self._stage(
            LABEL_VIEW,
            {"authorization_id": labels["authorization_id"], "known_at": _times(labels["known_at"])}
            | {name: labels[name] for name in TOLD},
        )
        asked = pd.DataFrame(
            {
                "authorization_id": ids.to_pandas(),
                # Feast goes through other kinds of UTC row by row.
                "event_timestamp": pd.Series(
                    [pd.Timestamp(as_of_us, unit="us", tz=pytz.UTC)] * len(rows)
                ).astype(pd.DatetimeTZDtype("ns", pytz.UTC)),
            }
        )
        refs = [f"{FEATURES_VIEW}:{name}" for name in self._features]
        refs += [f"{LABEL_VIEW}:{name}" for name in TOLD]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._store.get_historical_features(entity_df=asked, features=refs).to_arrow()
        places = pc.index_in(ids.combine_chunks(), found["authorization_id"].combine_chunks())
        if len(found) != len(rows) or places.null_count:
            raise Corrupt(
                f"Feast's join of {len(rows)} authorizations gave {len(found)}",
                where=f"offline store {self._store.config.offline_store.type}",
                fix="report this: nothing was written",
                code="join",
            )
        found = found.take(places)
        for name in self._features:
            if found[name].null_count:
                raise Corrupt(f"Feast's join lost {name} of some authorizations", code="join")
        return pa.table(
            {
                name: found[name].combine_chunks().cast(kind)
                for name, kind in zip(names, kinds, strict=True)
            }
        )

    def _columns(self, lists: pa.ChunkedArray) -> dict[str, pa.Array]:
        flat = pc.list_flatten(lists).to_numpy().reshape(-1, catalogue.N)
        return {
            name: pa.array(np.ascontiguousarray(flat[:, catalogue.INDEX[name]]))
            for name in self._features
        }

    def _stage(self, name: str, columns: dict[str, Any]) -> None:
        pq.write_table(
            pa.table(columns),
            self._folder / f"{name}.parquet",
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )


class FeatureLog(Protocol):
    """What the join reads, of the time of one order; made by bootstrap. Pickled for each process.

    See :class:`sluice.adapters.parquet.feature_log.FeatureLog`.
    """

    def files(self) -> dict[str, str]:
        """SHA-256 of every file that is read, by its path."""
        ...

    def per_second(self, first_us: int, until_us: int) -> npt.NDArray[np.uint32]:
        """(n,) rows of each second of a part of the time."""
        ...

    def rows(self, first_us: int, until_us: int) -> pa.Table:
        """Authorizations with first <= event_at < until, by (event_at, authorization_id)."""
        ...

    def labels(self, first_us: int, until_us: int) -> pa.Table:
        """Labels of authorizations of that time."""
        ...

    def named(self, since_us: int) -> tuple[pa.StringArray, Ints]:
        """Cards with a fraud since a moment, sorted, and since when one is known."""
        ...

    def reports(self) -> ReportTimes:
        """When the frauds of the time were reported."""
        ...

    def holes(self) -> int:
        """Decisions missing from their emitters' sequences."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What all partitions of one training set have in common.

    applied: the views are those of the repository's registry. named: by split, its cards with a
    fraud.
    """

    log: FeatureLog
    repo: Path
    served: Served
    applied: bool
    named: dict[str, tuple[pa.StringArray, Ints]]
    rules: Rules
    out: Path


class Maker:
    """Makes the files of a training set, partition by partition. One a process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-dataset-")
        self._join = Join(job.repo, job.served.features, Path(self._folder.name), job.applied)

    def make(self, partition: TimeSlice) -> tuple[Part, Hashes]:
        """Join, check and write one partition. Returns its figures and a hash of each id."""
        job, split, rules = self._job, partition.split, self._job.rules
        rows = job.log.rows(partition.first_us, partition.until_us)
        _refuse_other_catalogues(rows, job.served.catalogue)
        every_hash = hashes = pd.util.hash_array(rows["authorization_id"].to_numpy())
        check_unique([hashes])
        left_out = 0
        if split.name in job.named:
            card_known = _looked_up(rows["card_token"], *job.named[split.name])
            out = compromised(rows["event_at"].to_numpy(), card_known)
            left_out = int(out.sum())
            rows, hashes = rows.filter(pa.array(~out)), hashes[~out]
        every = job.log.labels(partition.first_us, partition.until_us)
        mine = pc.is_in(every["authorization_id"], rows["authorization_id"].combine_chunks())
        labels = every.filter(mine)
        early = pc.less_equal(labels["known_at"], split.as_of_us)
        after = len(labels) - pc.sum(early).as_py() if len(labels) else 0
        labels, newest = _reported(labels.filter(early))
        sampled_out = 0
        if split.name == TRAIN and rules.keep_genuine < 1.0:
            frauds = newest.filter(newest["is_fraud"])["authorization_id"].combine_chunks()
            keep = pc.is_in(rows["authorization_id"], frauds).to_numpy()
            keep |= kept_by_hash(hashes, rules.keep_genuine, rules.seed)
            sampled_out = int((~keep).sum())
            rows = rows.filter(pa.array(keep))
            labels = labels.filter(
                pc.is_in(labels["authorization_id"], rows["authorization_id"].combine_chunks())
            )
        # Feast gives nothing of a row that lies behind the moment asked for.
        joined = self._join(rows, labels, max(split.as_of_us, split.until_us))
        known_us = _looked_up(
            rows["authorization_id"], newest["authorization_id"], newest["known_at"].to_numpy()
        )
        _agree(rows, joined, newest)
        check_part(partition, rows["event_at"].to_numpy(), known_us)
        table = self._table(partition, rows, joined, known_us)
        path = Path(split.name) / f"part-{partition.number:05}.parquet"
        served = len(rows) - rows["degradation_level"].null_count
        event_us = rows["event_at"].to_numpy()
        return (
            Part(
                path=str(path),
                sha256=_write(table, job.out / path),
                rows=len(rows),
                frauds=pc.sum(table["is_fraud"]).as_py() or 0,
                labelled=int((known_us != NEVER_KNOWN).sum()),
                not_yet=pc.sum(pc.equal(table["maturity"], "not_yet")).as_py() or 0,
                left_out=left_out,
                sampled_out=sampled_out,
                labels_after=after,
                labels_astray=_astray(every, every_hash),
                served=served,
                degraded=served - (pc.sum(pc.equal(rows["degradation_level"], "D0")).as_py() or 0),
                first_us=int(event_us.min(initial=partition.until_us)),
                last_us=int(event_us.max(initial=partition.first_us)),
                known_until_us=int(known_us.max(initial=NEVER_KNOWN)),
                currency=_currency(rows),
            ),
            every_hash,
        )

    def _table(
        self, partition: TimeSlice, rows: pa.Table, joined: pa.Table, known_us: Ints
    ) -> pa.Table:
        """The columns of a file, in the order of the manifest."""
        split, rules = partition.split, self._job.rules
        age_us = split.as_of_us - rows["event_at"].to_numpy()
        frauds = pc.fill_null(joined["is_fraud"], False)
        known = known_us != NEVER_KNOWN
        maturity = np.where(known, 0, np.where(age_us < rules.mature_after_us, 1, 2))
        weight = weights(
            rows["let_through_ppm"].cast(pa.int64()).fill_null(0).to_numpy(),
            pc.fill_null(pc.equal(rows["outcome"], Outcome.DECLINE.value), False).to_numpy(),
            known,
            frauds.to_numpy(zero_copy_only=False),
            rules.keep_genuine if split.name == TRAIN else 1.0,
        )
        who = {
            "authorization_id": "authorization_id",
            "event_at": "event_at",
            "card_token": "card_token",
            "customer_id": "customer_id",
            "merchant_id": "merchant_id",
            "terminal_id": "terminal_id",
            "channel": "channel",
            "region": "region",
            "mcc": "mcc",
            "amount_minor": "reference_amount_minor",
        }
        return pa.table(
            {
                **{name: rows[held] for name, held in who.items()},
                **{name: joined[name] for name in self._job.served.features if name not in who},
                "is_fraud": frauds,
                "known_at": pa.array(known_us),
                "maturity": pa.array(MATURITIES).take(pa.array(maturity)),
                "weight": pa.array(weight),
                "reported_share": pa.array(rules.reported.at(age_us)),
                "label_kind": joined["kind"],
                "label_source": joined["source"],
                "degradation_level": rows["degradation_level"],
            }
        )


def maker(job: Job) -> Callable[[TimeSlice], tuple[Part, Hashes]]:
    """Prepare this process for partitions of a training set; it cleans up when it ends."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    return Maker(job).make


def _refuse_other_catalogues(rows: pa.Table, wanted: str) -> None:
    other = pc.index(pc.not_equal(rows["catalogue"], wanted), True).as_py()
    if other >= 0:
        raise Rejected(
            f"features of catalogue {rows['catalogue'][other]}, the service has {wanted}",
            where=f"authorization {rows['authorization_id'][other]}",
            fix="choose a time decided under one catalogue, or backfill it anew",
            code="other_catalogue",
        )


def _reported(labels: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Labels as Feast may see them, those that change what is known; and the last of each
    authorization."""
    codes = pc.dictionary_encode(labels["authorization_id"]).combine_chunks().indices
    ranks = pc.index_in(labels["kind"], pa.array(list(RANKS)))
    kept, last = changes(
        codes.cast(pa.int64()).to_numpy(),
        np.array([*RANKS.values()], np.int64)[ranks.to_numpy()],
        labels["is_fraud"].to_numpy(zero_copy_only=False),
        labels["known_at"].to_numpy(),
        labels["place"].to_numpy(),
    )
    kept_labels = labels.take(pa.array(kept))
    return kept_labels, kept_labels.filter(pa.array(last))


def _agree(rows: pa.Table, joined: pa.Table, newest: pa.Table) -> None:
    """Refuse a join that says of an authorization something else than its newest label."""
    places = pc.index_in(rows["authorization_id"], newest["authorization_id"].combine_chunks())
    for name in TOLD:
        ours = newest[name].take(places)
        same = pc.fill_null(pc.equal(ours, joined[name]), False)
        both_null = pc.and_(pc.is_null(ours), pc.is_null(joined[name]))
        bad = pc.index(pc.or_(same, both_null), False).as_py()
        if bad >= 0:
            raise Corrupt(
                f"Feast's join says {name} {joined[name][bad]}, the log {ours[bad]}",
                where=f"authorization {rows['authorization_id'][bad]}",
                fix="report this: nothing was written",
                code="join",
            )


def _looked_up(keys: pa.ChunkedArray, known: pa.Array, values: Ints) -> Ints:
    """(n,) values by key, NEVER_KNOWN for what is not there."""
    if isinstance(known, pa.ChunkedArray):
        known = known.combine_chunks()
    places = pc.index_in(keys, known).fill_null(len(values)).to_numpy()
    found: Ints = np.append(values, NEVER_KNOWN)[places]
    return found


def _astray(labels: pa.Table, hashes: npt.NDArray[np.uint64]) -> int:
    """Labels of this time whose authorization is not in it."""
    own = pd.util.hash_array(labels["authorization_id"].to_numpy())
    return int((~np.isin(own, hashes)).sum())


def _write(table: pa.Table, path: Path) -> str:
    """Write a file and return its SHA-256. Same rows, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        row_group_size=ROW_GROUP,
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _times(column: pa.ChunkedArray) -> pa.Array:
    return pa.array(column.to_numpy()).cast(pa.timestamp("us", "UTC"))


def _currency(rows: pa.Table) -> str:
    """The reference currency of the rows, "" without one. Two of them are told together, which no
    other partition says, so that the set is refused."""
    return " and ".join(
        sorted(one or "none" for one in rows["reference_currency"].unique().to_pylist())
    )


def _configuration(repo: Path) -> RepoConfig:
    """Of the feature repository; without one, Feast's file store. Raises Misconfigured for one that
    cannot be read, or whose offline store does not read files."""
    path = get_default_yaml_file_path(repo)
    if not path.exists():
        return RepoConfig(
            project=PROJECT,
            provider="local",
            registry="",
            offline_store={"type": "file"},
            online_store=None,
            entity_key_serialization_version=3,
        )
    try:
        found = load_repo_config(repo, path)
        kind = str(found.offline_store.type)
    except Exception as exc:  # Feast raises whatever its parts raise
        raise _not_opened(exc, repo) from exc
    if kind not in READS_FILES:
        raise Misconfigured(
            f"the offline store {kind} does not read files",
            where=str(path),
            fix=f"offline_store type {', '.join(READS_FILES)}: docs/how-to/build-a-training-set.md",
        )
    return found


def _not_opened(exc: Exception, repo: Path) -> Misconfigured:
    return Misconfigured(
        f"the feature repository cannot be opened: {shown(str(exc), SAYS_MAX)}",
        where=str(repo),
        fix="--repo DIR; a configuration that FEAST_FS_YAML_FILE_PATH names takes its places from "
        "variables, which must be set",
    )


def _store(repo: Path) -> FeatureStore:
    try:
        store = FeatureStore(repo_path=str(repo))
        store.registry.list_entities(store.project)
    except Exception as exc:  # Feast raises whatever its parts raise
        raise _not_opened(exc, repo) from exc
    return store


def _library_views() -> tuple[Entity, list[FeatureView]]:
    """What the feature repository would apply."""
    owner = views.authorization()
    return owner, [
        views.decision_features(owner, FileSource(path="", timestamp_field="event_timestamp")),
        views.fraud_label(owner, FileSource(path="", timestamp_field="known_at")),
    ]


def _applied_views(store: FeatureStore, repo: Path) -> tuple[Entity, list[FeatureView]]:
    """The two views of a training set. Raises Misconfigured if they are not applied."""
    _configuration(repo)
    try:
        found = [store.get_feature_view(name) for name in (FEATURES_VIEW, LABEL_VIEW)]
        return store.get_entity(found[0].entities[0]), found
    except FeastObjectNotFoundException as exc:
        raise Misconfigured(str(exc), where=str(repo), fix="feast apply, in that folder") from exc
