"""`helm install`, and one authorization's way through what it made."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from sluice.adapters.kafka.topics import Topics
from sluice.application.log_keys import make_log_key
from sluice.cli import main
from tests.cluster.chart import NAME, READY_MAX_S, Installed, volume
from tests.cluster.kube import KubeError, is_ready
from tests.cluster.objects import CA_SECRET, SECRET, Objects
from tests.support.log_bucket import LogBucket
from tests.support.messages import authorization
from tests.support.recount import wait_applied
from tests.support.s3_server import REGION

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _first_values(sluice: Installed) -> None:
    sluice.at()


def test_all_is_ready_within_three_minutes_of_helm_install(sluice: Installed) -> None:
    print(f"helm install to all ready: {sluice.seconds:.1f} s")
    assert sluice.seconds < READY_MAX_S
    pods = sluice.kube.pods(sluice.namespace)
    assert len(pods) == 5
    assert [pod["metadata"]["name"] for pod in pods if not is_ready(pod)] == []


def test_an_authorization_is_decided_by_model_and_features_and_its_decision_is_in_the_topic(
    sluice: Installed,
) -> None:
    heard = sluice.decide("installed-1")
    assert (heard["outcome"], heard["degradation_level"], heard["degraded"]) == (
        *("approve", "D0"),
        [],
    )
    recorded = sluice.decisions_of("installed-1")
    assert [d.authorization.authorization_id for d in recorded] == ["installed-1"]


def test_helm_test_is_green(sluice: Installed) -> None:
    print(sluice.helm.test())


def test_the_featurizer_makes_states_that_recompute(sluice: Installed) -> None:
    for n in range(3):
        sluice.decide(f"states-{n}")
    wait_applied(sluice.beside.bootstrap, Topics(), "sluice-featurizer")
    assert sluice.ledger().wrong_states(sluice.beside.store) == []


async def test_kserves_own_client_infers_through_the_inference_service(sluice: Installed) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    url = f"http://{sluice.service(f'{NAME}-predictor')}"
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, NAME)
    asked = InferInput("authorizations", [1], "BYTES", [json.dumps(authorization("kserve-1"))])
    response = await client.infer(url, InferRequest(NAME, [asked]), model_name=NAME)
    (answer,) = response.outputs[0].data
    assert json.loads(answer)["authorization_id"] == "kserve-1"
    await client.close()


def test_tritons_client_infers_through_the_inference_service(sluice: Installed) -> None:
    with closing(triton.InferenceServerClient(sluice.service(f"{NAME}-predictor"))) as client:
        asked = triton.InferInput("authorizations", [2], "BYTES")
        bodies = [json.dumps(authorization(f"triton-{n}")).encode() for n in range(2)]
        asked.set_data_from_numpy(np.array(bodies, dtype=object))
        answers = client.infer(NAME, [asked]).as_numpy("answer")
    assert [json.loads(a)["authorization_id"] for a in answers] == ["triton-0", "triton-1"]


def test_each_service_keeps_to_nine_tenths_of_its_pods_memory(sluice: Installed) -> None:
    """Of 1 GiB. The setting alone would let it take 4 GB, and the kernel kill it long before."""
    for pod in sluice.kube.pods(sluice.namespace, "app.kubernetes.io/part-of=sluice"):
        for container in pod["spec"]["containers"]:
            into = ["--namespace", sluice.namespace, "exec", pod["metadata"]["name"]]
            into += [f"--container={container['name']}", "--"]
            said = sluice.kube(*into, "grep", "Max data size", "/proc/1/limits")
            assert int(said.split()[3]) >> 20 == 921, said


def test_the_namespace_takes_restricted_pods_only(sluice: Installed) -> None:
    bare = ["run", "bare", "--image=localhost/busybox:1", "--restart=Never"]
    with pytest.raises(KubeError, match='violates PodSecurity "restricted'):
        sluice.kube("--namespace", sluice.namespace, *bare)


CONNECT = """
import socket, sys
for place in sys.argv[1:]:
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3)
        print(place, "open")
    except OSError:
        print(place, "closed")
"""


def test_network_policies_let_a_pod_reach_what_is_named_and_nothing_else(sluice: Installed) -> None:
    pod = sluice.sync_pods()[0]["metadata"]["name"]
    featurizer = sluice.kube.get(sluice.namespace, "pod", f"{NAME}-featurizer-0")["status"]
    expected = {
        sluice.beside.for_pods: "open",
        "10.96.0.10:53": "open",  # DNS
        "10.96.0.1:443": "closed",  # the API server
        f"{featurizer['podIP']}:9090": "closed",
    }
    into = ["--namespace", sluice.namespace, "exec", pod, "--"]
    said = sluice.kube(*into, "python", "-c", CONNECT, *expected)
    assert dict(line.split() for line in said.splitlines()) == expected


def test_a_stranger_does_not_reach_the_sync_api(sluice: Installed) -> None:
    """From another namespace, by the Service's address and by the pod's own."""
    pod = sluice.sync_pods()[0]["status"]["podIP"]
    places = [sluice.url.removeprefix("http://"), f"{pod}:8080", f"{pod}:9090"]
    strange = ["--namespace", "default", "run", "stranger", "--image=localhost/sluice:1"]
    once = ["--restart=Never", "--attach", "--rm", "--quiet", "--command", "--"]
    said = sluice.kube(*strange, *once, "python", "-c", CONNECT, *places)
    assert said.splitlines() == [f"{place} closed" for place in places]


AUDITOR = f"{NAME}-auditor-0"
LOG_KEY = "/var/lib/sluice-keys/log/0.pem.pub"


def test_the_auditor_makes_its_keys_and_its_log_accounts_for_all_with_a_witness(
    sluice: Installed, storage: Objects, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Last here, since it changes the values: first the auditor as a first install has it, then a
    witness that is told the key which that made, and the other way round; and a copy in a bucket
    from which nobody can delete."""
    space = sluice.namespace
    for claim in (f"log-{AUDITOR}", f"{NAME}-keystore", f"state-{NAME}-witness-0"):
        folder = tmp_path / claim
        folder.mkdir()
        for path in (tmp_path.parent, tmp_path, folder):
            path.chmod(0o777)  # the kubelet gives a folder of the node to no group
        sluice.kube.apply(volume(space, claim, folder, "ReadWriteOnce"))
    sluice.at(auditor={"enabled": True})

    def inside(*words: str) -> str:
        return sluice.kube("--namespace", space, "exec", AUDITOR, "--", *words)

    log_key = inside("cat", LOG_KEY).strip()
    assert log_key.startswith(f"{NAME}.{space}/cell/0+")

    witness = make_log_key(tmp_path / "witness.pem", "test.example/witness-1", witness=True)
    of = ["--namespace", space]
    file = f"--from-file=key.pem={tmp_path / 'witness.pem'}"
    sluice.kube(*of, "create", "secret", "generic", "witness-key", file)
    bucket = LogBucket(storage.server)
    storage.allow(sluice)
    sluice.at(
        auditor={
            "enabled": True,
            "witnesses": [{"key": str(witness), "url": f"http://{NAME}-witness"}],
            "copy": {
                "bucket": bucket.NAME,
                "endpoint": storage.endpoint,
                "region": REGION,
                "retainDays": 1,
            },
            "credentialsSecret": SECRET,
            "caSecret": CA_SECRET,
        },
        witness={
            "enabled": True,
            "name": "test.example/witness-1",
            "keySecret": "witness-key",
            "logs": [log_key],
        },
    )
    sluice.decide("in-the-log")
    verify = ["sluice", "log", "verify", "/var/lib/sluice/log/0", "--key", LOG_KEY]
    verify += ["--witness", str(witness), "--require-witness", "1", "--accounting"]

    def holds() -> bool:
        try:
            print(inside(*verify))
        except KubeError as error:  # it is a second behind the topics
            print(error)
            return False
        return True

    sluice.kube.until(holds, "the log verifies, witnessed, and nothing is missing", READY_MAX_S)
    tail = inside("sluice", "log", "tail", "/var/lib/sluice/log/0", "--count", "50")
    assert '"in-the-log"' in tail

    (tmp_path / "log.pub").write_text(log_key)

    def copied() -> bool:
        try:
            copy = str(bucket.download(tmp_path / f"copy-{time.monotonic_ns()}"))
        except ValueError:  # no checkpoint is there yet
            return False
        about = ["--key", str(tmp_path / "log.pub"), "--witness", str(witness)]
        capsys.readouterr()
        whole = main(["log", "verify", copy, *about, "--require-witness", "1"]) == 0
        main(["log", "tail", copy, "--count", "50"])
        return whole and '"in-the-log"' in capsys.readouterr().out

    sluice.kube.until(copied, "the copy verifies, witnessed", READY_MAX_S)
    assert bucket.locked()
