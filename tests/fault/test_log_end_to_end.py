"""The whole way of the compliance log, killed part by part under traffic: broker, deciders,
auditor, witness and a bucket with Object Lock. In the end the log verifies, here and as it lies in
the bucket: no record is missing, and a witness has seen it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka.broker import Node
from local.stack import free_port
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.application.log_keys import make_log_key
from tests.support.deployment import make_deployment
from tests.support.kafka import wait_until
from tests.support.log_bucket import LogBucket
from tests.support.needed import needed
from tests.support.recount import wait_balanced
from tests.support.s3_server import CREDENTIALS, REGION, S3Server
from tests.support.traffic import Caller, StreamTraffic

pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.slow]

WITNESS = "witness.example/1"
VICTIMS = ("decider-stream", "decider-sync", "auditor", "witness")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LogBucket]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with needed(), S3Server(tmp_path / "s3") as server:
        yield LogBucket(server)


def test_a_log_killed_part_by_part_verifies_whole_here_and_in_its_bucket(
    kafka: Node, bucket: LogBucket, tmp_path: Path
) -> None:
    witnessed_at = free_port()
    seen_by = make_log_key(tmp_path / "witness.pem", WITNESS, witness=True)
    (tmp_path / "witnesses").write_text(f"{seen_by} http://127.0.0.1:{witnessed_at}\n")
    environment = {
        "SLUICE_AUDITOR_WITNESSES_FILE": str(tmp_path / "witnesses"),
        "SLUICE_AUDITOR_COPY_BUCKET": LogBucket.NAME,
        "SLUICE_AUDITOR_COPY_ENDPOINT": bucket.server.endpoint,
        "SLUICE_AUDITOR_COPY_REGION": REGION,
        "SLUICE_AUDITOR_COPY_RETAIN_DAYS": "1",
        "SLUICE_AUDITOR_COPY_EVERY_S": "1",
        "SLUICE_WITNESS_NAME": WITNESS,
        "SLUICE_WITNESS_KEY_FILE": str(tmp_path / "witness.pem"),
        "SLUICE_WITNESS_LOGS_FILE": str(tmp_path / "run/log.pub"),
        "SLUICE_WITNESS_STATE_DIR": str(tmp_path / "witness"),
        "SLUICE_STORE_IN_PROGRESS_TTL_S": "45",  # longer than the broker is away
    }
    with (
        EmbeddedStore() as store,
        make_deployment(
            kafka.bootstrap, store.url, tmp_path, environment=environment
        ) as deployment,
        deployment.supervised(),
    ):
        stack = deployment.stack
        key = stack.make_log_keys()

        def start(name: str) -> None:
            more = {"SLUICE_WITNESS_PORT": str(witnessed_at)} if name == "witness" else {}
            stack.wait_ready(stack.start(name, **more))  # type: ignore[arg-type]

        def signed() -> float:
            try:
                return stack.processes["auditor"].metric("sluice_auditor_signed_size")
            except (KeyError, OSError):  # killed, or not yet there
                return 0.0

        def verified(folder: Path) -> tuple[int, str]:
            done = stack.verb(
                *("log", "verify", str(folder), "--key", str(key), "--accounting"),
                *("--witness", str(seen_by), "--require-witness", "1"),
            )
            return done.returncode, done.stdout + done.stderr

        for name in (*VICTIMS, "featurizer"):
            start(name)
        stream = StreamTraffic(
            deployment.bootstrap, deployment.topics.authorizations, "s", rate=50, replays=25
        )
        caller = Caller(stack.port, "c", rate=20)

        def grows() -> None:
            size = signed()
            wait_until(lambda: signed() > size, "the log grows")

        with stream:
            with caller:
                for name in VICTIMS:
                    grows()
                    stack.kill(name)
                    start(name)
                bucket.server.stop()
                grows()
                bucket.server.start()
                heard = len(caller.heard)
                wait_until(lambda: len(caller.heard) > heard, "the sync API answers")
            # The sync API refuses meanwhile, and numbers of its decisions are not used again.
            kafka.kill()
            kafka.start()
            grows()
        ledger = wait_balanced(deployment.bootstrap, deployment.topics, heard=caller.heard)
        for name in ("decider-stream", "decider-sync"):
            stack.stop(name)
        auditor = stack.processes["auditor"]
        wait_until(lambda: auditor.metric("sluice_consumer_lag_messages") == 0, "all is read")
        size = auditor.metric("sluice_auditor_size")
        # A heartbeat says what the broker has behind the last record.
        wait_until(
            lambda: auditor.metric("sluice_auditor_copied_size") > size + 1, "it is in the bucket"
        )
        status, said = verified(bucket.download(tmp_path / "copy"))
        assert status == 0, said
        assert f"decision {len(ledger.decisions):,}" in said, said
        assert bucket.locked()
        assert stack.stop("auditor") == 0
        status, said = verified(stack.folder / "log/0")
        assert status == 0, said
        assert "accounting: balances" in said
        assert WITNESS in said
