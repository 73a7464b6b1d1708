"""``python -m local.kafka start|stop|fetch|lock``: one Kafka node for development."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from local.kafka import jars
from local.kafka.broker import ComposeNode, JarNode, Node, docker_answers
from local.kafka.java import java, major
from sluice.errors import SluiceError


def main() -> int:
    """Start or stop the node, or fetch what it needs; 0 if all now is as asked."""
    args = _arguments()
    try:
        match args.verb:
            case "start":
                _start(args.port, args.data, args.way)
            case "stop":
                stop(args.port, args.data)
            case "fetch":
                found = java()
                print(f"kafka: Java {major(found)}, {found}", flush=True)
                print(f"kafka: {len(jars.class_path().split(':'))} jars, each as jars.lock says")
            case "lock":
                jars.lock()
    except SluiceError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.kafka", description=__doc__)
    parser.add_argument(
        "verb",
        choices=("start", "stop", "fetch", "lock"),
        help="fetch: Java and jars, where they are missing; lock: resolve the jars anew",
    )
    parser.add_argument("--port", type=int, default=9092, help="of the broker (default 9092)")
    parser.add_argument(
        "--data", type=Path, default=Path("var/kafka"), help="its folder (default var/kafka)"
    )
    parser.add_argument(
        "--with",
        dest="way",
        choices=("auto", "docker", "jars"),
        default="auto",
        help="of start; auto: Docker where it answers, otherwise jars on Java",
    )
    return parser.parse_args()


def _start(port: int, data: Path, way: str) -> None:
    docker = way == "docker" or (way == "auto" and docker_answers())
    node: Node = ComposeNode(port) if docker else JarNode(data, port, detached=True)
    how = "the official image" if docker else f"jars, data in {data}"
    print(f"kafka: starting one KRaft node ({how})", flush=True)
    began = time.monotonic()
    node.start()
    print(f"kafka: answers at {node.bootstrap} after {time.monotonic() - began:.1f} s")


def stop(port: int, data: Path) -> None:
    """The node of this folder and the one in Docker of this port, whichever runs."""
    node = JarNode(data, port, detached=True)
    if node.runs:
        node.stop()
    elif docker_answers():
        ComposeNode(port).stop()
    print("kafka: stopped; its data stays")


if __name__ == "__main__":
    raise SystemExit(main())
