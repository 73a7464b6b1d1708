from typing import Any

import pytest

from sluice.adapters.feast.finalise import finalise
from sluice.adapters.layout import FEATURES
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import Authorization
from sluice.errors import Corrupt, Rejected
from tests.integration.feast.history import history, key, request


def columns(
    auths: list[Authorization], states: dict[tuple[str, str], bytes], **changes: Any
) -> dict[str, list[Any]]:
    """What Feast hands over: columns of requests and states."""
    rows = [request(auth) | changes for auth in auths]
    packed = {
        FEATURES[kind]: [states.get((kind, key(auth, kind) or "")) for auth in auths]
        for kind in FEATURES
    }
    return {name: [row[name] for row in rows] for name in rows[0]} | packed


def test_columns_give_what_the_kernel_gives_in_catalogue_order():
    past = history(40)
    held = {(update.entity, update.key): update.state for update in past.last_states()}
    served = finalise(columns(past.authorizations, held))
    assert tuple(served) == catalogue.NAMES
    rows = [list(row) for row in zip(*served.values(), strict=True)]
    assert rows == past.served_at_the_end().tolist()


def test_a_purchase_without_device_has_no_device_state_whatever_feast_finds():
    (auth,) = history(1).authorizations
    without = columns([auth], {}, device_id="")
    stale = without | {FEATURES["device"]: [b"\x01" + bytes(30)]}
    assert finalise(stale) == finalise(without)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channel", "carrier pigeon"),
        ("currency", "EUX"),
        ("merchant_country", "XX"),
        ("mcc", "12"),
        ("event_at", None),
        ("event_at", "noon"),
        ("reference_amount_minor", -1),
        ("card_token", "4111111111111111"),
    ],
)
def test_what_no_entrypoint_would_let_in_is_refused(field: str, value: object):
    (auth,) = history(1).authorizations
    with pytest.raises(Rejected):
        finalise(columns([auth], {}, **{field: value}))


@pytest.mark.parametrize("kind", ["card", "terminal", "merchant"])
def test_bytes_that_are_no_state_are_refused_not_guessed(kind: str):
    (auth,) = history(1).authorizations
    with pytest.raises(Corrupt, match=f"the {kind} state"):
        finalise(columns([auth], {}) | {FEATURES[kind]: [b"\xffno state"]})
