"""``make up``: broker, store and all services on this machine, until Ctrl-C.

The broker is a real Kafka and keeps its data in var/kafka; the store keeps nothing, and its states
are made again at each start.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from local.kafka.broker import ComposeNode, JarNode, Node, docker_answers
from local.stack import Stack
from sluice.adapters.kafka.topics import Topics, apply
from sluice.adapters.redis.embedded import EmbeddedStore

FOLDER = Path("var/local")
KAFKA_PORT, STORE_PORT, SYNC_PORT = 9092, 6379, 8080
WATCH_S = 0.5


def main() -> int:
    """Returns 0 after Ctrl-C, 1 if a service died."""
    node: Node = (
        ComposeNode(KAFKA_PORT)
        if docker_answers()
        else JarNode(Path("var/kafka"), KAFKA_PORT, detached=False)
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    FOLDER.mkdir(parents=True, exist_ok=True)
    bootstrap = f"localhost:{KAFKA_PORT}"
    print(f"kafka      {bootstrap}", flush=True)
    node.start()
    try:
        apply(bootstrap, Topics())
        with (
            EmbeddedStore(port=STORE_PORT, directory=FOLDER / "store") as store,
            Stack(bootstrap, store.url, FOLDER, port=SYNC_PORT) as stack,
        ):
            print(f"store      {store.url}", flush=True)
            stack.start_all(wait=False)
            stack.start("consistency")
            stack.wait_all()
            if stack.processes["featurizer"].metric("sluice_store_ready") == 0:
                print("states     are rebuilt from archive and topics")
                done = stack.verb("states", "rebuild")
                if done.returncode:
                    print(done.stderr)
                    return 1
            print(f"sync API  {stack.url}/v1/authorizations")
            print(f"logs       {FOLDER}/*.log, archive in {FOLDER}/archive; Ctrl-C stops all")
            while not stop.wait(WATCH_S):
                dead = [p.name for p in stack.processes.values() if not p.alive()]
                if dead:
                    print(f"{', '.join(dead)} died: see {FOLDER}/{dead[0]}.log")
                    return 1
            print("stopping")
            stack.stop_all()
    finally:
        node.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
