"""Starts one Apache Kafka node, broker and controller in one process, and waits until it answers.

Two ways to the same broker: the jars that ``jars.lock`` names, on Java 17 or newer, or
``compose.yaml`` where Docker answers. Both keep their data between a stop, or a kill, and the next
start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from local.kafka.jars import class_path
from local.kafka.java import java
from sluice.errors import Misconfigured, SluiceError, Unavailable

HERE = Path(__file__).parent
START_MAX_S = 120.0
"""A node is up in 3 s on an idle machine; one with a load of 15 a core has needed 47."""
STOP_MAX_S = 30.0
HEAP_MB = 512
CLUSTER_ID = "c2x1aWNlLWRldmVsb3BtZW"  # any 16 bytes in URL-safe base64; one node, one cluster

CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
# One node cannot replicate, and small internal topics start and fail over faster.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The default waits 3 s for more members before a group's first assignment.
group.initial.rebalance.delay.ms=0
# Topics come from `sluice topics apply`; a misspelt name must fail, not appear.
auto.create.topics.enable=false
"""


class Node(Protocol):
    """One broker that a test or a developer starts, stops and kills."""

    bootstrap: str

    def start(self) -> None:
        """Returns once a metadata request is answered. Raises Unavailable."""
        ...

    def stop(self) -> None:
        """Shut down cleanly; harmless if it does not run."""
        ...

    def kill(self) -> None:
        """End it as ``kill -9`` would; ``start`` brings it back with its data."""
        ...

    def pause(self) -> None:
        """Stop it where it is: it holds its connections and says nothing, as in a long collection
        of garbage or on a machine that swaps, until ``resume``."""
        ...

    def resume(self) -> None:
        """Let it go on."""
        ...


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def docker_answers() -> bool:
    """True if a Docker daemon with the compose plug-in answers this user."""
    if shutil.which("docker") is None:
        return False
    return all(
        subprocess.run(["docker", *words], capture_output=True, check=False).returncode == 0
        for words in (["info"], ["compose", "version"])
    )


def jars_possible() -> bool:
    """True if Java and the jars are here, or could just be fetched."""
    try:
        return bool(java() and class_path())
    except SluiceError:
        return False


class JarNode:
    """A broker from jars, on this machine's Java or one from PyPI.

    data: its folder, created if need be; holds logs/, server.properties, broker.log, broker.pid.
    detached: it outlives us, and any later JarNode with the same data may stop it. Otherwise it
    dies with us, however we die (where setpriv of util-linux is installed). advertised: port that
    clients are sent to, of a proxy in front of it. more: further lines of its configuration, over
    ours; {port} in them is the port. client: how we must ask it then, in librdkafka's properties.
    heap_mb: the most that its Java keeps.
    """

    def __init__(
        self,
        data: Path,
        port: int,
        *,
        detached: bool,
        advertised: int | None = None,
        more: str = "",
        client: Mapping[str, str] | None = None,
        heap_mb: int = HEAP_MB,
    ) -> None:
        self._more = more
        self._heap_mb = heap_mb
        self._client = client
        self.data = data.absolute()
        self.port = port
        self.detached = detached
        self._advertised = advertised or port
        self.bootstrap = f"127.0.0.1:{self._advertised}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Format the folder if it is new, start, and wait for the first metadata answer."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """The same without the wait: one of several answers only when most of them are there.

        The broker ends with the thread that calls this, unless detached.
        """
        if self._pid() is not None:
            raise Misconfigured(
                f"a broker with this data already runs as process {self._pid()}",
                where=str(self.data),
                fix="make kafka-stop, or another --data",
            )
        jars = class_path()
        config = self._configure()
        if not (self.data / "logs" / "meta.properties").exists():
            self._format(jars, config)
        with (self.data / "broker.log").open("ab") as log:
            self._child = subprocess.Popen(
                [
                    *self._tie(),
                    *(
                        str(java()),
                        "-Xms128m",
                        f"-Xmx{self._heap_mb}m",
                        "-XX:+UseSerialGC",
                        "-Djava.awt.headless=true",
                    ),
                    f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
                    *("-cp", jars, "kafka.Kafka", str(config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to whoever started us, who stops us last
            )
        (self.data / "broker.pid").write_text(str(self._child.pid))

    def wait(self) -> None:
        """For the first metadata answer. Raises Unavailable."""
        wait_until_it_answers(self.bootstrap, self._still_starting, self._client)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL past STOP_MAX_S."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP."""
        pid = self._pid()
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        pid = self._pid()
        if pid is not None:
            os.kill(pid, signal.SIGCONT)

    def _tie(self) -> tuple[str, ...]:
        """Linux's setpriv has the kernel kill the broker when we are gone, however we went."""
        if self.detached or shutil.which("setpriv") is None:
            return ()
        return ("setpriv", "--pdeathsig", "KILL")

    def _configure(self) -> Path:
        self.data.mkdir(parents=True, exist_ok=True)
        path = self.data / "server.properties"
        path.write_text(
            (CONFIG + self._more).format(
                port=self.port,
                advertised=self._advertised,
                controller_port=free_port(),
                logs=self.data / "logs",
            )
        )
        return path

    def _format(self, jars: str, config: Path) -> None:
        done = subprocess.run(
            [
                *(str(java()), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", jars),
                *("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(config)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Misconfigured(
                f"the broker's folder cannot be formatted: {(done.stderr or done.stdout)[-400:]}",
                where=str(self.data),
                fix="the folder must be writable, and free of another broker's data",
            )

    def _still_starting(self) -> None:
        assert self._child is not None
        if self._child.poll() is not None:
            tail = (self.data / "broker.log").read_text(errors="replace")[-800:]
            raise Unavailable(
                f"the broker ended with status {self._child.returncode}: {tail}",
                where=str(self.data / "broker.log"),
                fix=advice(tail),
            )

    @property
    def runs(self) -> bool:
        """True if a broker of this folder runs, whoever started it."""
        return self._pid() is not None

    def _pid(self) -> int | None:
        """The running broker of this folder, ours or one that an earlier process started."""
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            pid = int((self.data / "broker.pid").read_text())
            # The number may belong to another process by now.
            if str(self.data / "server.properties") in psutil.Process(pid).cmdline():
                return pid
        return None

    def _end(self, how: signal.Signals) -> None:
        pid = self._pid()
        if pid is None:
            return
        os.kill(pid, how)
        deadline = time.monotonic() + STOP_MAX_S
        while self._pid() is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.05)
        (self.data / "broker.pid").unlink(missing_ok=True)


class ComposeNode:
    """The official image through ``compose.yaml``. Its data lives in a volume of the project."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.bootstrap = f"127.0.0.1:{port}"

    def start(self) -> None:
        """``docker compose up --wait``; the first call pulls the image."""
        self._compose("up", "--detach", "--wait")
        wait_until_it_answers(self.bootstrap)

    def stop(self) -> None:
        """``docker compose stop``: the volume stays."""
        self._compose("stop")

    def kill(self) -> None:
        """``docker compose kill``."""
        self._compose("kill")

    def pause(self) -> None:
        """``docker compose pause``."""
        self._compose("pause")

    def resume(self) -> None:
        """``docker compose unpause``."""
        self._compose("unpause")

    def remove(self) -> None:
        """Container and volume."""
        self._compose("down", "--volumes")

    def _compose(self, *words: str) -> None:
        done = subprocess.run(
            [
                *("docker", "compose", "--project-name", f"sluice-kafka-{self.port}"),
                *("--file", str(HERE / "compose.yaml"), *words),
            ],
            env={**os.environ, "KAFKA_PORT": str(self.port)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(
                f"docker compose {words[0]} failed: {done.stderr[-600:]}",
                where=str(HERE / "compose.yaml"),
                fix="docker compose logs kafka",
            )


def advice(log: str) -> str:
    """What to do about a broker whose log ends so."""
    if "UnsupportedVersionException" in log:
        return "a newer Kafka wrote this data: start with another --data, or remove the folder"
    return "another process may hold the port"


def wait_until_it_answers(
    bootstrap: str,
    check: Callable[[], None] = lambda: None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Ask for metadata until a broker answers, at most START_MAX_S. Raises Unavailable.

    check: called between attempts; raises if waiting on is of no use.
    """
    # librdkafka would log every refused connection while the node starts.
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **(extra or {})})
    deadline = time.monotonic() + START_MAX_S
    while True:
        check()
        with contextlib.suppress(KafkaException):
            if admin.list_topics(timeout=1.0).brokers:
                return
        if time.monotonic() > deadline:
            raise Unavailable(
                f"no broker answered within {START_MAX_S:.0f} s",
                where=bootstrap,
                fix="read broker.log in its data folder",
            )
