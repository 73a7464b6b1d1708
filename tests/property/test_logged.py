"""Whatever an entrypoint accepts can be logged, or the log says what it holds."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sluice.application.keep_log import Refused
from sluice.application.log_records import LogRecords
from sluice.application.never_logged import FOUND
from sluice.application.ports import Message
from sluice.audit.entries import split
from sluice.domain.records.authorization import (
    Authorization,
    Channel,
    ScaExemption,
    ThreeDs,
    decode_authorization,
    encode,
)
from sluice.domain.records.currencies import AMOUNT_MAX_MINOR, ENDED_US
from sluice.domain.records.log_record import read
from sluice.domain.records.texts import Kind, kinds_of, optional_fields
from sluice.errors import Rejected
from sluice.testing.factories import make_authorization
from sluice.testing.keystore import MemoryKeystore
from sluice.testing.records import make_decision
from tests.examples import examples

KINDS = kinds_of(Authorization)
OPTIONAL = optional_fields(Authorization)
IDS = sorted(name for name, kind in KINDS.items() if kind.graphic)
NUMBERS = {
    "amount_minor": st.integers(0, min(AMOUNT_MAX_MINOR.values())),
    "event_at": st.integers(0, 2_208_988_800_000_000),
}
"""Times to 2040: of a later one the sixteen digits may be a card's, and the scanner says so."""
PLAIN_ID = st.from_regex(r"id_[g-z]{1,12}", fullmatch=True)
"""An id that is no encoding, no address and no name of a secret."""
MADE = LogRecords(log="test/eu/0", keystore=MemoryKeystore())


def texts(kind: Kind) -> st.SearchStrategy[str]:
    if kind.table is not None:
        return st.sampled_from(sorted(set(kind.table.values) - set(ENDED_US)))
    return st.from_regex(re.compile(kind.pattern, re.ASCII), fullmatch=True)


def authorizations(ids: st.SearchStrategy[str]) -> st.SearchStrategy[Authorization]:
    """Of the contract's whole grammar, but for the ids."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "channel": st.sampled_from(Channel),
        "three_ds": st.none() | st.sampled_from(ThreeDs),
        "sca_exemption": st.none() | st.sampled_from(ScaExemption),
        **NUMBERS,
    }
    for name, kind in KINDS.items():
        held = ids if name in IDS else texts(kind)
        fields[name] = st.none() | held if name in OPTIONAL else held
    missing = {one.name for one in msgspec.structs.fields(Authorization)} - {*fields, "v"}
    assert not missing, "the grammar has a field that nothing here makes"
    return st.builds(make_authorization, **fields)


def logged(auth: Authorization) -> bytes | Refused | None:
    """Its entry; None if no entrypoint takes it."""
    try:
        taken = decode_authorization(encode(auth))
    except Rejected:
        return None
    decision = msgspec.structs.replace(
        make_decision(), authorization=taken, reference_amount_minor=taken.amount_minor
    )
    message = Message(encode(decision), None, "decisions.v1", 0, 0, None)
    (entry,) = MADE.entries(MADE.read([message]), [False], 1_790_000_000_000_000)
    return entry


@examples(60)
@given(authorizations(st.from_regex(r"[!-~]{1,64}", fullmatch=True)))
def test_what_an_entrypoint_accepts_is_a_record_or_a_gap_that_names_what_is_in_it(
    auth: Authorization,
) -> None:
    entry = logged(auth)
    if isinstance(entry, Refused):
        assert entry.reason == "forbidden_content"
        assert entry.found in FOUND
    elif entry is not None:
        assert read(split(entry)[0]).authorization_id == auth.authorization_id


NAMES = ("region", "tenant")
"""What the operator configures: a region called `cvv-123` is its doing."""


@examples(60)
@given(authorizations(PLAIN_ID), st.from_regex(r"[g-z]{1,8}", fullmatch=True))
def test_no_field_but_ids_and_names_can_keep_a_decision_out_of_the_log(
    auth: Authorization, name: str
) -> None:
    plain = msgspec.structs.replace(auth, **dict.fromkeys(NAMES, name))
    entry = logged(plain)
    assert entry is None or isinstance(entry, bytes), (entry, plain.ip_prefix)


@examples(100)
@given(texts(KINDS["ip_prefix"]))
def test_every_network_that_an_entrypoint_accepts_is_logged(prefix: str) -> None:
    entry = logged(make_authorization("a-1", ip_prefix=prefix))
    assert isinstance(entry, bytes), (entry, prefix)
