"""Records as a release before or after this one would have written them."""

from __future__ import annotations

from typing import Any

import msgspec

from sluice.domain.records.decision import Pending, States

UNKNOWN = "of_a_newer_release"


def grown(value: bytes) -> bytes:
    """The record of release N+1: a field unknown here in every object, at every depth."""
    return msgspec.json.encode(_grown(msgspec.json.decode(value)))


def _grown(part: Any) -> Any:
    if isinstance(part, dict):
        grown = {key: _grown(inner) for key, inner in part.items()}
        if "pending" in grown:  # entries are arrays: they grow at the end
            grown["pending"] = [[*entry, {UNKNOWN: 1}] for entry in part["pending"]]
        return {**grown, UNKNOWN: {"deep": [1, "two"]}}
    return part


def shrunk(value: bytes, record: type[msgspec.Struct]) -> bytes:
    """The record of release N-1: without any field that is optional today, at every depth."""
    return msgspec.json.encode(_shrunk(msgspec.json.decode(value), record))


def _shrunk(part: dict[str, Any], record: Any) -> dict[str, Any]:
    left = {}
    for one in msgspec.structs.fields(record):
        # Views were there from the first day, and one that is absent says "never written".
        if one.name in part and (one.required or record is States):
            inner = one.type
            nested = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
            held = part[one.name]
            left[one.name] = _shrunk(held, inner) if nested and inner is not Pending else held
    return left
