"""What credentials and TLS cost the sync API: the same requests without and with each, in turn."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.processes import MEASURED, on
from benchmarks.report import Row, row
from benchmarks.sync_api import CONNECTIONS, RATE, Server, load
from benchmarks.testbed import Testbed
from tests.support.certificates import Authority
from tests.support.issuer import AUDIENCE, ISSUER, Issuer

TOKEN_S = 3600
HOST = "127.0.0.1"


def measure(testbed: Testbed, results: Path) -> tuple[list[Row], list[str]]:
    """Processor time and latency of four servers over one broker and store."""
    folder = testbed.folder / "access"
    folder.mkdir()
    bodies = folder / "authorizations.jsonl"
    bodies.write_bytes(b"\n".join(testbed.traffic.values))
    authority, issuer = Authority(folder / "ca"), Issuer(folder)
    pem = authority.issue("api", hosts=(HOST,))
    tenants = sorted({msgspec.json.decode(value)["tenant"] for value in testbed.traffic.values})
    token = issuer.token(tenant=tenants, exp=int(time.time()) + TOKEN_S, scope="authorize score")
    asked = {
        "SLUICE_ACCESS_MODE": "required",
        "SLUICE_ACCESS_ISSUER": ISSUER,
        "SLUICE_ACCESS_AUDIENCE": AUDIENCE,
        "SLUICE_ACCESS_KEYS": str(issuer.keys),
        "SLUICE_ACCESS_RATE_PER_S": "1000000",
        "SLUICE_ACCESS_BURST": "1000000",
        "SLUICE_ACCESS_IN_FLIGHT_MAX": "0",
    }
    tls = {
        "SLUICE_DECIDER_CERT_FILE": str(pem.cert),
        "SLUICE_DECIDER_KEY_FILE": str(pem.key),
    }
    ways = {
        "plain": ({}, ()),
        "token": (asked, ("--token", token)),
        "TLS": (tls, ("--ca", str(authority.ca))),
        "TLS and token": (asked | tls, ("--token", token, "--ca", str(authority.ca))),
    }
    with testbed.store() as store, testbed.stack(store, "access-") as stack, on(MEASURED):
        testbed.topics("access-")
        servers: dict[str, Server] = {}
        for number, (name, (settings, credential)) in enumerate(ways.items()):
            process = stack.start("decider-sync", replica=str(number + 2), **settings)
            stack.wait_ready(process)
            scheme = "https" if "TLS" in name else "http"
            servers[name] = Server(
                process.popen.pid,
                f"{scheme}://{HOST}:{process.port}/v1/authorizations",
                bodies,
                '"degradation_level":"D0"',
                credential=credential,
            )
        return in_turn(testbed, servers)


def in_turn(testbed: Testbed, servers: dict[str, Server]) -> tuple[list[Row], list[str]]:
    """Each server in turn, with authorizations that none was asked before."""
    at = 0

    def one(server: Server, loop: str, seconds: float, **pace: Any) -> dict[str, Any]:
        nonlocal at
        server.at = at
        found = load(server, loop, seconds, **pace)
        at = server.at
        return found

    seconds = testbed.scale.seconds
    closed: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    opened: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for server in servers.values():
        one(server, "closed", 1.0, connections=CONNECTIONS)
    for _ in range(testbed.scale.replays):
        for name, server in servers.items():
            closed[name].append(one(server, "closed", seconds / 4, connections=CONNECTIONS))
            opened[name].append(one(server, "open", seconds / 4, rate=RATE))
    rows = []
    for name in servers:
        cpu = statistics.median(run["cpu_us"] for run in closed[name])
        rows.append(row(f"CPU per decision, saturated, {name}", "µs", cpu))
        p99 = statistics.median(run["p99_ms"] for run in opened[name])
        rows.append(row(f"p99 at {RATE}/s, {name}", "ms", p99))
    return rows, [
        f"{CONNECTIONS} kept connections, TLS 1.3, one RS256 token of an hour; the four servers "
        "in turn, each alone on one core while it is asked",
        f"medians of {testbed.scale.replays} repetitions",
    ]
