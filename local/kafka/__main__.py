"""``python -m local.kafka start|stop``: one Kafka node for development."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from local.kafka.broker import ComposeNode, JarNode, Node, docker_answers
from sluice.errors import SluiceError


def main() -> int:
    """Start or stop the node; 0 if it now is as asked."""
    parser = argparse.ArgumentParser(prog="python -m local.kafka", description=__doc__)
    parser.add_argument("verb", choices=("start", "stop"))
    parser.add_argument("--port", type=int, default=9092, help="of the broker (default 9092)")
    parser.add_argument(
        "--data", type=Path, default=Path("var/kafka"), help="its folder (default var/kafka)"
    )
    parser.add_argument(
        "--with",
        dest="way",
        choices=("auto", "docker", "jars"),
        default="auto",
        help="auto: Docker where it answers, otherwise the jars on this machine's Java",
    )
    args = parser.parse_args()
    docker = args.way == "docker" or (args.way == "auto" and docker_answers())
    node: Node = ComposeNode(args.port) if docker else JarNode(args.data, args.port, detached=True)
    how = "the official image" if docker else f"jars from Maven, data in {args.data}"
    try:
        if args.verb == "stop":
            node.stop()
            print("kafka: stopped; its data stays")
            return 0
        print(f"kafka: starting one KRaft node ({how})", flush=True)
        began = time.monotonic()
        node.start()
    except SluiceError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 1
    print(f"kafka: answers at {node.bootstrap} after {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
