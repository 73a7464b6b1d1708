"""What Feast and the store share: where Feast 0.67's stock Redis store keeps each view's state.

Source: feast/infra/online_stores/redis.py and helpers.py, feast/infra/key_encoding_utils.py
(entity key serialization version 3). One hash an entity; key = serialized entity key + project;
field = murmur3_32 of "view:feature", 4 bytes little endian, holding a ValueProto; and field
"_ts:view" holding a Timestamp proto. ``tests/contract/test_feast_layout.py`` keeps this bit-equal
to the SDK in both directions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from sluice.domain.records.entity import ENTITY_KINDS, KEY_FIELDS, EntityKind

PROJECT = "sluice"
JOIN_KEYS = KEY_FIELDS
VIEW_NAMES: dict[EntityKind, str] = {kind: f"{kind}_state" for kind in ENTITY_KINDS}
FEATURES: dict[EntityKind, str] = {kind: f"{kind}_packed" for kind in ENTITY_KINDS}
"""The one feature of each view. Four names, because Feast's answers name features without their
view unless asked otherwise, and an on-demand view over four of one name would read one of them."""

HASH_FIELDS: dict[EntityKind, bytes] = {
    "card": bytes.fromhex("22065894"),
    "terminal": bytes.fromhex("15613a5b"),
    "merchant": bytes.fromhex("0891ff1b"),
    "device": bytes.fromhex("6e275d52"),
}
"""murmur3_32 of "view:feature", little endian: four constants instead of a hash function. The
contract test compares them with Feast's own."""

_STRING = 2
"""feast.value_type.ValueType.STRING."""
_BYTES_VAL = 0x0A
"""Protobuf tag of ValueProto.bytes_val: field 1, length-delimited."""
_NULL_VAL = b"\x98\x01\x00"
"""ValueProto(null_val=NULL); an empty message means the same."""


@dataclass(frozen=True, slots=True)
class View:
    """One feature view with one string join key and one feature, the packed state."""

    kind: EntityKind
    name: str
    field: bytes
    """Hash field of the state, 4 bytes."""
    ts_field: bytes
    """Hash field of the event timestamp."""
    head: bytes
    """What precedes the length of the join key's value."""
    tail: bytes
    """What follows the value: the project."""

    def key(self, entity: str) -> bytes:
        """The Redis key of one entity.

        >>> COMPILED["card"].key("c1")[-9:]
        b'\\x00c1sluice'
        """
        value = entity.encode()
        return b"".join((self.head, struct.pack("<I", len(value)), value, self.tail))


def compile_view(kind: EntityKind, project: str = PROJECT) -> View:
    """Work out everything about a view that does not depend on the entity."""
    name, join_key = VIEW_NAMES[kind], JOIN_KEYS[kind].encode()
    return View(
        kind=kind,
        name=name,
        field=HASH_FIELDS[kind],
        ts_field=f"_ts:{name}".encode(),
        head=struct.pack("<III", 1, _STRING, len(join_key)) + join_key + struct.pack("<I", _STRING),
        tail=project.encode(),
    )


COMPILED: dict[EntityKind, View] = {kind: compile_view(kind) for kind in ENTITY_KINDS}


_PAIRS = tuple(bytes((low & 127 | 128, low >> 7 | 128)) for low in range(1 << 14))
"""The first 14 bits of a longer varint."""


def _varint(number: int) -> bytes:
    out = b""
    while number >= 1 << 14:
        out += _PAIRS[number & 0x3FFF]
        number >>= 14
    return out + bytes((number & 127 | 128, number >> 7) if number > 127 else (number,))


def _header(size: int) -> bytes:
    return bytes((_BYTES_VAL,)) + _varint(size)


_HEADERS = tuple(_header(size) for size in range(8192))
"""Of most states there are, made once."""


TIMES_MAX = 16_384
"""Timestamps remembered, 3 MB. An authorization's time becomes that of four states."""


def encode_state(state: bytes) -> bytes:
    """A state to ValueProto(bytes_val=state).

    >>> encode_state(b"abc")
    b'\\n\\x03abc'
    """
    size = len(state)
    return (_HEADERS[size] if size < len(_HEADERS) else _header(size)) + state


def decode_state(value: bytes | None) -> bytes:
    """A hash field's ValueProto to the state; b"" where the field is missing or null.

    The value's length tells which header it must begin with, so nothing needs parsing. Raises
    ValueError for any other type, for trailing or missing bytes, and above 2 MiB.

    >>> decode_state(b"\\n\\x03abc"), decode_state(None)
    (b'abc', b'')
    """
    if not value or value == _NULL_VAL:
        return b""
    whole = len(value)
    skip = 2 if whole < 130 else 3 if whole < 16_387 else 4
    size = whole - skip
    if size < 0 or value[:skip] != (_HEADERS[size] if size < len(_HEADERS) else _header(size)):
        raise ValueError(
            f"{whole} bytes beginning with {value[:4].hex()} are no ValueProto of bytes"
        )
    return value[skip:]


@lru_cache(TIMES_MAX)
def encode_timestamp(event_us: int) -> bytes:
    """Microseconds UTC from 1970 on to a google.protobuf.Timestamp; zero fields take no bytes.

    >>> encode_timestamp(1_000_002)
    b'\\x08\\x01\\x10\\xd0\\x0f'
    """
    seconds, micros = divmod(event_us, 1_000_000)
    out = b"\x08" + _varint(seconds) if seconds else b""
    return out + b"\x10" + _varint(micros * 1000) if micros else out
