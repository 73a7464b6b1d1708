"""Times of a firm's table as microseconds since 1970 UTC."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from operator import attrgetter
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from sluice.adapters.files.cells import ascii_only, number_of, whole_number
from sluice.domain.clock import HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SINCE_1970 = {"epoch_s": "1e6", "epoch_ms": "1e3", "epoch_us": "1", "epoch_ns": "1e-3"}
_SINCE_ORIGIN = {"seconds": "1e6", "minutes": "60e6", "hours": "3600e6", "days": "86400e6"}
"""Microseconds of one."""
_YEAR_US = 365 * 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
_DIRECTIVE = re.compile("%(.?)")
_NUMBERS = frozenset("YmdHMS")
_HOURS = re.compile("%[HIcX]")
"""Of a pattern of strptime that reads more than a date."""


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


def reader(source: Instant, *, known: bool = False) -> Callable[[Any], datetime | int]:
    """Reads a cell: microseconds, or a moment with or without a zone. Raises what it pleases.

    known: of a time since when something is known. A date alone is the day's last moment then: on
    which of its hours it became known nobody says, and earlier than it did would be a leak.
    """
    form = source.format
    read = _of_number(source)
    is_text = read is None
    if read is None:
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

    def of_known(value: Any) -> datetime | int:
        moment = of_any(value)
        if isinstance(moment, datetime) and _is_date(value, form):
            return moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
        return moment

    return of_known if known else of_any


def _is_date(value: Any, form: str) -> bool:
    """Whether a cell that was read as a moment is a date and no more."""
    if "%" in form and isinstance(value, str):
        return _HOURS.search(form) is None
    if form == "iso" and isinstance(value, str):
        return _is_iso_date(value)
    if form == "days":
        return number_of(value) % 1 == 0
    return isinstance(value, date) and not isinstance(value, datetime)


def _is_iso_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def micros(moment: datetime, zone: tzinfo | None) -> int:
    """Since 1970 UTC. Raises Skipped for a wall time of the zone that the clock change skipped."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
        if zone is not None and _in_a_gap(moment, zone):
            raise Skipped
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


class AtOnce:
    """Whole columns of times, where they are plain: a tenth of what each by itself takes."""

    def __init__(self, source: Instant, zone: tzinfo, read: Callable[[Any], datetime | int]):
        """read: of a cell, where it is not plain."""
        self._read, self._zone = read, zone
        self._pattern = source.format if _plain(source.format) else ""
        self._offset_us: dict[int, int | None] = {}
        """By hour of wall time; None where the clock changes within it."""

    def micros(self, values: list[Any]) -> list[int | None] | None:
        """(n,) wall times of the zone to microseconds since 1970 UTC, None where the clock changes
        and each is looked at by itself. None for all where one is no plain time."""
        wall = self._wall(values)
        if wall is None:
            return None
        hours, hour_of = np.unique(wall // HOUR_US, return_inverse=True)
        offsets = [self._offset(hour) for hour in hours.tolist()]
        moved = np.array([0 if one is None else one for one in offsets], np.int64)
        found: list[int | None] = (wall - moved[hour_of]).tolist()
        if None in offsets:
            for i in np.flatnonzero(np.array([one is None for one in offsets])[hour_of]).tolist():
                found[i] = None
        return found

    def _wall(self, values: list[Any]) -> npt.NDArray[np.int64] | None:
        kinds = set(map(type, values))
        if self._pattern and kinds == {str}:
            return _by_pattern(values, self._pattern)
        try:
            moments = values if kinds == {datetime} else list(map(self._read, values))
        except MemoryError:
            raise
        except Exception:  # who reads them one by one will say which, and why
            return None
        if set(map(type, moments)) != {datetime} or any(map(attrgetter("tzinfo"), moments)):
            return None
        return np.array(moments, "datetime64[us]").astype(np.int64)

    def _offset(self, hour: int) -> int | None:
        if hour not in self._offset_us:
            begins = datetime(1970, 1, 1, tzinfo=self._zone) + timedelta(hours=hour)
            ends = begins + timedelta(hours=1, microseconds=-1)
            found = {t.replace(fold=fold).utcoffset() for t in (begins, ends) for fold in (0, 1)}
            offset = found.pop()
            plain = offset is not None and not found
            self._offset_us[hour] = offset // _MICROSECOND if offset is not None and plain else None
        return self._offset_us[hour]


def _plain(form: str) -> bool:
    """Whether a pattern of strptime is of whole numbers alone, and Arrow reads it as Python does
    where what it reads is written the same again."""
    return "%" in form and set(_DIRECTIVE.findall(form)) <= _NUMBERS


def _by_pattern(texts: list[str], form: str) -> npt.NDArray[np.int64] | None:
    """(n,) microseconds; None where one of the texts is not just as the pattern writes it."""
    try:
        held = pa.array(texts, pa.string())
        times = pc.strptime(held, form, "s", error_is_null=True)
        if times.null_count or not pc.all(pc.equal(pc.strftime(times, form), held)).as_py():
            return None
    except (pa.ArrowException, UnicodeEncodeError):
        return None
    found: npt.NDArray[np.int64] = times.cast(pa.int64()).to_numpy() * 1_000_000
    return found


class OtherUnit(ValueError):  # noqa: N818 - as Skipped
    """A number that is a time of 1970 in the unit that the mapping names."""


class Skipped(ValueError):  # noqa: N818 - says what became of the time
    """A local time that never was."""


def _of_number(source: Instant) -> Callable[[Any], datetime | int] | None:
    """None where the format is of texts."""
    form = source.format
    if form in _SINCE_1970:
        unit = Decimal(_SINCE_1970[form])
        return lambda value: _of_cards(_rounded(number_of(value) * unit))
    if source.origin is not None:
        start, unit = _start(source.origin), Decimal(_SINCE_ORIGIN[form])
        return lambda value: start + timedelta(microseconds=_rounded(number_of(value) * unit))
    return None


def _start(origin: str) -> datetime:
    try:
        return datetime.fromisoformat(origin)
    except ValueError as exc:
        raise ValueError(f"origin {origin} is no ISO time") from exc


def _of_cards(us: int) -> int:
    """A time since 1970 that is none of 1970: seconds that are read as milliseconds are."""
    if 0 <= us < _YEAR_US:
        raise OtherUnit
    return us


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
