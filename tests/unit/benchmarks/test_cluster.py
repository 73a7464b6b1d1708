"""The load on a cluster: what the loader saw, what the topics hold, the page, the objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks.cluster import job, story
from benchmarks.cluster.page import Curve, Panel, page
from benchmarks.cluster.ramp import Ramp
from benchmarks.cluster.recount import recount
from benchmarks.cluster.seconds import Line, Seconds
from benchmarks.cluster.watch import Sample, left_s, reached_s, sample
from benchmarks.report import result
from sluice.application.ports import Message

BEGAN = 1_000_000
RAMP = Ramp(rate=100, calm_rate=10, before_s=10, ramp_s=20, hold_s=40, calm_s=30)


def authorization(at: int, name: str, tenant: str = "bench") -> Message:
    value = {"authorization_id": name, "tenant": tenant}
    return Message(json.dumps(value).encode(), None, "authorizations.v1", 0, at, None)


def decision(at: int, name: str, origin: int | None = None, tenant: str = "bench") -> Message:
    value = {
        "authorization": {"authorization_id": name, "tenant": tenant, "mcc": "5411"},
        "entrypoint": "sync" if origin is None else "stream",
        "origin": None
        if origin is None
        else {"topic": "authorizations.v1", "partition": 0, "offset": origin},
        "degradation_level": "D0",
    }
    return Message(json.dumps(value).encode(), None, "decisions.v1", 0, at, None)


def test_a_run_that_lost_nothing_has_nothing_wrong() -> None:
    found = recount(
        [authorization(5, "c"), authorization(6, "other", "bank")],
        [decision(0, "a"), decision(1, "b"), decision(2, "c", 5), decision(3, "x", tenant="bank")],
        tenant="bench",
        answered=["a", "b"],
        given_up=[],
    )
    assert found.wrong == {}
    assert (found.sync_decisions, found.stream_decisions, found.sent) == (2, 1, 1)


@pytest.mark.parametrize(
    ("decisions", "wrong"),
    [
        ([decision(1, "c", 5)], {"answered_without_record": 1}),
        ([decision(0, "a"), decision(1, "a"), decision(2, "c", 5)], {"sync_twice": 1}),
        ([decision(0, "a")], {"sent_without_record": 1}),
        ([decision(0, "a"), decision(1, "c", 5), decision(2, "c", 5)], {"stream_twice": 1}),
        ([decision(0, "a"), decision(1, "c", 5), decision(2, "z")], {"unexpected": 1}),
    ],
)
def test_what_is_missing_twice_or_a_stranger_is_counted(
    decisions: list[Message], wrong: dict[str, int]
) -> None:
    found = recount([authorization(5, "c")], decisions, tenant="bench", answered=["a"], given_up=[])
    assert found.wrong == wrong


def test_an_authorization_that_nobody_heard_of_may_be_decided_or_not() -> None:
    found = recount([], [decision(0, "a")], tenant="bench", answered=[], given_up=["a", "b"])
    assert found.wrong == {}
    assert found.given_up_and_decided == 1


def test_seconds_of_several_workers_are_put_together_and_told_once() -> None:
    master, workers = Seconds(), [Seconds(), Seconds()]
    for n, worker in enumerate(workers):
        worker.at(BEGAN + 0.5).latencies_us += [1000 * (n + 1), 3000]
        worker.at(BEGAN + 1.5).refused += 1
        master.put(json.loads(json.dumps(worker.take())))
        assert worker.take() == {}
    (line,) = master.lines(BEGAN + 1, offered=4)
    assert (line.at, line.answered, line.p50_ms, line.p99_ms) == (BEGAN, 4, 2.0, 3.0)
    (line,) = master.lines(BEGAN + 2, offered=4)
    assert (line.answered, line.refused, line.p50_ms) == (0, 2, None)
    assert list(master.lines(BEGAN + 9, offered=4)) == []


def test_the_rates_of_a_ramp_add_up_to_its_requests() -> None:
    asked = sum(RAMP.at(second) or 0 for second in range(round(RAMP.seconds)))
    assert RAMP.requests == pytest.approx(asked, rel=0.02)


def pod(
    name: str, component: str, *, ready: bool = True, leaving: bool = False
) -> dict[str, object]:
    return {
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/component": component},
            **({"deletionTimestamp": "2026-11-26T06:00:00Z"} if leaving else {}),
        },
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def test_pods_that_come_and_go_are_told_apart_and_others_left_out() -> None:
    pods = {
        "items": [
            pod("a", "decider-sync"),
            pod("b", "decider-sync", ready=False),
            pod("c", "decider-sync", leaving=True),
            pod("d", "featurizer"),
        ]
    }
    usage = [
        {
            "metadata": {"name": name},
            "containers": [{"usage": {"cpu": cpu}}, {"usage": {"cpu": "0"}}],
        }
        for name, cpu in (("a", "250m"), ("c", "500000000n"), ("d", "1"))
    ]
    found = sample(1.0, pods, {"items": usage})
    assert (found.pods["decider-sync"], found.ready["decider-sync"]) == (2, 1)
    assert found.cores is not None
    assert found.cores["decider-sync"] == pytest.approx(0.75)
    assert sample(1.0, pods, None).cores is None


def run() -> story.Series:
    """1, then 3, then 1 pods of the sync API; 1 and 2 of the stream processor."""
    seconds = []
    for n in range(round(RAMP.seconds)):
        rate = round(RAMP.at(n) or 0)
        slow = 80.0 if 20 <= n < 35 else 8.0
        seconds.append(
            Line(at=BEGAN + n, offered=rate, answered=rate, degraded=int(n == 25), refused=0,
                 given_up=0, p50_ms=3.0, p99_ms=slow, p999_ms=slow * 2)
        )  # fmt: skip
    samples = []
    for n in range(0, 160, 2):
        sync = 3 if 30 <= n < 90 else 1
        stream = 2 if 110 <= n < 140 else 1
        counts = {"decider-sync": sync, "decider-stream": stream}
        samples.append(Sample(BEGAN + n, counts, counts, dict.fromkeys(counts, 0.5)))
    lag = [story.Moment(BEGAN + n, max(0, 30_000 - 1500 * (n - 102))) for n in range(102, 140)]
    counts = recount(
        [authorization(5, "c")],
        [decision(0, "a"), decision(1, "c", 5)],
        tenant="bench",
        answered=["a"],
        given_up=[],
    )
    return story.Series(seconds, samples, lag, story.Moment(BEGAN + 101, 30_000), counts)


def test_the_log_of_the_loader_is_read_whatever_else_stands_in_it() -> None:
    series = run()
    said: list[object] = [{"second": line} for line in reversed(series.seconds)]
    said += [{"lag": one} for one in series.lag]
    said += [{"burst": series.burst}, {"recount": series.counts, "wrong": {}}]
    lines = [msgspec.json.encode(one) for one in said]
    lines[3:3] = [b"[2026-11-26] vm/INFO/locust: Starting", b"{not ours", b"", b'{"second": 1}']
    assert story.heard(b"\n".join(lines), series.samples) == series


def test_scaling_out_and_in_is_told_in_seconds() -> None:
    rows = {one.name: one.value for one in story.rows(run(), RAMP)}
    assert rows["sync API: pods before"] == 1
    assert rows["sync API: most pods ready"] == 3
    assert rows["sync API: one more pod ready after the load began to grow"] == 20
    assert rows["sync API: as few as before, after the load ended"] == 20
    assert rows["stream processor: most pods ready"] == 2
    assert rows["stream processor: burst decided in"] == 21
    assert rows["sync API: p99, worst second of ramp and plateau"] == 80
    assert rows["sync API: p99, last 30 s of the plateau, median of its seconds"] == 8
    assert rows["recount: decided twice"] == 0
    assert reached_s(run().samples, "decider-sync", 9, BEGAN) is None
    assert left_s(run().samples, "decider-sync", 0, BEGAN) is None


def test_a_run_without_a_recount_or_with_a_failed_pod_is_wrong() -> None:
    assert story.wrong(run(), []) == []
    assert "recounted" in story.wrong(story.Series([], [], [], None, None), [])[1]
    assert "load-1 of the loader failed" in story.wrong(run(), ["load-1"])[0]


def test_the_page_is_one_file_that_fetches_nothing_and_has_every_curve() -> None:
    series = run()
    made = result("cluster", "make bench-cluster", {}, list(story.rows(series, RAMP)), ["a <note>"])
    whole = story.ClusterResult(
        **{name: getattr(made, name) for name in made.__struct_fields__}, series=series
    )
    text = story.drawn(whole, RAMP)
    assert not re.search(r"https?:|src=|href=|<script|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text
    assert "a &lt;note&gt;" in text
    pictures = [
        ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    ]
    assert len(pictures) == 7
    for picture in pictures:
        assert picture.findall("path"), picture.get("aria-label")
        drawn = " ".join(path.get("d", "") for path in picture.findall("path"))
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", drawn)]
        assert min(numbers) >= 0
        assert max(numbers) <= 960
    for used in set(re.findall(r"var\(--(\w+)\)", text)):
        assert text.count(f"--{used}:") == 2, used


def test_a_gap_breaks_a_curve_and_a_panel_without_anything_is_left_out() -> None:
    broken = Curve(
        "a", "a", [(0, 1.0), (1, 1.0), (2, None), (3, 2.0), (4, 2.0), (40, 1.0), (41, 1.0)]
    )
    empty = Curve("b", "b", [(0, None)])
    text = page("t", [], [Panel("one", "u", (broken,)), Panel("two", "u", (empty,))], [], [])
    assert len(re.findall(r'class="line" d="M', text)) == 3
    assert "two" not in text


LOAD = job.Load("7", "fraud", "sluice", "sluice-loader:dev", "http://sluice-decider.fraud",
                "sluice-kafka:9092", "", "", 2, ("--rate=10",))  # fmt: skip


def test_the_loader_is_one_job_of_a_master_and_its_workers_who_find_it_by_name() -> None:
    service, policy, made = job.objects(LOAD)["items"]
    spec = made["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    pod = spec["template"]["spec"]
    name = made["metadata"]["name"]
    assert pod["subdomain"] == service["metadata"]["name"] == name
    assert f"--master={name}-0.{name}" in pod["containers"][0]["args"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_its_pods_are_restricted_and_hold_no_token() -> None:
    pod = job.objects(LOAD)["items"][2]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]) == {"requests", "limits"}


def test_a_secret_of_settings_is_handed_to_the_loader_by_name_alone() -> None:
    from dataclasses import replace

    pod = job.objects(replace(LOAD, kafka_secret="users"))["items"][2]["spec"]["template"]["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "users"}}]


DOCKERFILE = Path("benchmarks/cluster/Dockerfile").read_text()


def test_only_what_is_named_goes_into_the_loaders_build() -> None:
    lines = Path("benchmarks/cluster/Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for word in line.split()
    }
    named = {rule[1:] for rule in rules if rule.startswith("!")}
    assert {word for word in copied if not any(word.startswith(one) for one in named)} == set()
    assert {one for one in named if not any(word.startswith(one) for word in copied)} == set()


def test_the_loaders_libraries_are_pinned_as_the_benchmarks_are() -> None:
    def pins(path: str) -> dict[str, str]:
        found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", Path(path).read_text(), re.MULTILINE)
        return dict(found)

    loader, all_ = (
        pins("benchmarks/cluster/requirements.lock"),
        pins("benchmarks/requirements.lock"),
    )
    assert loader.items() <= all_.items()
    assert {"locust", "confluent-kafka", "msgspec"} <= loader.keys()
    for command in re.findall(r"(?:pip install|pip sync|pip wheel)[^&\n]*", DOCKERFILE):
        assert "--require-hashes" in command or "--no-deps" in command, command
