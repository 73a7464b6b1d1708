"""Feast's on-demand transformation: packed states and a request in, catalogue features out.

The same kernel as the decider's, without what only the decider knows: authorizations judged
moments ago and still pending. Feast gives columns, online (lists) and offline (a table's columns)
alike. Imports no Feast, because the feature server unpickles only a call of this.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sluice.adapters.layout import FEATURES, JOIN_KEYS
from sluice.domain.features import catalogue
from sluice.domain.features.events import event_row, event_rows
from sluice.domain.features.kernel import Kernel
from sluice.domain.records.authorization import (
    AmountMinor,
    Authorization,
    Channel,
    Country,
    Currency,
    Id,
    Mcc,
    MicrosUtc,
    ThreeDs,
    check,
)
from sluice.domain.records.entity import ENTITY_KINDS
from sluice.errors import Corrupt, Rejected


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller sends beside the join keys: columns of the archive, under the same names.

    Those that a row for the kernel is made from, which a test compares; a field of the
    authorization that no feature uses is not asked for.

    reference_amount_minor: in the reference currency, so that a later exchange rate changes
    nothing. three_ds: empty if it did not run.
    """

    authorization_id: Id
    event_at: MicrosUtc
    reference_amount_minor: AmountMinor
    currency: Currency
    mcc: Mcc
    channel: Channel
    merchant_country: Country
    card_country: Country
    three_ds: ThreeDs | None = None


class _Asked(Request, frozen=True, kw_only=True):
    """A request with the entities that it asks for."""

    card_token: Id
    terminal_id: Id
    merchant_id: Id
    device_id: Id | None = None


_FIELDS = _Asked.__struct_fields__
_SAME = [name for name in _FIELDS if name in Authorization.__struct_fields__]
_NOWHERE = "feast"
_local = threading.local()


def finalise(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[int]]:
    """Every catalogue feature of (n,) authorizations at their own times.

    columns: the fields of Request, the four join keys and the four packed states, n values each;
    None or "" is absent. Returns n integers a feature. Raises Rejected naming a field that is no
    part of an authorization, Corrupt for bytes that are no state.
    """
    n = len(columns["event_at"])
    asked = [_asked({name: columns[name][i] for name in _FIELDS}) for i in range(n)]
    rows = [event_row(_authorization(one), one.reference_amount_minor) for one in asked]
    states = [[columns[FEATURES[kind]][i] or b"" for kind in ENTITY_KINDS] for i in range(n)]
    for one, mine in zip(asked, states, strict=True):
        if one.device_id is None:
            mine[ENTITY_KINDS.index("device")] = b""
    served = _kernel().finalise(event_rows(rows), states, [()] * n)
    for one, missing in zip(asked, served.missing.tolist(), strict=True):
        for view, kind in enumerate(ENTITY_KINDS):
            if missing >> view & 1:
                raise Corrupt(
                    f"the {kind} state of authorization {one.authorization_id} cannot be read",
                    where=f"{kind}_state:{FEATURES[kind]}",
                    fix="docs/runbooks/rebuild-states.md",
                    code="corrupt_state",
                )
    return dict(zip(catalogue.NAMES, served.features.T.tolist(), strict=True))


def _asked(values: dict[str, Any]) -> _Asked:
    given = {name: value for name, value in values.items() if value not in (None, "")}
    try:
        return msgspec.convert(given, _Asked)
    except msgspec.ValidationError as exc:
        raise Rejected(
            f"the request for features is no authorization: {exc}",
            fix=f"send {', '.join(_FIELDS)}, as docs/reference/authorization.md has them",
            code="bad_request",
        ) from None


def _authorization(asked: _Asked) -> Authorization:
    """What event_row wants, checked as at an entrypoint; region and tenant are in no row."""
    auth = Authorization(
        amount_minor=asked.reference_amount_minor,
        region=_NOWHERE,
        tenant=_NOWHERE,
        **{name: getattr(asked, name) for name in _SAME},
    )
    check(auth)
    return auth


def _kernel() -> Kernel:
    """One a thread, as the kernel wants it; Feast's server calls from several."""
    if not hasattr(_local, "kernel"):
        _local.kernel = Kernel()
    kernel: Kernel = _local.kernel
    return kernel


if set(JOIN_KEYS.values()) - set(_FIELDS):
    raise AssertionError("a request lacks the join key of a view")
