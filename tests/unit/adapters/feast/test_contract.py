import hashlib

import msgspec
import pytest

from sluice.adapters.feast.contract import Plan, plan_of
from sluice.adapters.layout import COMPILED
from sluice.domain.features import catalogue

NAMES = ["card_count_1h", "amount_minor"]


def test_a_plan_names_features_in_order_with_their_defaults():
    plan = plan_of(["card_first_merchant", *NAMES])
    assert [(f.name, f.default) for f in plan.features] == [
        ("card_first_merchant", 1),
        ("card_count_1h", 0),
        ("amount_minor", 0),
    ]


def test_a_plan_is_where_the_hot_path_reads():
    for view, compiled in zip(plan_of(NAMES).views, COMPILED.values(), strict=True):
        assert bytes.fromhex(view.field) == compiled.field
        assert bytes.fromhex(view.ts_field) == compiled.ts_field


def test_order_and_catalogue_are_in_the_digest():
    digests = {
        plan_of(NAMES).digest,
        plan_of(NAMES[::-1]).digest,
        plan_of(NAMES[:1]).digest,
        msgspec.structs.replace(plan_of(NAMES), catalogue="another").digest,
    }
    assert len(digests) == 4
    assert plan_of(NAMES).digest in digests


def test_a_document_can_be_checked_by_any_program():
    fields = msgspec.json.decode(plan_of(catalogue.NAMES).document())
    digest = fields.pop("digest")
    assert digest == hashlib.sha256(msgspec.json.encode(fields)).hexdigest()
    assert msgspec.convert(fields, Plan) == plan_of(catalogue.NAMES)


def test_a_feature_that_does_not_exist_has_no_plan():
    with pytest.raises(KeyError, match="card_mood"):
        plan_of(["card_mood"])
