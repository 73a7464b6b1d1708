import pytest

from sluice.application.publish import BadRow
from sluice.cli.bad_rows import FIRST, OTHERS, REASONS_MAX, BadRows
from sluice.errors import Rejected


def row(line: int, what: str) -> BadRow:
    return BadRow(line, b"", Rejected(what, where=f"f.csv:{line}"))


def test_each_reason_is_told_with_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    bad = BadRows("more follow")
    for line in range(2, 2 + 3 * FIRST):
        bad(row(line, 'column fraud: "maybe" is in neither' if line % 3 else "column t: empty"))
    bad.summarise()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == 'f.csv:2: column fraud: "maybe" is in neither'
    assert said[FIRST:] == [
        "more follow",
        f'{2 * FIRST} x column fraud: "maybe" is in neither',
        f"{FIRST} x column t: empty",
    ]


def test_rows_that_were_told_one_by_one_are_not_told_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = BadRows("more follow")
    bad(row(2, "a"))
    bad(row(3, "b"))
    bad.summarise()
    assert capsys.readouterr().err.splitlines() == ["f.csv:2: a", "f.csv:3: b"]


def test_reasons_without_end_take_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    bad = BadRows("more follow")
    for line in range(10 * REASONS_MAX):
        bad(row(line, f"reason {line}"))
    bad.summarise()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == FIRST + 1 + REASONS_MAX + 1
    assert f"{9 * REASONS_MAX} x {OTHERS}" in said
