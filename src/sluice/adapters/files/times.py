"""Times of a firm's table as microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from operator import attrgetter
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np
from msgspec import Meta

from sluice.adapters.files.cells import ascii_only, number_of, whole_number

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SINCE_1970 = {"epoch_s": "1e6", "epoch_ms": "1e3", "epoch_us": "1", "epoch_ns": "1e-3"}
_SINCE_ORIGIN = {"seconds": "1e6", "minutes": "60e6", "hours": "3600e6", "days": "86400e6"}
"""Microseconds of one."""


class Instant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The time of the authorization: one of column and template."""

    column: Annotated[str | None, Meta(description="where it stands")] = None
    template: Annotated[
        str | None,
        Meta(
            description='several columns as one text: `"{day} {time}"`, `"{y}-{m}-{d} {time:06}"`'
        ),
    ] = None
    format: Annotated[
        str,
        Meta(
            description="`iso`; `epoch_s`, `epoch_ms`, `epoch_us`, `epoch_ns`; `seconds`, "
            "`minutes`, `hours`, `days` since `origin`; or a pattern of strptime, which reads "
            "numbers with and without zeros in front. A column that holds times, as parquet may, "
            "needs none"
        ),
    ] = "iso"
    zone: Annotated[
        str | None,
        Meta(
            description="IANA name, for times that carry none; without it such times refuse the "
            "whole file. A wall time that the clock change skipped makes a bad row, one that came "
            "twice is taken as the first"
        ),
    ] = None
    origin: Annotated[
        str | None,
        Meta(
            description="ISO time from which `seconds` ... `days` count: with an offset or `Z` as "
            "time elapsed, without as wall time of `zone`. A spreadsheet's days count from "
            "`1899-12-30`"
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.column is None) == (self.template is None):
            raise ValueError("give one of column and template")
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError) as exc:
                raise ValueError(f"zone {self.zone} is not in the time zone database") from exc
        if "%" in self.format:
            if self.zone is None and "%z" not in self.format:
                raise ValueError("the format has no %z, so a zone is needed")
        elif self.format not in {"iso", *_SINCE_1970, *_SINCE_ORIGIN}:
            known = ", ".join(("iso", *_SINCE_1970, *_SINCE_ORIGIN))
            raise ValueError(f"format {self.format} is none of {known}, %…")
        if (self.format in _SINCE_ORIGIN) != (self.origin is not None):
            raise ValueError(f"an origin belongs to {', '.join(_SINCE_ORIGIN)}, and they need one")
        if self.origin is not None and _start(self.origin).tzinfo is None and self.zone is None:
            raise ValueError("the origin has no offset, so a zone is needed")


def reader(source: Instant) -> Callable[[Any], datetime | int]:
    """Reads a cell: microseconds, or a moment with or without a zone. Raises what it pleases."""
    read = _of_number(source)
    is_text = read is None
    if read is None:
        form = source.format
        read = (
            datetime.fromisoformat if form == "iso" else lambda text: datetime.strptime(text, form)
        )

    def of_any(value: Any) -> datetime | int:
        if isinstance(value, str):
            return read(ascii_only(value))
        if isinstance(value, datetime):
            return value
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day)
        return read(str(value) if is_text and type(value) is int else value)

    return of_any


def micros(moment: datetime, zone: tzinfo | None) -> int:
    """Since 1970 UTC. Raises Skipped for a wall time of the zone that the clock change skipped."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
        if zone is not None and _in_a_gap(moment, zone):
            raise Skipped
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def utc_micros(read: Callable[[Any], datetime | int], values: list[Any]) -> list[int] | None:
    """(n,) cells of a table in UTC to microseconds since 1970; None where one is no plain time."""
    try:
        moments = values if set(map(type, values)) == {datetime} else list(map(read, values))
    except MemoryError:
        raise
    except Exception:  # who reads them one by one will say which, and why
        return None
    if set(map(type, moments)) != {datetime} or any(map(attrgetter("tzinfo"), moments)):
        return None
    found: list[int] = np.array(moments, "datetime64[us]").astype(np.int64).tolist()
    return found


class Skipped(ValueError):  # noqa: N818 - says what became of the time
    """A local time that never was."""


def _of_number(source: Instant) -> Callable[[Any], datetime | int] | None:
    """None where the format is of texts."""
    form = source.format
    if form in _SINCE_1970:
        unit = Decimal(_SINCE_1970[form])
        return lambda value: _rounded(number_of(value) * unit)
    if source.origin is not None:
        start, unit = _start(source.origin), Decimal(_SINCE_ORIGIN[form])
        return lambda value: start + timedelta(microseconds=_rounded(number_of(value) * unit))
    return None


def _start(origin: str) -> datetime:
    try:
        return datetime.fromisoformat(origin)
    except ValueError as exc:
        raise ValueError(f"origin {origin} is no ISO time") from exc


def _rounded(us: Decimal) -> int:
    """To the microsecond: a fraction of a day has no end."""
    if not us.is_finite() or us.adjusted() > 18:
        raise ValueError("too large")
    return whole_number(us.to_integral_value(ROUND_HALF_EVEN))


def _in_a_gap(moment: datetime, zone: tzinfo) -> bool:
    """True for a wall time that never was. One that was twice is taken as the first."""
    if moment.utcoffset() == moment.replace(fold=1).utcoffset():
        return False
    return moment.astimezone(UTC).astimezone(zone).replace(fold=0) != moment
