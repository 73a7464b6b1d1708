"""What a function can do in a process of its own, and what this one hears of it."""

from __future__ import annotations

import sys

import pytest

from sluice.adapters.other_process import (
    CRASHED,
    INTERNAL,
    NOT_STARTED,
    OUT_OF_MEMORY,
    TOO_SLOW,
    USUAL,
    apart,
)
from sluice.errors import Corrupt, Misconfigured, Unavailable
from tests.support import misbehaving


def test_bytes_go_there_and_back_whatever_a_library_prints() -> None:
    big = bytes(range(256)) * 40_000
    assert apart(misbehaving.echo, big, "here") == big[::-1]


def test_an_error_comes_back_as_it_was_raised() -> None:
    with pytest.raises(Corrupt, match="seal is broken; at box 7; fix: ask who") as caught:
        apart(misbehaving.refuse, b"", "here")
    assert caught.value.code == "seal"


@pytest.mark.parametrize(
    ("function", "code", "says"),
    [
        (misbehaving.segfault, CRASHED, "SIGSEGV"),
        (misbehaving.leave, CRASHED, "exit status 3"),
        (misbehaving.divide, INTERNAL, "ZeroDivisionError"),
        pytest.param(
            misbehaving.eat,
            OUT_OF_MEMORY,
            "too much memory",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux bounds memory"),
        ),
    ],
)
def test_what_ends_it_is_told_by_a_code(function, code, says) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        apart(function, b"", "the folder")
    assert caught.value.code == code
    assert caught.value.where == "the folder"


@pytest.mark.parametrize(
    ("function", "limits", "says"),
    [
        (misbehaving.spin, USUAL._replace(cpu_s=1), "of processor time"),
        (misbehaving.sleep, USUAL._replace(wall_s=2), "to look at"),
    ],
)
def test_what_never_ends_is_ended(function, limits, says) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        apart(function, b"", "here", limits)
    assert caught.value.code == TOO_SLOW


def test_settings_and_their_passwords_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STORE_URL", "redis://:hunter2@store")
    names = apart(misbehaving.environment, b"", "here").decode().splitlines()
    assert "PATH" in names
    assert not [name for name in names if name.startswith("SLUICE_")]


def test_where_no_process_can_be_started_nothing_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Unavailable) as caught:
        apart(misbehaving.echo, b"", "here")
    assert caught.value.code == NOT_STARTED
