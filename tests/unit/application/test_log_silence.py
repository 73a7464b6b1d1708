"""A log's writer gives a sign of life every ten seconds, or the log says that it did not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sluice.application.log_silence import SILENCES_MAX, SignsOfLife, Silence
from sluice.cli import main
from sluice.domain.clock import SECOND_US
from sluice.domain.records.log_record import HeartbeatRecord, LogStartRecord, LogStopRecord
from tests.support import logs

START, BEAT, STOP = LogStartRecord, HeartbeatRecord, LogStopRecord
KINDS = {START: "log_start", BEAT: "heartbeat", STOP: "log_stop"}


def silences(*signs: tuple[type[Any], float], until: float | None = None) -> list[Any]:
    """Since, until, and whether a writer ran, in seconds."""
    life = SignsOfLife()
    for kind, at_s in signs:
        life.take(KINDS[kind], int(at_s * SECOND_US))
    last = signs[-1][1] if until is None else until
    return [
        (one.since / SECOND_US, one.until / SECOND_US, one.writing)
        for one in life.ended(int(last * SECOND_US))
    ]


@pytest.mark.parametrize(
    ("signs", "found"),
    [
        ([(START, 0), (BEAT, 5), (BEAT, 15), (STOP, 25)], []),
        ([(START, 0), (BEAT, 5), (BEAT, 15.1)], [(5, 15.1, True)]),
        ([(START, 0), (STOP, 11)], [(0, 11, True)]),
        ([(START, 0), (BEAT, 5), (STOP, 6), (START, 900), (BEAT, 905)], []),
        ([(START, 0), (BEAT, 5), (START, 900), (BEAT, 905)], [(5, 900, False)]),
        ([(START, 0), (START, 1)], [(0, 1, False)]),
        ([(BEAT, 100), (BEAT, 111)], [(100, 111, True)]),  # from another checkpoint on
        ([(STOP, 100), (START, 200)], []),
    ],
)
def test_two_signs_of_a_writer_that_runs_are_ten_seconds_apart(
    signs: list[tuple[type[Any], float]], found: list[Any]
) -> None:
    assert silences(*signs) == found


def test_records_that_go_on_without_a_sign_are_a_silence() -> None:
    assert silences((START, 0), (BEAT, 5), until=15) == []
    assert silences((START, 0), (BEAT, 5), until=15.5) == [(5, 15.5, True)]
    assert silences((START, 0), (STOP, 5), until=100) == []


def test_only_so_many_are_told() -> None:
    life = SignsOfLife()
    for at in range(SILENCES_MAX + 9):
        life.take("heartbeat", at * 11 * SECOND_US)
    assert len(life.ended(0)) == SILENCES_MAX
    assert life.ended(0)[0] == Silence(0, 11 * SECOND_US, writing=True)


def test_a_silent_writer_makes_a_log_incomplete_and_a_killed_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def verified(*signs: tuple[type[Any], float]) -> tuple[int, dict[str, Any], str]:
        written = [
            logs.sign_of_life(kind, at_s, sequence=at, size=at)
            for at, (kind, at_s) in enumerate(signs)
        ]
        logs.write_log(tmp_path, written)
        argv = ["log", "verify", str(tmp_path), "--key", str(logs.KEY), "--accounting", "--offline"]
        status = main([*argv, "--json"])
        (said,) = json.loads(capsys.readouterr().out)["logs"]
        assert main(argv) == status
        return status, said, capsys.readouterr().out

    status, said, text = verified((START, 0), (BEAT, 5), (BEAT, 60), (STOP, 61))
    assert (status, said["why"]) == (2, "its writer was silent")
    assert [(one["until"] - one["since"], one["writing"]) for one in said["silences"]] == [
        (55 * SECOND_US, True)
    ]
    assert "silent" in text
    assert "55.0 s" in text
    status, said, text = verified((START, 0), (BEAT, 5), (START, 60), (STOP, 61))
    assert (status, said["silences"][0]["writing"]) == (0, False)
    assert "the one before ended without a word" in text
    assert main(["log", "verify", str(tmp_path), "--key", str(logs.KEY)]) == 0
