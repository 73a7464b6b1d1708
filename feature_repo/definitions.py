"""What Feast knows: four entities, one packed state each. Definitions only, no logic.

The state is bytes that the catalogue's kernel reads; its layout in Redis is what
``sluice.adapters.feast.plan`` writes. Feast's materialisation never runs: the featurizer keeps the
online store, and Kafka is the truth.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Bytes

FEATURE_LOG = "../var/feature-log"


def entity(name: str, join_key: str) -> Entity:
    """An entity told by one string."""
    return Entity(name=name, join_keys=[join_key], value_type=ValueType.STRING)


def state_of(owner: Entity) -> FeatureView:
    """The view with the packed state of an entity. ttl 0: a state never goes stale by itself."""
    name = f"{owner.name}_state"
    log = FileSource(
        name=f"{name}_log",
        path=f"{FEATURE_LOG}/{name}.parquet",
        timestamp_field="event_timestamp",
    )
    return FeatureView(
        name=name,
        entities=[owner],
        schema=[Field(name="state", dtype=Bytes)],
        source=PushSource(name=f"{name}_push", batch_source=log),
        ttl=timedelta(0),
        online=True,
    )


card = entity("card", "card_token")
terminal = entity("terminal", "terminal_id")
merchant = entity("merchant", "merchant_id")
device = entity("device", "device_id")

card_state = state_of(card)
terminal_state = state_of(terminal)
merchant_state = state_of(merchant)
device_state = state_of(device)

states = FeatureService(
    name="states", features=[card_state, terminal_state, merchant_state, device_state]
)
