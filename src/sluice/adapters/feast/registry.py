"""A feature service as Feast's registry has it, compiled. Needs Feast; nothing that serves does."""

from __future__ import annotations

from pathlib import Path

from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from feast.infra.online_stores.helpers import _mmh3

from sluice.adapters.feast.contract import Plan, ViewPlan, feature_plans, plan_of
from sluice.domain.features import catalogue
from sluice.errors import Misconfigured

_APPLY = "run feast apply in the feature repository"


def compile_service(repository: Path, service: str) -> Plan:
    """The plan of a service, from the registry that the repository's configuration names.

    Raises Misconfigured if there is no such service, or if this build would read anything else
    than Feast defines, with the first difference.
    """
    store = FeatureStore(repo_path=str(repository))
    try:
        plan = _described(store, service)
    except FeastObjectNotFoundException as exc:
        raise Misconfigured(str(exc), where=str(repository), fix=_APPLY) from exc
    ours = plan_of([feature.name for feature in plan.features])
    if plan != ours:
        raise Misconfigured(
            f"the registry differs from this build: {_difference(plan, ours)}",
            where=str(repository),
            fix=_APPLY,
        )
    return plan


def _described(store: FeatureStore, service: str) -> Plan:
    names: list[str] = []
    views: dict[str, ViewPlan] = {}
    digests = {catalogue.DIGEST}
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    for projection in store.get_feature_service(service).feature_view_projections:
        if projection.name in on_demand:
            served = on_demand[projection.name]
            digests = {served.tags["catalogue"]}
            if absent := [f.name for f in projection.features if f.name not in catalogue.INDEX]:
                raise Misconfigured(
                    f"the catalogue has no feature {', '.join(absent)}", where=service, fix=_APPLY
                )
            names += [feature.name for feature in projection.features]
            sources = [source.name for source in served.source_feature_view_projections.values()]
        else:
            sources = [projection.name]
        for source in sources:
            views[source] = _view(store, source)
    return Plan(
        project=store.project,
        key_serialization=store.config.entity_key_serialization_version,
        catalogue=digests.pop(),
        views=[views[view.view] for view in plan_of([]).views if view.view in views],
        features=feature_plans(names),
    )


def _view(store: FeatureStore, name: str) -> ViewPlan:
    view = store.get_feature_view(name)
    (entity_name,), (feature,) = view.entities, view.features
    entity = store.get_entity(entity_name)
    return ViewPlan(
        view=view.name,
        entity=entity.name,
        join_key=entity.join_key,
        join_type=entity.value_type.name,
        feature=feature.name,
        dtype=feature.dtype.to_value_type().name,
        field=_mmh3(f"{view.name}:{feature.name}").hex(),
        ts_field=f"_ts:{view.name}".encode().hex(),
        ttl_s=int(view.ttl.total_seconds()) if view.ttl else 0,
    )


def _difference(theirs: Plan, ours: Plan) -> str:
    for name in Plan.__struct_fields__:
        found, expected = getattr(theirs, name), getattr(ours, name)
        if found != expected:
            if isinstance(found, list) and len(found) == len(expected):
                pairs = zip(found, expected, strict=True)
                found, expected = next(pair for pair in pairs if pair[0] != pair[1])
            return f"{name} is {found}, not {expected}"
    raise AssertionError("the plans are equal")
