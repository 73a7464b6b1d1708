"""Whose a connection is, and what a header's number is: the parts that need no socket."""

from __future__ import annotations

import pytest

from services.decider.asgi import announced, whole_number
from services.decider.connections import whose


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
    ],
)
def test_an_ipv6_network_of_64_bits_counts_as_one_address(address: str, counted_as: str) -> None:
    assert whose(address) == counted_as


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"0042", 42),
        (b"9" * 15, 10**15 - 1),
        *((wrong, None) for wrong in (b"", b"-1", b"+1", b" 1", b"1_0", b"1e3", b"0x1", b"9" * 16)),
        *((wrong, None) for wrong in (b"9" * 5000, "\uff11".encode(), "\u0661".encode(), b"\xb2")),
    ],
)
def test_a_header_holds_a_number_of_at_most_15_digits_or_none(
    text: bytes, number: int | None
) -> None:
    assert whole_number(text) == number


def test_a_length_that_is_no_number_announces_nothing() -> None:
    assert announced([(b"content-length", b"0" * 5000 + b"2")]) == 0
    assert announced([(b"host", b"7"), (b"content-length", b"5"), (b"content-length", b"6")]) == 6
