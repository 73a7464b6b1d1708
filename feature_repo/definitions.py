"""What Feast knows. Definitions only: names and meaning come from the catalogue, and what they
have in common from ``sluice.adapters.feast.views``.

Feast's materialisation never runs: the featurizer keeps the online store, whose layout is what
``sluice.adapters.layout`` writes, and Kafka is the truth.
"""

from inspect import getsource
from pathlib import Path

from feast import FeatureService, Project
from feast.on_demand_feature_view import PythonTransformation

from sluice.adapters.feast import views
from sluice.adapters.feast.views import (
    OWNER,
    Finalised,
    bare,
    entity,
    feature_tags,
    located,
    releases,
    request,
    source,
    state_view,
)
from sluice.domain.features import catalogue
from sluice.settings import load

ROOT = Path(__file__).parents[1]
offline = load()[0].feast.offline
log = load()[0].feast.log
if offline in ("file", "spark"):
    log = located(log, ROOT)

project = Project(
    name="sluice", description="Card fraud decided in real time: features and labels", owner=OWNER
)

card = entity("card", "card_token", "A payment card, by its token", pii="pseudonym of a person")
terminal = entity("terminal", "terminal_id", "Where a card is presented", pii="none")
merchant = entity("merchant", "merchant_id", "Who is paid", pii="none")
device = entity(
    "device", "device_id", "What an online purchase comes from", pii="pseudonym of a person"
)
authorization = views.authorization()

card_state, terminal_state, merchant_state, device_state = (
    state_view(owner, owner.name, source(offline, log, f"{owner.name}_state"))
    for owner in (card, terminal, merchant, device)
)


def finalise(columns: dict[str, list[object]]) -> dict[str, list[int]]:
    """Feast keeps this text in its registry and runs it wherever features are served."""
    from sluice.adapters.feast.finalise import finalise  # noqa: PLC0415

    return finalise(columns)


authorization_features = Finalised(
    name="authorization_features",
    mode="python",
    sources=[card_state, terminal_state, merchant_state, device_state, request("authorization")],
    schema=bare(),
    feature_transformation=PythonTransformation(finalise, getsource(finalise)),
    description="Every feature of an authorization at its own time, from the four states",
    tags={"catalogue": catalogue.DIGEST, "pii": "pseudonymous", **feature_tags()},
    owner=OWNER,
)

decision_features = views.decision_features(
    authorization, source(offline, log, "decision_features")
)
fraud_label = views.fraud_label(authorization, source(offline, log, "fraud_label", time="known_at"))

states = FeatureService(
    name="states",
    features=[card_state, terminal_state, merchant_state, device_state],
    description="The packed states alone: what the compiled plan reads",
    owner=OWNER,
)


def service(name: str, names: list[str], description: str) -> FeatureService:
    """Features to be served online, in this order."""
    return FeatureService(
        name=name,
        features=[authorization_features[names]],
        description=description,
        tags={"catalogue": catalogue.DIGEST},
        owner=OWNER,
    )


every = service("catalogue", list(catalogue.NAMES), "Every feature of the catalogue")
models = [
    service(release.id, release.names, f"What release {release.id} scores")
    for release in releases(ROOT / "models" / "releases")
]
# Feast finds what has a name of its own in a module, so each model gets one.
globals().update({model.name: model for model in models})
