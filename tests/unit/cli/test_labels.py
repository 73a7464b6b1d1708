"""``sluice labels``: a file to the labeller over HTTP, and how late frauds become known."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice.adapters.parquet.archive import ParquetFiles
from sluice.application.ports import Message
from sluice.cli import main
from sluice.domain.clock import DAY_US
from sluice.domain.records.authorization import Channel, encode
from sluice.testing.factories import NOON_US, make_authorization, make_label


class Server(HTTPServer):
    """What a labeller answers, without one: each report is new, but for those told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        reports = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked += reports
        self.server.tokens.append(self.headers.get("authorization", ""))
        told: Any = [
            {"outcome": "new"}
            if one["authorization_id"] != "a-9"
            else {"code": "unknown_authorization", "detail": "nobody knows it"}
            for one in reports
        ]
        if self.server.status != 200:
            told = {"code": "insufficient_scope", "detail": "this needs the scope label"}
        body = json.dumps(told).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def send(server: Server, file: Path, *more: str) -> int:
    url = f"http://127.0.0.1:{server.server_port}"
    constants = ("source=visa-tc40", "kind=issuer_report", "tenant=bank", "is_fraud=yes")
    words = [word for one in constants for word in ("--set", one)]
    return main(["labels", "send", str(file), "--url", url, *words, *more])


def test_a_file_is_sent_and_what_became_of_its_rows_is_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, token = tmp_path / "tc40.csv", tmp_path / "token"
    token.write_text("secret\n")
    file.write_text("Case,authorization_id,known_at\nr-1,a-1,\nr-2,a-9,\nr-3,a-3,yesterday\n")
    status = send(server, file, "--column", "report_id=Case", "--token-file", str(token))
    said = capsys.readouterr()
    assert status == 1
    assert "3 rows: 1 new, 1 bad_format, 1 unknown_authorization; " in said.out
    assert "tc40.csv:3: unknown_authorization: nobody knows it" in said.err
    assert "tc40.csv:4: bad_format: no time" in said.err
    assert [one["report_id"] for one in server.asked] == ["r-1", "r-2"]
    assert server.tokens == ["Bearer secret"]
    assert send(server, file, "--column", "report_id=Case", "--allow-bad", "2") == 0


def test_columns_that_do_not_fit_are_told_before_anything_is_sent(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tc40.csv"
    file.write_text("Case,authorization_id\nr-1,a-1\n")
    assert send(server, file) == 78
    assert "nothing says report_id of a report" in capsys.readouterr().err
    assert server.asked == []


def test_a_refusal_of_all_ends_it_and_says_where_to_go_on(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status = 403
    file = tmp_path / "tc40.csv"
    file.write_text("report_id,authorization_id\nr-1,a-1\n")
    assert send(server, file) == 1
    said = capsys.readouterr().err
    assert "the labeller says 403 insufficient_scope this needs the scope label" in said
    assert "go on with --from-line 2" in said


def test_the_table_of_maturity_and_its_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = []
    for i, days in enumerate((0.5, 2, 20, 100)):
        auth = make_authorization(f"a-{i}", event_at=NOON_US, channel=Channel.ECOM)
        labels.append(make_label(auth, known_at=NOON_US + int(days * DAY_US)))
    rows = [
        Message(encode(label), None, "labels.v1", 0, i, None, 0) for i, label in enumerate(labels)
    ]
    ParquetFiles(tmp_path, {"labels.v1": "labels"}).write(("labels.v1", 0), rows)
    assert main(["labels", "maturity", "--archive", str(tmp_path)]) == 0
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == [
        *("channel", "source", "reports", "median", "d"),
        *(word for n in (1, 3, 7, 14, 30, 60) for word in (str(n), "d")),
    ]
    assert first.split()[:4] == ["all", "all", "3", "2.0"]
    assert first.split()[4:] == ["33.3%", "66.7%", "66.7%", "66.7%", "100.0%", "100.0%"]
    assert [line.split()[:2] for line in rest] == [["ecom", "all"], ["ecom", "test"]]
    assert main(["labels", "maturity", "--archive", str(tmp_path), "--json"]) == 0
    [every, *_] = msgspec.json.decode(capsys.readouterr().out)
    assert (every["channel"], every["reports"], every["known"][0]) == ("all", 3, [1, 0.333333])


def test_an_archive_without_reports_old_enough_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["labels", "maturity", "--archive", str(tmp_path)]) == 1
    assert "take a smaller --complete-after" in capsys.readouterr().err
