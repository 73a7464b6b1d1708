"""What the kernel says of its clock becomes a record's body, or unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sluice.adapters import kernel_clock
from sluice.adapters.kernel_clock import UNKNOWN, read
from sluice.domain.records.log_record import TimeSyncBody

UNSYNC, NANO = 0x0040, 0x2000


def kernel(result: int = 0, **said: int) -> Callable[[Any], int]:
    def fill(found: Any) -> int:
        for name, value in said.items():
            setattr(found, name, value)
        return result

    return fill


@pytest.mark.parametrize(
    ("said", "offset_us"), [({"offset": -1_500}, -1_500), ({"offset": -1_500, "status": NANO}, -2)]
)
def test_offset_and_bound_are_in_microseconds(said: dict[str, int], offset_us: int) -> None:
    found = read(kernel(maxerror=12_000, **said))
    assert found == TimeSyncBody(source="kernel", offset_us=offset_us, bound_us=12_000)


def test_a_clock_that_nobody_keeps_in_step_is_unknown() -> None:
    assert read(kernel(5, maxerror=16_000_000, status=UNSYNC)) == UNKNOWN
    assert read(kernel(-1)) == UNKNOWN, "the call failed"
    assert (UNKNOWN.offset_us, UNKNOWN.bound_us) == (None, None)


def test_the_real_kernel_answers_by_the_layout_of_its_struct() -> None:
    """Its microseconds a tick lie behind the time of day: 10,000 but for one that is slewed."""
    found = kernel_clock._Timex()
    assert kernel_clock._kernel(found) >= 0
    assert 9_000 <= found.rest[5] <= 11_000
    assert found.maxerror >= 0
    assert read() == UNKNOWN or read().bound_us is not None
