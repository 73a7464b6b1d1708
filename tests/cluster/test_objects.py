"""Releases that deciders follow, the archive and training sets on object storage."""

from __future__ import annotations

import io
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from tests.cluster.kube import is_ready
from tests.cluster.objects import CA_SECRET, SECRET, Objects
from tests.cluster.test_wrong_values import TIMED_OUT
from tests.support.recount import wait_balanced
from tests.support.s3_server import BUCKET, REGION
from tests.support.traffic import authorizations

pytestmark = pytest.mark.cluster

REGISTRY, ARCHIVE, SET = (f"s3://{BUCKET}/{name}" for name in ("registry", "archive", "set"))
WRONG_MAX_S = 8
"""For Helm, which waits for pods that cannot become ready."""
DAY_US = 86_400_000_000
DAYS, A_DAY = 2, 150
"""Of authorizations, of full days: a training set takes no others."""


def archived(storage: Objects) -> list[tuple[int, int, bytes]]:
    """Partition, offset and record of each decision, sorted: by pyarrow alone."""
    found: list[tuple[int, int, bytes]] = []
    for key in storage.keys("archive/decisions/"):
        columns = pq.read_table(io.BytesIO(storage.get(key))).to_pydict()
        names = ("partition", "offset", "record")
        found += zip(*(columns[name] for name in names), strict=True)
    return sorted(found)


def on_object_storage(storage: Objects, trusted: str) -> dict[str, Any]:
    """The chart's values: of the machine that pods run on nothing is asked."""
    return {
        "model": {"storageUri": "", "registry": REGISTRY, "credentialsSecret": SECRET},
        "trust": {"keys": {"risk.pub": trusted}},
        "storage": {
            "endpoint": storage.endpoint,
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
    sluice: Installed, storage: Objects, tmp_path: Path
) -> None:
    kube, space, bootstrap = sluice.kube, sluice.namespace, sluice.beside.bootstrap
    # By verbs, as who runs it does: a registry with a champion.
    first = sluice.beside.releases / "v1"
    key = tmp_path / "key"
    signed = ("--key", str(key), "--who", "ann", "--why", "a test")
    run("release", "keygen", "--out", str(key))
    storage.put(first, f"registry/{named(first)}")
    run("release", "promote", REGISTRY, named(first), *signed)
    values = on_object_storage(storage, key.with_suffix(".pub").read_text())

    # Another's key: the new pods wait and say why, those of before go on.
    storage.allow(sluice, secret_key="anothers")
    sluice.changed = values
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
    sluice.decide("refused")
    assert [d.release for d in sluice.decisions_of("refused")] == [named(first)]

    # The right one. A pod has its Secret's variables from its start on.
    storage.allow(sluice)
    kube("--namespace", space, "delete", "pod", "--wait=false", *say_why_not(sluice))
    sluice.upgrade(**values)

    # What Kafka holds is archived, none missing, none twice; and each decision is what was logged.
    sent = sent_days_ago(bootstrap, "days-ago")
    ledger = wait_balanced(bootstrap, Topics(), heard={a.authorization_id for a in sent})
    in_topic = [(m.partition, m.offset, m.value) for m, _ in ledger.decided]
    kube.until(lambda: len(archived(storage)) >= len(in_topic), "all are archived", READY_MAX_S)
    assert archived(storage) == in_topic
    check = ["--namespace", space, "exec", f"{NAME}-archiver-0", "--container=consistency", "--"]
    print(kube(*check, "sluice", "consistency", "--newest", "1000"))

    # A training set of them, by URL from end to end.
    first_day, until = (to_datetime(at).date() for at in (sent[0].event_at, SystemClock().now_us()))
    order = ["--from", f"{first_day}", "--to", f"{until}", "--label-delay", "1h", "--test", "0d"]
    run("dataset", "build", *order, "--archive", ARCHIVE, "--out", SET, "--processes", "1")
    manifest = msgspec.json.decode(storage.get("set/manifest.json"))
    print(manifest["splits"], manifest["log"])
    days_ago = [d for d in ledger.decisions if d.authorization.event_at <= sent[-1].event_at]
    assert sum(split["rows"] for split in manifest["splits"]) == len(days_ago) == len(sent)

    # Another release becomes champion, by signatures in the bucket alone.
    before = uids(sluice)
    storage.put(next_of(first, tmp_path / "next"), "registry/next")
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
