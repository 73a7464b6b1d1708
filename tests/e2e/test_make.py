"""The verbs that a newcomer types, typed: on ports and data of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka import processes
from local.kafka.broker import ComposeNode, docker_answers
from tests.support.make import ROOT, VERB_MAX_S, Make

ASK_MAX, ASK_AGAIN_S = 20, 1.0


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made = Make(tmp_path)
    yield made
    made("down")
    if docker_answers():
        ComposeNode(made.kafka).remove()


@pytest.fixture
def stranger(make: Make) -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else whose command line reads like ours."""
    alike = ["-m", "local.up", "up", "--folder", str(make.data), "local.kafka"]
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)", *alike])
    yield process
    process.kill()
    process.wait()


def _authorization() -> bytes:
    """The tutorial's."""
    return json.dumps(
        {
            "v": 1,
            "authorization_id": "my-first",
            "event_at": int(time.time()) * 1_000_000,
            "card_token": "card-1",
            "merchant_id": "bakery",
            "terminal_id": "bakery-till-2",
            "mcc": "5462",
            "channel": "contactless",
            "amount_minor": 420,
            "currency": "EUR",
            "merchant_country": "FR",
            "card_country": "FR",
            "region": "eea",
            "tenant": "demo",
        }
    ).encode()


def _decide(port: int) -> dict[str, object]:
    """Asked again after a 503, as every caller does: a loaded machine may record too late."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/authorizations",
        _authorization(),
        {"content-type": "application/json"},
    )
    for _ in range(ASK_MAX):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                decided: dict[str, object] = json.load(answer)
                return decided
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(ASK_AGAIN_S)
    raise AssertionError(f"503, {ASK_MAX} times")


@pytest.mark.slow
def test_kafka_starts_with_its_topics_and_stops(make: Make) -> None:
    started = make("kafka")
    assert started.returncode == 0, started.stdout + started.stderr
    listed = subprocess.run(
        [ROOT / "sluice", "topics", "list", "--bootstrap", f"localhost:{make.kafka}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "decisions.v1" in listed.stdout, listed.stderr

    stopped = make("kafka-stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not _answers(make.kafka)


@pytest.mark.slow
def test_down_stops_the_node_of_make_kafka(make: Make) -> None:
    assert make("kafka").returncode == 0
    assert make("down").returncode == 0
    assert not _answers(make.kafka)


@pytest.mark.slow
def test_up_decides_and_down_ends_it_and_nothing_else(
    make: Make, stranger: subprocess.Popen[bytes]
) -> None:
    up = make.up()
    decided = _decide(make.http)
    assert (decided["authorization_id"], decided["outcome"]) == ("my-first", "approve")

    second = make("up")
    assert second.returncode != 0
    assert "already up" in second.stderr
    assert "make down" in second.stderr

    entries = make.entries()
    assert len(processes.running(entries)) >= 7  # up, store, five services
    down = make("down")
    assert down.returncode == 0, down.stderr
    assert up.wait(VERB_MAX_S) == 0
    assert processes.running(entries) == []
    assert not any(_answers(port) for port in (make.kafka, make.store, make.http))
    assert not make.named.exists()
    assert stranger.poll() is None


@pytest.mark.slow
def test_down_cleans_up_after_a_killed_up(make: Make, stranger: subprocess.Popen[bytes]) -> None:
    up = make.up()
    entries = make.entries()
    os.kill(entries[0].pid, signal.SIGKILL)
    assert up.wait(VERB_MAX_S) != 0
    assert processes.running(entries), "nothing outlived it, so this test shows nothing"
    again = make("up")
    assert again.returncode != 0
    assert "make down" in again.stderr

    down = make("down")
    assert down.returncode == 0, down.stderr
    assert processes.running(entries) == []
    assert not any(_answers(port) for port in (make.kafka, make.store, make.http))
    assert stranger.poll() is None


def test_a_taken_port_is_named_with_the_way_out(make: Make) -> None:
    with socket.create_server(("127.0.0.1", make.http)):
        refused = make("up")
    assert refused.returncode != 0
    assert f"port {make.http} is taken" in refused.stderr
    assert "HTTP_PORT=" in refused.stderr


def test_down_with_nothing_running_is_no_error(make: Make) -> None:
    assert make("down").returncode == 0
