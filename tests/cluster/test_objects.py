"""All on object storage: releases that deciders follow, the archive, training sets.

A real S3 server behind TLS of a CA of its own; credentials come by a Secret alone.
"""

from __future__ import annotations

import io
import shutil
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pyarrow.parquet as pq
import pytest

from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.cli import main
from sluice.domain.clock import SystemClock, to_datetime
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.release import MANIFEST, SIGNATURE
from sluice.testing.factories import make_label
from tests.cluster.chart import NAME, READY_MAX_S, Installed, merged
from tests.cluster.helm import HelmError
from tests.cluster.kube import Object, is_ready
from tests.cluster.node import HOST
from tests.cluster.test_wrong_values import TIMED_OUT
from tests.support.certificates import Authority
from tests.support.recount import wait_balanced
from tests.support.s3_server import BUCKET, CREDENTIALS, REGION, S3Server
from tests.support.tls_front import tls_front
from tests.support.traffic import authorizations

pytestmark = pytest.mark.cluster

REGISTRY, ARCHIVE, SET = (f"s3://{BUCKET}/{name}" for name in ("registry", "archive", "set"))
SECRET, CA_SECRET = "object-storage", "object-storage-ca"
WRONG_MAX_S = 8
"""For Helm, which waits for pods that cannot become ready."""
DAY_US = 86_400_000_000
DAYS, A_DAY = 2, 150
"""Of authorizations, of full days: a training set takes no others."""


@dataclass(frozen=True)
class Bucket:
    """endpoint: https, as this machine and pods reach it. ca: the certificate that it leads to."""

    endpoint: str
    ca: Path
    client: Any

    def put(self, folder: Path, prefix: str) -> None:
        """Its files, as any client puts them."""
        for path in folder.iterdir():
            self.client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")

    def keys(self, prefix: str) -> list[str]:
        """Of all objects below it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        raw: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return raw

    def rows(self) -> list[tuple[int, int, bytes]]:
        """Partition, offset and record of each archived decision, sorted: by pyarrow alone."""
        found: list[tuple[int, int, bytes]] = []
        for key in self.keys("archive/decisions/"):
            columns = pq.read_table(io.BytesIO(self.get(key))).to_pydict()
            names = ("partition", "offset", "record")
            found += zip(*(columns[name] for name in names), strict=True)
        return sorted(found)


@pytest.fixture
def bucket(sluice: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty one, which verbs of this process find as pods do."""
    authority = Authority(tmp_path / "authority", "storage")
    pem = authority.issue("s3", hosts=(HOST,))
    with S3Server(tmp_path / "s3") as server, tls_front(server.port, pem, host=HOST) as port:
        client = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        made = Bucket(f"https://{HOST}:{port}", authority.ca, client)
        told = CREDENTIALS | {
            "SLUICE_STORAGE_ENDPOINT": made.endpoint,
            "SLUICE_STORAGE_REGION": REGION,
            "SLUICE_STORAGE_CA_FILE": str(made.ca),
            "SLUICE_KAFKA_BOOTSTRAP": sluice.beside.bootstrap,
        }
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        yield made


def secret(sluice: Installed, name: str, data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": sluice.namespace},
        "data": {key: b64encode(value.encode()).decode() for key, value in data.items()},
    }


def on_object_storage(bucket: Bucket, trusted: str) -> dict[str, Any]:
    """The chart's values: of the machine that pods run on nothing is asked."""
    return {
        "model": {"storageUri": "", "registry": REGISTRY, "credentialsSecret": SECRET},
        "trust": {"keys": {"risk.pub": trusted}},
        "storage": {
            "endpoint": bucket.endpoint,
            "region": REGION,
            "caSecret": CA_SECRET,
            "credentialsSecret": SECRET,
        },
        "archiver": {"root": ARCHIVE},
    }


def sent_days_ago(bootstrap: str, name: str) -> list[Authorization]:
    """Authorizations of the last full days, and labels of some, as they come from Kafka."""
    now_us = SystemClock().now_us()
    producer = EventProducer(bootstrap, client_id=name)
    made = []
    for n, one in zip(range(DAYS * A_DAY), authorizations(name, cards=30), strict=False):
        at_us = (now_us // DAY_US - DAYS) * DAY_US + n * DAY_US // A_DAY
        auth = msgspec.structs.replace(one, event_at=at_us)
        producer.produce(Topics().authorizations, encode(auth), key=auth.card_token)
        made.append(auth)
        if n % 10 == 0:
            label = make_label(auth, known_at=at_us + 60_000_000)
            producer.produce(Topics().labels, encode(label), key=auth.authorization_id)
    producer.flush(30)
    return made


def run(*words: str) -> None:
    """A verb of ours, which succeeds."""
    assert main([*words]) == 0, words


def named(release: Path) -> str:
    """Its id, which is its folder's name in a registry."""
    name: str = msgspec.json.decode((release / MANIFEST).read_bytes())["id"]
    return name


def next_of(release: Path, folder: Path) -> Path:
    """The same model as another release, not signed."""
    made = shutil.copytree(release, folder)
    (made / SIGNATURE).unlink()
    manifest = msgspec.json.decode((made / MANIFEST).read_bytes())
    manifest["id"], manifest["created_at"] = "next", manifest["created_at"] + 1
    (made / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return made


def say_why_not(sluice: Installed) -> dict[str, str]:
    """What each pod answers that is there and not ready, by its name."""
    found = {}
    for pod in sluice.kube.pods(sluice.namespace, "app.kubernetes.io/part-of=sluice"):
        if not is_ready(pod) and "podIP" in pod["status"]:
            with suppress(OSError):  # it does not listen yet
                name = pod["metadata"]["name"]
                found[name] = sluice.readiness(name, 9090)
    return found


def uids(sluice: Installed) -> set[str]:
    """Of all pods."""
    return {pod["metadata"]["uid"] for pod in sluice.kube.pods(sluice.namespace)}


def test_releases_archive_and_training_sets_in_a_bucket(
    sluice: Installed, bucket: Bucket, tmp_path: Path
) -> None:
    kube, space, bootstrap = sluice.kube, sluice.namespace, sluice.beside.bootstrap
    first = sluice.beside.releases / "v1"
    key = tmp_path / "key"
    signed = ("--key", str(key), "--who", "ann", "--why", "a test")
    run("release", "keygen", "--out", str(key))
    bucket.put(first, f"registry/{named(first)}")
    run("release", "promote", REGISTRY, named(first), *signed)
    values = on_object_storage(bucket, key.with_suffix(".pub").read_text())

    # Another's key: the new pods wait and say why, those of before go on.
    wrong = CREDENTIALS | {"AWS_SECRET_ACCESS_KEY": "anothers"}
    kube.apply(
        secret(sluice, CA_SECRET, {"ca.crt": bucket.ca.read_text()}), secret(sluice, SECRET, wrong)
    )
    sluice.at()
    with pytest.raises(HelmError, match=TIMED_OUT):
        sluice.helm.upgrade(merged(sluice.given, values), timeout=WRONG_MAX_S)

    def refused() -> bool:
        said = say_why_not(sluice)
        waiting = [
            name.removeprefix(f"{NAME}-").partition("-")[0]
            for name, why in said.items()
            if "the object storage refuses: SignatureDoesNotMatch" in why
        ]
        return {*waiting} >= {"archiver", "decider", "predictor"}

    kube.until(refused, "archiver and deciders say that they are refused", READY_MAX_S)
    assert sluice.decide("refused")["outcome"] == "approve"

    # The right one. A pod has its Secret's variables from its start on.
    kube.apply(secret(sluice, SECRET, CREDENTIALS))
    kube("--namespace", space, "delete", "pod", "--wait=false", *say_why_not(sluice))
    sluice.upgrade(**values)

    # What Kafka holds is archived, none missing, none twice; and each decision is what was logged.
    sent = sent_days_ago(bootstrap, "days-ago")
    ledger = wait_balanced(bootstrap, Topics(), heard={a.authorization_id for a in sent})
    in_topic = [(m.partition, m.offset, m.value) for m, _ in ledger.decided]
    kube.until(lambda: len(bucket.rows()) >= len(in_topic), "all are archived", READY_MAX_S)
    assert bucket.rows() == in_topic
    check = ["--namespace", space, "exec", f"{NAME}-archiver-0", "--container=consistency", "--"]
    print(kube(*check, "sluice", "consistency", "--newest", "1000"))

    # A training set of them, by URL from end to end.
    first_day, until = (to_datetime(at).date() for at in (sent[0].event_at, SystemClock().now_us()))
    order = ["--from", f"{first_day}", "--to", f"{until}", "--label-delay", "1h", "--test", "0d"]
    run("dataset", "build", *order, "--archive", ARCHIVE, "--out", SET, "--processes", "1")
    manifest = msgspec.json.decode(bucket.get("set/manifest.json"))
    print(manifest["splits"], manifest["log"])
    days_ago = [d for d in ledger.decisions if d.authorization.event_at <= sent[-1].event_at]
    assert sum(split["rows"] for split in manifest["splits"]) == len(days_ago) == len(sent)

    # Another release becomes champion, by signatures in the bucket alone.
    before = uids(sluice)
    bucket.put(next_of(first, tmp_path / "next"), "registry/next")
    run("release", "sign", f"{REGISTRY}/next", "--key", str(key))
    run("release", "shadow", REGISTRY, "next", *signed)
    run("release", "canary", REGISTRY, "next", *signed)
    run("release", "promote", REGISTRY, "next", "--held-s", "0", *signed)
    chosen = 'sluice_decider_release_info{release="next"}'
    pods = [pod["metadata"]["name"] for pod in sluice.sync_pods()] + [f"{NAME}-decider-stream-0"]
    kube.until(
        lambda: all(sluice.metrics(pod, 9090).get(chosen) == 1 for pod in pods),
        "every decider has followed",
        READY_MAX_S,
    )
    sluice.decide("followed")
    assert [d.release for d in sluice.decisions_of("followed")] == ["next"]
    assert uids(sluice) == before
