"""The sync API, and the baseline beside it in the same run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.processes import MEASURED, OTHERS, Profile, cpu_s, on, wait_until
from benchmarks.report import Row, better, row
from benchmarks.testbed import POLICY, Testbed, feast_repository
from local.kafka.broker import free_port

COMPARED = 200
CONNECTIONS = 32
RATE = 1000
SLOW_RATE = 100
"""A rate that the baseline can keep."""
LOCUST_S = 8
FIRST_MAX_S = 120.0
"""The very first answer may wait for the kernel to be compiled."""
BASELINE_PATH = "/v2/models/baseline/infer"


@dataclass
class Server:
    pid: int
    url: str
    bodies: Path
    marker: str
    at: int = 0
    """Bodies used so far: an authorization is sent once."""
    credential: tuple[str, ...] = ()
    """Arguments of the client: token, CA."""


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """Equality of the answers, then processor time, latency, Locust's view, and a profile."""
    traffic = testbed.traffic
    plain = testbed.folder / "authorizations.jsonl"
    plain.write_bytes(b"\n".join(traffic.values))
    wrapped = testbed.folder / "infer.jsonl"
    wrapped.write_bytes(b"\n".join(_infer(value) for value in traffic.values))
    with testbed.store() as store, testbed.stack(store, "sync-") as stack, on(MEASURED):
        topic = testbed.topics("sync-").decisions
        process = stack.start("decider-sync")
        stack.wait_ready(process)
        ours = Server(
            process.popen.pid, f"{stack.url}/v1/authorizations", plain, '"degradation_level":"D0"'
        )
        with _baseline(testbed, store.host_port, topic, wrapped) as theirs:
            compared = _compare(ours, theirs, traffic.values)
            return _run(testbed, ours, theirs, compared, results)


def _run(
    testbed: Testbed, ours: Server, theirs: Server, compared: str, results: Path
) -> tuple[list[Row], list[str]]:
    seconds = testbed.scale.seconds
    for server in (ours, theirs):
        load(server, "closed", 1.0, connections=CONNECTIONS)
    closed: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for _ in range(testbed.scale.replays):
        closed["ours"].append(load(ours, "closed", seconds, connections=CONNECTIONS))
        closed["theirs"].append(load(theirs, "closed", seconds, connections=CONNECTIONS))
    a, b = (_median(closed[name]) for name in ("ours", "theirs"))
    rows = [
        better(
            f"CPU per decision, saturated, {CONNECTIONS} connections", "µs",
            a["cpu_us"], b["cpu_us"], target="<= 250, and 10x",
        ),
        better(
            "decisions per second of CPU, saturated", "1/s",
            1e6 / a["cpu_us"], 1e6 / b["cpu_us"], target=">= 4,000",
        ),
        better("decisions per second, server on one core", "1/s", a["rate"], b["rate"]),
        better(f"p50 at {CONNECTIONS} connections", "ms", a["p50_ms"], b["p50_ms"]),
        better(f"p99 at {CONNECTIONS} connections", "ms", a["p99_ms"], b["p99_ms"]),
    ]  # fmt: skip
    for connections in (8, 64):
        one = load(ours, "closed", seconds / 2, connections=connections)
        rows.append(row(f"CPU per decision, {connections} connections", "µs", one["cpu_us"]))
        rows.append(row(f"p99 at {connections} connections", "ms", one["p99_ms"]))
    open_ours = [load(ours, "open", seconds, rate=RATE) for _ in range(testbed.scale.replays)]
    o = _median(open_ours)
    rows += [
        row(f"p50 at {RATE}/s, record durable (acks=all)", "ms", o["p50_ms"]),
        row(f"p99 at {RATE}/s, record durable (acks=all)", "ms", o["p99_ms"], target="<= 10"),
        row(f"p99.9 at {RATE}/s, record durable (acks=all)", "ms", o["p999_ms"]),
        row(f"CPU per decision at {RATE}/s", "µs", o["cpu_us"]),
    ]
    slow = [load(server, "open", seconds, rate=SLOW_RATE) for server in (ours, theirs)]
    for name in ("p50_ms", "p99_ms", "cpu_us"):
        what = "CPU per decision" if name == "cpu_us" else name.removesuffix("_ms")
        unit = "µs" if name == "cpu_us" else "ms"
        rows.append(better(f"{what} at {SLOW_RATE}/s", unit, slow[0][name], slow[1][name]))
    rows += _locust(ours)
    for server, name in ((ours, "sync_api"), (theirs, "baseline")):
        profile = Profile(server.pid, seconds, testbed.folder)
        load(server, "closed", seconds + 1, connections=CONNECTIONS)
        (results / f"{name}.profile.txt").write_text(profile.text())
    client = statistics.median(x["client_cpu_us"] for x in closed["ours"])
    return rows, [
        compared,
        testbed.release[2],
        f"medians of {testbed.scale.replays} repetitions, ours and the baseline in turn; each "
        "server alone on one core, broker, store and client on the others",
        f"client: benchmarks/client.py, {client:.0f} µs of CPU a request; Locust's own CPU is "
        "several times the server's, so its rows tell of a loaded machine",
        f"all answers of the saturated runs were complete (D0): {_complete(closed['ours'])}; "
        f"spread of CPU per decision: ours {_spread(closed['ours'])}, baseline "
        f"{_spread(closed['theirs'])}",
        "profiles: sync_api.profile.txt, baseline.profile.txt",
    ]


def _infer(value: bytes) -> bytes:
    """The body of an Open Inference request whose one BYTES tensor is an authorization."""
    tensor = {"name": "authorization", "shape": [1], "datatype": "BYTES", "data": [value.decode()]}
    return msgspec.json.encode({"inputs": [tensor]})


@contextmanager
def _baseline(testbed: Testbed, host_port: str, topic: str, bodies: Path) -> Iterator[Server]:
    repository = feast_repository(testbed.folder / "feast", host_port)
    release, trust, _ = testbed.release
    port = free_port()
    command = [
        sys.executable, "-m", "benchmarks.baseline", "--port", str(port),
        "--grpc-port", str(free_port()), "--bootstrap", testbed.bootstrap, "--topic", topic,
        "--repository", str(repository), "--release", str(release), "--trust", str(trust),
        "--policy", str(POLICY),
    ]  # fmt: skip
    with (testbed.folder / "baseline.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or _answers(url), "the baseline answers", 60)
        yield Server(process.pid, url + BASELINE_PATH, bodies, r"\"degradation_level\":\"D0\"")
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=1):
            return True
    except OSError:
        return False


def _compare(ours: Server, theirs: Server, values: list[bytes]) -> str:
    """The same authorizations, of distinct cards, to both. A difference raises AssertionError.

    Where ours left something out (a busy machine made the store late), it says so in
    ``degradation_level`` and there is nothing to compare; at most one in ten.
    """
    cards: set[str] = set()
    at = compared = 0
    while compared < COMPARED:
        value = values[at]
        at += 1
        card = msgspec.json.decode(value)["card_token"]
        if card in cards:
            continue
        cards.add(card)
        found = json.loads(_post(theirs.url, _infer(value)))["outputs"][0]["data"][0]
        b, a = json.loads(found), json.loads(_post(ours.url, value))
        if a["degradation_level"] == "D0":
            compared += 1
            for field in ("authorization_id", "outcome", "reasons", "score_ppm", "release"):
                assert a[field] == b[field], f"ours: {a}\nbaseline: {b}"
        assert 10 * compared >= 9 * len(cards) - 50, f"{compared} of {len(cards)} complete: {a}"
    ours.at = theirs.at = at
    return f"both gave the same score, outcome and reasons for {compared} authorizations"


def _post(url: str, body: bytes) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=FIRST_MAX_S) as answer:
        found: bytes = answer.read()
        return found


def load(
    server: Server, loop: str, seconds: float, *, connections: int = 0, rate: float = 0
) -> dict[str, Any]:
    """One run of the client against a server, with the server's CPU per answer."""
    pace = ["--connections", str(connections)] if connections else ["--rate", str(rate)]
    command = [
        sys.executable, "-m", "benchmarks.client", loop, server.url, str(server.bodies),
        "--first", str(server.at), "--seconds", str(seconds), "--marker", server.marker, *pace,
        *server.credential,
    ]  # fmt: skip
    with on(OTHERS):
        before = cpu_s(server.pid)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["ok"] != found["answered"] or not found["ok"] or found["unanswered"]:
        raise RuntimeError(f"{server.url}: {found}")
    server.at += found["answered"]
    found["cpu_us"] = (cpu_s(server.pid) - before) * 1e6 / found["answered"]
    return found


def _median(runs: list[dict[str, Any]]) -> dict[str, float]:
    names = ("cpu_us", "rate", "p50_ms", "p99_ms", "p999_ms")
    return {name: statistics.median(run[name] for run in runs) for name in names}


def _complete(runs: list[dict[str, Any]]) -> str:
    answered = sum(run["answered"] for run in runs)
    return f"{sum(run['marked'] for run in runs)} of {answered}"


def _spread(runs: list[dict[str, Any]]) -> str:
    found = [run["cpu_us"] for run in runs]
    return f"{min(found):.0f} to {max(found):.0f} µs"


def _locust(server: Server) -> list[Row]:
    """Locust's own view, with benchmarks/locustfile.py."""
    host = server.url.removesuffix("/v1/authorizations")
    command = [
        sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--host", host,
        "--headless", "--users", str(CONNECTIONS), "--spawn-rate", str(CONNECTIONS),
        "--run-time", f"{LOCUST_S}s", "--json", "--only-summary",
        "--first-day", "2026-03-01",
    ]  # fmt: skip
    with on(OTHERS):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        (found,) = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"locust: {done.stderr[-2000:]}") from None
    count = found["num_requests"]
    if found["num_failures"] or not count:
        raise RuntimeError(f"locust: {found['num_failures']} of {count} failed")
    by_ms = sorted((float(ms), n) for ms, n in found["response_times"].items())
    again = "benchmarks/.venv/bin/locust -f benchmarks/locustfile.py --host URL"
    seconds = found["last_request_timestamp"] - found["start_time"]
    return [
        row("Locust: requests per second", "1/s", count / seconds, command=again),
        row("Locust: p50", "ms", _percentile(by_ms, 0.5 * count), command=again),
        row("Locust: p99", "ms", _percentile(by_ms, 0.99 * count), command=again),
    ]


def _percentile(by_ms: list[tuple[float, int]], rank: float) -> float:
    seen = 0
    for ms, n in by_ms:
        seen += n
        if seen >= rank:
            return ms
    return by_ms[-1][0]
