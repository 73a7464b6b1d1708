"""The demo's live view: the same numbers on a screen and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from local.demo.tally import Seen, Tally
from local.demo.view import Gauges, View, line, screen
from sluice.domain.records.outcome import Outcome

GAUGES = Gauges(16, 8, 7_079_934, 1_022_174, (103.7, 1042.3), (107.8, 1049.6))


def tally() -> Tally:
    made = Tally({f"a{i}": i < 2 for i in range(1000)})
    for i in range(1000):
        outcome = Outcome.DECLINE if i in (0, 5) else Outcome.APPROVE
        made.add(Seen(f"a{i}", outcome, "D0" if i else "D2", "sync", 250_000))
    return made


def test_a_screen_is_eight_lines_of_80_columns() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(screen(40, 60, 629.4, tally(), GAUGES))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    shown = [row.rstrip() for row in text.splitlines()]
    assert len(shown) == 8
    assert max(map(len, shown)) <= 80
    for part in (
        "40 of 60 s", "1,000", "629/s", "sync 1,000", "stream 0", "approve 998", "decline 2",
        "sync 103.7 / 1042.3", "decider 16", "featurizer 8", "degraded 1", "7,079,934 written",
        "archived 1,022,174", "1 of 2 stopped", "EUR 2,500", "lost EUR 2,500", "10.0 of 10,000",
    ):  # fmt: skip
        assert part in text, part


def test_a_log_gets_one_line_and_what_does_not_answer_is_a_question_mark() -> None:
    said = line(40, 629.4, tally(), Gauges())
    assert "\n" not in said
    assert "1,000 decided" in said
    assert "queue ?" in said


def test_elsewhere_than_on_a_terminal_it_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with View(60) as view:
        view.start()
        view.show(tally(), GAUGES)
        assert not view.due()
        view.show(tally(), GAUGES)
    said = capsys.readouterr().out
    assert said.count("\n") == 2
    assert "\x1b" not in said
