"""How far the kernel's clock may be off, as whoever disciplines it (chrony, ntpd) told the kernel.

adjtimex(2) with no mode only reads, needs no right, and asks nobody: RFC 5905 calls its figures
offset and maximum error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from sluice.domain.records.log_record import TimeSyncBody

SOURCE = "kernel"
UNKNOWN = TimeSyncBody(source=SOURCE, offset_us=None, bound_us=None)
_STA_UNSYNC, _STA_NANO = 0x0040, 0x2000


class _Timex(ctypes.Structure):
    """``struct timex`` of Linux. Of the time of day and what follows it nothing is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def _kernel(found: Any) -> int:
    """The system call, by libc. Below 0: it failed, as where a sandbox has no such call."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    return -1 if adjtimex is None else int(adjtimex(ctypes.byref(found)))


def read(ask: Callable[[Any], int] = _kernel) -> TimeSyncBody:
    """The kernel's word; unknown where it says that its clock is not synchronised, or says nothing.

    ask: fills a ``struct timex`` in.
    """
    found = _Timex()
    if ask(found) < 0 or found.status & _STA_UNSYNC:
        return UNKNOWN
    offset = found.offset // 1000 if found.status & _STA_NANO else found.offset
    return TimeSyncBody(source=SOURCE, offset_us=offset, bound_us=max(0, found.maxerror))
