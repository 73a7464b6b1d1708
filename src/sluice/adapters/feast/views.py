"""How ``feature_repo/`` says what it says: from the catalogue, so that nothing is typed twice.

Only the feature repository imports this; it needs Feast, which nothing that serves does.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from feast import (
    BigQuerySource,
    Entity,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    PushSource,
    RequestSource,
    SnowflakeSource,
    ValueType,
)
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.types import Bool, Bytes, Int64, String

from sluice.adapters.feast.finalise import Request
from sluice.adapters.layout import FEATURES, JOIN_KEYS, VIEW_NAMES
from sluice.domain.features import catalogue
from sluice.domain.records.entity import EntityKind
from sluice.domain.release import MANIFEST, Manifest, check_features, decode_manifest
from sluice.errors import Misconfigured

Offline = Literal["file", "spark", "snowflake", "bigquery"]
"""What the feature log is to Feast; ``file`` serves its file and DuckDB offline stores."""
OWNER = "risk-features"
FEATURES_VIEW, LABEL_VIEW = "decision_features", "fraud_label"
FOR_EVER = timedelta(0)
"""A state never goes stale by itself, and a decision never does."""


def features() -> list[Field]:
    """Every catalogue feature as a field, with unit, window and default as tags."""
    return [
        Field(
            name=f.name,
            dtype=Int64,
            description=f.description,
            tags={
                "unit": f.unit,
                "window": f.window or "none",
                "default": str(f.default),
                "group": f.group,
                "entity": f.entity,
            },
        )
        for f in catalogue.FEATURES
    ]


def entity(name: str, join_key: str, description: str, *, pii: str) -> Entity:
    """An entity told by one string. pii: what its key says of a person."""
    return Entity(
        name=name,
        join_keys=[join_key],
        value_type=ValueType.STRING,
        description=description,
        tags={"pii": pii, "tenant": "all of a cell"},
        owner=OWNER,
    )


def located(log: str, root: Path) -> str:
    """The feature log's location, a folder made absolute: DuckDB would start at the caller's."""
    return log if "://" in log else str((root / log).resolve())


def source(kind: Offline, log: str, name: str, time: str = "event_timestamp") -> DataSource:
    """One table of the feature log: a folder of parquet files, or a table in a warehouse.

    log: folder or URL, DATABASE.SCHEMA, or project.dataset. time: its column of timestamps.
    """
    if kind == "file":
        return FileSource(
            name=f"{name}_log",
            path=f"{log}/{name}/*.parquet",
            file_format=ParquetFormat(),
            timestamp_field=time,
        )
    if kind == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (  # noqa: PLC0415
            SparkSource,
        )

        return SparkSource(
            name=f"{name}_log", path=f"{log}/{name}", file_format="parquet", timestamp_field=time
        )
    if kind == "snowflake":
        database, _, schema = log.partition(".")
        return SnowflakeSource(
            name=f"{name}_log",
            database=database,
            schema=schema,
            table=name.upper(),
            timestamp_field=time,
        )
    return BigQuerySource(name=f"{name}_log", table=f"{log}.{name}", timestamp_field=time)


def state_view(owner: Entity, kind: EntityKind, log: DataSource) -> FeatureView:
    """The view with the packed state of an entity, pushed by whoever owns the online store."""
    return FeatureView(
        name=VIEW_NAMES[kind],
        entities=[owner],
        schema=[
            Field(
                name=FEATURES[kind],
                dtype=Bytes,
                description=f"Packed state of a {kind}: counts, amounts and times as integers",
                tags={"unit": "bytes", "default": "none: never seen"},
            ),
            Field(name=JOIN_KEYS[kind], dtype=String),
        ],
        source=PushSource(name=f"{VIEW_NAMES[kind]}_push", batch_source=log),
        ttl=FOR_EVER,
        online=True,
        description=f"What is remembered of a {kind}; authorization_features makes numbers of it",
        tags={"catalogue": catalogue.DIGEST, **owner.tags},
        owner=OWNER,
    )


def authorization() -> Entity:
    """What is judged: the entity of the two views that a training set is joined from."""
    return entity(
        "authorization",
        "authorization_id",
        "One request to spend on a card: what is judged",
        pii="pseudonym of an event",
    )


def decision_features(owner: Entity, log: DataSource) -> FeatureView:
    """The catalogue's features of an authorization, as they were served."""
    return FeatureView(
        name=FEATURES_VIEW,
        entities=[owner],
        schema=[Field(name="authorization_id", dtype=String), *features()],
        source=log,
        ttl=FOR_EVER,
        online=False,
        description="The features that decisions were made from, as served: for training",
        tags={"catalogue": catalogue.DIGEST, "pii": "pseudonymous"},
        owner=OWNER,
    )


def fraud_label(owner: Entity, log: DataSource) -> FeatureView:
    """What became of an authorization."""
    return FeatureView(
        name=LABEL_VIEW,
        entities=[owner],
        schema=[
            Field(name="authorization_id", dtype=String),
            Field(name="is_fraud", dtype=Bool, description="Whether the authorization was fraud"),
            Field(name="kind", dtype=String, description="chargeback, alert or verdict"),
            Field(name="source", dtype=String, description="Who says so"),
        ],
        source=log,
        ttl=FOR_EVER,
        online=False,
        description="What became of an authorization, by the time from which it was known",
        tags={"pii": "pseudonymous"},
        owner=OWNER,
    )


class Finalised(OnDemandFeatureView):
    """An on-demand view of declared fields: Feast would call it on "hello world" to infer them."""

    def infer_features(self) -> None:
        """Nothing to infer."""


def bare() -> list[Field]:
    """Every catalogue feature by name and type alone.

    Feast 0.67 drops description and tags of an on-demand view's fields when it reads its registry,
    then refuses a feature service that has them; so ``feature_tags`` says them on the view.
    """
    return [Field(name=name, dtype=Int64) for name in catalogue.NAMES]


def feature_tags() -> dict[str, str]:
    """Unit, window, default and meaning of each catalogue feature, as tags of a view."""
    return {
        f.name: f"{f.unit}, window {f.window or 'none'}, default {f.default}: {f.description}"
        for f in catalogue.FEATURES
    }


def request(name: str) -> RequestSource:
    """The authorization's own fields, as the caller sends them."""
    numbers = ("event_at", "reference_amount_minor")
    return RequestSource(
        name=name,
        schema=[
            Field(name=one, dtype=Int64 if one in numbers else String)
            for one in Request.__struct_fields__
        ],
        description="The authorization to be judged, as in docs/reference/authorization.md",
        owner=OWNER,
    )


def releases(folder: Path) -> list[Manifest]:
    """Manifests of the releases that this catalogue can feed, by id. A link is not another one."""
    found = [
        decode_manifest(path.read_bytes(), str(path))
        for path in sorted(folder.glob(f"*/{MANIFEST}"))
        if not path.parent.is_symlink()
    ]
    return [manifest for manifest in found if _fits(manifest)]


def _fits(manifest: Manifest) -> bool:
    try:
        check_features(manifest, catalogue.FEATURES)
    except Misconfigured:
        return False
    return True
