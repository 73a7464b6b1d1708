"""The chart, as Helm renders each case of charts/sluice/ci.

A render that was meant to change: ``make test-chart ARGS=--write-golden``, and read the difference.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.kafka.broker import CONFIG
from sluice import __version__
from sluice.adapters.kafka.rights import PEOPLE, RIGHTS
from sluice.adapters.kafka.topics import TABLE, wanted
from sluice.application.log_keys import parse_keys
from sluice.audit.notes import LOG, WITNESS
from sluice.settings import load
from tests.deploy.conftest import CASES, values
from tests.support.crds import KINDS
from tests.support.helm import CHART, ROOT, Helm, Object, RefusedError

GOLDEN = ROOT / "tests/deploy/golden"
VERSIONS = ("1.32", "1.33", "1.34", "1.35", "1.36")
NATIVE = re.compile(
    r"v1|apps/v1|batch/v1|policy/v1|autoscaling/v2|(networking|rbac\.authorization)\.k8s\.io/v1"
)
SERVICES = {"decider-sync", "decider-stream", "featurizer", "archiver", "auditor"}
"""Components that are services of ours; their pods have an admin port."""
OURS = SERVICES | {"labeller", "witness"}
"""The same with what an installation may do without."""
Rendered = Callable[[str], list[Object]]

each_case = pytest.mark.parametrize("case", CASES)


def named(objects: list[Object], kind: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def component(labels: dict[str, str]) -> str:
    return labels["app.kubernetes.io/component"]


def pods(objects: list[Object]) -> Iterator[tuple[str, dict[str, str], Object]]:
    """Component, labels and spec of every pod; KServe's as it puts them together, Airflow's as it
    is told them."""
    for one in objects:
        if one["kind"] == "Pod":
            yield component(one["metadata"]["labels"]), one["metadata"]["labels"], one["spec"]
        elif one["kind"] in ("Deployment", "StatefulSet", "Job"):
            pod = one["spec"]["template"]
            yield component(pod["metadata"]["labels"]), pod["metadata"]["labels"], pod["spec"]
        elif one["metadata"]["name"] == "sluice-airflow":
            for pod in json.loads(one["data"]["AIRFLOW__SLUICE__PODS"]).values():
                yield component(pod["metadata"]["labels"]), pod["metadata"]["labels"], pod["spec"]
        elif one["kind"] == "InferenceService":
            labels = one["metadata"]["labels"]
            for predictor in (one["spec"]["predictor"], *canaries(one)):
                spec = dict(predictor)
                if model := spec.pop("model", None):
                    spec |= named(objects, "ServingRuntime")[model["runtime"]]["spec"]
                yield component(labels), labels, spec


def canaries(service: Object) -> list[Object]:
    return [one["predictor"] for one in service["spec"].get("canary", [])]


def with_changes(case: str, **changes: Any) -> Object:
    """A case's values with some changed: ``a__b=1`` is a.b."""
    given = values(case)
    for path, value in changes.items():
        *parents, key = path.split("__")
        at = given
        for parent in parents:
            at = at.setdefault(parent, {})
        at[key] = value
    return given


# What Helm and Kubernetes say of it


@each_case
def test_helm_finds_nothing_wrong(chart: Helm, case: str) -> None:
    assert chart.lint(values(case)) == []


@each_case
def test_a_case_renders_as_it_did(chart: Helm, case: str, pytestconfig: pytest.Config) -> None:
    """But for the alert rules: those are the files' own, and have a test below."""
    given = values(case)
    given.get("monitoring", {}).pop("prometheusRule", None)
    text = "".join(
        f"# {path}\n{text.strip()}\n" for path, text in chart.text(given).items() if text.strip()
    )
    golden = GOLDEN / f"{case}.yaml"
    if pytestconfig.getoption("--write-golden"):
        golden.write_text(text)
    assert text == golden.read_text(), "as meant? make test-chart ARGS=--write-golden"
    assert not re.search(r"[ \t]$", text, re.MULTILINE)


@each_case
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_would_take_it(chart: Helm, rendered: Rendered, case: str, version: str) -> None:
    natives = [one for one in rendered(case) if NATIVE.fullmatch(one["apiVersion"])]
    assert len(natives) > 10
    assert chart.kubernetes(version, natives) == []


@each_case
def test_who_defined_a_custom_resource_would_take_it(
    chart: Helm, rendered: Rendered, definition: Callable[[str], Path], case: str
) -> None:
    customs = [one for one in rendered(case) if not NATIVE.fullmatch(one["apiVersion"])]
    for one in customs:
        assert chart.custom(definition(one["kind"]), [one]) == []


def test_every_kind_of_custom_resource_is_in_some_case(rendered: Rendered) -> None:
    seen = {one["kind"] for case in CASES for one in rendered(case)}
    assert set(KINDS) <= seen


def test_a_field_that_does_not_exist_is_found(
    chart: Helm, rendered: Rendered, definition: Callable[[str], Path]
) -> None:
    """The checks above can fail."""
    objects = copy.deepcopy(rendered("default"))
    (service,) = named(objects, "InferenceService").values()
    service["spec"]["predictor"]["enableServiceLink"] = False
    assert "enableServiceLink" in "".join(chart.custom(definition("InferenceService"), [service]))
    (stream,) = (s for n, s in named(objects, "StatefulSet").items() if n.endswith("stream"))
    stream["spec"]["template"]["spec"]["enableServiceLink"] = False
    assert "enableServiceLink" in "".join(chart.kubernetes("1.34", [stream]))


# What every pod is


@each_case
def test_every_pod_is_confined(rendered: Rendered, case: str) -> None:
    seen = set()
    for name, _, spec in pods(rendered(case)):
        seen.add(name)
        assert spec["enableServiceLinks"] is False, name
        assert spec["automountServiceAccountToken"] is False, name
        assert "hostNetwork" not in spec
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert not container["image"].endswith(":latest")
            assert re.search(r":[^/]+$|@sha256:", container["image"])
        assert all("hostPath" not in volume for volume in spec.get("volumes", []))
    assert seen >= SERVICES


@each_case
def test_every_container_says_what_it_needs(rendered: Rendered, case: str) -> None:
    """No limit of CPU: the kernel would stop a pod in the middle of a decision."""
    for _, _, spec in pods(rendered(case)):
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            needs = container["resources"]
            assert needs["requests"].keys() >= {"cpu", "memory"}
            assert needs["limits"].keys() == {"memory"}


@each_case
def test_every_service_is_probed_where_operators_are_answered(
    rendered: Rendered, case: str
) -> None:
    for name, _, spec in pods(rendered(case)):
        for container in spec["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            if name in OURS:
                port = 9091 if container["name"] == "consistency" else 9090
                asks = {"startup": "live", "liveness": "live", "readiness": "ready"}
                for probe, asked in asks.items():
                    get = container[f"{probe}Probe"]["httpGet"]
                    assert get["path"] == f"/v2/health/{asked}"
                    assert ports.get(get["port"], get["port"]) == port
            elif name in ("kafka", "store"):
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@each_case
def test_every_long_running_pod_may_be_drained_one_at_a_time(rendered: Rendered, case: str) -> None:
    objects = rendered(case)
    budgets = [one["spec"] for one in named(objects, "PodDisruptionBudget").values()]
    for name, labels, _ in pods(objects):
        if name in ("topics", "test", "steps"):
            continue
        (budget,) = (
            one for one in budgets if one["selector"]["matchLabels"].items() <= labels.items()
        )
        assert budget["maxUnavailable"] == 1


@each_case
def test_services_replicas_are_spread_and_have_an_account_without_a_token(
    rendered: Rendered, case: str
) -> None:
    accounts = named(rendered(case), "ServiceAccount")
    assert all(one["automountServiceAccountToken"] is False for one in accounts.values())
    for name, labels, spec in pods(rendered(case)):
        if name in OURS:
            assert spec["serviceAccountName"] in accounts
            for spread in spec["topologySpreadConstraints"]:
                assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


@each_case
def test_the_sync_api_has_time_to_leave(rendered: Rendered, case: str) -> None:
    """preStop, the drain, and the requests in flight."""
    drain_s = load({}, path=Path("/nowhere"))[0].decider.drain_s
    for name, _, spec in pods(rendered(case)):
        if name == "decider-sync":
            (container,) = spec["containers"]
            sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert spec["terminationGracePeriodSeconds"] >= sleep + drain_s + 10


# What the services hear


@each_case
def test_each_service_understands_what_it_is_told(
    rendered: Rendered, case: str, tmp_path: Path
) -> None:
    """Its variables and sluice.yaml, read as the service reads them; of a pod its number, 0."""
    objects = rendered(case)
    config = named(objects, "ConfigMap")["sluice-config"]["data"]["sluice.yaml"]
    (tmp_path / "sluice.yaml").write_text(config)
    told = 0
    for name, _, spec in pods(objects):
        for container in spec["containers"]:
            environment = {
                variable["name"]: "0"
                if "fieldRef" in variable.get("valueFrom", {})
                else variable.get("value", "redis://a-secret:6379")
                for variable in container.get("env", [])
                if variable["name"].startswith("SLUICE_")
            }
            if not environment:
                continue
            assert len(environment) == len(container["env"]), "Helm 4 refuses a name given twice"
            if "SLUICE_CONFIG" in environment:
                environment["SLUICE_CONFIG"] = str(tmp_path / "sluice.yaml")
            settings, sources = load(environment)
            told += 1
            if name not in ("topics", "witness"):
                assert settings.access.mode == values(case)["access"].get("mode", "required")
                assert "decider.trust_dir" in sources
            for path in files_named(settings):
                if path_matters(path, name, container["name"]):
                    assert mounted(path, container), f"{name}: nothing is mounted for {path}"
    assert told >= 5


def files_named(settings: Any) -> Iterator[str]:
    sections = (
        "kafka", "store", "decider", "access", "storage", "archiver", "auditor", "keystore",
        "witness",
    )  # fmt: skip
    for section in sections:
        part = getattr(settings, section)
        for key in part.__struct_fields__:
            value = getattr(part, key)
            if isinstance(value, str) and value.startswith("/"):
                yield f"{section}.{key}={value}"


def path_matters(path: str, name: str, container: str) -> bool:
    """Whether a service opens that file: the settings are the same for all of them."""
    section, _, rest = path.partition(".")
    if section == "kafka":
        return True
    if section == "store":
        return name in ("decider-sync", "decider-stream", "featurizer", "test")
    if section in ("archiver", "witness"):
        return name == section
    if section == "storage":
        return name.startswith("decider") or name in ("archiver", "labeller", "steps")
    if section in ("auditor", "keystore"):
        return name == "auditor"
    if section == "access" or rest.startswith(("cert_file", "key_file", "client_ca_file")):
        return name == "decider-sync"
    return name.startswith("decider") and not rest.startswith("release_dir")


def mounted(path: str, container: Object) -> bool:
    where = path.partition("=")[2]
    inside = "/app/" in where  # of the image
    return inside or any(where.startswith(m["mountPath"]) for m in container["volumeMounts"])


@each_case
def test_every_mount_has_its_volume_and_every_volume_its_mount(
    rendered: Rendered, case: str
) -> None:
    for name, _, spec in pods(rendered(case)):
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        own = {"kafka": ["data"], "store": ["data"], "auditor": ["log"], "witness": ["state"]}
        claims = own.get(name, [])
        mounts = {
            mount["name"]
            for container in (*spec["containers"], *spec.get("initContainers", []))
            for mount in container["volumeMounts"]
        }
        assert len(volumes) == len(set(volumes))
        assert mounts - set(claims) == set(volumes) - set(claims), name


@each_case
def test_no_secret_is_made_and_none_is_named_that_the_values_do_not_name(
    rendered: Rendered, case: str
) -> None:
    objects = rendered(case)
    assert not named(objects, "Secret")
    given = yaml.safe_dump(values(case))
    strimzi = set(named(objects, "KafkaUser")) | {"sluice-cluster-ca-cert"}
    text = yaml.safe_dump(objects)
    for name in re.findall(r"secretName: (\S+)|secretKeyRef:\n\s+key: \S+\n\s+name: (\S+)", text):
        secret = name[0] or name[1]
        assert secret in strimzi or secret in given, secret


def test_a_changed_policy_or_key_restarts_nothing_and_a_changed_setting_does(chart: Helm) -> None:
    def templates(given: Object) -> dict[str, Object]:
        objects = chart.render(given)
        kinds = ("StatefulSet", "InferenceService", "ServingRuntime")
        return {f"{k} {n}": o["spec"] for k in kinds for n, o in named(objects, k).items()}

    before = templates(values("prod"))
    policy = with_changes("prod")
    policy["policy"]["files"]["policy.yaml"] = "{changed: true}\n"
    policy["trust"]["keys"]["risk.pub"] = "another\n"
    assert templates(policy) == before
    after = templates(with_changes("prod", settings__decider={"deadline_ms": 40}))
    assert {name for name in before if after[name] != before[name]} == {
        "StatefulSet sluice-decider-stream", "StatefulSet sluice-featurizer",
        "StatefulSet sluice-archiver", "StatefulSet sluice-auditor", "InferenceService sluice",
    }  # fmt: skip


def test_another_version_of_the_chart_alone_restarts_nothing_and_changes_nothing_immutable(
    chart: Helm, tmp_path: Path
) -> None:
    newer = tmp_path / "sluice"
    shutil.copytree(CHART, newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub(r"(?m)^version: .*$", "version: 99.0.0", text))
    for case in CASES:
        old, new = chart.render(values(case)), chart.render(values(case), chart=newer)
        assert [one["metadata"]["name"] for one in old] == [o["metadata"]["name"] for o in new]
        for before, after in zip(old, new, strict=True):
            assert before.get("spec") == after.get("spec")
            if before["kind"] == "InferenceService":  # KServe copies them to its pods
                assert before["metadata"] == after["metadata"]


def test_the_chart_installs_the_version_of_this_tree() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert f"## {version}" in (CHART / "CHANGELOG.md").read_text()


# Who serves


def test_our_service_finds_the_predictors_of_stable_and_canary(rendered: Rendered) -> None:
    service = named(rendered("prod"), "Service")["sluice-decider"]["spec"]
    assert service["selector"] == {
        "serving.kserve.io/inferenceservice": "sluice", "component": "predictor"
    }  # fmt: skip
    (predictor,) = named(rendered("prod"), "InferenceService").values()
    assert predictor["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    (canary,) = canaries(predictor)
    stable = predictor["spec"]["predictor"]
    assert (stable["name"], canary["name"]) == ("r42", "r43")
    assert canary["model"]["storageUri"] == "s3://releases/r43"
    same = ("annotations", "enableServiceLinks", "securityContext", "serviceAccountName")
    assert all(canary[key] == stable[key] for key in same)
    (route,) = named(rendered("prod"), "HTTPRoute").values()
    shares = {b["name"]: b["weight"] for b in route["spec"]["rules"][0]["backendRefs"]}
    assert shares == {"sluice-r42-predictor": 90, "sluice-r43-predictor": 10}


def test_without_kserve_the_pod_is_the_same(chart: Helm) -> None:
    def container(mode: str) -> Object:
        objects = chart.render(with_changes("kind", serving={"mode": mode}))
        (spec,) = (spec for name, _, spec in pods(objects) if name == "decider-sync")
        (found,) = spec["containers"]
        return found

    kserve, own = container("kserve"), container("deployment")
    model = [m for m in own["volumeMounts"] if m["name"] == "model"]
    assert [m["mountPath"] for m in model] == ["/mnt/models"]  # there KServe's webhook adds it
    own["volumeMounts"] = [m for m in own["volumeMounts"] if m["name"] != "model"]
    assert kserve == own


CLAIM = {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}}
IMAGE = {"image": {"reference": "r/m:1", "pullPolicy": "IfNotPresent"}}


@pytest.mark.parametrize(
    ("uri", "volume", "path"),
    [
        ("pvc://claim/a/b", CLAIM, "a/b"),
        ("pvc://claim", CLAIM, None),
        ("oci://r/m:1", IMAGE, "models"),
        ("oci+native://r/m:1", IMAGE, "models"),
        ("s3://bucket/a", {"emptyDir": {"sizeLimit": "1Gi"}}, None),
    ],
)  # fmt: skip
def test_the_stream_processor_has_the_release_that_kserve_reads(
    chart: Helm, uri: str, volume: Object, path: str | None
) -> None:
    objects = chart.render(with_changes("kind", model={"storageUri": uri}))
    (spec,) = (spec for name, _, spec in pods(objects) if name == "decider-stream")
    (container,) = spec["containers"]
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "model")
    assert (mount["mountPath"], mount.get("subPath"), mount["readOnly"]) == (
        "/mnt/models",
        path,
        True,
    )
    (found,) = (v for v in spec["volumes"] if v["name"] == "model")
    assert found == {"name": "model"} | volume
    downloads = [one["args"] for one in spec.get("initContainers", [])]
    assert downloads == ([[uri, "/mnt/models"]] if "emptyDir" in volume else [])


def test_whoever_scales_it_sets_the_number_of_pods(rendered: Rendered) -> None:
    for case in CASES:
        objects = rendered(case)
        scaled = {
            one["spec"]["scaleTargetRef"]["name"]
            for kind in ("HorizontalPodAutoscaler", "ScaledObject")
            for one in named(objects, kind).values()
        }
        for kind in ("Deployment", "StatefulSet"):
            for name, one in named(objects, kind).items():
                assert ("replicas" in one["spec"]) == (name not in scaled), f"{case} {name}"


def test_no_more_stream_processors_are_asked_for_than_partitions(chart: Helm) -> None:
    given = with_changes("prod", stream__autoscaling={"mode": "keda", "maxReplicas": 500})
    (scaled,) = named(chart.render(given), "ScaledObject").values()
    assert scaled["spec"]["maxReplicaCount"] == given["topics"]["partitions"]


def test_topics_are_made_before_anything_reads_them(rendered: Rendered) -> None:
    """By a hook, unless the broker comes with the release: a hook would wait for it for ever."""
    (job,) = named(rendered("default"), "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    mounts = job["spec"]["template"]["spec"]["volumes"]
    assert not any("configMap" in volume for volume in mounts), "it is there before any is"
    (job,) = named(rendered("kind"), "Job").values()
    assert "annotations" not in job["metadata"]
    assert job["metadata"]["name"] == "sluice-topics-1", "a Job cannot be changed"


# Kafka of our own


def test_strimzis_topics_are_those_that_the_verb_makes(rendered: Rendered) -> None:
    made = {one["spec"]["topicName"]: one["spec"] for one in
            named(rendered("strimzi"), "KafkaTopic").values()}  # fmt: skip
    assert made.keys() == {f"eu1.{limits.name}" for limits in TABLE}
    for limits in TABLE:
        topic = made[f"eu1.{limits.name}"]
        config = {key: str(value) for key, value in topic["config"].items()}
        assert config == wanted(limits, topic["replicas"])


def test_strimzis_users_have_the_rights_of_the_table_and_no_others(rendered: Rendered) -> None:
    rights: dict[str, set[tuple[str, str, str, frozenset[str]]]] = {}
    for needed in RIGHTS:
        if needed.principal in PEOPLE:
            continue
        said = frozenset({*needed.operations, "Describe"})
        pattern = "prefix" if needed.name.endswith("*") else "literal"
        of = {"transactional-id": "transactionalId"}.get(needed.kind, needed.kind)
        right = (of, "eu1." + needed.name.removesuffix("*"), pattern, said)
        rights.setdefault(f"sluice-{needed.principal}", set()).add(right)
    users = named(rendered("strimzi"), "KafkaUser")
    given = {
        name: {
            (a["resource"]["type"], a["resource"]["name"], a["resource"]["patternType"],
             frozenset(a["operations"]))
            for a in user["spec"]["authorization"]["acls"]
        }
        for name, user in users.items()
    }  # fmt: skip
    assert len(rights) == 8
    assert given == rights


def test_the_broker_for_a_trial_is_set_up_as_the_one_that_the_tests_run(
    rendered: Rendered,
) -> None:
    def properties(text: str) -> dict[str, str]:
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        return dict(line.split("=", 1) for line in lines)

    tested = properties(CONFIG)
    ours = properties(
        named(rendered("kind"), "ConfigMap")["sluice-kafka"]["data"]["server.properties"]
    )
    addresses = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
    assert ours.keys() == tested.keys()
    assert {k: v for k, v in ours.items() if tested[k] != v}.keys() <= addresses
    compose = yaml.safe_load((ROOT / "local/kafka/compose.yaml").read_text())
    (kafka,) = (spec for name, _, spec in pods(rendered("kind")) if name == "kafka")
    assert kafka["containers"][0]["image"] == compose["services"]["kafka"]["image"]


# The compliance log


def auditor(objects: list[Object]) -> Object:
    (spec,) = (spec for name, _, spec in pods(objects) if name == "auditor")
    return spec


def told(objects: list[Object], tmp_path: Path) -> Any:
    """The settings of shard 0."""
    config = named(objects, "ConfigMap")["sluice-config"]["data"]["sluice.yaml"]
    (tmp_path / "sluice.yaml").write_text(config)
    variables = {
        one["name"]: one.get("value", "0") for one in auditor(objects)["containers"][0]["env"]
    }
    return load(variables | {"SLUICE_CONFIG": str(tmp_path / "sluice.yaml")})[0]


def test_a_first_install_needs_no_key_made_by_hand(rendered: Rendered, tmp_path: Path) -> None:
    """The auditor makes them where there are none, on a volume that no copy of the log holds."""
    for case in ("default", "kind"):
        objects = rendered(case)
        settings = told(objects, tmp_path)
        assert settings.auditor.make_keys
        assert settings.auditor.environment == "sluice.fraud"
        mounts = {
            m["mountPath"]: m["name"] for m in auditor(objects)["containers"][0]["volumeMounts"]
        }
        kept = (settings.auditor.key_file, settings.keystore.path, settings.keystore.roots)
        assert {on(mounts, path) for path in kept} == {"keystore"}
        assert {on(mounts, settings.auditor.root), on(mounts, settings.keystore.copies)} == {"log"}
        assert settings.keystore.wrapper == ""
        claim = named(objects, "PersistentVolumeClaim")["sluice-keystore"]
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        (log,) = named(objects, "StatefulSet")["sluice-auditor"]["spec"]["volumeClaimTemplates"]
        assert log["metadata"]["name"] == "log"


def on(mounts: dict[str, str], path: str) -> str:
    """The volume that a file lies on."""
    return mounts[max((at for at in mounts if path.startswith(f"{at}/")), key=len)]


def test_a_banks_auditor_is_told_its_key_kms_witnesses_copy_and_time_stamps(
    rendered: Rendered, tmp_path: Path
) -> None:
    objects = rendered("prod")
    settings = told(objects, tmp_path)
    assert settings.auditor.environment == "bank.example"
    assert settings.auditor.key_file == "/etc/sluice/log-key/key.pem"
    assert settings.keystore.wrapper.startswith("kms:arn:aws:kms:eu-central-1:")
    assert (settings.auditor.copy_bucket, settings.auditor.copy_retain_days) == ("sluice-log", 730)
    assert settings.auditor.time_stamp_url == "http://tsa.example.org/tsr"
    text = named(objects, "ConfigMap")["sluice-auditor"]["data"]["witnesses"]
    urls = [line.rest for line in parse_keys(text, WITNESS, "witnesses")]
    assert urls == ["https://witness.partner.example", "http://10.24.0.7:8082"]
    text = named(objects, "ConfigMap")["sluice-witness"]["data"]["logs"]
    assert [line.key.name for line in parse_keys(text, LOG, "logs")] == ["partner.example/eu/0"]
    wrapped = told(rendered("strimzi"), tmp_path)
    assert wrapped.keystore.wrapper == "file:/etc/sluice/wrapping-key/key"


def test_turning_the_auditor_on_restarts_nothing_else(chart: Helm) -> None:
    def templates(given: Object) -> dict[str, Object]:
        kinds = ("StatefulSet", "InferenceService", "ServingRuntime")
        objects = chart.render(given)
        return {f"{k} {n}": o["spec"] for k in kinds for n, o in named(objects, k).items()}

    with_log = templates(values("kind"))
    without = templates(with_changes("kind", auditor={"enabled": False}))
    assert with_log.keys() - without.keys() == {"StatefulSet sluice-auditor"}
    assert all(with_log[name] == spec for name, spec in without.items())


def test_a_witness_is_whole_in_one_file_for_somebody_else_to_apply(chart: Helm) -> None:
    """As the how-to has it: the least values, and the witness's own."""
    given = with_changes("default", witness=values("prod")["witness"])
    text = chart.text(given, name="witness")["templates/witness.yaml"]
    objects = [one for one in yaml.safe_load_all(text) if one]
    kinds = {one["kind"] for one in objects}
    assert kinds == {
        "ServiceAccount", "ConfigMap", "StatefulSet", "Service", "PodDisruptionBudget",
        "NetworkPolicy",
    }  # fmt: skip
    (spec,) = (spec for name, _, spec in pods(objects) if name == "witness")
    for volume in spec["volumes"]:
        if "configMap" in volume:
            assert volume["configMap"]["name"] in named(objects, "ConfigMap")
        elif "secret" in volume:
            assert volume["secret"]["secretName"] == "witness-key"


# Networks


def reaches(objects: list[Object], labels: dict[str, str]) -> set[int]:
    """Ports that a pod with these labels may connect to; empty if it may connect to none."""
    return {
        port["port"]
        for policy in named(objects, "NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("egress", [])
        for port in rule["ports"]
    }


def selects(selector: Object, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


@each_case
def test_all_traffic_is_denied_but_what_has_a_name(rendered: Rendered, case: str) -> None:
    objects = rendered(case)
    deny = named(objects, "NetworkPolicy")["sluice-default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny.keys()
    for name, labels, _ in pods(objects):
        assert selects(deny["podSelector"], labels), name


def test_a_pod_reaches_what_it_needs_and_nothing_else(rendered: Rendered) -> None:
    objects = rendered("prod")
    labels = {name: labels for name, labels, _ in pods(objects)}
    kafka = {9094, 9095, 9096}
    assert {name: reaches(objects, one) for name, one in labels.items()} == {
        "decider-sync": {53, 6380, 8443, 443} | kafka,
        "decider-stream": {53, 6380, 443} | kafka,
        "featurizer": {53, 6380} | kafka,
        "archiver": {53} | kafka,
        "labeller": {53, 8443} | kafka,
        "auditor": {53, 443, 80, 8082, 3128} | kafka,
        "witness": {53},
        "topics": {53} | kafka,
        "test": {53, 6380, 8080} | kafka,
        "steps": {53, 5000, 8081} | kafka,
    }


def test_only_the_auditor_and_named_logs_reach_the_witness_which_asks_nobody(
    rendered: Rendered,
) -> None:
    policy = named(rendered("prod"), "NetworkPolicy")["sluice-witness"]["spec"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"port": 8082, "protocol": "TCP"}]
    ours, theirs = rule["from"]
    assert component(ours["podSelector"]["matchLabels"]) == "auditor"
    assert theirs == {"ipBlock": {"cidr": "10.25.0.0/24"}}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    out = named(rendered("prod"), "NetworkPolicy")["sluice-allow-log"]["spec"]["egress"]
    assert out[0]["to"] == [{"ipBlock": {"cidr": "10.24.0.0/16"}}]
    assert component(out[1]["to"][0]["podSelector"]["matchLabels"]) == "witness"


def test_an_auditor_that_asks_nobody_is_let_out_to_nobody(rendered: Rendered) -> None:
    assert "sluice-allow-log" not in named(rendered("kind"), "NetworkPolicy")
    (spec,) = (s for n, labels, s in pods(rendered("strimzi")) if n == "auditor")
    (labels,) = (labels for n, labels, _ in pods(rendered("strimzi")) if n == "auditor")
    assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "log-storage"}}]
    assert reaches(rendered("strimzi"), labels) == {53, 9093, 9000}


def test_an_archive_on_object_storage_has_no_volume_and_who_reads_it_the_way_to_it(
    rendered: Rendered,
) -> None:
    objects = rendered("objects")
    assert not {name for name in named(objects, "PersistentVolumeClaim") if "archive" in name}
    told = named(objects, "ConfigMap")["sluice-airflow"]["data"]
    assert told["AIRFLOW__SLUICE__ARCHIVE"] == "s3://bank-archive/eu1"
    containers = 0
    for name, labels, spec in pods(objects):
        assert "archive" not in [volume["name"] for volume in spec["volumes"]]
        knows = name in ("archiver", "labeller", "steps")
        assert (9000 in reaches(objects, labels)) is (knows or name.startswith("decider")), name
        for container in spec["containers"]:
            environment = {v["name"]: v.get("value") for v in container.get("env", [])}
            root = environment.get("SLUICE_ARCHIVER_ROOT")
            assert (root == "s3://bank-archive/eu1") is knows, name
            assert ({"secretRef": {"name": "storage"}} in container.get("envFrom", [])) is knows
            containers += knows
    assert containers == 5, "archiver, the check beside it, labeller, and Airflow's two pods"


def test_deciders_follow_a_registry_by_credentials_of_their_own_and_nothing_is_downloaded(
    chart: Helm, rendered: Rendered
) -> None:
    objects = rendered("objects")
    read = {"secretRef": {"name": "release-storage"}}
    deciders = [one for one in pods(objects) if one[0].startswith("decider")]
    assert len(deciders) == 2
    for _, labels, spec in deciders:
        assert "initContainers" not in spec
        assert "model" not in [volume["name"] for volume in spec["volumes"]]
        assert spec["containers"][0]["envFrom"] == [read]
        assert 443 not in reaches(objects, labels)
    (service,) = named(objects, "InferenceService").values()
    assert "model" not in service["spec"]["predictor"], "KServe would add its agent"
    told = named(objects, "ConfigMap")["sluice-airflow"]["data"]
    assert told["AIRFLOW__SLUICE__REGISTRY"] == "s3://bank-releases/eu1"
    # Alone, beside an archive on a volume: the check reads it too, the archiver does not.
    alone = chart.render(
        with_changes("kind", model={"registry": "s3://r/eu1"}, storage={"credentialsSecret": "s"})
    )
    (spec,) = (spec for name, _, spec in pods(alone) if name == "archiver")
    given = {one["name"]: one.get("envFrom", []) for one in spec["containers"]}
    assert given == {"archiver": [], "consistency": [{"secretRef": {"name": "s"}}]}


def test_an_account_with_an_identity_is_told_so_and_may_ask_for_its_credentials(
    chart: Helm,
) -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/archive"}
    given: Object = {"root": "s3://bank-archive/eu1", "serviceAccountAnnotations": role}
    objects = chart.render(
        with_changes("kind", archiver=given, networkPolicy={"podIdentity": True})
    )
    assert named(objects, "ServiceAccount")["sluice-archiver"]["metadata"]["annotations"] == role
    (labels,) = (labels for name, labels, _ in pods(objects) if name == "archiver")
    assert reaches(objects, labels) == {53, 80, 443, 9092}


def test_the_archive_on_a_volume_is_written_by_archiver_and_compaction_alone(
    rendered: Rendered,
) -> None:
    wrote = {
        (name, container["name"], container["image"].rpartition("/")[2].partition(":")[0])
        for name, _, spec in pods(rendered("prod"))
        for container in spec["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == "archive" and not mount.get("readOnly")
    }
    assert wrote == {("archiver", "archiver", "sluice@sha256"), ("steps", "base", "sluice@sha256")}


def test_only_named_callers_reach_the_sync_api(rendered: Rendered) -> None:
    rule = named(rendered("prod"), "NetworkPolicy")["sluice-allow-callers"]["spec"]["ingress"]
    assert [one["ports"] for one in rule] == [[{"port": 8080, "protocol": "TCP"}]]
    assert len(rule[0]["from"]) == 2
    assert {} not in rule[0]["from"]
    assert {"podSelector": {}} not in rule[0]["from"]


# Monitoring


def test_the_rules_are_those_of_the_files_with_a_runbook_that_can_be_opened(
    rendered: Rendered,
) -> None:
    (made,) = named(rendered("prod"), "PrometheusRule").values()
    files = sorted((CHART / "alerts").glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    base = "https://git.example.org/sluice/blob/main/"
    for group in groups:
        for rule in group["rules"]:
            rule["annotations"]["runbook_url"] = base + rule["annotations"]["runbook_url"]
    assert made["spec"]["groups"] == groups


def test_every_services_metrics_are_scraped_ready_or_not(rendered: Rendered) -> None:
    objects = rendered("prod")
    service = named(objects, "Service")["sluice-admin"]["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert service["clusterIP"] == "None"
    reached = {n for n, labels, _ in pods(objects) if service["selector"].items() <= labels.items()}
    assert reached == OURS
    (monitor,) = named(objects, "ServiceMonitor").values()
    ports = {port["name"] for port in service["ports"]}
    assert {one["port"] for one in monitor["spec"]["endpoints"]} == ports


# Airflow beside it


def test_nothing_is_written_for_an_airflow_that_is_not_there(rendered: Rendered) -> None:
    for case in CASES:
        told = named(rendered(case), "ConfigMap").get("sluice-airflow")
        assert (told is not None) == ("airflow" in values(case))


def test_airflow_is_told_where_the_dags_are_and_keeps_a_run_to_its_commit(
    rendered: Rendered,
) -> None:
    told = named(rendered("prod"), "ConfigMap")["sluice-airflow"]
    assert told["metadata"]["namespace"] == "airflow"
    bundles = json.loads(told["data"]["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert bundles == [
        {
            "name": "sluice",
            "classpath": "airflow.providers.git.bundles.git.GitDagBundle",
            "kwargs": {
                "repo_url": "https://git.example.org/sluice.git",
                "tracking_ref": "v0.2.0",
                "subdir": "dags",
                "git_conn_id": "git_sluice",
                "refresh_interval": 300,
            },
        }
    ]


def test_airflow_may_start_pods_here_and_nothing_more(rendered: Rendered) -> None:
    objects = rendered("prod")
    role, binding = (named(objects, kind)["sluice-steps"] for kind in ("Role", "RoleBinding"))
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == {
        "pods", "pods/log", "events",
    }  # fmt: skip
    assert [(one["name"], one["namespace"]) for one in binding["subjects"]] == [
        ("airflow-worker", "airflow"),
        ("airflow-scheduler", "airflow"),
    ]


def test_a_steps_pod_is_what_kubernetes_takes_and_its_disks_are_there(
    chart: Helm, rendered: Rendered
) -> None:
    objects = rendered("prod")
    told = named(objects, "ConfigMap")["sluice-airflow"]["data"]
    started = json.loads(told["AIRFLOW__SLUICE__PODS"])
    assert started.keys() == {"services", "training"}
    claims = named(objects, "PersistentVolumeClaim")
    for image, pod in started.items():
        assert chart.kubernetes("1.34", [pod]) == [], image
        (container,) = pod["spec"]["containers"]
        assert container["name"] == "base"
        assert container["command"] == ["sluice"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        for volume in pod["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = claims[volume["persistentVolumeClaim"]["claimName"]]
                assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        for key, uri in told.items():
            if uri.startswith("file://"):
                at = uri.removeprefix("file://")
                assert any(at.startswith(mount) for mount in mounts.values()), key


# Values that cannot work


@pytest.mark.parametrize(
    ("case", "changes", "said"),
    [
        ("kind", {"kafak": {}}, "additional properties 'kafak' not allowed"),
        ("kind", {"serving": {"mode": "knative"}}, "must be one of 'kserve', 'deployment'"),
        ("kind", {"kafka": {"mode": "msk"}}, "must be one of 'external', 'strimzi', 'dev'"),
        ("kind", {"settings": {"decider": {"deadlines_ms": 1}}}, "'deadlines_ms' not allowed"),
        ("kind", {"settings": {"decider": {"deadline_ms": 1}}}, "minimum: got 1, want 5"),
        ("kind", {"settings": {"kafka": {"bootstrap": "x:1"}}}, "'kafka' not allowed"),
        ("kind", {"access": {"clients": [{"certificate": "x"}]}}, "missing propert"),
        ("kind", {"image": {"digest": "sha256:12"}}, "does not match pattern"),
        ("kind", {"model": {"storageUri": ""}}, "model.storageUri is empty"),
        ("kind", {"model": {"storageUri": "ftp://h/r"}}, "model.storageUri is ftp://h/r"),
        ("kind", {"model": {"storageUri": "pvc:///r"}}, "model.storageUri is pvc:///r"),
        ("kind", {"model": {"storageUri": "models/r"}}, "model.storageUri is models/r"),
        ("kind", {"trust": {"shipped": False}}, "trust has no key"),
        ("kind", {"trust": {"keys": {"risk.pem": "x"}}}, "trust.keys.risk.pem: only files"),
        ("kind", {"policy": {"files": {"policy.yaml": "{}"}}}, "policy.files has no fx.yaml"),
        ("kind", {"access": {"mode": "required"}}, "access.mode is required and no credential"),
        ("default", {"access__keys": ""}, "cannot be verified without access.audience"),
        ("deployment", {"tls": {}}, "tls.existingSecret is not"),
        ("deployment", {"access__clients": []}, "nobody would be known by a certificate"),
        ("default", {"kafka": {}}, "kafka.external.bootstrap is empty"),
        ("default", {"kafka__external__existingSecret": ""}, "holds the user of decider-sync"),
        ("prod", {"kafka__external__existingSecrets__labeller": ""}, "existingSecrets.labeller"),
        ("prod", {"kafka__external__existingSecrets__auditor": ""}, "existingSecrets.auditor"),
        ("kind", {"auditor__shards": 2}, "all shards share one keystore"),
        ("prod", {"auditor__persistence__enabled": False}, "all shards share one keystore"),
        ("prod", {"auditor__keystore__wrappingSecret": "w"}, "one of them wraps the root keys"),
        ("prod", {"auditor__timeStamp__rootsConfigMap": ""}, "no stamp could be verified"),
        ("kind", {"auditor__witnesses": [{"key": "w", "url": "http://w"}]}, "pattern"),
        ("prod", {"witness__name": ""}, "witness.name is empty"),
        ("prod", {"witness__keySecret": ""}, "witness.keySecret is empty"),
        ("prod", {"witness__logs": []}, "witness.logs is empty"),
        ("kind", {"settings": {"keystore": {"wrapper": "x"}}}, "'wrapper' not allowed"),
        ("prod", {"archiver__persistence__accessMode": "ReadWriteOnce"}, "labeller.lookUp is on"),
        ("prod", {"kafka__external__existingSecrets__archiver": ""}, "existingSecrets.archiver"),
        ("default", {"store": {}}, "store.external has no address for the decider"),
        ("default", {"store__external": {"url": "redis://u:p@h"}}, "holds a password"),
        ("kind", {"archiver": {"replicas": 2}}, "archiver.replicas is more than 1"),
        ("deployment", {"archiver__root": "s3://b/a"}, "one of them. What the volume holds"),
        ("objects", {"archiver__root": ""}, "labeller.lookUp is on"),
        ("kind", {"storage": {"credentialsSecret": "s"}}, "storage.credentialsSecret is given and"),
        ("objects", {"model__storageUri": "s3://releases/r42"}, "Give one of them"),
        ("objects", {"serving__kserve": {"canary": {"name": "x", "storageUri": "s3://r/x"}}},
         "sluice release canary"),
        ("objects", {"model__registry": "gs://bank/releases"}, "and model.registry is gs"),
        ("kind", {"model": {"registry": "pvc://models/r42"}}, "pattern"),
        ("kind", {"archiver__root": "s3://"}, "pattern"),
        ("objects", {"archiver__root": "gs://bank/archive"}, "are of S3, and archiver.root is gs"),
        ("objects", {"storage__endpoint": "http://s3:9000"}, "is no https URL"),
        ("deployment", {"serving__kserve": {"canary": {"name": "x"}}}, "only KServe makes"),
        ("kind", {"serving__kserve": {"canary": {"name": "x"}}}, "canary.storageUri is empty"),
        ("prod", {"serving__kserve__predictorName": "r43"}, "to promote the canary"),
        ("prod", {"httpRoute__parentRefs": []}, "name the gateway"),
        ("prod", {"airflow__dags": {}}, "airflow.dags.repository is empty"),
        ("prod", {"kafka__external__existingSecrets__steps": ""}, "existingSecrets.steps"),
        ("default", {"airflow": {"enabled": True, "dags": {"repository": "https://a/b"}}},
         "ReadWriteMany"),
        ("kind", {"sync": {"autoscaling": {"minReplicas": 20}}}, "more than maxReplicas"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_and_the_message_says_why(
    chart: Helm, case: str, changes: Object, said: str
) -> None:
    with pytest.raises(RefusedError, match=re.escape(said)):
        chart.render(with_changes(case, **changes))


def test_no_default_is_a_password_or_lets_everyone_in() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert defaults["access"]["mode"] == "required"
    assert defaults["trust"] == {"keys": {}, "existingConfigMap": "", "shipped": False}
    assert defaults["kafka"]["external"]["securityProtocol"] == "SASL_SSL"
    assert defaults["networkPolicy"]["enabled"] is True
    for path, value in leaves(defaults):
        if re.search(r"[sS]ecret(s\.[\w-]+)?$", path):
            assert value == "", path
        assert not path.lower().endswith("password") or path == "kafka.external.secretKeys.password"


def leaves(tree: Object, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{above}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def test_names_fit_however_long_the_releases_is(chart: Helm) -> None:
    objects = chart.render(
        values("prod"), name="a-release-with-as-long-a-name-as-helm-allows-us-53"
    )
    assert all(len(one["metadata"]["name"]) <= 63 for one in objects)
