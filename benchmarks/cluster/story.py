"""What a run left behind, put into rows and curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.cluster.page import Curve, Fact, Panel, page
from benchmarks.cluster.ramp import Ramp
from benchmarks.cluster.recount import Counts
from benchmarks.cluster.seconds import Line
from benchmarks.cluster.watch import Sample, left_s, reached_s
from benchmarks.report import Result, Row, row

SYNC, STREAM = "decider-sync", "decider-stream"
P99_MAX_MS = 50
FOLLOW_MAX_S = 60
LAST_S = 30
"""Of the plateau: when the new pods had time to come."""


class Moment(msgspec.Struct):
    """at: seconds UTC. until: of a burst, its end."""

    at: float
    messages: int
    until: float = 0.0


class Series(msgspec.Struct):
    """All that was seen."""

    seconds: list[Line]
    samples: list[Sample]
    lag: list[Moment]
    burst: Moment | None
    counts: Counts | None


class ClusterResult(Result, kw_only=True):
    """A benchmark's result with what the curves are drawn from."""

    series: Series


class _Said(msgspec.Struct):
    second: Line | None = None
    lag: Moment | None = None
    burst: Moment | None = None
    recount: Counts | None = None


def heard(log: bytes, samples: list[Sample]) -> Series:
    """From the log of the loader's first pod, whose lines of JSON are ours."""
    series = Series([], samples, [], None, None)
    for line in log.splitlines():
        if not line.startswith(b"{"):
            continue
        try:
            said = msgspec.json.decode(line, type=_Said)
        except msgspec.DecodeError:
            continue
        if said.second:
            series.seconds.append(said.second)
        if said.lag:
            series.lag.append(said.lag)
        series.burst = said.burst or series.burst
        series.counts = said.recount or series.counts
    series.seconds.sort(key=lambda one: one.at)
    return series


def phases(series: Series, ramp: Ramp) -> dict[str, float]:
    """When each begins, seconds UTC."""
    began = series.seconds[0].at
    found = {
        "calm": began,
        "ramp": began + ramp.before_s,
        "plateau": began + ramp.before_s + ramp.ramp_s,
        "calm again": began + ramp.before_s + ramp.ramp_s + ramp.hold_s,
    }
    if series.burst:
        found["burst to the stream"] = series.burst.at
    return found


def rows(series: Series, ramp: Ramp) -> Iterator[Row]:
    """The figures."""
    at = phases(series, ramp)
    yield row("sync API: answered", "1/s", _rate(series, at["calm again"] - LAST_S, LAST_S))
    for name, since, until in (
        ("calm", at["calm"], at["ramp"]),
        ("worst second of ramp and plateau", at["ramp"], at["calm again"]),
        (f"last {LAST_S} s of the plateau", at["calm again"] - LAST_S, at["calm again"]),
        ("calm again", at["calm again"], at["calm again"] + ramp.calm_s),
    ):
        seen = [one for one in series.seconds if since <= one.at < until and one.answered]
        for percentile in ("p50_ms", "p99_ms", "p999_ms"):
            values = sorted(getattr(one, percentile) for one in seen)
            if values:
                worst = name.startswith("worst")
                value = values[-1] if worst else values[len(values) // 2]
                target = (
                    f"<= {P99_MAX_MS}" if name.startswith("last") and "99_" in percentile else ""
                )
                label = percentile.removesuffix("_ms").replace("p999", "p99.9")
                how = "" if worst else ", median of its seconds"
                yield row(f"sync API: {label}, {name}{how}", "ms", value, target=target)
    answered = sum(one.answered for one in series.seconds)
    yield row("sync API: tries not answered with 200", "count",
              sum(one.refused for one in series.seconds), target="0")  # fmt: skip
    yield row("sync API: authorizations given up", "count",
              sum(one.given_up for one in series.seconds), target="0")  # fmt: skip
    yield row("sync API: not complete (D0)", "%",
              100 * sum(one.degraded for one in series.seconds) / max(answered, 1))  # fmt: skip
    yield from _scaled(series, SYNC, "sync API", at["ramp"], at["calm again"])
    if series.burst:
        yield row("stream processor: burst", "records", series.burst.messages)
        gone = next((one.at for one in series.lag if not one.messages), None)
        if gone is not None:
            yield row("stream processor: burst decided in", "s", gone - series.burst.at)
            yield from _scaled(series, STREAM, "stream processor", series.burst.at, gone)
    if series.counts:
        counts = series.counts
        for name, value in (
            ("answered, and no record", counts.answered_without_record),
            (
                "sent to the stream, and neither decision nor dead letter",
                counts.sent_without_record,
            ),
            ("decided twice", counts.sync_twice + counts.stream_twice),
            ("decided, and neither answered nor sent", counts.unexpected),
        ):
            yield row(f"recount: {name}", "count", value, target="0")
        decided = counts.sync_decisions + counts.stream_decisions
        yield row("recount: decisions in the topic", "count", decided)


def _rate(series: Series, since: float, seconds: float) -> float:
    found = [one.answered for one in series.seconds if since <= one.at < since + seconds]
    return sum(found) / seconds


def _scaled(series: Series, component: str, name: str, since: float, until: float) -> Iterator[Row]:
    before = [s.pods[component] for s in series.samples if s.at <= since][-1:] or [0]
    most = max((s.ready[component] for s in series.samples if s.at >= since), default=0)
    yield row(f"{name}: pods before", "pods", before[0])
    yield row(f"{name}: most pods ready", "pods", most)
    if most > before[0]:
        first = reached_s(series.samples, component, before[0] + 1, since)
        all_ = reached_s(series.samples, component, most, since)
        if first is not None and all_ is not None:
            yield row(f"{name}: one more pod ready after the load began to grow", "s", first,
                      target=f"<= {FOLLOW_MAX_S}")  # fmt: skip
            yield row(f"{name}: all of them ready after that", "s", all_)
        gone = left_s(series.samples, component, before[0], until)
        if gone is not None:
            yield row(f"{name}: as few as before, after the load ended", "s", gone)


def drawn(result: ClusterResult, ramp: Ramp) -> str:
    """The page."""
    series = result.series
    zero = min(series.seconds[0].at, *(s.at for s in series.samples))
    seconds = series.seconds

    def sync(name: str) -> list[tuple[float, float | None]]:
        return [(one.at - zero, getattr(one, name)) for one in seconds]

    def of(component: str, what: str) -> list[tuple[float, float | None]]:
        return [
            (s.at - zero, None if (seen := getattr(s, what)) is None else seen[component])
            for s in series.samples
        ]

    degraded = [(s.at - zero, 100 * s.degraded / s.answered if s.answered else None)
                for s in seconds]  # fmt: skip
    panels = [
        Panel("Sync API: requests", "a second", (
            Curve("meant", "b", sync("offered")),
            Curve("answered", "a", sync("answered")),
            Curve("tries not answered with 200", "bad", sync("refused")))),
        Panel("Sync API: latency", "ms, logarithmic", (
            Curve("p50", "a", sync("p50_ms")),
            Curve("p99", "b", sync("p99_ms")),
            Curve("p99.9", "c", sync("p999_ms"))), log=True, limit=P99_MAX_MS),
        Panel("Sync API", "pods", (
            Curve("ready", "a", of(SYNC, "ready"), step=True, filled=True),
            Curve("all", "b", of(SYNC, "pods"), step=True))),
        Panel("Sync API: answers that are not complete", "% of the second's", (
            Curve("not D0", "bad", degraded),)),
        Panel("Stream processor: lag", "records", (
            Curve("lag", "a", [(m.at - zero, float(m.messages)) for m in series.lag],
                  filled=True),)),
        Panel("Stream processor", "pods", (
            Curve("ready", "a", of(STREAM, "ready"), step=True, filled=True),
            Curve("all", "b", of(STREAM, "pods"), step=True))),
        Panel("CPU", "cores, as metrics-server says", (
            Curve("sync API", "a", of(SYNC, "cores")),
            Curve("stream processor", "b", of(STREAM, "cores")))),
    ]  # fmt: skip
    marks = [(at - zero, name) for name, at in phases(series, ramp).items()]
    facts = [Fact(r.name, f"{r.value:,g} {r.unit}", r.target) for r in result.rows]
    machine = json.dumps(result.machine.get("cluster", {}))
    return page(
        "Sluice under Locust, on Kubernetes",
        [f"{result.date}. {result.command}", f"Cluster: {machine}", *result.notes],
        panels,
        marks,
        facts,
    )


def wrong(series: Series, names: Sequence[str]) -> list[str]:
    """Why the run proves nothing, or proves us wrong. names: pods of the loader that failed."""
    found = [f"{name} of the loader failed: kubectl logs {name}" for name in names]
    if not series.seconds:
        found.append("nobody was answered")
    if series.counts is None:
        found.append("the topics were not recounted")
    else:
        found += [f"{name}: {n}" for name, n in series.counts.wrong.items()]
    return found
