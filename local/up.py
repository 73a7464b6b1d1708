"""``make up`` and ``make down``: broker, store and all services on this machine, until Ctrl-C.

The broker is a real Kafka and keeps its data in var/kafka; the store keeps nothing, and its states
are made again at each start. Every process that was started stands in var/local/processes.json, so
that ``down`` ends these and no other, also after a ``kill -9`` of ``up``.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from pathlib import Path

from local.kafka import processes
from local.kafka.__main__ import stop as stop_kafka
from local.kafka.broker import ComposeNode, JarNode, Node, docker_answers
from local.stack import Stack
from sluice.adapters.kafka.topics import Topics, apply
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.errors import Misconfigured, SluiceError

WATCH_S = 0.5
DOWN_MAX_S = 90.0
"""Five services stop one after the other, each within a few seconds unless something hangs."""
KILL_AFTER_S = 15.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(*_: object) -> None:
    for number in SIGNALS:  # once is enough: what follows must not be torn apart
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """up: 0 after Ctrl-C or ``down``, 1 if a service died. down: 0 once nothing is left."""
    args = _arguments()
    run = _Run(args.folder, args.kafka_port, args.store_port, args.http_port)
    try:
        return run.up() if args.verb == "up" else run.down()
    except SluiceError as error:
        print(f"{args.verb}: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.up", description=__doc__)
    parser.add_argument("verb", choices=("up", "down"))
    parser.add_argument("--folder", type=Path, default=Path("var"), help="of all data and logs")
    parser.add_argument("--kafka-port", type=int, default=9092)
    parser.add_argument("--store-port", type=int, default=6379)
    parser.add_argument("--http-port", type=int, default=8080)
    return parser.parse_args()


class _Run:
    """One set of processes over one folder. At most one at a time."""

    def __init__(self, folder: Path, kafka_port: int, store_port: int, http_port: int) -> None:
        self.folder = folder / "local"
        self.kafka_data = folder / "kafka"
        self.ports = {"KAFKA_PORT": kafka_port, "STORE_PORT": store_port, "HTTP_PORT": http_port}
        self.named = self.folder / "processes.json"

    def up(self) -> int:
        """Start all, and stay until a signal or until a service dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_a_second()
        for number in SIGNALS:
            signal.signal(number, _stop)
        self._name()
        port = self.ports["KAFKA_PORT"]
        node: Node = (
            ComposeNode(port)
            if docker_answers()
            else JarNode(self.kafka_data, port, detached=False)
        )
        print(f"kafka      localhost:{port}", flush=True)
        try:
            node.start()
            self._name()
            return self._serve(f"localhost:{port}")
        except KeyboardInterrupt:
            return 0
        finally:
            node.stop()
            self.named.unlink(missing_ok=True)

    def _serve(self, bootstrap: str) -> int:
        apply(bootstrap, Topics())
        store_folder = self.folder / "store"
        with (
            EmbeddedStore(port=self.ports["STORE_PORT"], directory=store_folder) as store,
            Stack(bootstrap, store.url, self.folder, port=self.ports["HTTP_PORT"]) as stack,
        ):
            print(f"store      {store.url}", flush=True)
            try:
                return self._watch(stack)
            except KeyboardInterrupt:
                print("stopping", flush=True)
                stack.stop_all()
                raise

    def _watch(self, stack: Stack) -> int:
        """Until a signal raises KeyboardInterrupt; returns 1 if something else ends it."""
        stack.start_all(wait=False)
        stack.start("consistency")
        self._name()
        print("services   start; the first time they compile for a minute", flush=True)
        stack.wait_all()
        if stack.processes["featurizer"].metric("sluice_store_ready") == 0:
            print("states     are rebuilt from archive and topics", flush=True)
            done = stack.verb("states", "rebuild")
            if done.returncode:
                print(done.stderr)
                return 1
        print(f"sync API  {stack.url}/v1/authorizations")
        print(f"logs       {self.folder}/*.log, archive in {self.folder}/archive")
        print("ready      until Ctrl-C or `make down`", flush=True)
        while True:
            time.sleep(WATCH_S)
            dead = [p.name for p in stack.processes.values() if not p.alive()]
            if dead:
                print(f"{', '.join(dead)} died: see {self.folder}/{dead[0]}.log")
                return 1

    def _name(self) -> None:
        processes.write(self.named, processes.this_and_its_children())

    def _refuse_a_second(self) -> None:
        """Raises Misconfigured if processes of this folder run, or a port is taken."""
        left = processes.running(processes.read(self.named))
        if left:
            raise Misconfigured(
                f"already up as process {left[0].pid}, {len(left)} processes in all",
                where=str(self.named),
                fix="make down",
            )
        broker = JarNode(self.kafka_data, self.ports["KAFKA_PORT"], detached=True)
        if broker.runs:
            raise Misconfigured(
                "a broker runs on this data already; `make up` starts its own",
                where=str(self.kafka_data),
                fix="make kafka-stop",
            )
        for name, port in self.ports.items():
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    raise Misconfigured(
                        f"port {port} is taken by another process",
                        where=f"127.0.0.1:{port}",
                        fix=f"end it, or choose another: make up {name}={port + 10000}",
                    )

    def down(self) -> int:
        """Ask ``up`` to stop, end what it left if it was killed, and stop the broker."""
        entries = processes.read(self.named)
        if entries and (up := entries[0].process()) is not None:
            print(f"stopping   process {up.pid}, which stops the services", flush=True)
            processes.end([up], DOWN_MAX_S)
        if left := processes.running(entries):
            print(f"stopping   {len(left)} processes that it left", flush=True)
            processes.end(left, KILL_AFTER_S)
        self.named.unlink(missing_ok=True)
        stop_kafka(self.ports["KAFKA_PORT"], self.kafka_data)
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
