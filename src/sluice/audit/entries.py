"""An entry of the log: one line of JSON, the header, and behind its newline what is sealed.

The header has one form only, so that no two readers of it can differ: compact JSON in UTF-8, an
object, no key twice in an object, whole numbers that every reader holds exactly (RFC 7493), no
text that acts on a terminal. Of what is sealed nothing is known here; it may be empty.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sluice.audit.errors import Malformed
from sluice.audit.tiles import ENTRY_MAX_BYTES

HEADER_MAX_BYTES = 16_384
"""A decision's has some 2,000."""
NUMBER_MAX = 2**53 - 1
"""Beyond it JavaScript's numbers, and so many readers', are not exact (RFC 7493, 2.2)."""
DEPTH_MAX = 8
"""Of objects and lists in each other; the records have four."""
_DIGITS_MAX = 17
"""Of a number with its sign: 2**53 has 16."""
FORBIDDEN = "\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff"
"""Characters, as in a regex's class, that no text of a header has: control characters, and those
that turn the direction of a line or hide."""
_FORBIDDEN = re.compile(f"[{FORBIDDEN}]")
_OUTSIDE_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_NESTING = bytes(set(range(256)) - set(b"[]{}"))


def join(header: bytes, sealed: bytes = b"") -> bytes:
    """The entry. Raises ValueError for what would not come apart again, or is too long."""
    if not header or b"\n" in header or len(header) > HEADER_MAX_BYTES:
        raise ValueError(f"no header: one line of 1 to {HEADER_MAX_BYTES} bytes")
    entry = b"%b\n%b" % (header, sealed)
    if len(entry) > ENTRY_MAX_BYTES:
        raise ValueError(f"an entry of {len(entry)} bytes: at most {ENTRY_MAX_BYTES}")
    return entry


def split(entry: bytes) -> tuple[bytes, bytes]:
    """Header and what is sealed. Raises Malformed.

    >>> split(b'{"v":1}\\nsealed')
    (b'{"v":1}', b'sealed')
    """
    if len(entry) > ENTRY_MAX_BYTES:
        raise Malformed(f"an entry of {len(entry)} bytes: at most {ENTRY_MAX_BYTES}")
    header, newline, sealed = entry.partition(b"\n")
    if not newline:
        raise Malformed("an entry is a line of JSON, a newline, and what is sealed: no newline")
    if not 0 < len(header) <= HEADER_MAX_BYTES:
        raise Malformed(f"a header of {len(header)} bytes: 1 to {HEADER_MAX_BYTES}")
    return header, sealed


def parse_header(header: bytes) -> dict[str, Any]:
    """What a header says. Raises Malformed for every other way to write the same.

    Some 20 us; who reads millions takes :func:`sluice.domain.records.log_record.read`.

    >>> parse_header(b'{"v":1,"type":"gap"}')
    {'v': 1, 'type': 'gap'}
    """
    if len(header) > HEADER_MAX_BYTES:
        raise Malformed(f"a header of {len(header)} bytes: at most {HEADER_MAX_BYTES}")
    try:
        text = header.decode()
    except UnicodeDecodeError as exc:
        raise Malformed("the header is not UTF-8") from exc
    _check_depth(header)
    try:
        found = json.loads(
            text,
            object_pairs_hook=_once,
            parse_int=_exact,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except Malformed:
        raise
    except ValueError as exc:
        raise Malformed("the header is not JSON") from exc
    if not isinstance(found, dict):
        raise Malformed("the header is not an object")
    _check_texts(found)
    # Half of a surrogate pair, which is no text, can only be written as an escape.
    again = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    if again != text:
        raise Malformed("the header is not compact JSON: blanks, or escapes that are not needed")
    return found


def _check_depth(header: bytes) -> None:
    """Before a recursive reader sees it."""
    depth = 0
    for byte in _OUTSIDE_TEXTS.sub(b"", header).translate(None, _NOT_NESTING):
        depth += 1 if byte in b"[{" else -1
        if depth > DEPTH_MAX:
            raise Malformed(f"the header is nested more than {DEPTH_MAX} deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in an object of the header")
    return found


def _exact(digits: str) -> int:
    if len(digits) > _DIGITS_MAX or abs(int(digits)) > NUMBER_MAX:
        raise Malformed("a number of the header is beyond 2**53")
    return int(digits)


def _no_number(_: str) -> Any:
    raise Malformed("a number of the header is not whole")


def _check_texts(found: Any) -> None:
    if isinstance(found, str):
        if _FORBIDDEN.search(found):
            raise Malformed("a text of the header has a control character, or one that hides")
    elif isinstance(found, dict):
        for key, value in found.items():
            _check_texts(key)
            _check_texts(value)
    elif isinstance(found, list):
        for value in found:
            _check_texts(value)
