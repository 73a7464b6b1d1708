"""A report as data, for people (one HTML page) and programs (``report-document.v1``).

What it says is plain sentences, names with their values, and tables; what it is made from is named
by the checkpoints that it rests on. No float: amounts are texts with their currency, or minor
units.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from sluice.domain.clock import to_datetime
from sluice.domain.records.money import Money

CONTRACT = "report-document.v1"
Kind = Literal["explain-to-customer", "chargeback", "model-change", "erasure-receipt", "psd2"]
NOTICE = (
    "Not legal advice. What a law asks for in your case, and whether this is enough, is for your "
    "counsel or your data protection officer to say."
)
Cell = str | int | None
"""A number is shown with its thousands apart, null as a dash."""


class Fact(msgspec.Struct, frozen=True):
    """A name and its value."""

    name: str
    value: Cell


class Table(msgspec.Struct, frozen=True):
    """Rows of as many cells as there are columns."""

    columns: list[str]
    rows: list[list[Cell]]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One question and its answer: sentences, then facts, then a table."""

    title: str
    text: list[str] = []
    facts: list[Fact] = []
    table: Table | None = None


class RestsOn(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint of a log, up to which each byte was checked before anything was read.

    key: the verifier key that its signature holds by. root: in hex. cosigned: witnesses, and when.
    first_at, last_at: of the entries. file: the checkpoint's, beside the document.
    """

    log: str
    key: str
    size: int
    root: str
    cosigned: dict[str, str]
    first_at: str | None
    last_at: str | None
    file: str


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One report. subject: what it is about. audience: whom it is for. lead: the answer in short.
    limits: what it does not say."""

    v: Literal[1] = 1
    kind: Kind
    title: str
    subject: str
    audience: str
    made_at: str
    lead: str
    rests_on: list[RestsOn]
    sections: list[Section]
    limits: list[str]
    notice: str = NOTICE


class Pack(NamedTuple):
    """A document and the files that go beside it, by name: checkpoints, proofs."""

    document: Document
    files: dict[str, bytes]


def instant(us: int) -> str:
    """A time as documents write it.

    >>> instant(1_780_000_000_123_456)
    '2026-05-28 20:26:40 UTC'
    """
    return f"{to_datetime(us):%Y-%m-%d %H:%M:%S} UTC"


def amount(minor: int, currency: str) -> str:
    """An amount as documents write it.

    >>> amount(1999, "EUR")
    '19.99 EUR'
    """
    return str(Money(minor, currency))


def counted(n: int, one: str, many: str = "") -> str:
    """A number and its noun.

    >>> counted(1, "entry", "entries"), counted(2_000, "key")
    ('1 entry', '2,000 keys')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
